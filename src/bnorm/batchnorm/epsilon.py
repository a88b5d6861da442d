"""ε, the guard against a variance of zero: its value, its position, and the choice of each runtime."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]  # one value per channel, shape (C,)

POSITIONS = {"": True, "inside": True, "outside": False}  # as written after the value -> inside the square root


class Epsilon(NamedTuple):
    """A value, and whether it is added inside or outside the square root."""

    value: float
    inside: bool

    def deviation(self, variance: Vector) -> Vector:
        """Return √(variance + ε) or √variance + ε, shape (C,); NaN where the variance is negative."""
        with np.errstate(invalid="ignore"):
            if self.inside:
                return np.sqrt(variance + self.value)
            return np.sqrt(variance) + self.value


DARKNET = Epsilon(1e-5, inside=True)  # the GPU path of every fork, the CPU path of AlexeyAB and hank, PyTorch's default

# The ε that each runtime adds to the rolling variance at inference. Sources: pjreddie `blas.c: normalize_cpu`; the
# three forks' `blas_kernels.cu: normalize_kernel`; OpenCV 4 `darknet_io.cpp: setBatchNorm`; ultralytics/yolov3
# `models.py`; Keras `BatchNormalization`.
RUNTIMES: dict[str, Epsilon] = {
    "darknet": DARKNET,
    "pjreddie-cpu": Epsilon(1e-6, inside=False),
    "opencv": Epsilon(1e-6, inside=True),
    "ultralytics": Epsilon(1e-4, inside=True),
    "keras": Epsilon(1e-3, inside=True),
}

_NUMBER = re.compile(r"(?=[0-9.]*[0-9])[0-9]{0,20}\.?[0-9]{0,20}(e[+-]?[0-9]{1,3})?", re.IGNORECASE)


def parse_epsilon(text: str) -> Epsilon:
    """Return the ε of a runtime (`opencv`), or of a value and its position (`1e-5`, `1e-6:outside`).

    Without a position the value is inside the square root. Raises ValueError for anything else.
    """
    if text in RUNTIMES:
        return RUNTIMES[text]
    number, colon, position = text.partition(":")
    known = position in POSITIONS and bool(colon) == bool(position)
    if not known or not _NUMBER.fullmatch(number) or not math.isfinite(float(number)):
        names = ", ".join(RUNTIMES)
        raise ValueError(f"epsilon {text!r}, expected a value such as 1e-5 or 1e-6:outside, or one of {names}")
    return Epsilon(float(number), inside=POSITIONS[position])


def as_epsilon(value: Epsilon | str) -> Epsilon:
    """Return `value`, parsed if it is text.

    Raises ValueError for text as `parse_epsilon` does, and for a value that is negative, infinite or NaN; TypeError for
    other types.
    """
    if isinstance(value, str):
        return parse_epsilon(value)
    if not isinstance(value, Epsilon):
        raise TypeError(f"epsilon={value!r}, expected an Epsilon or text such as 'opencv' or '1e-6:outside'")
    if not 0 <= value.value < math.inf:
        raise ValueError(f"epsilon={value!r}, expected a finite value ≥ 0")
    return value
