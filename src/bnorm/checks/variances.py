"""Evidence that arrays are read at the wrong offset: values that cannot be rolling variances.

At a wrong offset, half of the values are negative; training may leave only a few negative values or NaN.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bnorm.batchnorm.epsilon import Vector
from bnorm.darknet.layout import Array, Layout
from bnorm.darknet.weights import Floats, Weights
from bnorm.statistics.variance_rule import is_impossible as impossible

__all__ = ["impossible", "misread", "variances"]


def variances(weights: Weights, layout: Layout) -> Iterator[tuple[Array, Floats]]:
    """Yield the rolling variances as this plan reads them, as far as the file holds them."""
    for array in layout.arrays:
        if array.field == "rolling_variance" and array.end <= weights.nbytes:
            yield array, weights.read(array)


def misread(variances: Vector | Floats) -> bool:
    """Return whether over a tenth of the values are impossible, as if another array were read."""
    return 10 * int(np.count_nonzero(impossible(variances))) > variances.size
