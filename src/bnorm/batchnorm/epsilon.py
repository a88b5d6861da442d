"""The guard against a variance of zero, and the one that each runtime uses."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]  # one value per channel, shape (C,)


class Epsilon(NamedTuple):
    """The guard against a variance of zero, and its place: inside or outside the square root."""

    value: float
    inside: bool

    def deviation(self, variance: Vector) -> Vector:
        """√(variance + ε) inside, √variance + ε outside; NaN for what has no root."""
        with np.errstate(invalid="ignore"):
            if self.inside:
                return np.sqrt(variance + self.value)
            return np.sqrt(variance) + self.value


DARKNET = Epsilon(1e-5, inside=True)  # every fork's GPU path, AlexeyAB's and hank's CPU path, PyTorch's default

# What each runtime adds to the rolling variance at inference. Sources: PJ `blas.c: normalize_cpu`; PJ, AB and HK
# `blas_kernels.cu: normalize_kernel`; OpenCV 4 `darknet_io.cpp: setBatchNorm`; ultralytics/yolov3 `models.py`;
# Keras `BatchNormalization`.
RUNTIMES: dict[str, Epsilon] = {
    "darknet": DARKNET,
    "pjreddie-cpu": Epsilon(1e-6, inside=False),
    "opencv": Epsilon(1e-6, inside=True),
    "ultralytics": Epsilon(1e-4, inside=True),
    "keras": Epsilon(1e-3, inside=True),
}

NUMBER = re.compile(r"(?=\.?[0-9])[0-9]{0,20}\.?[0-9]{0,20}(e[+-]?[0-9]{1,3})?", re.IGNORECASE)


def as_epsilon(epsilon: Epsilon | str) -> Epsilon:
    """Return ε itself, or the one that a text names: a row of `RUNTIMES`, or `VALUE[:inside|:outside]`; ValueError."""
    if isinstance(epsilon, Epsilon):
        return epsilon
    if epsilon in RUNTIMES:
        return RUNTIMES[epsilon]
    number, colon, root = epsilon.partition(":")
    known = root in ("inside", "outside") if colon else True
    if not (known and NUMBER.fullmatch(number) and math.isfinite(float(number))):
        names = ", ".join(RUNTIMES)
        raise ValueError(f"epsilon {epsilon!r}, expected a value such as 1e-5 or 1e-6:outside, or one of {names}")
    return Epsilon(float(number), inside=root != "outside")
