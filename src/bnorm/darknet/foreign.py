"""The first bytes of other programs' files, which are given as a cfg or as weights by mistake."""

from __future__ import annotations

import codecs
import re
import struct
from pathlib import Path
from typing import NamedTuple

from bnorm.errors import CfgError, WeightsError


class Foreign(NamedTuple):
    """A kind of file, recognised by one of `starts` at `offset` in lower case, and by `within` soon after.

    `finding` is the id under which it is reported if given as weights, `cfg_finding` if given as a cfg.
    """

    kind: str
    finding: str
    cause: str
    starts: tuple[bytes, ...]
    offset: int = 0
    within: bytes = b""
    cfg_finding: str = "cfg-not-text"


BEGINNING = 512  # bytes that are enough to recognise every kind

SHORTEST = 16  # bytes of a header

MOST_VERSION = 10_000  # above the major and minor version of any real file, where 1000 means transposed weights

_HEADING = re.compile(rb"^[ \t]*\[[ \t]*[A-Za-z_][^\]\n]*\]", re.MULTILINE)

_ALONE = "bnorm only reads darknet's files"

_ANSWER = "a server's answer, such as an error message, was saved instead of the file"

_PAGE = "a download page was saved instead of the file"

_ZIP = (b"pk\3\4",)

_ONNX = tuple(
    bytes((8, version, tag)).lower() for version in range(1, 32) for tag in (0x12, 0x1A, 0x22, 0x28, 0x32, 0x3A, 0x42)
)

# A darknet header cannot look like these, because its first int is small; nor can the first line of a cfg.
FOREIGN = (
    Foreign(
        "a Git LFS pointer",
        "weights-lfs",
        "fetch the file with `git lfs pull`",
        (b"version https://git-lfs",),
        cfg_finding="cfg-lfs",
    ),
    Foreign("HTML", "weights-html", _PAGE, (b"<!doctype", b"<html", b"<head"), cfg_finding="cfg-html"),
    Foreign("HTML", "weights-html", _PAGE, (b"<!--", b"<?xml"), within=b"<html", cfg_finding="cfg-html"),
    Foreign("XML", "weights-text", _ANSWER, (b"<?xml", b"<error"), cfg_finding="cfg-refused"),
    Foreign("JSON", "weights-text", _ANSWER, (b"{",), within=b'"', cfg_finding="cfg-refused"),
    Foreign("a PyTorch model", "weights-foreign", _ALONE, _ZIP, within=b"data.pkl"),
    Foreign("a NumPy archive", "weights-foreign", _ALONE, _ZIP, within=b".npy"),
    Foreign("a ZIP archive", "weights-archive", "unpack it first; PyTorch writes such files as well", _ZIP),
    Foreign("a gzip archive", "weights-archive", "unpack it first", (b"\x1f\x8b",)),
    Foreign(
        "an archive",
        "weights-archive",
        "unpack it first",
        (b"7z\xbc\xaf", b"rar!", b"\xfd7zxz", b"bzh", b"\x28\xb5\x2f\xfd"),
    ),
    Foreign("a tar archive", "weights-archive", "unpack it first", (b"ustar",), offset=257),
    Foreign("a pickle, as of PyTorch", "weights-foreign", _ALONE, tuple(bytes((0x80, n)) for n in (2, 3, 4, 5))),
    Foreign("a safetensors model", "weights-foreign", _ALONE, (b'{"',), offset=8),
    Foreign("a GGUF or GGML model", "weights-foreign", _ALONE, (b"gguf", b"ggml", b"lmgg", b"tjgg")),
    Foreign("an HDF5 file, as of Keras", "weights-foreign", _ALONE, (b"\x89hdf",)),
    Foreign("a NumPy array", "weights-foreign", _ALONE, (b"\x93numpy",)),
    Foreign("a TensorFlow Lite model", "weights-foreign", _ALONE, (b"tfl3",), offset=4),
    Foreign("an ONNX model", "weights-foreign", _ALONE, _ONNX),
)


def refuse_foreign(path: Path, data: bytes) -> None:
    """Raise `WeightsError` if `data`, the beginning of a file, comes from another program or is text."""
    row = foreign(data)
    if row:
        what = f"is {row.kind}, expected darknet's weights"
        raise WeightsError(path, what, cause=row.cause, finding=row.finding)
    if is_cfg(data):
        cause = "the arguments are CFG WEIGHTS, in that order"
        raise WeightsError(path, "is a cfg, expected darknet's weights", cause=cause, finding="weights-text")
    if data and _is_text(data):
        cause = "an error message that was saved as a file, or a cfg?"
        raise WeightsError(path, "is text, expected darknet's weights", cause=cause, finding="weights-text")


def refuse_foreign_cfg(path: Path, data: bytes) -> None:
    """Raise `CfgError` if `data`, the beginning of a file, comes from another program or from a weights file."""
    row = foreign(data)
    if row:
        raise CfgError(path, f"is {row.kind}, expected a cfg", cause=row.cause, finding=row.cfg_finding)
    if is_weights(data):
        cause = "the arguments are CFG WEIGHTS, in that order"
        raise CfgError(path, "is a weights file, expected a cfg", cause=cause, finding="cfg-not-text")


def foreign(data: bytes) -> Foreign | None:
    """Return the row of `FOREIGN` that matches `data`, the beginning of a file; None if no row does."""
    small = data[:BEGINNING].removeprefix(codecs.BOM_UTF8).lower()
    for row in FOREIGN:
        # letters at an offset may also be part of a text
        if small[row.offset :].lstrip().startswith(row.starts) and row.within in small:
            return None if row.offset and _is_text(small) else row
    return None


def is_weights(data: bytes) -> bool:
    """Return whether a file that begins with `data` has a darknet header: three small ints, then `seen`."""
    if len(data) < SHORTEST or foreign(data):
        return False
    return all(0 <= number < MOST_VERSION for number in struct.unpack_from("<3i", data))


def is_cfg(data: bytes) -> bool:
    """Return whether a file that begins with `data` has the heading of a section on a line of its own."""
    text = data.removeprefix(codecs.BOM_UTF8)
    return b"\0" not in data and foreign(data) is None and _HEADING.search(text) is not None


def _is_text(data: bytes) -> bool:
    """Return whether `data` is UTF-8 without control characters; its last character may be cut."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(data)
    except UnicodeDecodeError:
        return False
    return all(character.isprintable() or character in "\t\r\n" for character in text)
