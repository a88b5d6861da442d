"""Quantiles of the channels of a part, by the one definition that tables, rules and figures use.

A quantile is a value of one channel: if it falls between two channels, the lower one (NumPy's method `lower`). The
`median` of the rules is the upper one of the two. NumPy's own `quantile` and `median` import `numpy.ma`, which takes
longer than everything else in `bnorm inspect`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from bnorm.batchnorm.epsilon import Vector


class Quantiles(NamedTuple):
    """The quantiles of one quantity, each a value of one channel; NaN if any channel is NaN."""

    low: float
    q10: float
    q25: float
    q50: float
    q75: float
    q90: float
    high: float


LEVELS = Quantiles(0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)


def quantiles(columns: Mapping[str, Vector | None]) -> dict[str, Quantiles]:
    """Return the quantiles of each vector that is not None; all have the same shape (C,), C > 0."""
    vectors = {name: values for name, values in columns.items() if values is not None}
    ordered = np.sort(np.stack(list(vectors.values())), axis=1)  # (columns, C)
    ordered[np.isnan(ordered[:, -1])] = np.nan  # NaN is sorted after all numbers
    values = ordered[:, [int(level * (ordered.shape[1] - 1)) for level in LEVELS]].tolist()  # (columns, levels)
    return {name: Quantiles(*row) for name, row in zip(vectors, values, strict=True)}


def median(values: Vector) -> float:
    """Return the middle value, the upper of two; NaN if there are no values."""
    return float(np.sort(values)[values.size // 2]) if values.size else math.nan
