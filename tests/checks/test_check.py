"""`bnorm check`: every finding on a file that is damaged for it, and none of severity error on any sound file."""

from __future__ import annotations

import json
import math
import re
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import bnorm
from bnorm.checks.findings import KINDS, SEVERITIES, Finding
from bnorm.cli import main
from bnorm.darknet.autodetect import read_model
from bnorm.darknet.weights import open_weights
from support.builders import TINY, cfg_source, write_weights
from support.golden import SHARED, Golden, needs_shared

SAMPLES = Path(__file__).parents[2]
SAMPLE_CFG = SAMPLES / "sample_cfgs" / "detector.cfg"
SAMPLE_WEIGHTS = SAMPLES / "sample_weights" / "detector.weights"
MODELS = SHARED / "models"


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """The sample's cfg and weights, to be damaged."""
    cfg, weights = tmp_path / "net.cfg", tmp_path / "net.weights"
    cfg.write_bytes(SAMPLE_CFG.read_bytes())
    weights.write_bytes(SAMPLE_WEIGHTS.read_bytes())
    return cfg, weights


def findings(cfg: Path, weights: Path | None = None, dialect: str = "auto") -> tuple[Finding, ...]:
    return bnorm.check(cfg, weights, dialect).findings


def offset(layer: int, name: str, channel: int = 0) -> int:
    """Where a value of the sample stands in its file."""
    arrays = read_model(SAMPLE_CFG, SAMPLE_WEIGHTS).layout.arrays
    (array,) = (array for array in arrays if (array.layer, array.name) == (layer, name))
    return array.offset + 4 * channel


def patched(layer: int, name: str, channel: int, *values: float) -> bytes:
    """The sample's bytes with other values from this one on."""
    data = bytearray(SAMPLE_WEIGHTS.read_bytes())
    struct.pack_into(f"<{len(values)}f", data, offset(layer, name, channel), *values)
    return bytes(data)


def headed(*version: int, seen: bytes = bytes(8)) -> bytes:
    """The sample's bytes behind another header."""
    return struct.pack("<3i", *version) + seen + SAMPLE_WEIGHTS.read_bytes()[20:]


# --- the cfg: its text from the sample's, the line that is named, and what is said of it -----------------------------

TEXT = SAMPLE_CFG.read_text()

CFGS: dict[str, tuple[bytes, str]] = {
    "cfg-bom": (b"\xef\xbb\xbf" + TEXT.encode(), "line 1: begins with a UTF-8 byte order mark"),
    "cfg-not-text": (TEXT.encode("utf-16"), "line 1: byte 0xff, expected UTF-8 text"),
    "cfg-cr": (TEXT.replace("\n", "\r\n").encode(), "line 1: CR line ends"),
    "cfg-duplicate-key": (
        TEXT.replace("channels=3", "channels=3\nchannels=3").encode(),
        "[net] channels: given before",
    ),
    "cfg-inline-comment": (TEXT.replace("=leaky", "=leaky # soft", 1).encode(), "activation: to alexeyab # is part"),
    "cfg-activation": (TEXT.replace("=leaky", "=laeky", 1).encode(), "activation: laeky is unknown to alexeyab, which"),
    "cfg-list": (re.sub(r"(anchors=.*)", r"\1,", TEXT).encode(), "[yolo] anchors: a comma too many"),
    "cfg-crash": (
        TEXT.replace("channels=3", "channels=3\npolicy=steps\nsteps=9").encode(),
        "policy=steps without both",
    ),
    "cfg-no-value": (TEXT.replace("channels=3", "channels=3\nangle=").encode(), "[net] angle: no value"),
    "cfg-unknown-key": (
        TEXT.replace("channels=3", "channels=3\nchanels=4").encode(),
        "[net] chanels: alexeyab ignores",
    ),
    "cfg-unknown-section": (TEXT.replace("[maxpool]", "[maxpol]").encode(), "[maxpol] is unknown to alexeyab"),
    "cfg-index": (
        TEXT.replace("[route]\nlayers=", "[route]\nlayers=-99,").encode(),
        "layers=-99 points before the first",
    ),
    "cfg-filters": (TEXT.replace("filters=21", "filters=30").encode(), "[yolo] gets 30 channels, expected 21"),
    "cfg-refused": (TEXT.replace("channels=3", "channels=-3").encode(), "channels=-3, expected at least 0"),
}


@pytest.mark.parametrize("kind", CFGS)
def test_what_is_wrong_in_a_cfg_is_found(pair, kind):
    cfg, _ = pair
    data, message = CFGS[kind]
    cfg.write_bytes(data)
    (found,) = findings(cfg, None, "alexeyab")
    assert (found.id, found.severity) == (kind, KINDS[kind].severity)
    assert message in found.message
    assert re.match(r"line [0-9]+: ", found.message)


def test_the_line_of_a_cfg_finding_is_that_of_the_file(pair):
    cfg, _ = pair
    cfg.write_bytes(CFGS["cfg-index"][0])
    (found,) = findings(cfg)
    number = int(found.message.split()[1].rstrip(":"))
    assert "layers=-99" in cfg.read_text().splitlines()[number - 1]


def test_lines_that_end_in_cr_alone_are_found(pair):
    cfg, _ = pair
    cfg.write_bytes(TEXT.replace("\n", "\r").encode())
    (found,) = findings(cfg)
    assert (found.id, found.severity) == ("cfg-cr", "error")


@pytest.mark.parametrize(
    ("kind", "dialect"), [("cfg-cr", "pjreddie"), ("cfg-duplicate-key", "hank"), ("cfg-unknown-key", "hank")]
)
def test_what_a_dialect_refuses_is_an_error(pair, kind, dialect):
    cfg, _ = pair
    cfg.write_bytes(CFGS[kind][0])
    (found,) = findings(cfg, None, dialect)
    assert (found.id, found.severity) == (kind, "error")


# --- the weights file: its bytes from the sample's, the layer, and what is said of it --------------------------------

DATA = SAMPLE_WEIGHTS.read_bytes()

WEIGHTS: dict[str, tuple[bytes, int | None, str]] = {
    "weights-empty": (b"", None, "an empty file"),
    "weights-text": (b"404: Not Found\n", None, "is text"),
    "weights-html": (b"\xef\xbb\xbf<!DOCTYPE html>\n<html>", None, "is HTML"),
    "weights-lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", None, "git lfs pull"),
    "weights-archive": (b"\x1f\x8b\x08" + DATA, None, "is a gzip archive"),
    "weights-foreign": (b"\x80\x02}q\0" + DATA, None, "is a pickle, as of PyTorch"),
    "weights-reencoded": (DATA.decode(errors="replace").encode(), None, "times EF BF BD"),
    "weights-zeros": (DATA[:20_000] + bytes(len(DATA) - 20_000), None, "the last 7,560 of 27,560"),
    "weights-header-offset": (DATA[:12] + DATA[16:], None, "the header is 4 bytes off"),
    "weights-partial": (DATA[: offset(4, "biases")], 4, "NAME.conv.3 (N = 3 to 4 hold the same)"),
    "weights-cut": (DATA[: offset(4, "rolling_mean", 5)], 4, "ends inside layer 4 rolling_mean, after 5 of 32"),
    "weights-left-over": (DATA + b"\x01" * 40, None, "10 floats (40 bytes) left over"),
    "weights-other-cfg": (DATA[:20] + DATA[60:] + DATA[20:60], 0, "hold other numbers, the first in layer 0"),
    "header-version": (headed(0, 3, 5), None, "its version is 0.3.5"),
    "header-seen": (headed(0, 2, 5, seen=b"\0\0\0\0\0\1\0\0"), None, "images seen"),
}


@pytest.mark.parametrize("kind", WEIGHTS)
def test_what_is_wrong_with_a_weights_file_is_found(pair, kind):
    """One cause, not a list of symptoms."""
    cfg, weights = pair
    data, layer, message = WEIGHTS[kind]
    weights.write_bytes(data)
    (found,) = findings(cfg, weights)
    assert (found.id, found.severity, found.layer) == (kind, KINDS[kind].severity, layer)
    assert message in found.message


def test_a_cfg_without_its_last_layers_leaves_bytes_over(pair):
    cfg, weights = pair
    cfg.write_text(TEXT[: TEXT.rindex("[convolutional]")])
    (found,) = findings(cfg, weights)
    assert found.id == "weights-left-over"


def test_the_weights_of_another_network_belong_to_another_cfg(pair):
    """Twice as many filters in layer 2: layers 0 and 1 are still read at their place."""
    cfg, weights = pair
    cfg.write_text(TEXT.replace("filters=16", "filters=32", 1))
    (found,) = findings(cfg, weights)
    assert (found.id, found.layer) == ("weights-other-cfg", 2)
    assert "fit up to layer 1 rolling_variance, and no longer at layer 2 rolling_variance" in found.message
    assert "got 27,560" in found.message


def test_noise_is_no_file_of_darknet(pair):
    cfg, weights = pair
    weights.write_bytes(np.random.default_rng(0).bytes(5000))
    (found,) = findings(cfg, weights)
    assert (found.id, "is no file of darknet" in found.message) == ("weights-foreign", True)


def test_folded_weights_fit_without_batch_normalisation(pair, tmp_path):
    cfg, weights = pair
    bnorm.fold(read_model(cfg, weights), tmp_path / "folded.weights", tmp_path / "folded.cfg")
    (found,) = findings(cfg, tmp_path / "folded.weights")
    assert (found.id, found.severity) == ("weights-folded", KINDS["weights-folded"].severity)


@pytest.mark.parametrize("name", ["digits", "batchnorm"])
def test_what_fold_writes_is_known_beside_the_old_cfg(tmp_path, name):
    """Of a [batchnorm] the section goes, too."""
    cfg, weights = SAMPLES / "sample_cfgs" / f"{name}.cfg", SAMPLES / "sample_weights" / f"{name}.weights"
    bnorm.fold(read_model(cfg, weights), tmp_path / "folded.weights", tmp_path / "folded.cfg")
    (found,) = findings(cfg, tmp_path / "folded.weights")
    assert (found.id, "fits the cfg that `bnorm fold` writes" in found.message) == ("weights-folded", True)


@pytest.mark.parametrize("name", ["digits", "detector", "binary", "conv_recurrent", "recurrent", "deconvolution"])
def test_the_old_weights_are_known_beside_what_fold_writes(tmp_path, name):
    cfg, weights = SAMPLES / "sample_cfgs" / f"{name}.cfg", SAMPLES / "sample_weights" / f"{name}.weights"
    bnorm.fold(read_model(cfg, weights), tmp_path / "folded.weights", tmp_path / "folded.cfg")
    found, *_ = findings(tmp_path / "folded.cfg", weights)
    assert (found.id, "the cfg has been folded" in found.message) == ("weights-unfolded", True)


def test_the_last_layer_seldom_normalises(tmp_path):
    cfg = tmp_path / "net.cfg"
    layers = "convolutional filters=4{0} | convolutional filters=4{0} | convolutional filters=2{0}"
    cfg.write_text(cfg_source("3x8x8", layers.format(" batch_normalize=1").removesuffix(" batch_normalize=1")))
    weights = write_weights(cfg, tmp_path / "net.weights")
    cfg.write_text(cfg_source("3x8x8", layers.format("")))
    (found,) = findings(cfg, weights)
    assert "fits with batch_normalize=1 in the sections of lines 5, 7: the cfg has been folded" in found.message


def test_of_many_lines_three_are_named(pair, tmp_path):
    cfg, weights = pair
    bnorm.fold(read_model(cfg, weights), tmp_path / "folded.weights", tmp_path / "folded.cfg")
    lines = [n for n, line in enumerate((tmp_path / "folded.cfg").read_text().splitlines(), 1) if "[conv" in line]
    (found,) = findings(tmp_path / "folded.cfg", weights)
    assert f"of lines {lines[0]}, {lines[1]}, {lines[2]} and 2 more: " in found.message


def test_of_two_plans_of_one_size_the_one_with_fewer_bad_variances_is_named(tmp_path):
    """Two classes more have as many values as the first layer's batch normalisation."""
    cfg = tmp_path / "net.cfg"
    layers = "convolutional filters=2 | convolutional filters={} | yolo mask=0 classes={}"
    cfg.write_text(cfg_source("3x32x32", layers.format(14, 9)))
    weights = write_weights(cfg, tmp_path / "net.weights")
    cfg.write_text(cfg_source("3x32x32", layers.format(12, 7)))
    data = bytearray(weights.read_bytes())
    for value, kind in ((-1.0, "weights-classes"), (1.0, "weights-unfolded")):
        struct.pack_into("<2f", data, 20 + 4 * 6, value, value)  # where variances would stand
        weights.write_bytes(data)
        assert [found.id for found in findings(cfg, weights)] == [kind]


def test_a_line_that_was_lost_is_named(pair):
    cfg, weights = pair
    cfg.write_text(TEXT.replace("batch_normalize=1\n", "", 1))
    (found,) = findings(cfg, weights)
    line = TEXT.splitlines().index("[convolutional]") + 1
    assert (found.id, found.layer) == ("weights-unfolded", 0)
    assert f"fits with batch_normalize=1 in the section of line {line}: they were lost there" in found.message


def test_a_file_of_another_dialect_fits_that_one():
    """pjreddie stores no biases of [batchnorm]."""
    folder = Path(__file__).parents[1] / "golden" / "layouts"
    (found,) = findings(folder / "batchnorm.cfg", folder / "batchnorm.pjreddie.weights", "alexeyab")
    assert found.id == "weights-dialect"
    assert "--dialect pjreddie" in found.message


def test_a_file_without_its_last_4_bytes_is_cut_and_not_shifted(pair):
    cfg, weights = pair
    weights.write_bytes(DATA[:-4])
    assert [found.id for found in findings(cfg, weights)] == ["weights-cut"]


def test_a_header_of_20_bytes_that_says_16_is_4_bytes_off(pair):
    cfg, weights = pair
    weights.write_bytes(headed(0, 1, 0))
    (found,) = findings(cfg, weights)
    assert (found.id, "has 16 bytes, by the file's size 20" in found.message) == ("weights-header-offset", True)


@pytest.mark.parametrize(("shift", "word"), [(b"\0\0\0\0", "first"), (b"", "last")])
def test_a_header_that_is_4_bytes_off_shows_at_the_edges_of_the_variances(pair, shift, word):
    """Where somebody has padded or cut the file so that its size fits."""
    cfg, weights = pair
    data = bytearray(DATA)
    for array in read_model(SAMPLE_CFG, SAMPLE_WEIGHTS).layout.arrays:  # the neighbours of every variance are negative
        if array.field == "rolling_mean":
            struct.pack_into("<f", data, array.end - 4, -1.0)
        if array.field == "rolling_variance":
            struct.pack_into("<f", data, array.end, -1.0)
    body = bytes(data[20:])
    weights.write_bytes(bytes(data[:20]) + ((shift + body)[: len(body)] if shift else body[4:] + b"\0\0\0\1"))
    (found,) = findings(cfg, weights)
    assert (found.id, f"the {word} rolling variance is negative" in found.message) == ("weights-header-offset", True)


def test_a_header_of_16_bytes_before_a_bias_of_0_is_4_bytes_off(pair):
    """The bias looks like the upper half of `seen`: the variances decide, each with a negative weight behind it."""
    cfg, weights = pair
    data = bytearray(DATA)
    struct.pack_into("<f", data, 20, 0.0)
    for array in read_model(SAMPLE_CFG, SAMPLE_WEIGHTS).layout.arrays:
        if array.field == "rolling_variance":  # of fewer than ten, one alone is a tenth
            struct.pack_into("<f", data, array.end, -1.0 if array.size > 10 else 1.0)
    weights.write_bytes(data[:12] + data[16:])
    assert [found.id for found in findings(cfg, weights)] == ["weights-header-offset"]


def test_where_nothing_normalises_the_bytes_of_seen_tell_how_long_the_header_is(tmp_path):
    cfg = tmp_path / "net.cfg"
    cfg.write_text(cfg_source("3x8x8", "convolutional filters=2"))
    weights = write_weights(cfg, tmp_path / "net.weights")
    data = weights.read_bytes()
    for shorter, kind in ((data[:-4], "weights-cut"), (data[:12] + data[16:], "weights-header-offset")):
        weights.write_bytes(shorter)
        assert [found.id for found in findings(cfg, weights)] == [kind]


@pytest.mark.parametrize("nbytes", [1, 15, 19])
def test_a_file_that_ends_in_its_header_is_cut(pair, nbytes):
    cfg, weights = pair
    weights.write_bytes(DATA[:nbytes] if nbytes > 12 else b"\0" * nbytes)
    assert [found.id for found in findings(cfg, weights)] == ["weights-cut"]


def test_the_header_alone_ends_before_the_first_array(pair):
    cfg, weights = pair
    weights.write_bytes(DATA[:20])
    (found,) = findings(cfg, weights)
    assert (found.id, "ends before layer 0 biases" in found.message) == ("weights-cut", True)


def test_text_that_latin_1_was_made_utf_8_is_found(pair):
    cfg, weights = pair
    weights.write_bytes(DATA.decode("latin-1").encode())
    (found,) = findings(cfg, weights)
    assert (found.id, "decode it again" in found.message) == ("weights-reencoded", True)


def test_zeros_alone_are_found(pair):
    cfg, weights = pair
    weights.write_bytes(bytes(len(DATA)))
    (found,) = findings(cfg, weights)
    assert (found.id, "from byte 0 on, the last 27,560 of 27,560" in found.message) == ("weights-zeros", True)


def test_filters_at_the_end_that_are_pruned_to_0_are_sound(tmp_path):
    """Zeros from a filter of the last layer on are meant; from within one, or from another layer on, they are not."""
    cfg = tmp_path / "net.cfg"
    cfg.write_text(cfg_source("3x8x8", "convolutional filters=8 size=3 | convolutional filters=8 size=3"))
    weights = write_weights(cfg, tmp_path / "net.weights")
    arrays = read_model(cfg, weights).layout.arrays
    data, row = weights.read_bytes(), 4 * 8 * 9
    kept = {"a filter": arrays[-1].end - 2 * row, "within": arrays[-1].end - 2 * row + 4, "before": arrays[1].offset}
    for name, end in kept.items():
        weights.write_bytes(data[:end] + bytes(len(data) - end))
        found = {row.id for row in findings(cfg, weights)}
        assert ("weights-zeros" in found) is (name != "a filter"), name


def test_a_layer_that_ends_in_zeros_as_initialised_is_untrained(tmp_path):
    """The statistics of a [connected] stand last."""
    cfg = tmp_path / "net.cfg"
    cfg.write_text(cfg_source("3x8x8", "convolutional | connected output=128 batch_normalize=1"))
    weights = write_weights(cfg, tmp_path / "net.weights")
    data = weights.read_bytes()
    weights.write_bytes(data[: -4 * 384] + np.ones(128, "<f4").tobytes() + bytes(4 * 256))
    assert [found.id for found in findings(cfg, weights)] == ["untrained"]


# --- numbers that training may leave, and that are no reason to suspect the cfg ---------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.01])
@pytest.mark.parametrize("cut", [0, 400])
def test_bad_variances_in_every_layer_are_no_other_cfg(pair, value, cut):
    cfg, weights = pair
    data = bytearray(DATA)
    for array in read_model(SAMPLE_CFG, SAMPLE_WEIGHTS).layout.arrays:
        if array.field == "rolling_variance" and array.size > 10:
            struct.pack_into("<f", data, array.offset + 20, value)
    weights.write_bytes(data[: len(data) - cut])
    kind = {"nan": "nan", "inf": "variance-infinite"}.get(str(value), "variance-negative")
    assert {found.id for found in findings(cfg, weights)} == ({"weights-cut"} if cut else {kind})


def test_one_layer_that_is_misread_is_no_other_cfg_though_others_have_bad_variances(pair):
    cfg, weights = pair
    data = bytearray(DATA)
    arrays = [a for a in read_model(SAMPLE_CFG, SAMPLE_WEIGHTS).layout.arrays if a.field == "rolling_variance"]
    for array in arrays[1:]:  # of the eight of the first, one alone is a tenth
        struct.pack_into("<f", data, array.offset + 20, -0.2)
    struct.pack_into("<8f", data, arrays[-1].offset, *[-0.2] * 8)
    weights.write_bytes(data)
    assert {found.id for found in findings(cfg, weights)} == {"variance-negative"}


def test_values_that_are_all_nan_are_that(pair):
    cfg, weights = pair
    weights.write_bytes(DATA[:20] + np.full(len(DATA) // 4 - 5, np.nan, "<f4").tobytes())
    assert {found.id for found in findings(cfg, weights)} == {"nan"}


# --- classes ----------------------------------------------------------------------------------------------------------


def with_classes(text: str, classes: int | None, filters: int | None) -> str:
    """Other numbers in each [yolo], and in the [convolutional] before it."""
    text = re.sub(r"(?m)^classes ?=.*", f"classes={classes}", text) if classes else text
    return re.sub(r"(filters=)[0-9]+(\nactivation=linear\n+\[yolo\])", rf"\g<1>{filters}\2", text) if filters else text


@needs_shared("models")
@pytest.mark.parametrize("classes", [20, 1, 3])
@pytest.mark.parametrize("changed", ["both", "classes", "filters"])
def test_the_weights_tell_how_many_classes_they_have(tmp_path, classes, changed):
    cfg = tmp_path / "net.cfg"
    text = (MODELS / "yolo-fastest-1.1.cfg").read_text()
    number = classes if changed != "filters" else None
    cfg.write_text(with_classes(text, number, 3 * (classes + 5) if changed != "classes" else None))
    assert cfg.read_text() != text
    first, *others = findings(cfg, MODELS / "yolo-fastest-1.1.weights")
    assert first.id == "weights-classes"
    assert "fits if classes=80 and filters=255 before each [yolo]" in first.message
    assert [found.id for found in others] == ([] if changed == "both" else ["cfg-filters"])


def test_a_cfg_and_weights_that_are_both_wrong_are_both_reported(pair):
    cfg, weights = pair
    cfg.write_bytes(CFGS["cfg-filters"][0])
    weights.write_bytes(WEIGHTS["weights-html"][0])
    assert [found.id for found in findings(cfg, weights)] == ["weights-html", "cfg-filters"]


@pytest.mark.parametrize("name", ["region", "yolo", "Gaussian_yolo"])
def test_every_detection_layer_has_its_own_number_of_filters(tmp_path, name):
    values = {"region": 2 * (4 + 1 + 7), "yolo": 2 * (5 + 7), "Gaussian_yolo": 2 * (9 + 7)}
    end = "\n[{}]\nclasses={}\nnum=2\n" if name == "region" else "\n[{}]\nclasses={}\nmask=0,1\nnum=4\n"
    cfg = tmp_path / "net.cfg"
    source = TINY.replace("filters=2", "filters={}")
    cfg.write_text(source.format(values[name]) + end.format(name, 7))
    weights = write_weights(cfg, tmp_path / "net.weights")
    cfg.write_text(source.format(values[name] + 4) + end.format(name, 9))
    (found,) = findings(cfg, weights)
    assert found.id == "weights-classes"
    assert f"fits if classes=7 and filters={values[name]} before each [{name}]" in found.message


def test_a_detection_layer_without_classes_is_solved_for_its_default(tmp_path):
    cfg = tmp_path / "net.cfg"
    end = "\n[region]\nnum=1\n"
    cfg.write_text(TINY.replace("filters=2", "filters=12") + end + "classes=7\n")
    weights = write_weights(cfg, tmp_path / "net.weights")
    cfg.write_text(TINY.replace("filters=2", "filters=25") + end)
    (found,) = findings(cfg, weights)
    assert "fits if classes=7 and filters=12" in found.message
    assert found.message.endswith("the cfg has classes=20 and filters=25")


# --- the numbers: values in the sample, the layer, the channel and what is said --------------------------------------

NUMBERS: dict[str, tuple[tuple[int, str, int, tuple[float, ...]], int | None, str]] = {
    "nan": ((4, "weights", 288 * 4 + 7, (math.nan,)), 2, "weights not a number, 1 of 4,608"),
    "infinite": ((2, "biases", 3, (math.inf,)), 3, "biases infinite, 1 of 16"),
    "variance-negative": ((4, "rolling_variance", 7, (-0.5,)), 7, "-0.5 in channel 7; likely E[x²] - E[x]²"),
    "variance-infinite": ((4, "rolling_variance", 7, (math.inf,)), 7, "rolling_variance infinite, 1 of 32"),
    "variance-zero": ((4, "rolling_variance", 7, (0.0,)), 7, "variances of 0, so that ε alone sets the gain, 1 of 32"),
    "variance-tiny": ((4, "rolling_variance", 7, (1e-7,)), 7, "variances below ε = 1e-5, 1 of 32"),
    "epsilon-sensitive": ((4, "rolling_variance", 7, (1e-4,)), 7, "gains that ε changes by over 1 %, 1 of 32"),
    "scale-diverged": ((4, "scales", 7, (4e5,)), 7, "4e+05 in channel 7"),
    "untrained": ((0, "scales", 0, (1.0,) * 8 + (0.0,) * 8 + (1.0,) * 8), None, "all scales are 1"),
    "dead-channels": ((4, "scales", 7, (1e-9,)), 7, "dead channels, 1 of 32; scale 1e-09 in channel 7"),
    "near-dead-channels": ((4, "scales", 7, (1e-4,)), 7, "stay below a relu's 0, 1 of 32; scale 0.0001"),
}


@pytest.mark.parametrize("kind", NUMBERS)
def test_what_is_wrong_in_the_numbers_is_found(pair, kind):
    cfg, weights = pair
    (layer, name, index, values), channel, message = NUMBERS[kind]
    if name == "weights":
        channel = index // (4608 // 32)
    weights.write_bytes(patched(layer, name, index, *values))
    found, *others = findings(cfg, weights)
    assert (found.id, found.severity) == (kind, KINDS[kind].severity)
    assert (found.layer, found.channel) == (layer, channel)
    assert f"layer {layer}: " in found.message
    assert message in found.message
    assert {other.id for other in others} <= {"constant-channels"}


def test_a_dead_channel_with_a_bias_is_a_constant_one(pair):
    cfg, weights = pair
    weights.write_bytes(patched(4, "scales", 7, 0.0))
    with open_weights(read_model(cfg, weights)) as opened:
        bias = opened[4, "biases"][7]
    dead, constant = findings(cfg, weights)
    assert (dead.id, constant.id) == ("dead-channels", "constant-channels")
    assert (constant.layer, constant.channel) == (4, 7)
    assert f"{bias:.3g} in channel 7" in constant.message


@pytest.mark.parametrize(("activation", "worst"), [("leaky", 7), ("relu", 9)])
def test_the_near_dead_channel_that_varies_least_is_named_or_under_a_relu_the_rarest(pair, activation, worst):
    cfg, weights = pair
    cfg.write_text(TEXT.replace("=leaky", f"={activation}"))
    data = bytearray(DATA)
    for channel, scale, bias in ((7, 1e-5, 1.0), (9, 1e-3, -1.0)):
        struct.pack_into("<f", data, offset(4, "scales", channel), scale)
        struct.pack_into("<f", data, offset(4, "biases", channel), bias)
    weights.write_bytes(data)
    (found,) = (found for found in findings(cfg, weights) if found.layer == 4)
    assert (found.id, found.channel) == ("near-dead-channels", worst)
    assert f"{2 + (activation == 'relu')} of 32" in found.message  # one more that is rarely above 0


def test_a_shortcut_s_weights_have_their_channels_last(tmp_path):
    cfg = tmp_path / "net.cfg"
    shortcut = "shortcut from=-2 weights_type=per_channel weights_normalization=relu"
    cfg.write_text(cfg_source("3x8x8", f"convolutional filters=4 | convolutional filters=4 | {shortcut}"))
    weights = write_weights(cfg, tmp_path / "net.weights")
    data = bytearray(weights.read_bytes())
    struct.pack_into("<f", data, len(data) - 4, math.nan)
    weights.write_bytes(data)
    (found,) = findings(cfg, weights)
    assert (found.id, found.layer, found.channel) == ("nan", 2, 3)


def test_a_dead_channel_without_bias_is_no_constant_one(pair):
    cfg, weights = pair
    data = bytearray(patched(4, "scales", 7, 0.0))
    struct.pack_into("<f", data, offset(4, "biases", 7), 0.0)
    weights.write_bytes(data)
    assert [found.id for found in findings(cfg, weights)] == ["dead-channels"]


def test_every_kind_of_finding_has_a_test():
    others = {"weights-folded", "weights-unfolded", "weights-dialect", "weights-classes", "constant-channels"}
    assert {*CFGS, *WEIGHTS, *NUMBERS, *others} == set(KINDS)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({7: -9.9998997e-06}, "variance - ε"),
        ({0: -0.2}, "the first; likely the header is 4 bytes off"),
        ({31: -0.2}, "the last; likely the header is 4 bytes off"),
        ({3: -0.2}, "training diverged"),
        (dict.fromkeys(range(1, 9), -0.2), "another array is read here"),
    ],
)
def test_a_negative_variance_has_a_likely_reason(pair, values, reason):
    """The first is what darknet-mobilenet-v2's file really holds."""
    cfg, weights = pair
    data = bytearray(DATA)
    for channel, value in values.items():
        struct.pack_into("<f", data, offset(4, "rolling_variance", channel), value)
    weights.write_bytes(data)
    (found,) = findings(cfg, weights)
    assert found.id == "variance-negative"
    assert reason in found.message
    assert f"negative variances, {len(values)} of 32" in found.message


def test_a_gain_that_depends_on_epsilon_is_shown_for_every_runtime(pair):
    """Recomputed here in float64; three digits are shown."""
    cfg, weights = pair
    weights.write_bytes(patched(4, "rolling_variance", 7, 1e-4))
    with open_weights(read_model(cfg, weights)) as opened:
        scale, variance = (float(opened[4, name][7]) for name in ("scales", "rolling_variance"))
    (found,) = findings(cfg, weights)
    for name, deviation in {
        "darknet": math.sqrt(variance + 1e-5),
        "pjreddie-cpu": math.sqrt(variance) + 1e-6,
        "opencv": math.sqrt(variance + 1e-6),
        "ultralytics": math.sqrt(variance + 1e-4),
        "keras": math.sqrt(variance + 1e-3),
    }.items():
        assert f"{name} {scale / deviation:.3g}" in found.message


@pytest.mark.parametrize(("variance", "sensitive"), [(4e-4, True), (5e-4, False)])
def test_epsilon_matters_from_one_percent_on(pair, variance, sensitive):
    """√((4.5e-4 + 1e-5) / (4.5e-4 + 1e-6)) is 1.01."""
    cfg, weights = pair
    weights.write_bytes(patched(4, "rolling_variance", 7, variance))
    assert bool(findings(cfg, weights)) is sensitive


def test_the_worst_channel_is_named_and_all_are_counted(pair):
    cfg, weights = pair
    weights.write_bytes(patched(4, "rolling_variance", 5, -1e-6, -3e-6, -2e-6))
    (found,) = findings(cfg, weights)
    assert (found.channel, "3 of 32" in found.message) == (6, True)


def test_all_kinds_in_one_layer_are_one_finding_each(pair):
    cfg, weights = pair
    weights.write_bytes(patched(4, "rolling_variance", 3, math.nan, math.inf, 0.0, 0.0, 1e-7, 1e-4))
    assert [found.id for found in findings(cfg, weights)] == [
        *["nan", "variance-infinite"],
        *["variance-zero", "variance-tiny", "epsilon-sensitive"],
    ]


def test_a_part_is_named(tmp_path):
    cfg = tmp_path / "net.cfg"
    cfg.write_text("[net]\ninputs=12\n[lstm]\noutput=4\nbatch_normalize=1\n")
    weights = write_weights(cfg, tmp_path / "net.weights")
    model = read_model(cfg, weights, "alexeyab")
    (array,) = (array for array in model.layout.arrays if array.name == "wg.rolling_variance")
    data = bytearray(weights.read_bytes())
    struct.pack_into("<f", data, array.offset + 8, -1.0)
    weights.write_bytes(data)
    found, crash = findings(cfg, weights, "alexeyab")
    assert (found.id, found.layer, found.channel, crash.id) == ("variance-negative", 0, 2, "cfg-crash")
    assert found.message.startswith("layer 0 wg: ")


def test_a_transposed_matrix_has_its_channels_in_columns(tmp_path):
    cfg = tmp_path / "net.cfg"
    cfg.write_text("[net]\ninputs=12\n[connected]\noutput=4\nactivation=linear\n")
    weights = write_weights(cfg, tmp_path / "net.weights")
    data = bytearray(struct.pack("<3i", 0, 1001, 0) + weights.read_bytes()[12:])
    struct.pack_into("<f", data, 20 + 4 * 4 + 4 * (4 * 5 + 3), math.nan)  # biases, then input 5 of output 3
    weights.write_bytes(data)
    found, *others = findings(cfg, weights, "alexeyab")
    assert (found.id, found.channel) == ("nan", 3)
    assert [other.id for other in others] == ["header-version", "cfg-crash"]


# --- sound files ------------------------------------------------------------------------------------------------------


def test_no_sound_file_has_an_error(layout_case: Golden):
    """Random numbers that the reference programs wrote, of networks that some of them cannot load."""
    for dialect in (layout_case.dialect, "auto"):
        found = findings(layout_case.cfg, layout_case.weights, dialect)
        assert {finding.id for finding in found if finding.severity != "note"} <= {"cfg-crash"}


def test_the_sample_has_no_finding():
    assert findings(SAMPLE_CFG, SAMPLE_WEIGHTS) == ()


@needs_shared("models")
@pytest.mark.parametrize(("name", "kinds"), [("yolo-fastest-1.1", []), ("yolo-fastest-1.1-xl", ["epsilon-sensitive"])])
def test_real_models_have_no_error(name, kinds):
    """The larger one has a channel with a variance of 4.7e-4."""
    assert [found.id for found in findings(MODELS / f"{name}.cfg", MODELS / f"{name}.weights")] == kinds


@needs_shared("models")
def test_a_pair_of_two_models_belongs_to_another_cfg():
    (found,) = findings(MODELS / "yolo-fastest-1.1.cfg", MODELS / "yolo-fastest-1.1-xl.weights")
    assert (found.id, found.layer) == ("weights-other-cfg", 1)


# --- what it prints ---------------------------------------------------------------------------------------------------


def test_the_verdict_of_a_sound_pair(invoke, pair):
    result = invoke("check", *pair, columns="200")
    assert result.stdout == (
        f"cfg      {pair[0]}, as alexeyab reads it\n"
        f"weights  {pair[1]}\n"
        "verdict  fits: 27,560 bytes = 20 + 4 × 6,885 parameters; nothing found\n"
    )


def test_a_cfg_alone_is_checked(invoke, pair):
    assert invoke("check", pair[0]).stdout.endswith("verdict  nothing found\n")


def damaged(cfg: Path, weights: Path, kind: str) -> None:
    (layer, name, index, values), _, _ = NUMBERS[kind]
    weights.write_bytes(patched(layer, name, index, *values))
    assert read_model(cfg, weights).fits


@pytest.mark.parametrize(
    ("kind", "options", "code"),
    [
        ("variance-negative", [], 3),
        ("variance-negative", ["--strict"], 3),
        ("variance-zero", [], 0),
        ("variance-zero", ["--strict"], 3),
        ("dead-channels", ["--strict"], 0),
    ],
)
def test_the_exit_code_tells_how_bad_it_is(invoke, pair, kind, options, code):
    damaged(*pair, kind)
    assert f"[{kind}]" in invoke("check", *pair, *options, exit_code=code).stdout


@pytest.mark.parametrize("form", ["table", "json", "csv", "markdown"])
@pytest.mark.parametrize("kind", [*CFGS, *WEIGHTS])
def test_every_form_shows_every_finding(invoke, pair, form, kind):
    cfg, weights = pair
    if kind in CFGS:
        cfg.write_bytes(CFGS[kind][0])
    else:
        weights.write_bytes(WEIGHTS[kind][0])
    code = 3 if any(found.severity == "error" for found in findings(cfg, weights)) else 0
    result = invoke("check", cfg, weights, "--format", form, exit_code=code)
    assert kind in result.stdout
    assert not result.stderr or re.fullmatch(r"note: dialect [^\n]+\n", result.stderr)


def test_the_document_has_these_keys(invoke, pair):
    damaged(*pair, "variance-negative")
    found = json.loads(invoke("check", *pair, "--format", "json", exit_code=3).stdout)
    message = found["findings"][0].pop("message")
    assert found == {
        "cfg": str(pair[0]),
        "weights": str(pair[1]),
        "dialect": "alexeyab",
        "fits": True,
        "expected_bytes": 27560,
        "actual_bytes": 27560,
        "errors": 1,
        "warnings": 0,
        "notes": 0,
        "findings": [{"id": "variance-negative", "severity": "error", "layer": 4, "channel": 7}],
    }
    assert message.startswith("layer 4: negative variances")


def test_a_file_that_nobody_can_read_has_null_for_what_is_unknown(invoke, pair):
    pair[1].write_bytes(b"")
    found = json.loads(invoke("check", *pair, "--format", "json", exit_code=3).stdout)
    assert [found[name] for name in ("dialect", "fits", "expected_bytes", "actual_bytes")] == [None] * 4


@pytest.mark.parametrize("columns", ["80", "160"])
def test_findings_are_wrapped_to_the_terminal(invoke, pair, columns):
    damaged(*pair, "epsilon-sensitive")
    lines = invoke("check", *pair, columns=columns).stdout.splitlines()
    found = lines[lines.index(next(line for line in lines if line.startswith("verdict"))) :]
    assert max(map(len, found)) <= int(columns)
    assert len(found) == {"80": 4, "160": 3}[columns]


def test_errors_come_first(pair):
    pair[0].write_text(TEXT.replace("channels=3", "channels=3\nchanels=4\nangle=\n"))
    pair[1].write_bytes(patched(4, "rolling_variance", 7, 0.0, -1.0))
    severities = [found.severity for found in findings(*pair, dialect="alexeyab")]
    assert severities == sorted(severities, key=SEVERITIES.index)
    assert set(severities) == set(SEVERITIES)


def test_the_list_has_every_kind_and_needs_no_file(invoke):
    rows = json.loads(invoke("check", "--list", "--format", "json").stdout)
    assert [row["id"] for row in rows] == list(KINDS)
    assert all(row["severity"] in SEVERITIES and row["meaning"] and row["cause"] for row in rows)
    printed = invoke("check", "--list").stdout
    assert max(map(len, printed.splitlines())) <= 80
    words = " ".join(printed.split())
    assert all(f"{row['meaning']}: {row['cause']} [{row['id']}]" in words for row in rows)


def test_a_missing_file_is_exit_code_1(invoke, pair):
    missing = pair[0].with_name("missing")
    bad = pair[0].with_name("bad.cfg")
    bad.write_bytes(CFGS["cfg-bom"][0])
    for paths in ((missing, pair[1]), (pair[0], missing), (missing,), (bad, missing)):
        error = invoke("check", *paths, exit_code=1).stderr
        assert error == f"error: {missing}: no such file or directory\n"


@pytest.mark.parametrize("arguments", [[], ["--strict"], ["a", "b", "c"], ["--dialect", "x", "a"]])
def test_a_wrong_command_line_is_exit_code_2(invoke, arguments):
    assert invoke("check", *arguments, exit_code=2).stdout == ""


def test_a_pipe_s_reader_gets_no_escape_codes(pair):
    damaged(*pair, "variance-negative")
    for command in (["check"], ["inspect"], ["inspect", "--channels"]):
        arguments = [sys.executable, "-m", "bnorm", command[0], *pair, *command[1:]]
        done = subprocess.run(arguments, capture_output=True, check=False)
        assert b"\x1b" not in done.stdout
        assert done.returncode == (3 if command == ["check"] else 0)


def test_of_many_findings_of_a_kind_a_table_shows_the_first(invoke, pair):
    """All five normalised layers have one, in csv, too."""
    data = bytearray(DATA)
    for layer in (0, 1, 2, 4, 5):
        struct.pack_into("<f", data, offset(layer, "rolling_variance", 1), 1e-4)
    pair[1].write_bytes(data)
    output = invoke("check", *pair).stdout
    assert [layer for layer in range(9) if f"layer {layer}: gains" in output] == [0, 1, 2, 4]
    assert output.endswith("warning  1 more of these in csv and json [epsilon-sensitive]\n")
    assert len(invoke("check", *pair, "--format", "csv").stdout.splitlines()) == 6


# --- it reads no more than it needs -----------------------------------------------------------------------------------


def test_a_file_that_fits_is_read_once(pair, monkeypatch):
    """The header, the sample of text, the end and the variances are looked at before: 64 KiB and 1 MiB at most."""
    read: list[tuple[int, int]] = []
    floats = bnorm.darknet.weights.Weights._floats  # what reads arrays

    def counting(self, start: int, count: int, array):
        read.append((start, count))
        return floats(self, start, count, array)

    monkeypatch.setattr(bnorm.darknet.weights.Weights, "_floats", counting)
    assert findings(*pair) == ()
    variances = {array.offset for array in read_model(*pair).layout.arrays if array.field == "rolling_variance"}
    starts = [start for start, _ in read]
    twice = {start for start in starts if starts.count(start) > 1}
    assert twice == variances
    assert sum(count for _, count in read) == 6885 + 80


def test_values_that_are_not_finite_are_counted_across_blocks(tmp_path):
    """A layer of more than one block, with NaN in the first and in the last filter."""
    cfg = tmp_path / "net.cfg"
    cfg.write_text("[net]\nchannels=64\nheight=4\nwidth=4\n[convolutional]\nfilters=512\nsize=3\npad=1\n")
    weights = write_weights(cfg, tmp_path / "net.weights")
    data = np.fromfile(weights, "<f4")
    data[[5 + 512, -1]] = math.nan
    data.tofile(weights)
    (found,) = findings(cfg, weights)
    assert (found.id, found.channel) == ("nan", 0)
    assert "weights not a number, 2 of 294,912" in found.message


# --- any damage -------------------------------------------------------------------------------------------------------

EDITS = st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=8), st.integers(0, 40)), min_size=1, max_size=4)


def edited(data: bytes, edits: list[tuple[float, bytes, int]]) -> bytes:
    """The data with these bytes at these places, each in place of so many others."""
    for place, new, dropped in edits:
        start = int(place * len(data))
        data = data[:start] + new + data[start + dropped :]
    return data


@settings(max_examples=150)
@given(EDITS, st.sampled_from(["cfg", "weights"]), st.sampled_from(["auto", "pjreddie", "alexeyab", "hank"]))
def test_any_damage_is_findings_and_no_traceback(tmp_path_factory, edits, which, dialect):
    folder = tmp_path_factory.mktemp("damaged")
    cfg, weights = folder / "net.cfg", folder / "net.weights"
    cfg.write_bytes(edited(TEXT.encode(), edits) if which == "cfg" else TEXT.encode())
    weights.write_bytes(edited(DATA, edits) if which == "weights" else DATA)
    result = CliRunner().invoke(main, ["check", str(cfg), str(weights), "--dialect", dialect])
    assert isinstance(result.exception, SystemExit | None)
    assert result.exit_code in (0, 3)
    assert "verdict" in result.stdout


def test_a_cfg_that_asks_for_more_than_memory_is_checked_without_it(pair):
    """2^31 - 1 filters in front of a [yolo]: the plan alone says so."""
    cfg, weights = pair
    cfg.write_text(TEXT.replace("classes=2\n", "classes=100000000\n"))
    assert [found.id for found in findings(cfg, weights)][-1] in ("cfg-filters", "cfg-refused")


def test_a_number_in_the_weights_of_a_local_layer_is_named_by_its_filter(invoke, tmp_path):
    """They stand as [places][filters][window]."""
    root = Path(__file__).parents[2]
    cfg, weights = root / "sample_cfgs/local.cfg", tmp_path / "local.weights"
    data = bytearray((root / "sample_weights/local.weights").read_bytes())
    array = read_model(cfg, None, "alexeyab").layout.by_name[1, "weights"]
    _, _, window = array.shape
    struct.pack_into("<f", data, array.offset + 4 * 2 * window, np.nan)
    weights.write_bytes(data)
    (finding,) = json.loads(invoke("check", cfg, weights, "--format", "json", exit_code=3).stdout)["findings"]
    assert (finding["id"], finding["layer"], finding["channel"]) == ("nan", 1, 2)
