"""Readers of files that hold many arrays: .npz, .safetensors, and a folder of .npy files.

A reader lists names first, and opens one array at a time: its shape and type are known before a value is read, and
values come in blocks. Nothing is ever unpickled. `numpy.load` and `safetensors` read whole arrays, and fail on hostile
files in ways of their own: see `tensors/npy.py` and `exchange/safetensors.py`.
"""

from __future__ import annotations

import os
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bnorm.darknet.weights import BLOCK
from bnorm.errors import TensorError
from bnorm.exchange.axes import Blocks
from bnorm.exchange.safetensors import Entry, read_header
from bnorm.files import naming, open_regular, read_at
from bnorm.tensors import npy
from bnorm.tensors.npz import check_compression, check_unpacked, damaged_archives, member_header
from bnorm.text import short

Read = Callable[[int], bytes | memoryview]  # returns the next bytes, this many or fewer at the end


class StoredArray(NamedTuple):
    """An array of a file: the name of its type, and its values in C order, in blocks of whole rows of axis 0."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    blocks: Blocks


class Reader(NamedTuple):
    """An open file of arrays: their names, in the order of the file, and a function that opens one of them."""

    path: Path
    names: tuple[str, ...]
    array: Callable[[str], StoredArray]


@contextmanager
def open_arrays(path: Path) -> Iterator[Reader]:
    """Open a file of arrays by its suffix, or a folder of .npy files; a `TensorError` for any other."""
    with ExitStack() as stack:
        if path.is_dir():
            yield _folder(path)
            return
        if path.suffix in REFUSED:
            cause = f"nothing is unpickled; in the other program: {REFUSED[path.suffix]}"
            raise TensorError(path, f"is a {path.suffix} file, {EXPECTED}", cause=cause)
        if path.suffix not in READERS:
            raise TensorError(path, f"has an unknown suffix, {EXPECTED}")
        file = stack.enter_context(open_regular(path, TensorError))
        yield READERS[path.suffix](path, file, stack)


EXPECTED = "expected .npz, .safetensors or a folder of .npy files"

TORCH = """from safetensors.torch import save_file; save_file(model.state_dict(), "model.safetensors")"""

KERAS = """import numpy; numpy.savez("model.npz", **{weight.path: weight.numpy() for weight in model.weights})"""

# Suffixes of files that run code when they are read, or that need the program that wrote them; and the way out.
REFUSED = dict.fromkeys((".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".bin"), TORCH)
REFUSED |= dict.fromkeys((".h5", ".hdf5", ".keras"), KERAS)


def _distinct(path: Path, names: list[str]) -> tuple[str, ...]:
    """Return the names; a `TensorError` if there are none, or if one is repeated."""
    if not names:
        raise TensorError(path, "holds no arrays, expected the arrays of a network")
    (name, count), *_ = Counter(names).most_common(1)
    if count > 1:
        raise TensorError(path, f"holds {short(name)} {count} times, expected distinct names")
    return tuple(names)


def _values(shape: tuple[int, ...], dtype: np.dtype[Any], read: Read, path: Path) -> Iterator[NDArray[Any]]:
    """Yield the values of an array in blocks of whole rows."""
    length, row = (shape[0], shape[1:]) if shape else (1, ())
    step = max(1, BLOCK // max(prod(row), 1))
    for start in range(0, length, step):
        rows = min(step, length - start)
        count = rows * prod(row) * dtype.itemsize
        data = read(count)
        if len(data) != count:
            raise TensorError(path, "ended while it was read", cause="another program cut the file")
        yield np.frombuffer(data, dtype).reshape(rows, *row)


def _read_from(path: Path, file: BinaryIO, offset: int) -> Read:
    """Return a function that reads from an offset onwards, without moving the file's own position."""
    position = offset

    def read(count: int) -> memoryview:
        nonlocal position
        view, got = memoryview(np.empty(count, np.uint8).data), 0  # a bytearray would be filled with zeros first
        with naming(path):
            while got < count and (more := read_at(file, view[got:], position + got)):
                got += more
        position += got
        return view[:got]

    return read


# --- .npz -------------------------------------------------------------------------------------------------------------


def _npz(path: Path, file: BinaryIO, stack: ExitStack) -> Reader:
    with damaged_archives(path):
        archive = stack.enter_context(zipfile.ZipFile(file))
        check_compression(path, archive)
        members = archive.infolist()
    odd = next((info.filename for info in members if not info.filename.endswith(".npy")), None)
    if odd is not None:
        raise TensorError(path, f"holds {short(odd)}, expected only .npy files")
    names = _distinct(path, [info.filename.removesuffix(".npy") for info in members])
    return Reader(path, names, partial(_npz_array, path, archive, dict(zip(names, members, strict=True))))


def _npz_array(path: Path, archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], name: str) -> StoredArray:
    info = members[name]
    check_unpacked(path, info)
    with damaged_archives(path), archive.open(info) as stream:
        shape, dtype, start = member_header(path, info, stream)

    def blocks() -> Iterator[NDArray[Any]]:
        with damaged_archives(path), archive.open(info) as stream:
            stream.read(start)
            yield from _values(shape, dtype, stream.read, path)

    return StoredArray(name, shape, dtype.name, blocks)


# --- .safetensors -----------------------------------------------------------------------------------------------------

TYPES = {"F16": ("float16", "<f2"), "F32": ("float32", "<f4"), "F64": ("float64", "<f8"), "BF16": ("bfloat16", "<u2")}


def _safetensors(path: Path, file: BinaryIO, _stack: ExitStack) -> Reader:
    entries = {entry.name: entry for entry in read_header(path, file, os.fstat(file.fileno()).st_size)}
    return Reader(path, _distinct(path, list(entries)), lambda name: _safetensors_array(path, file, entries[name]))


def _safetensors_array(path: Path, file: BinaryIO, entry: Entry) -> StoredArray:
    if entry.dtype not in TYPES:
        raise TensorError(path, f"{short(entry.name)} has the type {entry.dtype}, expected {', '.join(TYPES)}")
    name, code = TYPES[entry.dtype]

    def blocks() -> Iterator[NDArray[Any]]:
        for block in _values(entry.shape, np.dtype(code), _read_from(path, file, entry.offset), path):
            yield _from_bfloat16(block) if entry.dtype == "BF16" else block

    return StoredArray(entry.name, entry.shape, name, blocks)


def _from_bfloat16(bits: NDArray[Any]) -> NDArray[Any]:
    """Return float32: a bfloat16 is its upper half."""
    return (bits.astype("<u4") << 16).view("<f4")


# --- folders ----------------------------------------------------------------------------------------------------------


def _folder(path: Path) -> Reader:
    files = sorted(path.glob("*.npy"), key=lambda file: natural(file.stem))
    names = _distinct(path, [file.stem for file in files])
    return Reader(path, names, lambda name: _npy_array(path / f"{name}.npy"))


def natural(name: str) -> list[tuple[int, str]]:
    """Return a key that sorts numbers in names by their values: 2 before 10."""
    return [(int(word) if word.isdecimal() else -1, word) for word in re.split(r"([0-9]{1,18})", name)]


def _npy_array(path: Path) -> StoredArray:
    """Return the array of one file, which is opened again for its values: many arrays need only one descriptor."""
    if path.is_symlink():
        raise TensorError(
            path, "is a link, expected a file", cause="a folder from somebody else could link to any file"
        )
    with open_regular(path, TensorError) as file:
        shape, dtype = npy.read_header(path, file)
        start, nbytes = file.tell(), os.fstat(file.fileno()).st_size
    if nbytes - start != prod(shape) * dtype.itemsize:
        expected = short(f"{prod(shape) * dtype.itemsize:,}")
        raise TensorError(path, f"has the shape {short(str(shape))}, expected {expected} bytes, got {nbytes - start:,}")

    def blocks() -> Iterator[NDArray[Any]]:
        with open_regular(path, TensorError) as file:
            if npy.read_header(path, file) != (shape, dtype):
                raise TensorError(path, f"changed while it was read, expected the shape {shape}")
            yield from _values(shape, dtype, _read_from(path, file, start), path)

    return StoredArray(path.stem, shape, dtype.name, blocks)


READERS: dict[str, Callable[[Path, BinaryIO, ExitStack], Reader]] = {".npz": _npz, ".safetensors": _safetensors}
