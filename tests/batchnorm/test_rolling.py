"""Moments that are merged, and the three rules of rolling statistics, against NumPy and PyTorch in float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnorm.batchnorm.arithmetic import ARITHMETICS
from bnorm.batchnorm.engine import MEMORY, Normalisation, batch_moments, run_batch
from bnorm.batchnorm.formulas import Parameters, PartialMoments, Rolling
from bnorm.batchnorm.rolling import Estimator, merge, rolling_rule
from bnorm.batchnorm.threads import Team
from bnorm.tensors.tensor import MemoryTensor

CHANNELS = 3
PAPER = ARITHMETICS["paper"]

TOLERANCE = 1e-12  # relative: some hundred additions in float64 (2⁻⁵³ each), in another order than the oracle's


def plain(x: np.ndarray) -> PartialMoments:
    """Moments of x, (N, C, H, W), by the formulas as they are written, in float64."""
    axes = (0, 2, 3)
    mean = x.mean(axes, dtype="f8")
    m2 = ((x.astype("f8") - mean[:, None, None]) ** 2).sum(axes)
    return PartialMoments(count=x.size // CHANNELS, mean=mean, m2=m2)


def batches(sizes, seed: int = 0, mean: float = 0.0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(mean + number, 1 + number % 3, (size, CHANNELS, 4, 5)) for number, size in enumerate(sizes)]


def estimated(rule: str, parts: list[np.ndarray], keep: float = 0.9, first: float = 0.25) -> Rolling:
    start = Rolling(np.full(CHANNELS, first), np.full(CHANNELS, 1 + first))
    estimator = Estimator(start, rolling_rule(rule, keep, PAPER), PAPER)
    for part in parts:
        estimator.add(plain(part))
    return estimator.rolling


@given(st.lists(st.integers(1, 9), min_size=2, max_size=7), st.floats(-1e3, 1e3), st.integers(0, 99))
def test_merged_moments_are_those_of_all_values_together(sizes, mean, seed):
    parts = batches(sizes, seed, mean)
    found = plain(parts[0])
    for part in parts[1:]:
        found = merge(found, plain(part))
    expected = plain(np.concatenate(parts))
    assert found.count == expected.count
    np.testing.assert_allclose(found.mean, expected.mean, rtol=TOLERANCE, atol=1e-12)
    np.testing.assert_allclose(found.m2, expected.m2, rtol=TOLERANCE)


def test_merging_is_chans_formula_with_its_roundings():
    a, b = (plain(part) for part in batches([2, 3]))
    found, n = merge(a, b), a.count + b.count
    difference = b.mean - a.mean
    assert found.mean.tolist() == (a.mean + difference * (b.count / n)).tolist()
    assert found.m2.tolist() == (a.m2 + b.m2 + difference * difference * (a.count * b.count / n)).tolist()


def test_a_channel_that_is_not_finite_leaves_the_others_alone():
    parts = batches([2, 3, 2])
    parts[1][0, 1, 0, 0] = np.nan
    with np.errstate(all="raise"):  # NaN of a file is not worth a warning
        found = estimated("population", parts)
    assert np.isfinite(found.mean).tolist() == np.isfinite(found.variance).tolist() == [True, False, True]


def test_population_is_mean_and_variance_of_all_values_by_numpy():
    parts = batches([2, 9, 1, 4], mean=5)
    found, everything = estimated("population", parts), np.concatenate(parts)
    np.testing.assert_allclose(found.mean, everything.mean((0, 2, 3)), rtol=TOLERANCE)
    np.testing.assert_allclose(found.variance, everything.var((0, 2, 3)), rtol=TOLERANCE)


def test_average_leaves_out_the_variance_of_the_means():
    parts = batches([4, 4, 4, 4])
    average, population = estimated("average", parts), estimated("population", parts)
    count, means = parts[0].size // CHANNELS, np.array([plain(part).mean for part in parts])
    expected = average.variance * (count - 1) / count + means.var(0)
    np.testing.assert_allclose(population.variance, expected, rtol=TOLERANCE)


@pytest.mark.parametrize(("rule", "momentum"), [("ema", 0.1), ("average", None)])
def test_pytorch_agrees(rule, momentum):
    torch = pytest.importorskip("torch")
    parts = batches([4, 2, 7, 3, 3])
    layer = torch.nn.BatchNorm2d(CHANNELS, momentum=momentum, dtype=torch.float64)
    layer.running_mean.fill_(0.25)
    layer.running_var.fill_(1.25)
    for part in parts:
        layer(torch.from_numpy(part))
    found = estimated(rule, parts)
    np.testing.assert_allclose(found.mean, layer.running_mean.numpy(), rtol=TOLERANCE)
    np.testing.assert_allclose(found.variance, layer.running_var.numpy(), rtol=TOLERANCE)


SHAPES = [(2, 1), (700, 3), (3, 3, 20, 21), (1, 3, 300, 301), (9, 5, 3, 5)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_moments_alone_are_the_bits_of_a_run_in_training(shape, offset):
    x = (np.random.default_rng(1).normal(0, 1, shape) + offset).astype("f4")
    ones, zeros = np.ones(shape[1]), np.zeros(shape[1])
    layer = Normalisation(Parameters(ones, zeros), Rolling(zeros, ones), PAPER, train=True)
    with Team(2) as team:
        whole = run_batch(layer, MemoryTensor(x), None, {"y": MemoryTensor(np.empty_like(x))}, team).moments
        for memory in (MEMORY, 1 << 14):
            alone = batch_moments(MemoryTensor(x), team, memory)
            assert whole is not None
            assert alone.count == whole.count
            assert alone.mean.tobytes() == whole.mean.tobytes()
            assert alone.m2.tobytes() == whole.m2.tobytes()


def test_an_unknown_rule_is_named_with_those_that_there_are():
    with pytest.raises(ValueError, match="'sum', expected one of ema, average, population"):
        rolling_rule("sum", 0.9, PAPER)
