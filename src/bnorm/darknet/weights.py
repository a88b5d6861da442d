"""The bytes of a weights file: arrays read one by one, by the plan of `layout`, and written as a stream.

Nothing is read before the file's size has been compared with the plan. Reads are positioned reads, not a mapping: a
file that shrinks meanwhile is an error message, not a bus error.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from bnorm.darknet.header import Header
from bnorm.darknet.layout import FLOAT, Array, Layout, ends_at_layer
from bnorm.darknet.model import Model
from bnorm.errors import WeightsError
from bnorm.files import naming, read_at, replacing

Floats = NDArray[np.float32]

BLOCK = 1 << 17  # values that a streamed block holds, where a single row is not longer


@dataclass(frozen=True, slots=True)
class Weights:
    """A model's open weights file: close it, or use it in a `with` statement."""

    model: Model
    file: FileIO

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def path(self) -> Path:
        """Where the file is."""
        return Path(self.file.name)

    @property
    def layout(self) -> Layout:
        """The plan that the file is read by."""
        return self.model.layout

    def __getitem__(self, key: tuple[int, str]) -> Floats:
        """`weights[12, "rolling_mean"]`, `weights[0, "wf.scales"]`: one array, in its shape in memory; KeyError."""
        return self.read(self.layout.by_name[key])

    def read(self, array: Array) -> Floats:
        """One array in its shape in memory."""
        stored = self._floats(array.offset, array.size, array).reshape(array.stored)
        return stored if array.axes is None else stored.transpose(array.axes)

    def blocks(self, array: Array) -> Iterator[Floats]:
        """The array as it is stored, by blocks of whole rows of its first axis."""
        length, *rest = array.stored
        row = int(np.prod(rest, dtype=np.int64))
        step = max(1, BLOCK // max(row, 1))
        for start in range(0, length, step):
            rows = min(step, length - start)
            yield self._floats(array.offset + start * row * FLOAT, rows * row, array).reshape(rows, *rest)

    @property
    def nbytes(self) -> int:
        """The size of the file."""
        return self.model.nbytes or 0

    def bytes_at(self, offset: int, count: int) -> bytes:
        """Bytes as they stand in the file, fewer at its end."""
        self.file.seek(offset)
        return self.file.read(count)

    def head(self) -> bytes:
        """The header's bytes, as they stand in the file."""
        return self.bytes_at(0, self.model.header.nbytes)

    def require_fit(self) -> None:
        """Raise a `WeightsError` unless the file has exactly the planned size."""
        misfit = self.misfit()
        if misfit is not None:
            raise misfit

    def misfit(self) -> WeightsError | None:
        """Where and by how much the file's size differs from the plan; None where it does not."""
        if self.model.fits:
            return None
        sizes = f"expected {self.layout.nbytes:,} bytes, got {self.nbytes:,}"
        return WeightsError(self.path, f"{self._where()}, {sizes}", cause=self._cause())

    def _where(self) -> str:
        missing = self.layout.nbytes - self.nbytes
        if missing < 0:
            last = self.layout.arrays[-1] if self.layout.arrays else None
            behind = f"the last array, layer {last.layer} {last.name}" if last else "the header"
            return f"{_amount(-missing)} left over behind {behind}"
        cut = self.layout.cut(self.nbytes)
        assert cut is not None  # bytes are missing, so an array ends behind them
        held = (self.nbytes - cut.offset) // FLOAT
        place = f"inside layer {cut.layer} {cut.name}, behind {held:,} of its {cut.size:,} floats"
        if self.nbytes <= cut.offset:
            place = f"before layer {cut.layer} {cut.name}"
        return f"ends {place}, {_amount(missing)} short"

    def _cause(self) -> str:
        if ends_at_layer(self.layout, self.nbytes):
            return "it ends between two layers: a partial file such as NAME.conv.N?"
        return "is this the right cfg, and the right --dialect? `bnorm check` looks for the cause"

    def _floats(self, offset: int, count: int, array: Array) -> Floats:
        values = np.empty(count, "<f4")
        view = memoryview(values.view(np.uint8).data)
        got = 0
        with naming(self.path):
            while got < view.nbytes and (more := read_at(self.file, view[got:], offset + got)):
                got += more
        if got < view.nbytes:
            sizes = f"expected {view.nbytes:,} bytes at {offset:,}, got {got:,}"
            what = f"ends inside layer {array.layer} {array.name}, {sizes}"
            cut = self.nbytes >= offset + view.nbytes
            raise WeightsError(self.path, what, cause="the file was cut while it was read" if cut else self._cause())
        return values


def _amount(nbytes: int) -> str:
    floats, rest = divmod(nbytes, FLOAT)
    size = f"{nbytes:,} byte{'s' * (nbytes != 1)}"
    return size if rest else f"{floats:,} float{'s' * (floats != 1)} ({size})"


def open_weights(model: Model) -> Weights:
    """Open the model's weights file, to be closed by the caller; a file that changed since then is an error."""
    if model.weights is None:
        raise ValueError("the model has no weights file")
    file = model.weights.open("rb", buffering=0)
    if os.fstat(file.fileno()).st_size != model.nbytes:
        file.close()
        raise WeightsError(model.weights, f"changed while it was read, expected {model.nbytes:,} bytes")
    return Weights(model, file)


def save(path: Path, header: Header, layout: Layout, arrays: Iterable[Floats]) -> None:
    """Write a whole file: the header, then `arrays` in the order of `layout`, each in its shape in memory.

    Arrays are taken one at a time, so a generator needs no more memory than its largest. ValueError for a wrong shape.
    """
    with replacing(path) as (file,):
        file.write(header.pack())
        for array, values in zip(layout.arrays, arrays, strict=True):
            if values.shape != array.shape:
                place = f"layer {array.layer} {array.name}"
                raise ValueError(f"{place}: expected shape {array.shape}, got {values.shape}")
            write_block(file, values if array.axes is None else values.transpose(np.argsort(array.axes)))


def write_block(file: BinaryIO, values: Floats) -> None:
    """Append values as they stand, as little-endian float32."""
    file.write(np.ascontiguousarray(values, "<f4").data)
