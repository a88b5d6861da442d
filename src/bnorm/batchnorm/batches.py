"""Consecutive mini-batches through one layer: each one updates the rolling statistics for the next."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from bnorm.batchnorm.engine import MEMORY, Normalisation, run_batch
from bnorm.batchnorm.engines import NUMPY, Kernels
from bnorm.batchnorm.formulas import Gradients, Moments, Rolling
from bnorm.batchnorm.groups import Advance
from bnorm.batchnorm.rolling import Estimator, RollingRule
from bnorm.batchnorm.threads import Team
from bnorm.tensors.tensor import Tensor


class Batch(NamedTuple):
    """One mini-batch's results per channel: `moments` in training, `gradients` with a delta."""

    moments: Moments | None
    gradients: Gradients | None
    rolling: Rolling

    def __repr__(self) -> str:
        names = [name for name in self._fields if getattr(self, name) is not None]
        return f"<Batch: {', '.join(names)}>"

    def vectors(self) -> dict[str, NDArray[np.float64]]:
        """Return the results by name, each of shape (C,), without those that do not apply."""
        vectors: dict[str, NDArray[np.float64]] = {}
        if self.moments:
            vectors |= {"mean": self.moments.mean, "variance": self.moments.variance}
            vectors |= {"rolling_mean": self.rolling.mean, "rolling_variance": self.rolling.variance}
        return vectors | (self.gradients._asdict() if self.gradients else {})


class Writer(Protocol):
    """The results of one mini-batch."""

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """Return the tensors to fill, by name: `y`, `x_norm`, `dx`."""

    def finish(self, batch: Batch) -> None:
        """Receive the results per channel."""


class Results(Protocol):
    """The results of all mini-batches."""

    def open(self, number: int, like: Tensor) -> AbstractContextManager[Writer]:
        """Return a writer for one mini-batch, whose tensors have the shape, dtype and layout of its input."""


Progress = Callable[[int, int], None]  # called with the finished amount and the total


def run_batches(
    layer: Normalisation,
    pairs: Iterable[tuple[Tensor, Tensor | None]],
    rule: RollingRule,
    results: Results,
    team: Team,
    memory: int = MEMORY,
    advance: Advance | None = None,
    kernels: Kernels = NUMPY,
) -> Iterator[Batch]:
    """Run consecutive mini-batches, each an input and its delta or None; `rule` updates the statistics in training.

    Each pair must stay readable until the next one is requested.
    """
    estimator = Estimator(layer.rolling, rule, layer.arithmetic)
    for number, (x, delta) in enumerate(pairs):
        with results.open(number, x) as writer:
            result = run_batch(layer, x, delta, writer.tensors, team, memory, advance, kernels)
            if result.moments:
                layer = layer._replace(rolling=estimator.add(result.moments))
            moments = result.moments.moments(layer.arithmetic) if result.moments else None
            batch = Batch(moments=moments, gradients=result.gradients, rolling=layer.rolling)
            writer.finish(batch)
        yield batch


class Counter:
    """Adds up the finished values, and reports them to `progress`."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def __call__(self, values: int) -> None:
        self._done += values
        self._progress(self._done, self._total)
