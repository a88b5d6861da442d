"""The bytes of a weights file: arrays read one by one by the plan of `layout`, and written as a stream.

Nothing is read before the file's size has been compared with the plan. Reads are positioned reads, not a memory map, so
that a file that shrinks while it is read causes an error message, not a bus error.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from io import FileIO
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from bnorm.darknet.header import Header
from bnorm.darknet.layout import FLOAT, Array, Layout
from bnorm.darknet.model import Model
from bnorm.darknet.model_or_paths import model_or_paths
from bnorm.darknet.size_mismatch import SizeMismatch, size_mismatch, worded
from bnorm.errors import WeightsError
from bnorm.files import naming, read_at, replacing

Floats = NDArray[np.float32]

BLOCK = 1 << 17  # values of a streamed block, unless a single row is longer

STRIP = 1 << 22  # values of a strip of an array that is not read in the order in which it is stored


class Arrays(Protocol):
    """Arrays by the plan of a file, which may not exist yet."""

    @property
    def layout(self) -> Layout:
        """Return the plan."""

    def __getitem__(self, key: tuple[int, str]) -> Floats:
        """Return an array by its layer and name."""

    def read(self, array: Array) -> Floats:
        """Return one array in its shape in memory."""

    def blocks(self, array: Array) -> Iterator[Floats]:
        """Yield the array as the file stores it, in blocks of whole rows of its first axis."""


class Trailing(StrEnum):
    """The treatment of bytes after the last array, which pjreddie's and AlexeyAB's programs ignore."""

    ERROR = "error"  # the file does not fit
    KEEP = "keep"  # read the arrays, and copy the bytes to the output
    DROP = "drop"  # read the arrays, and omit the bytes from the output


TRAILING = tuple(choice.value for choice in Trailing)


def trailing_by_name(name: Trailing | str) -> Trailing:
    """Return the choice of this name; ValueError for any other name."""
    if name not in TRAILING:
        raise ValueError(f"trailing {name!r}, expected one of {', '.join(TRAILING)}")
    return Trailing(name)


@dataclass(frozen=True, slots=True, repr=False)
class Weights:
    """A model's open weights file: close it, or use it in a `with` statement.

    `trailing` says whether bytes after the last array are accepted, and whether they are copied.
    """

    model: Model
    file: FileIO
    trailing: Trailing = Trailing.ERROR

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def path(self) -> Path:
        """Return the path of the file."""
        assert self.model.weights is not None  # `open_weights` requires it
        return self.model.weights

    @property
    def layout(self) -> Layout:
        """Return the plan that the file is read by."""
        return self.model.layout

    def __getitem__(self, key: Any) -> Floats:
        """Return an array as `read` does: `weights[12, "rolling_mean"]`, `weights[0, "wf.scales"]`.

        The KeyError for a wrong name or layer lists the existing ones.
        """
        if key in self.layout.by_name:
            return self.read(self.layout.by_name[key])
        match key:
            case (layer, name):
                return self.read(self.layout.array(layer, name))
        raise KeyError(f"{key!r}, expected a layer and a name, such as weights[0, 'biases']")

    def __repr__(self) -> str:
        return f"<Weights: {self.path}, {self.layout!r}>"

    def read(self, array: Array) -> Floats:
        """Return one array, float32, in its shape in memory."""
        stored = self._fill(np.empty(array.size, "<f4"), array.offset, array).reshape(array.stored)
        return stored if array.axes is None else stored.transpose(array.axes)

    def blocks(self, array: Array) -> Iterator[Floats]:
        """Yield the array in file order, float32, in blocks of whole rows of its first axis.

        A block is valid until the next one is read into the same memory, because allocating each block would cost more
        than reading it: copy a block to keep it.
        """
        length, *rest = array.stored
        row = int(np.prod(rest, dtype=np.int64))
        step = max(1, BLOCK // max(row, 1))
        buffer = np.empty(min(step, length) * row, "<f4")
        for start in range(0, length, step):
            rows = min(step, length - start)
            yield self._fill(buffer[: rows * row], array.offset + start * row * FLOAT, array).reshape(rows, *rest)

    def blocks_as(self, array: Array, axes: tuple[int, ...] | None) -> Iterator[Floats]:
        """Yield the array in the order of a file with these `Array.axes`, in blocks of whole rows of that file.

        Rows of the other file may be spread over this file, which is then read once for each strip of rows.
        """
        if axes == array.axes:
            yield from self.blocks(array)
            return
        memory = tuple(range(len(array.shape)))
        order = np.argsort(axes or memory)  # for each axis in the other file, its axis in memory
        turned = [int((array.axes or memory)[axis]) for axis in order]  # and its axis in this file
        length = array.stored[turned[0]]
        step = max(1, STRIP // max(array.size // max(length, 1), 1))
        for start in range(0, length, step):
            at = [slice(None)] * len(memory)
            at[turned[0]] = slice(start, start + step)
            yield self._strip(array, tuple(at)).transpose(turned)

    def _strip(self, array: Array, at: tuple[slice, ...]) -> Floats:
        """Return a slice of the array in file order, cut along one axis."""
        shape = [len(range(*piece.indices(size))) for piece, size in zip(at, array.stored, strict=True)]
        strip = np.empty(shape, np.float32)
        row = 0
        for block in self.blocks(array):
            if at[0] == slice(None):
                strip[row : row + len(block)] = block[(slice(None), *at[1:])]
            else:
                first, last = max(row, at[0].start), min(row + len(block), at[0].stop)
                if first < last:
                    strip[first - at[0].start : last - at[0].start] = block[first - row : last - row]
            row += len(block)
        return strip

    @property
    def nbytes(self) -> int:
        """Return the size of the file."""
        return self.model.nbytes or 0

    def bytes_at(self, offset: int, count: int) -> bytes:
        """Return `count` bytes of the file, fewer at its end."""
        self.file.seek(offset)
        return self.file.read(count)

    def head(self) -> bytes:
        """Return the header's bytes, unchanged."""
        return self.bytes_at(0, self.model.header.nbytes)

    def mismatch(self) -> SizeMismatch | None:
        """Return the difference between the file's size and the plan; None if they are equal."""
        return size_mismatch(self.layout, self.nbytes)

    def misfit(self) -> SizeMismatch | None:
        """Return the mismatch; None also if it consists of trailing bytes that are accepted."""
        accepts = self.trailing is not Trailing.ERROR and self.nbytes > self.layout.nbytes
        return None if accepts else self.mismatch()

    def require_fit(self) -> None:
        """Raise a `WeightsError` unless the file has the planned size, or more where trailing bytes are accepted."""
        mismatch = self.misfit()
        if mismatch:
            raise misfit_error(self.path, mismatch)

    @property
    def kept_bytes(self) -> int:
        """Return the number of trailing bytes that are copied to the output."""
        return max(0, self.nbytes - self.layout.nbytes) if self.trailing is Trailing.KEEP else 0

    def kept(self) -> Iterator[bytes]:
        """Yield the trailing bytes that are copied to the output, in blocks."""
        for start in range(self.nbytes - self.kept_bytes, self.nbytes, BLOCK):
            yield self.bytes_at(start, min(BLOCK, self.nbytes - start))

    def _fill(self, values: Floats, offset: int, array: Array) -> Floats:
        """Read the values that lie at an offset of the file, inside this array."""
        view = memoryview(values.view(np.uint8).data)
        got = 0
        with naming(self.path):
            while got < view.nbytes and (more := read_at(self.file, view[got:], offset + got)):
                got += more
        if got < view.nbytes:
            sizes = f"expected {view.nbytes:,} bytes at {offset:,}, got {got:,}"
            what = f"ends inside layer {array.layer} {array.name}, {sizes}"
            mismatch = self.mismatch() if self.nbytes < offset + view.nbytes else None
            cause = worded(mismatch).cause if mismatch else "the file was cut while it was read"
            raise WeightsError(self.path, what, cause=cause)
        return values


def misfit_error(path: Path, mismatch: SizeMismatch) -> WeightsError:
    """Return the error of a file whose size differs from the plan."""
    words = worded(mismatch)
    return WeightsError(path, words.sentence, cause=words.cause)


@model_or_paths
def open_weights(model: Model, trailing: Trailing | str = Trailing.ERROR, *, allow_misfit: bool = False) -> Weights:
    """Open the model's weights file; the caller closes it.

    The paths of a cfg and its weights can replace the model: `open_weights("net.cfg", "net.weights")`.
    `trailing` says what to do with bytes after the last array: see `Trailing`. `allow_misfit` opens a file of any
    size: its arrays may hold values of other arrays, and reading an array that is missing raises `WeightsError`.

    `WeightsError` if the file does not have the planned size, or if its size has changed since the model was read;
    ValueError for an unknown `trailing`, and for a model without weights.
    """
    choice = trailing_by_name(trailing)
    if model.weights is None:
        raise ValueError("the model was read without weights, expected read_model(cfg, weights)")
    weights = Weights(model=model, file=model.weights.open("rb", buffering=0), trailing=choice)
    try:
        if os.fstat(weights.file.fileno()).st_size != model.nbytes:
            raise WeightsError(model.weights, f"changed while it was read, expected {model.nbytes:,} bytes")
        if not allow_misfit:
            weights.require_fit()
    except WeightsError:
        weights.close()
        raise
    return weights


def save(path: Path, header: Header, layout: Layout, arrays: Iterable[Floats]) -> None:
    """Write a whole file: the header, then `arrays` in the order of `layout`, each in its shape in memory.

    Arrays are consumed one at a time, so a generator needs only the memory of its largest array. ValueError for a wrong
    shape.
    """
    with replacing(path) as (file,):
        file.write(header.pack())
        for array, values in zip(layout.arrays, arrays, strict=True):
            _check_shape(array, values)
            write_array(file, array, values)


def copy(
    model: Model,
    output: Path,
    replaced: Mapping[tuple[int, str], NDArray[np.floating]],
    trailing: Trailing | str = Trailing.ERROR,
) -> None:
    """Copy the model's weights file as `copy_to` does."""
    with replacing(output) as (file,):
        copy_to(file, model, replaced, trailing)


def copy_to(
    file: BinaryIO,
    model: Model,
    replaced: Mapping[tuple[int, str], NDArray[np.floating]],
    trailing: Trailing | str = Trailing.ERROR,
) -> None:
    """Copy the weights to an open file with some arrays replaced, by layer and name, each in its shape in memory.

    KeyError for an array that the file does not have, ValueError for a wrong shape; nothing is written then.
    """
    new = {model.layout.array(*key): values for key, values in replaced.items()}
    for array, values in new.items():
        _check_shape(array, values)
    with open_weights(model, trailing) as weights:
        file.write(weights.head())
        for array in model.layout.arrays:
            if array in new:
                write_array(file, array, new[array].astype(np.float32))
            else:
                for block in weights.blocks(array):
                    write_block(file, block)
        file.writelines(weights.kept())


def _check_shape(array: Array, values: NDArray[np.floating]) -> None:
    if values.shape != array.shape:
        raise ValueError(f"layer {array.layer} {array.name}: expected shape {array.shape}, got {values.shape}")


def write_array(file: BinaryIO, array: Array, values: Floats) -> None:
    """Append an array in its shape in memory, in the order in which the file stores it."""
    write_block(file, values if array.axes is None else values.transpose(np.argsort(array.axes)))


def write_block(file: BinaryIO, values: Floats) -> None:
    """Append values in their order in memory, as little-endian float32."""
    file.write(np.ascontiguousarray(values, "<f4").data)


def same_bits(one: Iterable[Floats], other: Iterable[Floats]) -> bool:
    """Return whether two streams hold the same bits in the same order, regardless of the sizes of their blocks."""
    return all(np.array_equal(left.view(np.uint32), right.view(np.uint32)) for left, right in aligned(one, other))


def aligned(one: Iterable[Floats], other: Iterable[Floats]) -> Iterator[tuple[Floats, Floats]]:
    """Yield two streams of blocks as pairs of flat pieces of equal size; where one has ended, its piece is empty."""
    streams = [iter(one), iter(other)]
    rest = [np.empty(0, np.float32)] * 2
    while True:
        rest = [piece if piece.size else _next(stream) for piece, stream in zip(rest, streams, strict=True)]
        count = min(piece.size for piece in rest)
        if not count:
            if any(piece.size for piece in rest):
                yield rest[0], rest[1]
            return
        yield rest[0][:count], rest[1][:count]
        rest = [piece[count:] for piece in rest]


def _next(stream: Iterator[Floats]) -> Floats:
    block = next(chain(stream, [np.empty(0, np.float32)]))
    return np.ascontiguousarray(block).reshape(-1)
