"""The one rule for bad rolling variances, used by `check`, `inspect`, `fold` and `--bad-variance`.

A rolling variance v is judged by its effect in the guard of a runtime, √(v + ε) or √v + ε, not by its sign:

    residue      −RESIDUE · ε ≤ v < 0: a rounding error of 0, such as −7e-44. With ε inside the root it changes the
                 gain by no more than 0.05 %, and is as valid as a positive number of its size
    bad          the guard does not give a positive finite number, or v is negative and not a residue
    subtracted   bad, and −2ε ≤ v: a small variance from which a converter subtracted ε. √(v + ε) may exist, but the
                 gain is not the one that was trained
    impossible   finite, and v < −2ε or v > LARGEST: neither training nor a converter leaves it; if there are many,
                 other values are read as variances

With ε outside the root every negative variance is bad: in C, √v is NaN.

`fold` uses the ε that it folds. `check`, `inspect` and the causes of a misfit use `DARKNET`, 1e-5 inside the root:
the GPU path of every fork.
"""

from __future__ import annotations

import numpy as np

from bnorm.batchnorm.epsilon import DARKNET, Epsilon, Vector
from bnorm.darknet.weights import Floats
from bnorm.statistics.channel_state import Mask

RESIDUE = 1e-3  # of ε: the largest negative rounding error

LARGEST = 1e20  # of a plausible variance


def is_residue(variances: Vector, epsilon: Epsilon = DARKNET) -> Mask:
    """Return which variances are negative only by a rounding error, shape (C,)."""
    return (variances < 0) & (variances >= -RESIDUE * epsilon.value)


def is_bad(variances: Vector, epsilon: Epsilon = DARKNET) -> Mask:
    """Return which variances cannot be used with this guard, shape (C,)."""
    deviation = epsilon.deviation(variances)
    usable = (deviation > 0) & np.isfinite(deviation)  # False for NaN
    return ~usable | ((variances < 0) & ~is_residue(variances, epsilon))


def is_subtracted(variances: Vector) -> Mask:
    """Return which bad variances are small variances from which a converter subtracted ε, shape (C,)."""
    return is_bad(variances) & (variances < 0) & (variances >= -2 * DARKNET.value)


def is_impossible(variances: Vector | Floats) -> Mask:
    """Return which finite values cannot be variances, shape (C,): NaN and infinity do not tell which array was read."""
    return np.isfinite(variances) & ((variances < -2 * DARKNET.value) | (variances > LARGEST))


def root(variances: Vector) -> Vector:
    """Return √variance, shape (C,): 0 for a residue, NaN for any other negative variance."""
    with np.errstate(invalid="ignore"):
        return np.sqrt(np.where(is_residue(variances), 0.0, variances))
