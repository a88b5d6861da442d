"""Archives of .npy files: .npz."""

from __future__ import annotations

import errno
import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from math import prod
from pathlib import Path
from typing import IO, BinaryIO

import numpy as np
from numpy.typing import NDArray

from bnorm.errors import TensorError
from bnorm.files import open_regular, read_at
from bnorm.tensors.npy import new_npy, read_header, vector_values, write_npy
from bnorm.tensors.tensor import DType, FileTensor, Tensor, file_tensor
from bnorm.text import short

LOCAL_HEADER = 30  # bytes of a ZIP local file header before the file name

FILE_NAME_LENGTH = 26  # offset of its "file name length" (2 bytes), followed by "extra field length" (2 bytes)

CHUNK = 1 << 20  # bytes per copy

MOST_UNPACKED = 256 << 20  # bytes that any packed array may unpack to; above that, the ratio is limited

MOST_RATIO = 100  # unpacked bytes per packed byte: DEFLATE reaches 1000 for zeros, 2 or 3 for a network's values


def open_member(path: Path, file: BinaryIO, key: str, layout: str) -> FileTensor:
    """Return the array `key` of an open archive, or its only array if the key is empty; raises `TensorError`.

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
    """Turn an exception of `zipfile` or `zlib` for a damaged archive into a `TensorError`."""
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
    """Return the member of this name, or the only one; raises `TensorError` if it was made to fill memory or disk."""
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


def names_in(path: Path) -> tuple[str, ...]:
    """Return the names of the arrays of a .npz archive; raises `TensorError`."""
    with open_regular(path, TensorError) as file, _archive(path, file) as archive:
        return tuple(info.filename.removesuffix(".npy") for info in archive.infolist())


def read_text(path: Path, name: str, most: int) -> str:
    """Return a member of an archive that is a text of up to `most` bytes; raises `TensorError`."""
    with open_regular(path, TensorError) as file, _archive(path, file) as archive:
        info = next((info for info in archive.infolist() if info.filename == name), None)
        if info is None or info.file_size > most:
            raise TensorError(path, f"has no {name} of at most {most:,} bytes, expected one")
        check_unpacked(path, info)
        with archive.open(info) as stream:
            return stream.read(info.file_size).decode()  # without a count, of as many bytes as are said to be packed


def _vector(path: Path, archive: zipfile.ZipFile, name: str) -> NDArray[np.float64]:
    """Return one array of shape (C,) as float64."""
    info = _member(path, archive, name)
    with archive.open(info) as stream:
        shape, dtype, _ = member_header(path, info, stream)
        return vector_values(path, stream, shape, dtype, name)


# --- writing archives -------------------------------------------------------------------------------------------------

ZIP64_FIELD = 20  # bytes of the extra field that holds the sizes of a member, in its local header


class NpzWriter:
    """A new archive, uncompressed and without timestamps, so that the same arrays give the same bytes.

    Tensors are filled in place: copying them into the archive would double the time. `tensor` creates
    each tensor, in the order of the archive; `finish` writes the headers around them, and the other arrays after them.
    """

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path, self._file = path, file
        self._members: list[tuple[str, int, int]] = []  # name, and where its .npy file starts and ends
        self._end = 0

    def tensor(self, name: str, like: Tensor) -> FileTensor:
        """Return the tensor of the next member, to be filled before `finish`."""
        start = self._end + LOCAL_HEADER + len(_member_name(name)) + ZIP64_FIELD
        tensor = new_npy(self._path, self._file, like, start)
        self._end = tensor.offset + prod(tensor.shape) * tensor.dtype.itemsize
        self._members.append((name, start, self._end))
        return tensor

    def finish(self, arrays: Mapping[str, NDArray[np.floating]], texts: Mapping[str, str] | None = None) -> None:
        """Complete the archive with these arrays, and then `texts`, whose names include a suffix."""
        self._file.seek(0)
        file = _InPlace(self._file)
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:  # type: ignore[call-overload]  # only as a file
            for name, start, end in self._members:
                with new_member(archive, name) as target, file.holding():
                    for data in _chunks(self._file, start, end):
                        target.write(data)
            for name, array in arrays.items():
                with new_member(archive, name) as target:
                    write_npy(target, array)
            for name, text in (texts or {}).items():
                with _new_file(archive, name) as target:
                    target.write(text.encode())


class _InPlace:
    """A file for `zipfile` that skips writes of members whose bytes are already there."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._held = False
        self.seek, self.tell, self.flush = file.seek, file.tell, file.flush

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Skip over the bytes that are written, which are already there."""
        self._held = True
        try:
            yield
        finally:
            self._held = False

    def write(self, data: bytes | memoryview) -> int:
        """Write the bytes, or skip over as many."""
        if not self._held:
            return self._file.write(data)
        self._file.seek(len(data), os.SEEK_CUR)
        return len(data)


def _member_name(name: str) -> str:
    return f"{name}.npy"


def new_member(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    """Begin the array of this name, and return the file to write it to."""
    return _new_file(archive, _member_name(name))


def _new_file(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    """Begin a member without a timestamp, and return the file to write it to."""
    info = zipfile.ZipInfo(name)
    info.create_system = 3  # Unix, on every system: the same arrays give the same bytes
    return archive.open(info, "w", force_zip64=True)


def _chunks(file: BinaryIO, start: int, end: int) -> Iterator[memoryview]:
    """Yield the bytes of a part of the file, and leave the file's position unchanged."""
    buffer = memoryview(bytearray(CHUNK))
    while start < end:
        view, position = buffer[: min(CHUNK, end - start)], file.tell()
        count = read_at(file, view, start)
        file.seek(position)
        yield view[:count]
        start += count
