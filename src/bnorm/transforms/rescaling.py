"""Scales for a program with another ε, so that it computes the same as the first program."""

from __future__ import annotations

import numpy as np

from bnorm.batchnorm.epsilon import Epsilon, Vector


def rescaled(scales: Vector, variance: Vector, old: Epsilon, new: Epsilon) -> Vector:
    """Return scales · g_new(variance) / g_old(variance), (C,), where g is ε's `deviation`.

    With these scales the gain stays the same; biases and mean do not change. Zero scales stay zero, even where
    both deviations are 0.
    """
    ratio = new.deviation(variance) / old.deviation(variance)
    return np.where(scales == 0, scales, scales * ratio)
