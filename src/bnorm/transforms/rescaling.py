"""Scales for a program with another ε: what it computes with them is what the first program computed."""

from __future__ import annotations

import numpy as np

from bnorm.batchnorm.epsilon import Epsilon, Vector


def rescaled(scales: Vector, variance: Vector, old: Epsilon, new: Epsilon) -> Vector:
    """Return scales · g_new(variance) / g_old(variance), (C,), where g is ε's `deviation`.

    With them the new ε gives the gain that the old one gave; biases and mean stay. Zero scales stay zero, also where
    both deviations are 0.
    """
    ratio = new.deviation(variance) / old.deviation(variance)
    return np.where(scales == 0, scales, scales * ratio)
