"""`batchnorm.epsilon` and the rows of `batchnorm.arithmetic`: what a name means, and what is refused."""

from __future__ import annotations

import math

import pytest

from bnorm.batchnorm.arithmetic import ARITHMETICS, arithmetic_by_name, default_epsilon
from bnorm.batchnorm.epsilon import RUNTIMES, Epsilon, as_epsilon, parse_epsilon
from bnorm.darknet.dialects import DIALECTS


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_runtime_is_its_row(name):
    assert parse_epsilon(name) == as_epsilon(name) == RUNTIMES[name]


@pytest.mark.parametrize(
    ("text", "value", "inside"),
    [
        *[("1e-5", 1e-5, True), ("1E-2:outside", 0.01, False), ("0.5:inside", 0.5, True), ("0", 0, True)],
        *[(".5", 0.5, True), ("5.", 5, True), ("1e+2", 100, True)],
    ],
)
def test_a_value_is_inside_the_root_unless_it_says_outside(text, value, inside):
    assert parse_epsilon(text) == Epsilon(value, inside)


@pytest.mark.parametrize(
    "text",
    [
        *["", ".", "e5", ".e5", "-1", "+1", "nan", "inf", "1e999", "1e-5:", "1e-5:root", "opencv:inside", "OpenCV"],
        *["1" * 41, "1_0", "1 ", "0x1", "²", "darknet\n"],
    ],
)
def test_anything_else_is_a_value_error_that_lists_the_names(text):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - what it says follows
        parse_epsilon(text)
    assert all(name in str(caught.value) for name in RUNTIMES)


def test_an_epsilon_is_itself_and_a_bare_number_is_refused():
    assert as_epsilon(Epsilon(1e-3, inside=False)) == Epsilon(1e-3, inside=False)
    with pytest.raises(TypeError, match="expected an Epsilon or text"):
        as_epsilon(1e-5)  # inside or outside?


@pytest.mark.parametrize("value", [-1e-5, math.nan, math.inf])
def test_an_epsilon_without_a_use_is_refused(value):
    """Folded, a negative or infinite one would leave NaN or zeros in the weights."""
    with pytest.raises(ValueError, match="expected a finite value"):
        as_epsilon(Epsilon(value, inside=True))


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_default_epsilon_of_a_dialect_is_its_cpu_path_s(dialect):
    assert default_epsilon(dialect) == RUNTIMES["pjreddie-cpu" if dialect == "pjreddie" else "darknet"]


def test_an_unknown_arithmetic_is_a_value_error_that_lists_the_names():
    with pytest.raises(ValueError, match="tensorflow") as caught:
        arithmetic_by_name("tensorflow")
    assert all(name in str(caught.value) for name in ARITHMETICS)
