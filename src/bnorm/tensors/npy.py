"""The .npy format: the header, read and written.

Types are float16, float32 and float64, little-endian, in C order; anything else is refused. Nothing is ever unpickled,
and no more memory is allocated than the header's shape requires.

The header is the text of a Python dictionary (NumPy `lib/format.py`). It is read here by a closed grammar and never
evaluated, because NumPy's own reader fails on hostile text: `"-" * 9000 + "1"` raises MemoryError, `"(" * 9000`
tokenize.TokenError, and the `3L` of Python 2 causes a warning. A file of any content must be read or raise
`TensorError`.
"""

from __future__ import annotations

import io
import re
import struct
from math import prod
from pathlib import Path
from typing import IO, BinaryIO

import numpy as np
from numpy.typing import NDArray

from bnorm.errors import TensorError
from bnorm.tensors.tensor import DType, FileTensor, Tensor
from bnorm.text import short

DTYPES = ("<f2", "<f4", "<f8")

EXPECTED = "expected little-endian float16, float32 or float64"

MOST_HEADER = 1 << 16  # bytes of a .npy header

MOST_CHANNELS = 1 << 20  # of a vector

_ITEM = r"'(descr|fortran_order|shape)'\s*:\s*('[^']*'|True|False|\([0-9L, ]*\))"

_HEADER = re.compile(rf"\s*{{\s*{_ITEM}\s*,\s*{_ITEM}\s*,\s*{_ITEM}\s*,?\s*}}\s*")

_SIZE = "[0-9]{1,40}L? *"  # NumPy on Python 2 wrote the L

_VALUES = {"descr": "'.*'", "fortran_order": "True|False", "shape": rf"\(\)|\( *{_SIZE}(, *{_SIZE})*,? *\)"}

_LENGTHS = {(1, 0): "<H", (2, 0): "<I", (3, 0): "<I"}  # the type of the header's length, by version


def read_header(path: Path, file: IO[bytes]) -> tuple[tuple[int, ...], DType]:
    """Return shape and dtype of a .npy stream, which is then at its first value; raises `TensorError`."""
    start = file.read(8)
    if len(start) < 8 or start[:6] != b"\x93NUMPY":
        raise TensorError(path, "is not a .npy file", cause="raw float32 needs --shape")
    length_format = _LENGTHS.get((start[6], start[7]))
    if length_format is None:
        raise TensorError(path, "has an unknown version of the .npy format, expected 1.0, 2.0 or 3.0")
    items = _items(_text(file, length_format))
    if items is None:
        what = f"is not a .npy file of one array, {EXPECTED}"
        raise TensorError(path, what, cause="objects and records are never read")
    return _shape(path, items), _dtype(path, items)


def _text(file: IO[bytes], length_format: str) -> str:
    """Return the header's text, or an empty text if it is cut, or longer than any real header."""
    data = file.read(struct.calcsize(length_format))
    if len(data) < struct.calcsize(length_format):
        return ""
    (size,) = struct.unpack(length_format, data)
    text = file.read(size) if size <= MOST_HEADER else b""
    return text.decode("latin-1") if len(text) == size else ""


def _items(text: str) -> dict[str, str] | None:
    """Return the text of each of the three values, or None for any other header."""
    match = _HEADER.fullmatch(text)
    items = dict(zip(match.groups()[::2], match.groups()[1::2], strict=True)) if match else {}
    complete = len(items) == 3 and all(re.fullmatch(_VALUES[key], items[key]) for key in items)
    return items if complete else None


def _shape(path: Path, items: dict[str, str]) -> tuple[int, ...]:
    shape = tuple(int(size) for size in re.findall("[0-9]+", items["shape"]))
    if items["fortran_order"] != "False" and len(shape) > 1:
        raise TensorError(path, "is in Fortran order, expected C order", cause="save numpy.ascontiguousarray(x)")
    return shape


def _dtype(path: Path, items: dict[str, str]) -> DType:
    descr = items["descr"].strip("'")
    if descr not in DTYPES:
        raise TensorError(path, f"holds {'objects' if descr == '|O' else short(descr)}, {EXPECTED}")
    return np.dtype(descr)


def vector_values(
    path: Path, file: IO[bytes], shape: tuple[int, ...], dtype: DType, name: str = "array"
) -> NDArray[np.float64]:
    """Return the values after the header as float64, shape (C,); raises `TensorError` for another shape."""
    if len(shape) != 1 or not 1 <= shape[0] <= MOST_CHANNELS:
        raise TensorError(path, f"{name} has the shape {shape}, expected one value per channel")
    data = file.read(shape[0] * dtype.itemsize)
    if len(data) != shape[0] * dtype.itemsize:
        raise TensorError(path, f"{name} ends early, expected {shape[0]} values")
    return np.frombuffer(data, dtype).astype(np.float64)


# --- writing files ----------------------------------------------------------------------------------------------------


def npy_header(shape: tuple[int, ...], dtype: DType) -> bytes:
    """Return the bytes of a .npy file that precede its values."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": dtype.str, "fortran_order": False, "shape": shape})
    return header.getvalue()


def new_npy(path: Path, file: BinaryIO, like: Tensor, offset: int = 0) -> FileTensor:
    """Begin a .npy file of the same shape, dtype and layout, at its full length; return the tensor to fill.

    With an `offset` it is the last part of a larger file.
    """
    header = npy_header(like.shape, like.dtype)
    file.seek(offset)
    file.write(header)
    file.flush()
    start = offset + len(header)
    file.truncate(start + prod(like.shape) * like.dtype.itemsize)
    return FileTensor(path, file, start, like.shape, like.dtype, like.layout)


def write_npy(file: IO[bytes], array: NDArray[np.floating]) -> None:
    """Write a whole .npy file."""
    np.lib.format.write_array(file, array, allow_pickle=False)
