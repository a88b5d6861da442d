"""Archives of .npy files: .npz."""

from __future__ import annotations

import errno
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from math import prod
from pathlib import Path
from typing import IO, BinaryIO

import numpy as np
from numpy.typing import NDArray

from bnorm.errors import TensorError
from bnorm.files import open_regular
from bnorm.tensors.npy import read_header
from bnorm.tensors.tensor import DType, FileTensor, file_tensor
from bnorm.text import short

LOCAL_HEADER = 30  # bytes of a ZIP local file header before the file name

FILE_NAME_LENGTH = 26  # offset of its "file name length" (2 bytes), followed by "extra field length" (2 bytes)

CHUNK = 1 << 20  # bytes per copy

MOST_CHANNELS = 1 << 20

MOST_UNPACKED = 256 << 20  # bytes that any packed array may unpack to; above that, the ratio is limited

MOST_RATIO = 100  # unpacked bytes per packed byte: DEFLATE reaches 1000 for zeros, 2 or 3 for a network's values


def open_member(path: Path, file: BinaryIO, key: str, layout: str) -> FileTensor:
    """Return the array `key` of an open archive, or its only one if the key is empty; raises `TensorError`.

    A stored array is read in place, from `file`; a packed one is first unpacked into a temporary file.
    """
    with _archive(path, file) as archive:
        info = _member(path, archive, key)
        with archive.open(info) as stream:
            shape, dtype, header = member_header(path, info, stream)
            if info.compress_type != zipfile.ZIP_STORED:
                with ExitStack() as stack:
                    unpacked = stack.enter_context(tempfile.TemporaryFile())
                    _unpack(path, stream, unpacked, prod(shape) * dtype.itemsize)
                    tensor = file_tensor(path, unpacked, 0, shape, dtype, layout)
                    stack.pop_all()  # the tensor keeps the file open
                    return tensor
    return file_tensor(path, file, _data_offset(file, info) + header, shape, dtype, layout)


def _data_offset(file: BinaryIO, info: zipfile.ZipInfo) -> int:
    """Return the offset of a member's data in the file, which `zipfile` does not provide.

    The data follows the local file header (APPNOTE.TXT 4.3.7), whose length depends on two of its fields.
    """
    file.seek(info.header_offset + FILE_NAME_LENGTH)
    name_length, extra_length = (int.from_bytes(file.read(2), "little") for _ in range(2))
    return info.header_offset + LOCAL_HEADER + name_length + extra_length


@contextmanager
def _archive(path: Path, file: BinaryIO) -> Iterator[zipfile.ZipFile]:
    """Open an archive; raises `TensorError` for anything that `zipfile` and `zlib` reject in its content."""
    with damaged_archives(path), zipfile.ZipFile(file) as archive:
        check_compression(path, archive)
        yield archive


def check_compression(path: Path, archive: zipfile.ZipFile) -> None:
    """Raise a `TensorError` for a compression that NumPy does not write: an LZMA stream may allocate 4 GiB."""
    if any(info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for info in archive.infolist()):
        raise TensorError(path, "has members with another compression, expected stored or deflated")


@contextmanager
def damaged_archives(path: Path) -> Iterator[None]:
    """Turn what `zipfile` and `zlib` raise for a damaged archive into a `TensorError`."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError) as error:
        raise TensorError(path, f"is not a valid .npz archive: {error}") from None
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):
            raise
        # A wrong offset in the archive makes a seek fail with EINVAL.
        raise TensorError(path, f"is not a valid .npz archive: {error}") from None


def _member(path: Path, archive: zipfile.ZipFile, key: str) -> zipfile.ZipInfo:
    """Return the member of this name, or the only one; raises `TensorError` for one made to fill memory or disk."""
    members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    wanted = key or (next(iter(members)) if len(members) == 1 else "")
    if wanted not in members:
        held = ", ".join(sorted(members)[:9]) or "nothing"
        raise TensorError(path, f"holds {short(held)}, expected {key or 'one array, or FILE.npz:NAME'}")
    check_unpacked(path, members[wanted])
    return members[wanted]


def check_unpacked(path: Path, info: zipfile.ZipInfo) -> None:
    """Raise a `TensorError` for a member made to fill memory or disk."""
    if info.file_size > max(MOST_UNPACKED, MOST_RATIO * info.compress_size):
        most = MOST_RATIO * info.compress_size
        what = (
            f"{short(info.filename)} unpacks to {info.file_size:,} bytes, expected at most {most:,}, {MOST_RATIO} times"
        )
        cause = "made to fill memory or disk? Save the array again with numpy.savez"
        raise TensorError(path, f"{what} its packed size", cause=cause)


def member_header(path: Path, info: zipfile.ZipInfo, stream: IO[bytes]) -> tuple[tuple[int, ...], DType, int]:
    """Return shape, dtype and the header's length; raises `TensorError` unless the member's length fits them."""
    shape, dtype = read_header(path, stream)
    expected, got = prod(shape) * dtype.itemsize, info.file_size - stream.tell()
    if expected != got:
        what = f"{short(info.filename)} has the shape {shape}, expected {expected:,} bytes of values, got {got:,}"
        raise TensorError(path, what)
    return shape, dtype, stream.tell()


def _unpack(path: Path, stream: IO[bytes], target: BinaryIO, nbytes: int) -> None:
    """Write the next `nbytes` of the stream; the rest of the archive is never unpacked."""
    left = nbytes
    while left and (data := stream.read(min(left, CHUNK))):
        target.write(data)
        left -= len(data)
    if left:
        raise TensorError(path, f"expected {nbytes:,} bytes of values, got {nbytes - left:,}")
    target.flush()


def read_vectors(path: Path, names: tuple[str, ...]) -> list[NDArray[np.float64]]:
    """Return arrays of one length, (C,), from a .npz archive as float64; raises `TensorError`."""
    with open_regular(path, TensorError) as file, _archive(path, file) as archive:
        vectors = [_vector(path, archive, name) for name in names]
    if len({len(vector) for vector in vectors}) > 1:
        counts = ", ".join(str(len(vector)) for vector in vectors)
        raise TensorError(path, f"has {counts} values of {', '.join(names)}, expected the same number of each")
    return vectors


def _vector(path: Path, archive: zipfile.ZipFile, name: str) -> NDArray[np.float64]:
    """Return one array of shape (C,) as float64."""
    info = _member(path, archive, name)
    with archive.open(info) as stream:
        shape, dtype, _ = member_header(path, info, stream)
        if len(shape) != 1 or not 1 <= shape[0] <= MOST_CHANNELS:
            raise TensorError(path, f"{name} has the shape {shape}, expected one value per channel")
        data = stream.read(shape[0] * dtype.itemsize)
    if len(data) != shape[0] * dtype.itemsize:
        raise TensorError(path, f"{name} ends early, expected {shape[0]} values")
    return np.frombuffer(data, dtype).astype(np.float64)


def write_npz(file: BinaryIO, members: Iterable[tuple[str, BinaryIO]]) -> None:
    """Write an archive of .npy files, uncompressed and without times, so that the same arrays give the same bytes."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, source in members:
            source.seek(0)
            with archive.open(member_info(name), "w", force_zip64=True) as target:
                while data := source.read(CHUNK):
                    target.write(data)


def member_info(name: str) -> zipfile.ZipInfo:
    """Return the entry of a new array, without the time of day."""
    info = zipfile.ZipInfo(f"{name}.npy")
    info.create_system = 3  # Unix, on every system: the same arrays give the same bytes
    return info
