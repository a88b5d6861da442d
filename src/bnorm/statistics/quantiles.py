"""Quantiles of the channels of a part: the one definition that tables, rules and figures use."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bnorm.batchnorm.epsilon import Vector
from bnorm.statistics.channels import LEVELS, Quantiles


def quantiles(columns: Mapping[str, Vector]) -> dict[str, Quantiles]:
    """Return the quantiles of each of some vectors of one shape (C,), C > 0; NaN where any value is NaN."""
    ordered = np.sort(np.stack(list(columns.values())), axis=1)  # (columns, C)
    ordered[np.isnan(ordered[:, -1])] = np.nan  # NaN is sorted after all numbers
    levels = ordered[:, [int(level * (ordered.shape[1] - 1)) for level in LEVELS]].tolist()
    return {name: Quantiles(*row) for name, row in zip(columns, levels, strict=True)}
