"""The sample detector, damaged once for each kind of finding that one change can cause."""

from __future__ import annotations

import math
import re
import struct
from pathlib import Path
from typing import NamedTuple

import bnorm
from bnorm.checks.findings import Finding
from bnorm.darknet.autodetect import read_model
from support.builders import with_floats
from support.golden import sample

CFG, WEIGHTS = sample("detector")
TEXT, DATA = CFG.read_text(), WEIGHTS.read_bytes()
ARRAYS = read_model(CFG, WEIGHTS).layout.by_name


def findings(cfg: Path, weights: Path | None = None, dialect: str = "auto") -> tuple[Finding, ...]:
    """Return the findings of `check`."""
    return bnorm.check(cfg, weights, dialect).findings


def offset(layer: int, name: str, index: int = 0) -> int:
    """Return the offset in the file of a value of an array."""
    return ARRAYS[layer, name].offset + 4 * index


def patched(layer: int, name: str, index: int, *values: float) -> bytes:
    """Return the weights with some values replaced, from this value on."""
    return with_floats(DATA, offset(layer, name, index), *values)


def headed(*version: int, seen: bytes = bytes(8)) -> bytes:
    """Return the weights with another header."""
    return struct.pack("<3i", *version) + seen + DATA[20:]


class BadCfg(NamedTuple):
    """The cfg's bytes, the line of the finding, and a word of the file that its message must repeat."""

    data: bytes
    line: int | None
    word: str = ""


def _edited(old: str, new: str, line: int, word: str = "") -> BadCfg:
    assert TEXT.count(old) >= 1
    return BadCfg(TEXT.replace(old, new, 1).encode(), line, word)


BAD_CFGS = {
    "cfg-bom": BadCfg(b"\xef\xbb\xbf" + TEXT.encode(), 1),
    "cfg-not-text": BadCfg(TEXT.encode("utf-16"), 1),
    "cfg-html": BadCfg(b"\n<!DOCTYPE html>\n<html lang='en'>", None),
    "cfg-lfs": BadCfg(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", None),
    "cfg-cr": BadCfg(TEXT.replace("\n", "\r\n").encode(), 1),
    "cfg-duplicate-key": _edited("channels=3", "channels=3\nchannels=3", 7, "[net] channels"),
    "cfg-inline-comment": _edited("=leaky", "=leaky # soft", 14, "[convolutional] activation"),
    "cfg-activation": _edited("=leaky", "=laeky", 14, "laeky"),
    "cfg-number": _edited("channels=3", "channels=3\nsaturation=1.5y", 7, "1.5y as 1.5"),
    "cfg-anchors": _edited("8,8, 16,16", "8,8", 64, "1 of 3 boxes"),
    "cfg-list": _edited("16,16", "16,16,", 66, "[yolo] anchors"),
    "cfg-miscomputed": _edited("filters=21\nsize=1", "filters=21\nsize=1\nstride_y=2", 57, "2 down"),
    "cfg-crash": _edited("channels=3", "channels=3\npolicy=steps\nsteps=8,9\nscales=.1", 2, "1 scales"),
    "cfg-no-weights": _edited("=leaky", "=leaky\ngroups=100", 15, "groups=100"),
    "cfg-no-value": _edited("channels=3", "channels=3\nangle=", 7, "[net] angle"),
    "cfg-unknown-key": _edited("channels=3", "channels=3\nchanels=4", 7, "[net] chanels"),
    "cfg-unknown-section": _edited("[maxpool]", "[maxpol]", 34, "[maxpol]"),
    "cfg-index": _edited("layers=-1", "layers=-99,-1", 55, "-99"),
    "cfg-filters": _edited("filters=21", "filters=30", 64, "30"),
    "cfg-refused": _edited("channels=3", "channels=-3", 6, "-3"),
}


class BadFile(NamedTuple):
    """The bytes of the weights, and the layer of the finding."""

    data: bytes
    layer: int | None = None


BAD_FILES = {
    "weights-empty": BadFile(b""),
    "weights-text": BadFile(b"404: Not Found\n"),
    "weights-html": BadFile(b"\xef\xbb\xbf<!DOCTYPE html>\n<html>"),
    "weights-lfs": BadFile(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
    "weights-archive": BadFile(b"\x1f\x8b\x08" + DATA),
    "weights-foreign": BadFile(b"\x80\x02}q\0" + DATA),
    "weights-reencoded": BadFile(DATA.decode(errors="replace").encode()),
    "weights-zeros": BadFile(DATA[:20_000] + bytes(len(DATA) - 20_000)),
    "weights-header-offset": BadFile(DATA[:12] + DATA[16:]),
    "weights-partial": BadFile(DATA[: offset(4, "biases")], layer=4),
    "weights-cut": BadFile(DATA[: offset(4, "rolling_mean", 5)], layer=4),
    "weights-left-over": BadFile(DATA + b"\x01" * 40),
    "weights-other-cfg": BadFile(DATA[:20] + DATA[60:] + DATA[20:60], layer=0),
    "header-version": BadFile(headed(0, 3, 5)),
    "header-seen": BadFile(headed(0, 2, 5, seen=b"\0\0\0\0\0\1\0\0")),
}


class BadValues(NamedTuple):
    """Values of an array from an index on, the channel of the finding, and both counts in its message."""

    layer: int
    name: str
    index: int
    values: tuple[float, ...]
    channel: int | None
    counted: str = ""

    @property
    def data(self) -> bytes:
        """The bytes of the weights."""
        return patched(self.layer, self.name, self.index, *self.values)


BAD_VALUES = {
    "nan": BadValues(4, "weights", 288 * 4 + 7, (math.nan,), (288 * 4 + 7) // 144, "1 of 4,608"),
    "infinite": BadValues(2, "biases", 3, (math.inf,), 3, "1 of 16"),
    "variance-negative": BadValues(4, "rolling_variance", 7, (-0.5,), 7, "1 of 32"),
    "variance-infinite": BadValues(4, "rolling_variance", 7, (math.inf,), 7, "1 of 32"),
    "variance-zero": BadValues(4, "rolling_variance", 7, (0.0,), 7, "1 of 32"),
    "variance-tiny": BadValues(4, "rolling_variance", 7, (1e-7,), 7, "1 of 32"),
    "epsilon-sensitive": BadValues(4, "rolling_variance", 7, (1e-4,), 7, "1 of 32"),
    "scale-diverged": BadValues(4, "scales", 7, (4e5,), 7, "1 of 32"),
    "untrained": BadValues(0, "scales", 0, (1.0,) * 8 + (0.0,) * 8 + (1.0,) * 8, None),
    "dead-channels": BadValues(4, "scales", 7, (1e-9,), 7, "1 of 32"),
    "near-dead-channels": BadValues(4, "scales", 7, (1e-4,), 7, "1 of 32"),
}


def with_classes(text: str, classes: int | None, filters: int | None) -> str:
    """Return a cfg with other numbers in each [yolo], and in the [convolutional] before it."""
    text = re.sub(r"(?m)^classes ?=.*", f"classes={classes}", text) if classes else text
    return re.sub(r"(filters=)[0-9]+(\nactivation=linear\n+\[yolo\])", rf"\g<1>{filters}\2", text) if filters else text
