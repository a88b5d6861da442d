"""bnorm from Python: what `batch_normalize` gives, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

import bnorm
from bnorm.batchnorm.arithmetic import ARITHMETICS, arithmetic_by_name
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


def test_a_rule_has_a_name(x):
    parameters, rolling = layer()
    found = bnorm.batch_normalize(x, parameters, rolling, train=True, rule="average")
    np.testing.assert_array_equal(found.rolling.mean, found.moments.mean)
    np.testing.assert_array_equal(found.rolling.variance, found.moments.unbiased)
    named, default = (
        bnorm.batch_normalize(x, parameters, rolling, train=True, **rule) for rule in ({"rule": "ema"}, {})
    )
    np.testing.assert_array_equal(named.rolling.variance, default.rolling.variance)


def test_a_result_prints_as_one_short_line(x):
    text = repr(bnorm.batch_normalize(x, *layer(), train=True, delta=x))
    assert text == "<Result: y float32 (4, 3, 5, 6), dx, moments, gradients, rolling>"


WRONG = {
    "rule": ({"rule": "mean"}, ["mean", "ema", "average"]),
    "no rule": ({"rule": 3}, ["3", "ema", "average"]),
    "arithmetic": ({"arithmetic": "tensorflow"}, ["tensorflow", *ARITHMETICS]),
    "layout": ({"layout": "chwn"}, ["chwn", "nchw", "nhwc"]),
    "threads": ({"threads": 0}, ["threads=0"]),
    "integers": ({"x": np.zeros(SHAPE, "i4")}, ["x ", "int32", "float16"]),
    "big-endian": ({"x": np.zeros(SHAPE, ">f4")}, ["x ", ">f4"]),
    "objects": ({"x": np.zeros(SHAPE, object)}, ["x ", "object"]),
    "shape of x": ({"x": np.zeros((0, 3), "f4")}, ["x ", "(0, 3)"]),
    "shape of delta": ({"delta": np.zeros((4, 3, 5, 7), "f4")}, ["delta ", "(4, 3, 5, 7)", str(SHAPE)]),
    "complex delta": ({"delta": np.zeros(SHAPE, complex)}, ["delta ", "complex128"]),
    "scales": ({"parameters": layer(4)[0]}, ["scales ", "(4,)", "(3,)"]),
    "complex biases": ({"parameters": bnorm.Parameters(np.ones(3), np.ones(3, complex))}, ["biases ", "complex128"]),
    "rolling": ({"rolling": layer(2)[1]}, ["rolling mean ", "(2,)", "(3,)"]),
    "one value": ({"x": np.zeros((1, 3), "f4"), "train": True}, ["x "]),
}


@pytest.mark.parametrize("case", WRONG)
def test_an_argument_without_meaning_is_a_value_error_that_names_it(x, case):
    changes, words = WRONG[case]
    parameters, rolling = layer()
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - what it says follows
        bnorm.batch_normalize(**{"x": x, "parameters": parameters, "rolling": rolling} | changes)
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize("arguments", [layer()[::-1], (layer()[0], tuple(layer()[1])), (tuple(layer()[0]), layer()[1])])
def test_parameters_and_rolling_cannot_be_swapped(x, arguments):
    with pytest.raises(TypeError, match=r"expected a (Parameters|Rolling)"):
        bnorm.batch_normalize(x, *arguments)


def test_x_and_delta_are_not_modified(x):
    before = x.copy()
    bnorm.batch_normalize(x, *layer(), train=True, delta=x)
    assert np.array_equal(x, before)


@pytest.mark.parametrize(
    ("name", "guards"), [("paper", [0.5] * 3), ("torch", [0.5] * 3), ("alexeyab", [0.5, 1e-5, 1e-5])]
)
def test_epsilon_replaces_the_forward_guard_and_all_of_the_paper(name, guards):
    row = arithmetic_by_name(name, bnorm.Epsilon(0.5, inside=True))
    assert [guard.value for guard in (row.forward, row.backward, row.direct)] == guards


def test_epsilon_is_an_argument():
    x = np.random.default_rng(0).normal(0, 1e-3, (8, 2, 3, 3))
    layer = bnorm.Parameters(np.ones(2), np.zeros(2)), bnorm.Rolling(np.zeros(2), np.full(2, 1e-6))
    for epsilon in (bnorm.Epsilon(1e-3, inside=True), "keras"):
        y = bnorm.batch_normalize(x, *layer, epsilon=epsilon).y
        np.testing.assert_allclose(y, x / np.sqrt(1e-6 + 1e-3))
    with pytest.raises(ValueError, match="opencv"):
        bnorm.batch_normalize(x, *layer, epsilon="pytorch")
