"""Which numbers cannot be rolling variances: the evidence that arrays are read at the wrong offset.

Read there, half of the numbers are negative; a negative one here and there, or NaN, is what training may leave.
"""

from __future__ import annotations

import numpy as np

from bnorm.batchnorm.epsilon import Vector
from bnorm.darknet.weights import Floats
from bnorm.statistics.channel_state import Mask

SUBTRACTED = -2e-5  # a value between this and 0 is a small variance from which a converter subtracted ε = 1e-5

LARGEST = 1e20  # of a plausible variance


def impossible(variances: Vector | Floats) -> Mask:
    """Return which finite values cannot be variances: negative or huge; NaN and infinity say nothing."""
    return np.isfinite(variances) & ((variances < SUBTRACTED) | (variances > LARGEST))


def misread(variances: Vector | Floats) -> bool:
    """Return whether over a tenth of the values are impossible, as when another array is read."""
    return 10 * int(np.count_nonzero(impossible(variances))) > variances.size
