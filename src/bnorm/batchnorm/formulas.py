"""Batch normalisation itself: the formulas of each fork and of the paper, on vectors of one value per channel.

For the values x of one channel, N of them in a mini-batch (N = batch · height · width):

    training     mean = Σx / N            variance = Σ(x − mean)² / (N or N − 1)
                 x_norm = (x − mean) / deviation(variance)
                 y = scale · x_norm + bias
                 rolling = keep · rolling + (1 − keep) · moment
    inference    the same y with the rolling statistics:  y = gain · x + offset
    backward     δ = delta · scale, delta being ∂loss/∂y
                 bias_updates = Σ delta       scale_updates = Σ delta · x_norm
                 mean_delta = −Σδ / deviation(variance)
                 variance_delta = −½ · Σδ(x − mean) · deviation(variance)⁻³
                 dx = δ / deviation(variance) + variance_delta · 2(x − mean) / N + mean_delta / N

What the forks disagree on is a row of `ARITHMETICS`: where ε stands in each deviation and how large it is, what the
variance divides by, and what rolling keeps. Sources: pjreddie `batchnorm_layer.c`, `blas.c`, `blas_kernels.cu`;
AlexeyAB the same and `connected_layer.c`; hank `batchnorm_layer.cpp`, `blas.cpp`; the paper is arXiv:1502.03167,
section 3, algorithms 1 and 2. All vectors have shape (C,) and are float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bnorm.batchnorm.arithmetic import Arithmetic
from bnorm.batchnorm.epsilon import Epsilon, Vector

FAR = 1 << 10  # mean² in variances from which on the variance, from sums of x itself, loses too many of its digits


class Parameters(NamedTuple):
    """What training learns: γ and β."""

    scales: Vector
    biases: Vector


class Rolling(NamedTuple):
    """The statistics that inference uses."""

    mean: Vector
    variance: Vector


class Moments(NamedTuple):
    """Mean and variance of one mini-batch; `variance` by the arithmetic's divisor, `unbiased` by N − 1."""

    mean: Vector
    variance: Vector
    unbiased: Vector


class Gradients(NamedTuple):
    """What backward gives per channel."""

    scale_updates: Vector
    bias_updates: Vector
    mean_delta: Vector
    variance_delta: Vector


class Line(NamedTuple):
    """A result of every value: `x · (x − shift) + delta · ∂loss/∂y + constant`, with one factor of each per channel."""

    x: Vector
    delta: Vector | None
    constant: Vector

    def of(self, channels: slice) -> Line:
        """The same for some of the channels."""
        return Line(self.x[channels], None if self.delta is None else self.delta[channels], self.constant[channels])


def gain_offset(parameters: Parameters, rolling: Rolling, epsilon: Epsilon) -> tuple[Vector, Vector]:
    """What the layer does at inference, `y = gain·x + offset`: gain = scale / deviation, offset = bias − mean·gain."""
    with np.errstate(all="ignore"):
        gain = parameters.scales / epsilon.deviation(rolling.variance)
        return gain, parameters.biases - rolling.mean * gain


def moments(total: Vector, squares: Vector, shift: Vector, count: int, arithmetic: Arithmetic) -> Moments:
    """From Σ(x − shift) and Σ(x − shift)² over `count` values.

    PJ `blas.c: mean_cpu, variance_cpu`; AB `blas_kernels.cu: fast_variance_kernel` divides by N.
    """
    drift = total / count
    about = np.maximum(squares - total * drift, 0)  # Σ(x − mean)², which rounding may push below 0
    unbiased = about / (count - 1)
    return Moments(shift + drift, about / count if arithmetic.biased else unbiased, unbiased)


def far(mean: Vector, variance: Vector) -> NDArray[np.bool_]:
    """Where the mean is so far from zero that, with no shift, Σx² and (Σx)² / N cancel in their first ten bits."""
    with np.errstate(all="ignore"):
        near: NDArray[np.bool_] = mean**2 <= FAR * variance
    return np.isfinite(mean) & ~near  # squares beyond float64 make a variance that is no number


def normalise(statistics: Rolling | Moments, shift: Vector, arithmetic: Arithmetic) -> Line:
    """x_norm = (x − mean) / deviation."""
    inverse = 1 / arithmetic.forward.deviation(statistics.variance)
    return Line(inverse, None, (shift - statistics.mean) * inverse)


def forward(parameters: Parameters, statistics: Rolling | Moments, shift: Vector, arithmetic: Arithmetic) -> Line:
    """y = scale · x_norm + bias (PJ `normalize_cpu, scale_bias, add_bias`)."""
    gain = parameters.scales / arithmetic.forward.deviation(statistics.variance)
    return Line(gain, None, parameters.biases + (shift - statistics.mean) * gain)


def backward(
    parameters: Parameters,
    statistics: Rolling | Moments,
    shift: Vector,
    sums: tuple[Vector, Vector],
    count: int,
    arithmetic: Arithmetic,
) -> tuple[Gradients, Line]:
    """The gradients per channel and dx, from Σ delta and Σ delta·(x − shift).

    PJ `backward_bias, backward_scale_cpu, mean_delta_cpu, variance_delta_cpu, normalize_delta_cpu`. At inference
    darknet puts the rolling statistics into the same formulas (`backward_batchnorm_layer`); in the paper they are
    constants.
    """
    total, along = sums
    drift = statistics.mean - shift
    about = along - drift * total  # Σ delta · (x − mean)
    scales = parameters.scales
    deviation = arithmetic.backward.deviation(statistics.variance)
    mean_delta = -scales * total / deviation
    variance_delta = -0.5 * scales * about / deviation**3
    scale_updates = about / arithmetic.forward.deviation(statistics.variance)
    gradients = Gradients(scale_updates, total, mean_delta, variance_delta)
    direct = scales / arithmetic.direct.deviation(statistics.variance)
    if arithmetic.constant_statistics and isinstance(statistics, Rolling):
        return gradients, Line(np.zeros_like(direct), direct, np.zeros_like(direct))
    slope = 2 * variance_delta / count
    return gradients, Line(slope, direct, mean_delta / count - slope * drift)


def roll(rolling: Rolling, batch: Moments, keep: float, arithmetic: Arithmetic) -> Rolling:
    """keep · rolling + (1 − keep) · moment (PJ `forward_batchnorm_layer`: scal_cpu, axpy_cpu)."""
    variance = batch.unbiased if arithmetic.unbiased_rolling else batch.variance
    with np.errstate(all="ignore"):
        mean = keep * rolling.mean + (1 - keep) * batch.mean
        return Rolling(mean, keep * rolling.variance + (1 - keep) * variance)


RollingRule = Callable[[Rolling, Moments, int], Rolling]  # (rolling so far, this mini-batch, its number) -> rolling


def exponential(keep: float, arithmetic: Arithmetic) -> RollingRule:
    """darknet's: rolling = keep · rolling + (1 − keep) · moment."""

    def rule(rolling: Rolling, moments: Moments, _number: int) -> Rolling:
        return roll(rolling, moments, keep, arithmetic)

    return rule


def average(rolling: Rolling, moments: Moments, number: int) -> Rolling:
    """The paper's, algorithm 2: the mean of the mini-batches' means, and of their unbiased variances."""
    if number == 0:
        return Rolling(moments.mean, moments.unbiased)
    with np.errstate(all="ignore"):
        mean = rolling.mean + (moments.mean - rolling.mean) / (number + 1)
        return Rolling(mean, rolling.variance + (moments.unbiased - rolling.variance) / (number + 1))
