"""Evidence that arrays are read at the wrong offset: numbers that cannot be rolling variances.

Read there, half of the numbers are negative; a negative one here and there, or NaN, is what training may leave.
"""

from __future__ import annotations

import numpy as np

from bnorm.batchnorm.epsilon import Vector
from bnorm.darknet.weights import Floats
from bnorm.statistics.variance_rule import is_impossible as impossible

__all__ = ["impossible", "misread"]


def misread(variances: Vector | Floats) -> bool:
    """Return whether over a tenth of the values are impossible, as when another array is read."""
    return 10 * int(np.count_nonzero(impossible(variances))) > variances.size
