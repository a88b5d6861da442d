"""How other programs' files begin: files that are given as weights by mistake."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import NamedTuple

from bnorm.errors import WeightsError


class Foreign(NamedTuple):
    """How another kind of file begins: one of `starts` at `offset`, in lower case, and `within` soon after."""

    kind: str
    finding: str
    cause: str
    starts: tuple[bytes, ...]
    offset: int = 0
    within: bytes = b""


_ALONE = "bnorm only reads darknet's files"

_PAGE = "a download page was saved instead of the file"

_ZIP = (b"pk\3\4",)

_ONNX = tuple(
    bytes((8, version, tag)).lower() for version in range(1, 32) for tag in (0x12, 0x1A, 0x22, 0x28, 0x32, 0x3A, 0x42)
)

# No darknet header looks like any of these: its first int is 0 or small.
FOREIGN = (
    Foreign("a Git LFS pointer", "weights-lfs", "fetch the file with `git lfs pull`", (b"version https://git-lfs",)),
    Foreign("HTML", "weights-html", _PAGE, (b"<!doctype", b"<html", b"<head")),
    Foreign("a cfg", "weights-text", "the arguments are CFG WEIGHTS, in that order", (b"[net",)),
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
    """Raise a `WeightsError` where `data`, the beginning of the file, is another program's or text."""
    small = data.removeprefix(codecs.BOM_UTF8).lower()
    for row in FOREIGN:
        if small[row.offset :].lstrip().startswith(row.starts) and row.within in small:
            what = f"is {row.kind}, expected darknet's weights"
            raise WeightsError(path, what, cause=row.cause, finding=row.finding)
    if data and _is_text(data):
        cause = "an error message that was saved as a file, or a cfg?"
        raise WeightsError(path, "is text, expected darknet's weights", cause=cause, finding="weights-text")


def _is_text(data: bytes) -> bool:
    """Return whether it is UTF-8 without control characters; the last character may be cut."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(data)
    except UnicodeDecodeError:
        return False
    return all(character.isprintable() or character in "\t\r\n" for character in text)
