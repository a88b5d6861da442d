"""The formulas of batch normalisation, of each fork and of the paper, on vectors of one value per channel.

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

The forks differ in the value and position of ε in each deviation, in the divisor of the variance and in the fraction
that rolling keeps: a row of `ARITHMETICS` holds these choices. Sources: pjreddie `batchnorm_layer.c`, `blas.c`,
`blas_kernels.cu`; AlexeyAB the same and `connected_layer.c`; hank `batchnorm_layer.cpp`, `blas.cpp`; the paper is
arXiv:1502.03167, section 3, algorithms 1 and 2. All vectors have shape (C,) and are float64.

Sums are taken of x minus a shift per channel, so that a mean far from zero does not cancel their digits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from bnorm.batchnorm.arithmetic import Arithmetic
from bnorm.batchnorm.epsilon import Epsilon, Vector

FAR = 1 << 10  # ratio mean² / variance above which a variance from unshifted sums of x loses ten bits or more

P = ParamSpec("P")

R = TypeVar("R")


def quiet(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function that computes with numbers from files: NaN and infinity are not worth a warning."""
    return np.errstate(all="ignore")(function)


class Parameters(NamedTuple):
    """The learned parameters γ and β, each of shape (C,)."""

    scales: Vector
    biases: Vector


class Rolling(NamedTuple):
    """The statistics that inference uses, each of shape (C,)."""

    mean: Vector
    variance: Vector


class Moments(NamedTuple):
    """Mean and variance of one mini-batch; `variance` by the arithmetic's divisor, `unbiased` by N − 1."""

    mean: Vector
    variance: Vector
    unbiased: Vector


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PartialMoments:
    """The moments of some values of each channel, before a divisor is chosen: they can be merged, and sent.

    `count` is the number of values of a channel; `mean` and `m2` = Σ(x − mean)² have shape (C,) and are float64.
    """

    count: int
    mean: Vector
    m2: Vector

    @property
    def unbiased(self) -> Vector:
        """Return m2 / (count − 1)."""
        return self.m2 / (self.count - 1)

    def moments(self, arithmetic: Arithmetic) -> Moments:
        """Return mean and variance by the arithmetic's divisor.

        pjreddie `blas.c: variance_cpu` divides by N − 1; AlexeyAB `blas_kernels.cu: fast_variance_kernel` by N.
        """
        unbiased = self.unbiased
        variance = self.m2 / self.count if arithmetic.biased else unbiased
        return Moments(mean=self.mean, variance=variance, unbiased=unbiased)


class Gradients(NamedTuple):
    """The results of backward per channel."""

    scale_updates: Vector
    bias_updates: Vector
    mean_delta: Vector
    variance_delta: Vector


class ValueSums(NamedTuple):
    """Sums over the values of each channel: x = Σ(x − shift), xx = Σ(x − shift)²."""

    x: Vector
    xx: Vector


class DeltaSums(NamedTuple):
    """Sums over the values of each channel: delta = Σ delta, delta_x = Σ delta · (x − shift)."""

    delta: Vector
    delta_x: Vector


class Sums(NamedTuple):
    """The sums of one mini-batch; None for those that were not asked for."""

    values: ValueSums | None = None
    deltas: DeltaSums | None = None


class ChannelMap(NamedTuple):
    """The factors of a result for every value: `x` · (x − shift) + `delta` · ∂loss/∂y + `constant`.

    Each has shape (C,); `delta` is None for a result that does not depend on ∂loss/∂y.
    """

    x: Vector
    delta: Vector | None
    constant: Vector

    def select(self, channels: slice) -> ChannelMap:
        """Return the map of some of the channels."""
        delta = None if self.delta is None else self.delta[channels]
        return ChannelMap(x=self.x[channels], delta=delta, constant=self.constant[channels])


@quiet
def gain_offset(parameters: Parameters, rolling: Rolling, epsilon: Epsilon) -> tuple[Vector, Vector]:
    """Return gain = scale / deviation and offset = bias − mean · gain, of y = gain·x + offset at inference."""
    gain = parameters.scales / epsilon.deviation(rolling.variance)
    return gain, parameters.biases - rolling.mean * gain


def partial_moments(sums: ValueSums, shift: Vector, count: int) -> PartialMoments:
    """Return the moments of `count` values per channel from their sums (pjreddie `blas.c: mean_cpu, variance_cpu`)."""
    drift = sums.x / count  # mean − shift
    m2 = np.maximum(sums.xx - sums.x * drift, 0)  # rounding may make it negative
    return PartialMoments(count=count, mean=shift + drift, m2=m2)


def mean_dominates(mean: Vector, variance: Vector) -> NDArray[np.bool_]:
    """Return a mask of the channels where mean² > FAR · variance: Σx² and (Σx)² / N share their first ten bits."""
    near: NDArray[np.bool_] = mean**2 <= FAR * variance
    return np.isfinite(mean) & ~near  # "not near", so that squares beyond float64, whose variance is NaN, count


def normalise(statistics: Rolling | Moments, shift: Vector, arithmetic: Arithmetic) -> ChannelMap:
    """Return the map of x_norm = (x − mean) / deviation."""
    inverse = 1 / arithmetic.forward.deviation(statistics.variance)
    return ChannelMap(x=inverse, delta=None, constant=(shift - statistics.mean) * inverse)


def forward(parameters: Parameters, statistics: Rolling | Moments, shift: Vector, arithmetic: Arithmetic) -> ChannelMap:
    """Return the map of y = scale · x_norm + bias (pjreddie `normalize_cpu, scale_bias, add_bias`)."""
    gain = parameters.scales / arithmetic.forward.deviation(statistics.variance)
    return ChannelMap(x=gain, delta=None, constant=parameters.biases + (shift - statistics.mean) * gain)


def backward(
    parameters: Parameters,
    statistics: Rolling | Moments,
    shift: Vector,
    sums: DeltaSums,
    count: int,
    arithmetic: Arithmetic,
) -> tuple[Gradients, ChannelMap]:
    """Return the gradients per channel, and the map of dx.

    pjreddie `backward_bias, backward_scale_cpu, mean_delta_cpu, variance_delta_cpu, normalize_delta_cpu`. At inference
    darknet uses the rolling statistics in the same formulas (`backward_batchnorm_layer`); in the paper they are
    constants.
    """
    drift = statistics.mean - shift
    centred = sums.delta_x - drift * sums.delta  # Σ delta · (x − mean)
    scales = parameters.scales
    guards = {arithmetic.forward, arithmetic.backward, arithmetic.direct}  # mostly one or two
    deviations = {guard: guard.deviation(statistics.variance) for guard in guards}
    deviation = deviations[arithmetic.backward]
    gradients = Gradients(
        scale_updates=centred / deviations[arithmetic.forward],
        bias_updates=sums.delta,
        mean_delta=-scales * sums.delta / deviation,
        variance_delta=-0.5 * scales * centred / (deviation * deviation * deviation),  # `**` differs between processors
    )
    direct = scales / deviations[arithmetic.direct]
    if arithmetic.constant_statistics and isinstance(statistics, Rolling):
        return gradients, ChannelMap(x=np.zeros_like(direct), delta=direct, constant=np.zeros_like(direct))
    slope = 2 * gradients.variance_delta / count
    return gradients, ChannelMap(x=slope, delta=direct, constant=gradients.mean_delta / count - slope * drift)
