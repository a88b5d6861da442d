"""`statistics.quantiles` against NumPy's."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bnorm.statistics.quantiles import LEVELS, Quantiles, median, quantiles


@pytest.mark.parametrize("size", [1, 2, 3, 8, 101])
def test_a_quantile_is_the_lower_of_two_values(size):
    rng = np.random.default_rng(size)
    columns = {"a": rng.normal(size=size), "b": rng.normal(size=size)}
    found = quantiles(columns)
    assert list(found) == ["a", "b"]
    for name, column in columns.items():
        assert found[name] == Quantiles(*np.quantile(column, LEVELS, method="lower"))


def test_a_column_with_nan_has_none_and_leaves_the_others_alone():
    found = quantiles({"a": np.array([1.0, math.nan]), "b": np.array([2.0, 1.0])})
    assert all(math.isnan(value) for value in found["a"])
    assert (found["b"].low, found["b"].high) == (1, 2)


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_the_median_is_the_middle_value(size):
    values = np.random.default_rng(size).permutation(size).astype("f8")
    assert median(values) == size // 2


def test_nothing_has_no_median():
    assert math.isnan(median(np.zeros(0)))
