"""Archives of .npy files."""

from __future__ import annotations

import errno
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
from bnorm.tensors.npy import _header
from bnorm.tensors.tensor import DType, FileTensor, _checked, _kept
from bnorm.text import short

CHUNK = 1 << 20  # bytes that are copied at a time

MOST_CHANNELS = 1 << 20

MOST_UNPACKED = 256 << 20  # bytes of a packed array from which on it must not unpack to more than

MOST_RATIO = 100  # times as many: DEFLATE makes 1000 of zeros, and 2 or 3 of what a network computes


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


def write_npz(file: BinaryIO, members: Iterable[tuple[str, BinaryIO]]) -> None:
    """An archive of .npy files, stored as they are and without times, so that the same arrays give the same bytes."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, source in members:
            source.seek(0)
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as target:
                while data := source.read(CHUNK):
                    target.write(data)
