"""Files of tensors: .npy, .npz, and raw float32.

Types: float16, float32 and float64, little-endian, in C order; anything else is refused. Nothing is ever unpickled, and
nothing is allocated or unpacked beyond what a header's shape says.
"""

from __future__ import annotations

import errno
import os
import re
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import IO, BinaryIO

import numpy as np
from numpy.typing import NDArray

from bnorm.errors import TensorError
from bnorm.files import open_regular
from bnorm.grammar import short
from bnorm.tensors import DType, FileTensor, Tensor

DTYPES = ("<f2", "<f4", "<f8")
EXPECTED = "expected float16, float32, float64 in little-endian order"
CHUNK = 1 << 20  # bytes that are copied at a time
MOST_CHANNELS = 1 << 20
MOST_UNPACKED = 256 << 20  # bytes of a packed array from which on it must not unpack to more than
MOST_RATIO = 100  # times as many: DEFLATE makes 1000 of zeros, and 2 or 3 of what a network computes
MOST_HEADER = 1 << 16  # bytes of a .npy header


def open_tensor(name: str, shape: tuple[int, ...] | None = None, layout: str = "nchw") -> FileTensor:
    """Open `X.npy`, `X.npz` of one array, `X.npz:key`, or with a `shape` a file of raw little-endian float32.

    `TensorError` where it is none of these, or has an unfit type or shape. Nothing of its values is read.
    """
    if shape is not None:
        return _open_raw(Path(name), shape, layout)
    path, key = file_of(name), name.partition(".npz:")[2]
    with open_regular(path, TensorError) as file:
        start = file.read(4)
    if start == b"PK\x03\x04":
        return _open_member(path, key, layout)
    with _kept(path.open("rb")) as file:
        found, dtype = _header(path, file)
        return _checked(path, file, file.tell(), found, dtype, layout)


@contextmanager
def _kept(file: BinaryIO) -> Iterator[BinaryIO]:
    """A file that is closed only where an error comes between."""
    try:
        yield file
    except BaseException:
        file.close()
        raise


def file_of(name: str) -> Path:
    """The file of a tensor's name: `X.npz` of `X.npz:key`."""
    archive, dot, _ = name.partition(".npz:")
    return Path(archive + ".npz" if dot else name)


def _open_raw(path: Path, shape: tuple[int, ...], layout: str) -> FileTensor:
    with _kept(open_regular(path, TensorError)) as file:
        return _checked(path, file, 0, shape, np.dtype("<f4"), layout)


def _checked(path: Path, file: BinaryIO, offset: int, shape: tuple[int, ...], dtype: DType, layout: str) -> FileTensor:
    """The tensor, if its shape is one and the file has exactly its size."""
    try:
        tensor = FileTensor(path, file, offset, shape, dtype, layout)
    except ValueError as error:
        raise TensorError(path, f"has the shape {shape}, expected {error}") from None
    expected, got = prod(shape) * dtype.itemsize, os.fstat(file.fileno()).st_size - offset
    if expected > got or (offset == 0 and expected != got):
        raise TensorError(path, f"has the shape {shape}, expected {expected:,} bytes of values, got {got:,}")
    return tensor


_ITEM = r"'(descr|fortran_order|shape)'\s*:\s*('[^']*'|True|False|\([0-9L, ]*\))"
_HEADER = re.compile(rf"\s*{{\s*{_ITEM}\s*,\s*{_ITEM}\s*,\s*{_ITEM}\s*,?\s*}}\s*")
_SIZE = "[0-9]{1,40}L? *"  # NumPy on Python 2 wrote the L
_VALUES = {"descr": "'.*'", "fortran_order": "True|False", "shape": rf"\(\)|\( *{_SIZE}(, *{_SIZE})*,? *\)"}
_LENGTHS = {(1, 0): "<H", (2, 0): "<I", (3, 0): "<I"}  # the type of the header's length, by version


def _header(path: Path, file: IO[bytes]) -> tuple[tuple[int, ...], DType]:
    """Shape and type of a .npy stream, which then stands at the values.

    The header is the text of a Python dictionary (NumPy `lib/format`); only its plain form is taken, nothing is
    evaluated.
    """
    start = file.read(8)
    if len(start) < 8 or start[:6] != b"\x93NUMPY":
        raise TensorError(path, "is no .npy file", cause="raw float32 needs --shape")
    length = _LENGTHS.get((start[6], start[7]))
    if length is None:
        raise TensorError(path, "has an unknown version of the .npy format, expected 1.0, 2.0 or 3.0")
    data = file.read(struct.calcsize(length))
    size = struct.unpack(length, data)[0] if len(data) == struct.calcsize(length) else MOST_HEADER + 1
    text = file.read(size).decode("latin-1") if size <= MOST_HEADER else ""
    match = _HEADER.fullmatch(text) if len(text) == size else None
    items = dict(zip(match.groups()[::2], match.groups()[1::2], strict=True)) if match else {}
    if len(items) != 3 or not all(re.fullmatch(_VALUES[key], items[key]) for key in items):
        raise TensorError(path, f"is no .npy file of one array, {EXPECTED}", cause="objects and records are never read")
    return _shape(path, items), _dtype(path, items)


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


def _open_member(path: Path, key: str, layout: str) -> FileTensor:
    """One array of an archive: where it stands if it is stored as it is, else unpacked into a temporary file."""
    with _archive(path) as archive:
        info = _member(path, archive, key)
        with archive.open(info) as stream:
            shape, dtype, header = _member_header(path, info, stream)
            if info.compress_type != zipfile.ZIP_STORED:
                with _kept(_unpacked(path, stream, prod(shape) * dtype.itemsize)) as file:
                    return _checked(path, file, 0, shape, dtype, layout)
    with _kept(path.open("rb")) as file:
        file.seek(info.header_offset + 26)
        name, extra = (int.from_bytes(file.read(2), "little") for _ in range(2))
        return _checked(path, file, info.header_offset + 30 + name + extra + header, shape, dtype, layout)


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """An open archive; whatever its modules raise about its content becomes a `TensorError`."""
    try:
        with zipfile.ZipFile(path) as archive:
            # NumPy writes no others, and an LZMA stream may ask for 4 GiB before it gives a byte.
            if any(info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for info in archive.infolist()):
                raise TensorError(path, "holds members of another packing, expected stored or deflated ones")
            yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError) as error:
        raise TensorError(path, f"is no sound .npz archive: {error}") from None
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):
            raise
        # A wrong offset in the archive is a wrong argument to the system.
        raise TensorError(path, f"is no sound .npz archive: {error}") from None


def _member(path: Path, archive: zipfile.ZipFile, key: str) -> zipfile.ZipInfo:
    members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    wanted = key or (next(iter(members)) if len(members) == 1 else "")
    if wanted not in members:
        held = ", ".join(sorted(members)[:9]) or "nothing"
        raise TensorError(path, f"holds {short(held)}, expected {key or 'one array, or FILE.npz:NAME'}")
    info = members[wanted]
    if info.file_size > max(MOST_UNPACKED, MOST_RATIO * info.compress_size):
        most = MOST_RATIO * info.compress_size
        what = (
            f"{short(info.filename)} unpacks to {info.file_size:,} bytes, expected at most {most:,}, {MOST_RATIO} times"
        )
        cause = "made to fill memory or disk; save what is meant with numpy.savez"
        raise TensorError(path, f"{what} its packed size", cause=cause)
    return info


def _member_header(path: Path, info: zipfile.ZipInfo, stream: IO[bytes]) -> tuple[tuple[int, ...], DType, int]:
    """Shape, type and length of the header; the member must be as long as they say."""
    shape, dtype = _header(path, stream)
    expected, got = prod(shape) * dtype.itemsize, info.file_size - stream.tell()
    if expected != got:
        what = f"{short(info.filename)} has the shape {shape}, expected {expected:,} bytes of values, got {got:,}"
        raise TensorError(path, what)
    return shape, dtype, stream.tell()


def _unpacked(path: Path, stream: IO[bytes], nbytes: int) -> BinaryIO:
    """The next `nbytes` of the stream in a file without a name; no more is unpacked, whatever the archive holds."""
    left = nbytes
    with _kept(tempfile.TemporaryFile()) as target:
        while left and (data := stream.read(min(left, CHUNK))):
            target.write(data)
            left -= len(data)
        if left:
            raise TensorError(path, f"expected {nbytes:,} bytes of values, got {nbytes - left:,}")
        target.flush()
        return target


def read_vectors(path: Path, names: tuple[str, ...]) -> list[NDArray[np.float64]]:
    """1-D arrays of one length from a .npz archive, as float64."""
    with _archive(path) as archive:
        vectors = [_vector(path, archive, name) for name in names]
    if len({len(vector) for vector in vectors}) > 1:
        counts = ", ".join(str(len(vector)) for vector in vectors)
        raise TensorError(path, f"has {counts} values of {', '.join(names)}, expected as many of each")
    return vectors


def _vector(path: Path, archive: zipfile.ZipFile, name: str) -> NDArray[np.float64]:
    info = _member(path, archive, name)
    with archive.open(info) as stream:
        shape, dtype, _ = _member_header(path, info, stream)
        if len(shape) != 1 or not 1 <= shape[0] <= MOST_CHANNELS:
            raise TensorError(path, f"{name} has the shape {shape}, expected one value per channel")
        data = stream.read(shape[0] * dtype.itemsize)
    if len(data) != shape[0] * dtype.itemsize:
        raise TensorError(path, f"{name} ends early, expected {shape[0]} values")
    return np.frombuffer(data, dtype).astype(np.float64)


# --- writing files ----------------------------------------------------------------------------------------------------


def new_npy(path: Path, file: BinaryIO, like: Tensor) -> FileTensor:
    """A .npy file of the same shape, type and layout, to be filled by spans. The file is as long as it will be."""
    np.lib.format.write_array_header_1_0(file, {"descr": like.dtype.str, "fortran_order": False, "shape": like.shape})
    file.flush()
    offset = file.tell()
    file.truncate(offset + prod(like.shape) * like.dtype.itemsize)
    return FileTensor(path, file, offset, like.shape, like.dtype, like.layout)


def write_npy(file: BinaryIO, array: NDArray[np.floating]) -> None:
    """A whole .npy file."""
    np.lib.format.write_array(file, array, allow_pickle=False)


def write_npz(file: BinaryIO, members: Iterable[tuple[str, BinaryIO]]) -> None:
    """An archive of .npy files, stored as they are and without times, so that the same arrays give the same bytes."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, source in members:
            source.seek(0)
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as target:
                while data := source.read(CHUNK):
                    target.write(data)
