"""The results of a run: stored in folders, in an archive or not at all, and measured as they are written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from bnorm.batchnorm.arithmetic import Arithmetic
from bnorm.batchnorm.batches import Batch, Writer
from bnorm.files import Outputs
from bnorm.replay.reference import Deviation, Difference, References, open_reference
from bnorm.tensors.npy import new_npy, write_npy
from bnorm.tensors.npz import NpzWriter
from bnorm.tensors.tensor import Span, Tensor, Values, View, buffer_view


class Wanted(NamedTuple):
    """The results of each mini-batch by name: tensors like x, and vectors of `dtype` per channel."""

    tensors: tuple[str, ...]
    vectors: tuple[str, ...]
    dtype: str

    @property
    def names(self) -> tuple[str, ...]:
        """Return all names."""
        return (*self.tensors, *self.vectors)

    def select(self, batch: Batch) -> dict[str, NDArray[np.floating]]:
        """Return the vectors as they are written, each (C,)."""
        vectors = batch.vectors()
        with np.errstate(over="ignore"):
            return {name: vectors[name].astype(self.dtype) for name in self.vectors}


def wanted_results(arithmetic: Arithmetic, *, train: bool, backward: bool, stages: bool) -> Wanted:
    """Return the results that apply; `stages` adds the intermediate values."""
    tensors = ("y", *(["x_norm"] if stages else []), *(["dx"] if backward else []))
    vectors = (
        *(["mean", "variance", "rolling_mean", "rolling_variance"] if train else []),
        *(["scale_updates", "bias_updates"] if backward else []),
        *(["mean_delta", "variance_delta"] if backward and stages else []),
    )
    return Wanted(tensors=tensors, vectors=vectors, dtype=arithmetic.vectors)


# --- files ------------------------------------------------------------------------------------------------------------


class Destination(Protocol):
    """Receives the results of each mini-batch, as files of one set."""

    def open(self, outputs: Outputs, number: int, like: Tensor) -> AbstractContextManager[Writer]:
        """Return a writer for one mini-batch."""


class NpyFiles(NamedTuple):
    """A writer into open .npy files, by name."""

    wanted: Wanted
    tensors: Mapping[str, Tensor]
    files: Mapping[str, BinaryIO]

    def finish(self, batch: Batch) -> None:
        """Write the vectors."""
        for name, vector in self.wanted.select(batch).items():
            write_npy(self.files[name], vector)


class FolderResults(NamedTuple):
    """One folder for each mini-batch, with `y.npy` and so on."""

    wanted: Wanted
    folders: tuple[Path, ...]

    @contextmanager
    def open(self, outputs: Outputs, number: int, like: Tensor) -> Iterator[Writer]:
        """Make the folder, and open its files."""
        path, names = self.folders[number], self.wanted.names
        outputs.make_folder(path)
        with outputs.open(*(path / f"{name}.npy" for name in names)) as opened:
            files = dict(zip(names, opened, strict=True))
            tensors = {name: new_npy(path, files[name], like) for name in self.wanted.tensors}
            yield NpyFiles(wanted=self.wanted, tensors=tensors, files=files)


class NpzFile(NamedTuple):
    """A writer into a new archive."""

    wanted: Wanted
    tensors: Mapping[str, Tensor]
    archive: NpzWriter

    def finish(self, batch: Batch) -> None:
        """Write the vectors, and complete the archive."""
        self.archive.finish(self.wanted.select(batch))


class ArchiveResults(NamedTuple):
    """One .npz archive for a single mini-batch."""

    wanted: Wanted
    path: Path

    @contextmanager
    def open(self, outputs: Outputs, _number: int, like: Tensor) -> Iterator[Writer]:
        """Open the archive."""
        with outputs.open(self.path) as (file,):
            archive = NpzWriter(self.path, file)
            tensors = {name: archive.tensor(name, like) for name in self.wanted.tensors}
            yield NpzFile(wanted=self.wanted, tensors=tensors, archive=archive)


class NoResults(NamedTuple):
    """No files."""

    def open(self, _outputs: Outputs, _number: int, _like: Tensor) -> AbstractContextManager[Writer]:
        """Return a writer that stores nothing."""
        return nullcontext(NothingWritten(tensors={}))


class NothingWritten(NamedTuple):
    """A writer that stores nothing."""

    tensors: Mapping[str, Tensor]

    def finish(self, batch: Batch) -> None:
        """Do nothing: the caller has the batch."""


# --- measures of results ----------------------------------------------------------------------------------------------


class ValueRange(NamedTuple):
    """The smallest and largest finite value, NaN if there are none, and how many values are not finite."""

    low: float
    high: float
    not_finite: int


def value_range(values: NDArray[np.floating]) -> ValueRange:
    """Return the range of an array of any shape."""
    low, high = float(values.min()), float(values.max())
    if np.isfinite(low) and np.isfinite(high):  # both are NaN if a value is NaN
        return ValueRange(low=low, high=high, not_finite=0)
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (np.nan, np.nan)
    return ValueRange(low=low, high=high, not_finite=values.size - finite.size)


class RangeMeter:
    """The range of a tensor's values, measured as they are written."""

    def __init__(self) -> None:
        self._ranges: list[ValueRange] = []

    def __call__(self, _span: Span, values: Values) -> None:
        """Measure the values of a span."""
        self._ranges.append(value_range(values))

    def range(self) -> ValueRange:
        """Return the range of all values, which does not depend on the order of writing."""
        lows, highs, not_finite = zip(*self._ranges, strict=True)
        return ValueRange(float(np.fmin.reduce(lows)), float(np.fmax.reduce(highs)), sum(not_finite))


class MeasuredTensor(Tensor):
    """A tensor whose values are measured, and written to `target` unless that is None."""

    def __init__(self, like: Tensor, meters: Sequence[Callable[[Span, Values], None]], target: Tensor | None) -> None:
        super().__init__(like.shape, like.dtype, like.layout)
        self._meters, self._target = meters, target

    def buffer(self, span: Span) -> View:
        if self._target:
            return self._target.buffer(span)
        return buffer_view(np.empty(span.size, self.dtype), span, self)

    def write(self, span: Span, values: Values) -> None:
        for measure in self._meters:
            measure(span, values)
        if self._target:
            self._target.write(span, values)


class Measured(NamedTuple):
    """The measures of one result of one input; `difference` is None without a reference."""

    dtype: np.dtype[np.floating]
    shape: tuple[int, ...]
    range: ValueRange
    difference: Difference | None


class MeasuredWriter(NamedTuple):
    """A writer whose tensors are measured."""

    writer: Writer
    tensors: Mapping[str, Tensor]

    def finish(self, batch: Batch) -> None:
        """Forward the results per channel."""
        self.writer.finish(batch)


class MeasuredResults:
    """Results that are measured, compared with references, and stored by a `Destination`."""

    def __init__(self, wanted: Wanted, destination: Destination, outputs: Outputs, references: References) -> None:
        self._wanted, self._destination, self._outputs = wanted, destination, outputs
        self._references = references
        self.tensors: dict[str, Measured] = {}  # of the last mini-batch

    @contextmanager
    def open(self, number: int, like: Tensor) -> Iterator[Writer]:
        """Return a writer for one mini-batch."""
        files, names = self._references.files[number], self._wanted.tensors
        ranges = {name: RangeMeter() for name in names}
        with ExitStack() as stack:
            writer = stack.enter_context(self._destination.open(self._outputs, number, like))
            deviations = {
                name: Deviation(stack.enter_context(open_reference(files[name], like)))
                for name in names
                if name in files
            }
            tensors = {
                name: MeasuredTensor(
                    like,
                    [ranges[name], *([deviations[name]] if name in deviations else [])],
                    writer.tensors.get(name),
                )
                for name in names
            }
            yield MeasuredWriter(writer=writer, tensors=tensors)
        self.tensors = {
            name: Measured(
                like.dtype,
                like.shape,
                ranges[name].range(),
                deviations[name].difference() if name in deviations else None,
            )
            for name in names
        }
