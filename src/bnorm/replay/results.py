"""Run a layer of a model on consecutive mini-batches: parameters, rolling statistics, and where results go."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bnorm.batchnorm.arithmetic import Arithmetic
from bnorm.batchnorm.batches import Batch
from bnorm.files import replacing
from bnorm.tensors.npy import new_npy, write_npy
from bnorm.tensors.npz import write_npz
from bnorm.tensors.tensor import Span, Tensor, View, buffer_view


class Wanted(NamedTuple):
    """Which results there are to write, by name: tensors of x's shape and type, and vectors of `dtype` per channel."""

    tensors: tuple[str, ...]
    vectors: tuple[str, ...]
    dtype: str

    @classmethod
    def of(cls, arithmetic: Arithmetic, *, train: bool, backward: bool, stages: bool) -> Wanted:
        """All that applies; `stages` adds the intermediate values."""
        tensors = ("y", *(["x_norm"] if stages else []), *(["dx"] if backward else []))
        vectors = (
            *(["mean", "variance", "rolling_mean", "rolling_variance"] if train else []),
            *(["scale_updates", "bias_updates"] if backward else []),
            *(["mean_delta", "variance_delta"] if backward and stages else []),
        )
        return cls(tensors, vectors, arithmetic.vectors)

    def select(self, batch: Batch) -> dict[str, NDArray[np.floating]]:
        """The vectors as they are written."""
        found = batch.vectors()
        with np.errstate(over="ignore"):
            return {name: found[name].astype(self.dtype) for name in self.vectors}


class Files(NamedTuple):
    """A sink into open .npy files, by name."""

    wanted: Wanted
    tensors: Mapping[str, Tensor]
    files: Mapping[str, BinaryIO]

    def finish(self, batch: Batch) -> None:
        """Write the vectors."""
        for name, vector in self.wanted.select(batch).items():
            write_npy(self.files[name], vector)


@contextmanager
def folder(path: Path, wanted: Wanted, like: Tensor) -> Iterator[Files]:
    """`path/y.npy` and so on, all of them there in the end, or none."""
    new = not path.exists()
    path.mkdir(parents=True, exist_ok=True)
    names = (*wanted.tensors, *wanted.vectors)
    targets = [path / f"{name}.npy" for name in names]
    try:
        with replacing(*targets) as files:
            yield _npy_files(wanted, dict(zip(names, files, strict=True)), path, like)
    except BaseException:
        if new:
            with suppress(OSError):  # another process may have put files there
                path.rmdir()
        raise


@contextmanager
def archive(path: Path, wanted: Wanted, like: Tensor) -> Iterator[Files]:
    """The same names in one .npz archive; the tensors are in unnamed files beside it until they are complete."""
    names = (*wanted.tensors, *wanted.vectors)
    with ExitStack() as stack:
        files: dict[str, BinaryIO] = {
            name: stack.enter_context(tempfile.TemporaryFile(dir=path.parent))
            if name in wanted.tensors
            else io.BytesIO()
            for name in names
        }
        yield _npy_files(wanted, files, path, like)
        with replacing(path) as (target,):
            write_npz(target, files.items())


def _npy_files(wanted: Wanted, files: Mapping[str, BinaryIO], path: Path, like: Tensor) -> Files:
    return Files(wanted, {name: new_npy(path, files[name], like) for name in wanted.tensors}, files)


class Range(NamedTuple):
    """Smallest and largest of the finite values, NaN where there is none, and how many are not finite."""

    low: float
    high: float
    not_finite: int

    @classmethod
    def of(cls, values: NDArray[np.floating]) -> Range:
        """Of an array."""
        finite = values[np.isfinite(values)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (np.nan, np.nan)
        return cls(low, high, values.size - finite.size)


class SummaryTensor(Tensor):
    """Values that are looked at and forgotten."""

    def __init__(self, like: Tensor) -> None:
        super().__init__(like.shape, like.dtype, like.layout)
        self.ranges: list[Range] = []

    def room(self, span: Span) -> View:
        return buffer_view(np.empty((span.stop - span.start) * (span.last - span.first), self.dtype), span, self)

    def write(self, span: Span, values: NDArray[np.floating]) -> None:
        self.ranges.append(Range.of(values))

    def range(self) -> Range:
        """Over all that was written, in whatever order."""
        lows, highs, not_finite = zip(*self.ranges, strict=True)
        return Range(float(np.fmin.reduce(lows)), float(np.fmax.reduce(highs)), sum(not_finite))


class Summary(NamedTuple):
    """A sink that keeps ranges alone."""

    tensors: Mapping[str, SummaryTensor]

    @classmethod
    def of(cls, wanted: Wanted, like: Tensor) -> Summary:
        """For the tensors that are wanted."""
        return cls({name: SummaryTensor(like) for name in wanted.tensors})

    def finish(self, batch: Batch) -> None:
        """The caller has the batch."""
