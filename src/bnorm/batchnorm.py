"""Batch normalisation itself, as each fork's C code computes it.

At inference every channel is `y = gain·x + offset` with `gain = scale / deviation(variance)` and
`offset = bias − mean·gain`; what the forks disagree on is where ε stands in the deviation, and how large it is.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]  # one value per channel, shape (C,)


class Epsilon(NamedTuple):
    """The guard against a variance of zero, and its place: inside or outside the square root."""

    value: float
    inside: bool

    def deviation(self, variance: Vector) -> Vector:
        """√(variance + ε) inside, √variance + ε outside; NaN for what has no root. Shape (C,), float64."""
        with np.errstate(invalid="ignore"):
            if self.inside:
                return np.sqrt(variance + self.value)
            return np.sqrt(variance) + self.value

    def __str__(self) -> str:
        return f"{self.value:g}:{'inside' if self.inside else 'outside'}"


class Arithmetic(NamedTuple):
    """Whose formulas apply. `epsilon` is that of the forward pass."""

    name: str
    epsilon: Epsilon


INSIDE = Epsilon(1e-5, inside=True)  # PJ blas_kernels.cu and AB blas.c: normalize_*; the paper's algorithm 1
PJREDDIE_CPU = Epsilon(1e-6, inside=False)  # PJ blas.c: normalize_cpu

ARITHMETICS: dict[str, Arithmetic] = {
    row.name: row
    for row in (
        Arithmetic("pjreddie", PJREDDIE_CPU),
        Arithmetic("pjreddie-gpu", INSIDE),
        Arithmetic("alexeyab", INSIDE),
        Arithmetic("alexeyab-gpu", INSIDE),
        Arithmetic("hank", INSIDE),
        Arithmetic("hank-gpu", INSIDE),
        Arithmetic("paper", INSIDE),
    )
}


class Parameters(NamedTuple):
    """What training learns: γ and β, one per channel, shape (C,)."""

    scales: Vector
    biases: Vector


class Rolling(NamedTuple):
    """The statistics that inference uses, shape (C,)."""

    mean: Vector
    variance: Vector


def gain_offset(parameters: Parameters, rolling: Rolling, epsilon: Epsilon) -> tuple[Vector, Vector]:
    """What the layer does at inference, `y = gain·x + offset`: two arrays of shape (C,), float64."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        gain = parameters.scales / epsilon.deviation(rolling.variance)
        return gain, parameters.biases - rolling.mean * gain


def infer(
    x: NDArray[np.floating], parameters: Parameters, rolling: Rolling, arithmetic: Arithmetic
) -> NDArray[np.floating]:
    """Normalise `x` of shape (N, C, ...) by the rolling statistics; computed in float64, rounded once to x's dtype.

    PJ `batchnorm_layer.c: forward_batchnorm_layer` where `train` is 0: normalize_cpu, scale_bias, add_bias.
    """
    gain, offset = gain_offset(parameters, rolling, arithmetic.epsilon)
    shape = (1, -1, *(1,) * (x.ndim - 2))
    return (x * gain.reshape(shape) + offset.reshape(shape)).astype(x.dtype)
