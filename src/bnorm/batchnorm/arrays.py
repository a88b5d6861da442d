"""The engine on NumPy arrays: one call, one mini-batch."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bnorm.batchnorm.arithmetic import ARITHMETICS
from bnorm.batchnorm.batches import Batch, run
from bnorm.batchnorm.engine import Layer
from bnorm.batchnorm.formulas import Gradients, Moments, Parameters, Rolling, RollingRule, exponential
from bnorm.batchnorm.threads import Team, processors
from bnorm.tensors.tensor import LAYOUTS, MemoryTensor, Tensor, Values


class Result(NamedTuple):
    """What came out: `dx` and `gradients` with a delta, `moments` in training; `rolling` has moved in training."""

    y: Values
    dx: Values | None
    moments: Moments | None
    rolling: Rolling
    gradients: Gradients | None


class _Arrays(NamedTuple):
    """A sink of tensors in memory."""

    tensors: Mapping[str, Tensor]

    def finish(self, batch: Batch) -> None:
        """The caller has the batch."""


def batch_normalize(
    x: Values,
    parameters: Parameters,
    rolling: Rolling,
    *,
    arithmetic: str = "pjreddie",
    train: bool = False,
    delta: Values | None = None,
    layout: str = "nchw",
    rule: RollingRule | None = None,
    threads: int | None = None,
) -> Result:
    """Normalise `x` of shape (N, C), (C, H, W) or (N, C, H, W), and with `delta`, ∂loss/∂y, run backward, too.

    `arithmetic` is a name in `ARITHMETICS`; in training `rule` moves the rolling statistics, by default that
    arithmetic's exponential average for convolutions. `y` and `dx` have the dtype of `x`, results per channel are
    float64. ValueError for shapes that do not fit each other, and in training for one value per channel.
    """
    if arithmetic not in ARITHMETICS or layout not in LAYOUTS:
        raise ValueError(f"expected an arithmetic of {', '.join(ARITHMETICS)} and a layout of {', '.join(LAYOUTS)}")
    if threads is not None and threads < 1:
        raise ValueError(f"threads={threads}, expected at least 1")
    x, delta = _array(x), None if delta is None else _array(delta)
    tensor = MemoryTensor(x, layout)
    _check(tensor, delta, parameters, rolling, train)
    y, dx = np.empty_like(x), None if delta is None else np.empty_like(x)
    deltas = [] if delta is None else [MemoryTensor(delta, layout)]
    results = {"y": MemoryTensor(y, layout)} | ({} if dx is None else {"dx": MemoryTensor(dx, layout)})
    chosen = ARITHMETICS[arithmetic]
    layer = Layer(Parameters(*map(_vector, parameters)), Rolling(*map(_vector, rolling)), chosen, train)
    moves = rule or exponential(chosen.keep, chosen)
    with Team(threads or processors()) as team:
        (batch,) = run(layer, [tensor], deltas, moves, lambda _number, _x: nullcontext(_Arrays(results)), team)
    return Result(y, dx, batch.moments, batch.rolling, batch.gradients)


def _array(values: Values) -> Values:
    array = np.ascontiguousarray(values)
    if array.dtype not in (np.float16, np.float32, np.float64):
        raise ValueError(f"an array of {array.dtype}, expected float16, float32 or float64")
    return array


def _vector(values: NDArray[np.floating]) -> NDArray[np.float64]:
    return np.asarray(values, np.float64)


def _check(x: MemoryTensor, delta: Values | None, parameters: Parameters, rolling: Rolling, train: bool) -> None:
    if delta is not None and delta.shape != x.shape:
        raise ValueError(f"delta has the shape {delta.shape}, expected that of x, {x.shape}")
    if any(np.shape(vector) != (x.channels,) for vector in (*parameters, *rolling)):
        raise ValueError(f"expected {x.channels} values in each vector, as x of shape {x.shape} has channels")
    if train and x.length == 1:
        raise ValueError("one value per channel has no variance")
