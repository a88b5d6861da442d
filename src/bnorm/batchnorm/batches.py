"""Run a layer of a model on consecutive mini-batches: parameters, rolling statistics, and where results go."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from bnorm.batchnorm.engine import MEMORY, Layer, run_batch
from bnorm.batchnorm.formulas import Gradients, Moments, Rolling, RollingRule
from bnorm.batchnorm.threads import Team
from bnorm.tensors.tensor import Tensor


class Batch(NamedTuple):
    """One mini-batch's results per channel, as far as they apply."""

    moments: Moments | None
    gradients: Gradients | None
    rolling: Rolling

    def vectors(self) -> dict[str, NDArray[np.float64]]:
        """The results by name, without those that do not apply."""
        found: dict[str, NDArray[np.float64]] = {}
        if self.moments:
            found |= {"mean": self.moments.mean, "variance": self.moments.variance}
            found |= {"rolling_mean": self.rolling.mean, "rolling_variance": self.rolling.variance}
        return found | (self.gradients._asdict() if self.gradients else {})


class Sink(Protocol):
    """Where one mini-batch's results go."""

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """Tensors to fill, by name."""

    def finish(self, batch: Batch) -> None:
        """Take the results per channel."""


Progress = Callable[[int, int], None] | None  # told how many values are done, and of how many

Sinks = Callable[[int, Tensor], AbstractContextManager[Sink]]  # (number, input) -> where its results go


def run(
    layer: Layer,
    inputs: Sequence[Tensor],
    deltas: Sequence[Tensor],
    rule: RollingRule,
    sinks: Sinks,
    team: Team,
    memory: int = MEMORY,
    progress: Progress = None,
) -> list[Batch]:
    """Run consecutive mini-batches; in training each one moves the rolling statistics for the next."""
    batches: list[Batch] = []
    advance = _counter(progress, sum(x.channels * x.length for x in inputs)) if progress else None
    for number, x in enumerate(inputs):
        with sinks(number, x) as sink:
            result = run_batch(layer, x, deltas[number] if deltas else None, sink.tensors, team, memory, advance)
            if result.moments:
                layer = layer._replace(rolling=rule(layer.rolling, result.moments, number))
            batches.append(Batch(result.moments, result.gradients, layer.rolling))
            sink.finish(batches[-1])
    return batches


def _counter(progress: Callable[[int, int], None], total: int) -> Callable[[int], None]:
    done = 0

    def advance(values: int) -> None:
        nonlocal done
        done += values
        progress(done, total)

    return advance
