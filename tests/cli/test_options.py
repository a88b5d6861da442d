"""The types of arguments (bnorm.cli.options)."""

from __future__ import annotations

import math
from pathlib import Path

import click
import pytest

from bnorm.batchnorm.epsilon import RUNTIMES, Epsilon
from bnorm.cli import main, options
from bnorm.cli.options import LayerPart, Sorting
from bnorm.darknet.autodetect import read_model


@pytest.mark.parametrize(
    ("text", "layers"),
    [
        ("3", [range(3, 4)]),
        ("0-12", [range(13)]),
        ("7-7", [range(7, 8)]),
        ("007", [range(7, 8)]),
        ("5,18", [range(5, 6), range(18, 19)]),
        ("0-2,9,4-5", [range(3), range(9, 10), range(4, 6)]),
    ],
)
def test_layer_ranges(text, layers):
    assert list(options.layer_ranges(text)) == layers


@pytest.mark.parametrize(
    "text", ["", "-1", "3-", "-", "5-3", "a", "1-2-3", "٣", "9" * 10, "3 ", "3\n", ",", "1,", ",1", "1, 2", "1,2-"]
)
def test_layer_ranges_refuses(text):
    with pytest.raises(click.BadParameter):
        options.layer_ranges(text)


@pytest.mark.parametrize("command", [["inspect"], ["fold", "--dry-run"]], ids=lambda words: words[0])
def test_a_list_of_layers_is_their_union(invoke, tiny, command):
    name, *others = command
    arguments = (name, *tiny, *others, "--format", "csv")
    assert invoke(*arguments, "--layer", "0,1").stdout == invoke(*arguments, "--layer", "0-1").stdout
    invoke(*arguments, "--layer", "0,2", exit_code=2)


@pytest.mark.parametrize(
    ("given", "output", "chosen"),
    [
        (None, None, "table"),
        (None, "report", "table"),
        (None, "report.txt", "table"),
        (None, "report.json", "json"),
        (None, "report.CSV", "csv"),
        (None, "report.md", "markdown"),
        (None, "report.markdown", "markdown"),
        ("table", "report.csv", "table"),
        ("json", None, "json"),
    ],
)
def test_the_suffix_decides_the_format_where_none_is_given(given, output, chosen):
    assert options.report_format(given, Path(output) if output else None) == chosen


@pytest.mark.parametrize(
    ("text", "part"), [("12", LayerPart(12, "")), ("3.wf", LayerPart(3, "wf")), ("3.a.b", LayerPart(3, "a.b"))]
)
def test_layer_part(text, part):
    assert options.layer_part(text) == part


@pytest.mark.parametrize("text", ["", "wf", "-1", ".wf", "3wf", "3.wf\n"])
def test_layer_part_refuses(text):
    with pytest.raises(click.BadParameter):
        options.layer_part(text)


def test_shape():
    assert options.shape("8,32,208,208") == (8, 32, 208, 208)
    assert options.shape("5") == (5,)


@pytest.mark.parametrize("text", ["", "8,", "8,-1", "8x32", "1.5", ",".join("1" * 11), "1" * 16])
def test_shape_refuses(text):
    with pytest.raises(click.BadParameter):
        options.shape(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [("256MiB", 256 << 20), ("1G", 1 << 30), ("1gb", 1 << 30), ("16777216", 16 << 20), (" 64 mb ", 64 << 20), ("0", 0)],
)
def test_memory_size(text, size):
    assert options.memory_size(text) == size


@pytest.mark.parametrize("text", ["", "much", "-1G", "1.5G", "1PiB"])
def test_memory_size_refuses(text):
    with pytest.raises(click.BadParameter):
        options.memory_size(text)


@pytest.mark.parametrize(
    ("text", "sorting"),
    [("gain", Sorting("gain", False)), ("Gain:ASC", Sorting("gain", True)), ("gain:desc", Sorting("gain", False))],
)
def test_sorting(text, sorting):
    assert options.sorting(text) == sorting


@pytest.mark.parametrize("text", ["gain:", "gain:up", "gain:asc:desc"])
def test_sorting_refuses(text):
    with pytest.raises(click.BadParameter):
        options.sorting(text)


@pytest.mark.parametrize(
    ("text", "value", "inside"),
    [
        ("1e-5", 1e-5, True),
        ("1E-5:outside", 1e-5, False),
        ("0", 0.0, True),
        (".5:inside", 0.5, True),
        ("5.", 5.0, True),
    ],
)
def test_epsilon_by_value(text, value, inside):
    assert options.epsilon(text) == Epsilon(value, inside=inside)


@pytest.mark.parametrize("name", RUNTIMES)
def test_epsilon_by_name(name):
    assert options.epsilon(name) == RUNTIMES[name]


@pytest.mark.parametrize(
    "text",
    ["", ".", "e5", "-1e-5", "nan", "inf", "1e999", "1e-5:", "1e-5:beside", "1e-5:OUTSIDE", "torch", ":inside", "1e"],
)
def test_epsilon_refuses(text):
    with pytest.raises(click.BadParameter):
        options.epsilon(text)


def test_no_value_of_epsilon_is_infinite():
    assert math.isfinite(options.epsilon("1e308").value)


def test_selection_is_the_union_of_the_ranges(tiny):
    model = read_model(*tiny)
    assert options.selection((range(1), range(2)), model) == {0, 1}
    assert options.selection((), model) is None


def test_selection_refuses_layers_that_the_network_lacks(tiny):
    with pytest.raises(click.BadParameter):
        options.selection((range(1, 3),), read_model(*tiny))


@pytest.mark.parametrize("option", ["--layer=x", "--epsilon=torch", "--sort=gain:up"])
def test_a_refused_value_names_its_option(invoke, tiny, option):
    name, _, _ = option.partition("=")
    assert f"'{name}'" in invoke("inspect", *tiny, option, exit_code=2).stderr


TWICE = [
    (name, parameter)
    for name in main.list_commands(None)
    for parameter in main.get_command(None, name).params
    if isinstance(parameter, click.Option) and options.takes_one_value(parameter)
]


@pytest.mark.parametrize(("name", "option"), TWICE, ids=lambda value: getattr(value, "name", value))
def test_an_option_of_one_value_is_refused_twice(invoke, name, option):
    flag = max(option.opts, key=len)
    error = invoke(name, "a", flag, "1", flag, "2", exit_code=2).stderr
    assert error.startswith(f"error: {flag} is given 2 times")
