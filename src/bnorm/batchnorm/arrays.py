"""Batch normalisation of NumPy arrays: one call, one mini-batch."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bnorm.batchnorm.arithmetic import arithmetic_by_name
from bnorm.batchnorm.batches import Batch, run_batches
from bnorm.batchnorm.engine import Normalisation
from bnorm.batchnorm.engines import check_engine, kernels_of
from bnorm.batchnorm.epsilon import Epsilon, as_epsilon
from bnorm.batchnorm.formulas import Gradients, Moments, Parameters, Rolling
from bnorm.batchnorm.rolling import RollingRule, rolling_rule
from bnorm.batchnorm.threads import Team, thread_count
from bnorm.tensors.tensor import MemoryTensor, Tensor, Values, check_layout


class Result(NamedTuple):
    """The results of `batch_normalize`: `dx` and `gradients` with a delta, `moments` in training, else None.

    `y` and `dx` have the shape and dtype of x, all vectors shape (C,) and float64. `rolling` holds the statistics
    after the mini-batch: updated in training, as given otherwise.
    """

    y: Values
    dx: Values | None
    moments: Moments | None
    rolling: Rolling
    gradients: Gradients | None

    def __repr__(self) -> str:
        names = [name for name in ("dx", "moments", "gradients") if getattr(self, name) is not None]
        return f"<Result: y {self.y.dtype} {self.y.shape}{''.join(f', {name}' for name in names)}, rolling>"


class _Arrays(NamedTuple):
    """The `Results` and the `Writer` of a single mini-batch, in arrays."""

    tensors: Mapping[str, Tensor]

    def open(self, _number: int, _like: Tensor) -> AbstractContextManager[_Arrays]:
        """Return the one writer."""
        return nullcontext(self)

    def finish(self, batch: Batch) -> None:
        """Do nothing: `run_batches` returns the batch."""


def batch_normalize(
    x: Values,
    parameters: Parameters,
    rolling: Rolling,
    *,
    arithmetic: str = "pjreddie",
    epsilon: Epsilon | str | None = None,
    train: bool = False,
    delta: Values | None = None,
    layout: str = "nchw",
    rule: RollingRule | str = "ema",
    threads: int | None = None,
    engine: str = "auto",
) -> Result:
    """Return y of one mini-batch, and with `delta` the gradients.

    x           (N, C), (C, H, W) or (N, C, H, W), or with layout "nhwc" (H, W, C) or (N, H, W, C); float16, float32 or
                float64. It is not modified
    parameters  scales and biases, each (C,)
    rolling     mean and variance, each (C,): they normalise at inference, and are updated in training
    arithmetic  whose formulas, a name in `ARITHMETICS`: "pjreddie", "alexeyab-gpu", "paper" or "torch", ...
    epsilon     the guard of the forward normalisation, for "paper" of all of it: an `Epsilon`, or text such as
                "opencv" or "1e-6:outside"; default: the arithmetic's
    train       normalise by the moments of x
    delta       ∂loss/∂y, of the shape of x and any of its dtypes: run backward as well
    rule        how rolling is updated in training: "ema", the arithmetic's exponential average, "average", the moments
                of x with the unbiased variance, "population", with the biased one, or a function of the
                statistics, the moments and what was seen so far: see `bnorm.batchnorm.rolling`
    threads     default: the processors that this process may use
    engine      "numpy", "numba", or "auto": Numba where it is installed and x has 2³⁰ values

    Computes in float64 and rounds each value of y and dx once; neither threads nor engine change a bit. Raises
    ValueError for unknown names, for mismatched shapes, for other dtypes and, in training, for one
    value per channel; TypeError unless `parameters` is a `Parameters` and `rolling` a `Rolling`.
    """
    chosen = arithmetic_by_name(arithmetic, None if epsilon is None else as_epsilon(epsilon))
    update = rule if callable(rule) else rolling_rule(rule, chosen.keep, chosen)
    check_layout(layout)
    count = thread_count(threads)
    check_engine(engine)
    inputs = _tensor("x", x, layout)
    gradient = None if delta is None else _tensor("delta", delta, layout)
    if gradient and gradient.shape != inputs.shape:
        raise ValueError(f"delta has the shape {gradient.shape}, expected that of x, {inputs.shape}")
    if train and inputs.length == 1:
        raise ValueError("x has one value per channel, expected more in training: one value has no variance")
    vectors = _vectors(parameters, rolling, inputs.channels)
    layer = Normalisation(*vectors, arithmetic=chosen, train=train)
    arrays = {name: np.empty(inputs.shape, inputs.dtype) for name in (("y", "dx") if gradient else ("y",))}
    results = _Arrays({name: MemoryTensor(array, layout) for name, array in arrays.items()})
    kernels = kernels_of(engine, inputs.channels * inputs.length)
    with Team(count) as team:
        (batch,) = run_batches(layer, [(inputs, gradient)], update, results, team, kernels=kernels)
    return Result(
        y=arrays["y"], dx=arrays.get("dx"), moments=batch.moments, rolling=batch.rolling, gradients=batch.gradients
    )


def _tensor(name: str, values: Values, layout: str) -> MemoryTensor:
    """Return an argument as a tensor in C order; ValueError for another dtype or shape."""
    array = np.asarray(values)
    if array.dtype not in (np.float16, np.float32, np.float64):
        raise ValueError(f"{name} has the dtype {array.dtype}, expected float16, float32 or float64")
    try:
        return MemoryTensor(np.ascontiguousarray(array), layout)
    except ValueError as error:
        raise ValueError(f"{name} has the shape {array.shape}, expected {error}") from None


def _vectors(parameters: Parameters, rolling: Rolling, channels: int) -> tuple[Parameters, Rolling]:
    """Return the arguments as float64, with types and shapes checked."""
    if not isinstance(parameters, Parameters):
        raise TypeError(f"parameters is a {type(parameters).__name__}, expected a Parameters(scales, biases)")
    if not isinstance(rolling, Rolling):
        raise TypeError(f"rolling is a {type(rolling).__name__}, expected a Rolling(mean, variance)")
    named = {**parameters._asdict(), **{f"rolling {name}": vector for name, vector in rolling._asdict().items()}}
    vectors = [_vector(name, vector, channels) for name, vector in named.items()]
    return Parameters(*vectors[:2]), Rolling(*vectors[2:])


def _vector(name: str, values: NDArray[np.floating], channels: int) -> NDArray[np.float64]:
    array = np.asarray(values)
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{name} has the dtype {array.dtype}, expected real numbers")
    if array.shape != (channels,):
        raise ValueError(f"{name} has the shape {array.shape}, expected ({channels},): x has {channels} channels")
    return array.astype(np.float64)
