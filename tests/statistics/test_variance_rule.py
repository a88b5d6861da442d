"""`statistics.variance_rule`: the effect of a variance in a guard, not its sign."""

from __future__ import annotations

import numpy as np
import pytest

from bnorm.batchnorm.epsilon import RUNTIMES, Epsilon
from bnorm.statistics.variance_rule import RESIDUE, is_bad, is_impossible, is_residue, is_subtracted, root


@pytest.mark.parametrize(
    ("variance", "bad", "subtracted", "impossible"),
    [
        (1.0, False, False, False),
        (0.0, False, False, False),
        (7e-44, False, False, False),
        (-7e-44, False, False, False),
        (-1e-12, False, False, False),
        (-1e-8, False, False, False),
        (-2e-8, True, True, False),
        (-9.99e-6, True, True, False),  # variance − ε: √(v + ε) exists, and gives 30 times the gain
        (-1e-5, True, True, False),
        (-3e-5, True, False, True),
        (-1.0, True, False, True),
        (1e21, False, False, True),
        (np.nan, True, False, False),
        (np.inf, True, False, False),
        (-np.inf, True, False, False),
    ],
)
def test_a_variance_is_judged_by_the_guard_of_darknet(variance, bad, subtracted, impossible):
    values = np.array([variance])
    assert (is_bad(values)[0], is_impossible(values)[0]) == (bad, impossible)
    assert is_subtracted(values)[0] == (subtracted and np.isfinite(variance))


@pytest.mark.parametrize("epsilon", RUNTIMES.values())
def test_a_residue_is_a_thousandth_of_epsilon_inside_the_root_and_nothing_outside(epsilon):
    values = -RESIDUE * epsilon.value * np.array([1e-30, 0.99, 1.01])
    assert is_bad(values, epsilon).tolist() == ([False, False, True] if epsilon.inside else [True, True, True])


def test_a_residue_changes_the_gain_by_less_than_a_thousandth():
    values = np.array([-RESIDUE * 1e-5, 0.0])
    small, zero = Epsilon(1e-5, inside=True).deviation(values)
    assert zero / small - 1 < 1e-3


def test_without_epsilon_a_variance_of_zero_is_bad():
    assert is_bad(np.array([0.0, 1e-30]), Epsilon(0.0, inside=True)).tolist() == [True, False]


def test_the_root_of_a_residue_is_0():
    values = np.array([4.0, 0.0, -7e-44, -1.0])
    assert is_residue(values).tolist() == [False, False, True, False]
    np.testing.assert_array_equal(root(values), [2.0, 0.0, 0.0, np.nan])
