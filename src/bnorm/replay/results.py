"""The results of a run, and the three ways to store them: folders, an archive, or a summary."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bnorm.batchnorm.arithmetic import Arithmetic
from bnorm.batchnorm.batches import Batch, Writer
from bnorm.files import replacing
from bnorm.tensors.npy import new_npy, write_npy
from bnorm.tensors.npz import write_npz
from bnorm.tensors.tensor import Span, Tensor, View, buffer_view


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


class NpyFiles(NamedTuple):
    """A writer into open .npy files, by name."""

    wanted: Wanted
    tensors: Mapping[str, Tensor]
    files: Mapping[str, BinaryIO]

    def finish(self, batch: Batch) -> None:
        """Write the vectors."""
        for name, vector in self.wanted.select(batch).items():
            write_npy(self.files[name], vector)


def _npy_files(wanted: Wanted, files: Mapping[str, BinaryIO], path: Path, like: Tensor) -> NpyFiles:
    tensors = {name: new_npy(path, files[name], like) for name in wanted.tensors}
    return NpyFiles(wanted=wanted, tensors=tensors, files=files)


class FolderResults(NamedTuple):
    """One folder for each mini-batch, with `y.npy` and so on: in the end all of its files exist, or none."""

    wanted: Wanted
    folders: tuple[Path, ...]

    @contextmanager
    def open(self, number: int, like: Tensor) -> Iterator[Writer]:
        """Make the folder; remove it after an error, unless it existed before."""
        path = self.folders[number]
        new = not path.exists()
        path.mkdir(parents=True, exist_ok=True)
        names = self.wanted.names
        try:
            with replacing(*(path / f"{name}.npy" for name in names)) as files:
                yield _npy_files(self.wanted, dict(zip(names, files, strict=True)), path, like)
        except BaseException:
            if new:
                with suppress(OSError):  # another process may have written files into it
                    path.rmdir()
            raise


class ArchiveResults(NamedTuple):
    """One .npz archive for a single mini-batch; tensors are in unnamed files in its folder until they are complete."""

    wanted: Wanted
    path: Path

    @contextmanager
    def open(self, _number: int, like: Tensor) -> Iterator[Writer]:
        """Collect the members, then write the archive."""
        with ExitStack() as stack:
            files: dict[str, BinaryIO] = {
                name: stack.enter_context(tempfile.TemporaryFile(dir=self.path.parent))
                if name in self.wanted.tensors
                else io.BytesIO()
                for name in self.wanted.names
            }
            yield _npy_files(self.wanted, files, self.path, like)
            with replacing(self.path) as (target,):
                write_npz(target, files.items())


# --- summaries --------------------------------------------------------------------------------------------------------


class ValueRange(NamedTuple):
    """The smallest and largest finite value, NaN if there are none, and how many values are not finite."""

    low: float
    high: float
    not_finite: int


def value_range(values: NDArray[np.floating]) -> ValueRange:
    """Return the range of an array of any shape."""
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (np.nan, np.nan)
    return ValueRange(low=low, high=high, not_finite=values.size - finite.size)


class SummaryTensor(Tensor):
    """A tensor that keeps the range of the values written to it, and not the values."""

    def __init__(self, like: Tensor) -> None:
        super().__init__(like.shape, like.dtype, like.layout)
        self._ranges: list[ValueRange] = []

    def buffer(self, span: Span) -> View:
        return buffer_view(np.empty(span.size, self.dtype), span, self)

    def write(self, span: Span, values: NDArray[np.floating]) -> None:
        self._ranges.append(value_range(values))

    def range(self) -> ValueRange:
        """Return the range of all values, which does not depend on the order of writing."""
        lows, highs, not_finite = zip(*self._ranges, strict=True)
        return ValueRange(float(np.fmin.reduce(lows)), float(np.fmax.reduce(highs)), sum(not_finite))


class Summary(NamedTuple):
    """A writer that keeps ranges only."""

    tensors: Mapping[str, SummaryTensor]

    def finish(self, batch: Batch) -> None:
        """Do nothing: the caller has the batch."""


class Summaries:
    """Results that are not written: one `Summary` for each mini-batch so far."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self.summaries: list[Summary] = []

    def open(self, _number: int, like: Tensor) -> AbstractContextManager[Writer]:
        """Begin the next summary."""
        self.summaries.append(Summary({name: SummaryTensor(like) for name in self._wanted.tensors}))
        return nullcontext(self.summaries[-1])
