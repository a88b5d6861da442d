"""bnorm from Python: what `batch_normalize` gives, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

import bnorm
from support import oracle

SHAPE = (4, 3, 5, 6)


def layer(channels: int = 3) -> tuple[bnorm.Parameters, bnorm.Rolling]:
    steps = np.arange(1.0, channels + 1)
    return bnorm.Parameters(steps, -steps), bnorm.Rolling(steps / 2, steps**2)


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(0).normal(1, 2, SHAPE).astype("f4")


@pytest.mark.parametrize("train", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("name", oracle.NAMES)
def test_every_result_is_that_of_the_formula(x, name, train):
    parameters, rolling = layer()
    found = bnorm.batch_normalize(x, parameters, rolling, arithmetic=name, train=train, delta=x[::-1])
    wanted = oracle.step(name, x, x[::-1], *parameters, *rolling, train, oracle.kept(name))
    np.testing.assert_allclose(found.y, wanted["y"], rtol=1e-6, atol=1e-6)  # float32, rounded once
    np.testing.assert_allclose(found.dx, wanted["dx"], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found.gradients.scale_updates, wanted["scale_updates"], rtol=1e-9)  # float64
    assert (found.moments is not None) == train
    if train:
        np.testing.assert_allclose(found.rolling.variance, wanted["rolling_variance"], rtol=1e-12)


def test_channels_may_stand_last(x):
    first = bnorm.batch_normalize(x, *layer(), train=True)
    last = bnorm.batch_normalize(np.moveaxis(x, 1, -1), *layer(), train=True, layout="nhwc")
    assert np.array_equal(np.moveaxis(last.y, -1, 1), first.y)


def test_a_rule_moves_the_rolling_statistics(x):
    rolling = bnorm.batch_normalize(x, *layer(), train=True, rule=lambda old, _moments, _number: old).rolling
    assert np.array_equal(rolling.mean, layer()[1].mean)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arithmetic": "torch"}, "expected an arithmetic of pjreddie"),
        ({"layout": "chwn"}, "a layout of nchw, nhwc"),
        ({"threads": 0}, "threads=0, expected at least 1"),
        ({"x": np.zeros(SHAPE, "i4")}, "an array of int32, expected float16"),
        ({"delta": np.zeros((4, 3, 5, 7), "f4")}, r"delta has the shape \(4, 3, 5, 7\)"),
        ({"delta": np.zeros(SHAPE, complex)}, "an array of complex128"),
        ({"parameters": layer(4)[0]}, "expected 3 values in each vector"),
        ({"rolling": layer(2)[1]}, "expected 3 values in each vector"),
        ({"x": np.zeros((1, 3), "f4"), "train": True}, "one value per channel has no variance"),
        ({"x": np.zeros((0, 3), "f4")}, "none of them 0"),
    ],
)
def test_what_does_not_fit_is_a_value_error(x, changes, message):
    parameters, rolling = layer()
    with pytest.raises(ValueError, match=message):
        bnorm.batch_normalize(**{"x": x, "parameters": parameters, "rolling": rolling} | changes)
