"""`reports.plot` and `bnorm inspect --plot`: the marks in the figure for any values, and a file in each format."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import bnorm
from bnorm.darknet.autodetect import read_model
from bnorm.extras import installation
from bnorm.reports.plot import draw, save
from bnorm.reports.plot_marks import DARK, LIGHT, MARKS, NOTHING, REACH, RED
from support.builders import BN, cfg_source, odd_pair, patch, write_weights
from support.golden import LAYOUTS, MODELS, needs_shared, sample

MAGIC = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}
SCALE, VARIANCE, GAIN, WEIGHTS = range(4)  # the panels from top to bottom
ALIVE = [*range(1, 21)]  # scales of 20 channels


class Drawn(NamedTuple):
    """The marks in a panel: (position, value) pairs, and bars by position, from the lower end to the upper one.

    `texts` are the labels of extremes, `marks` the rows of the panel's legend.
    """

    light: dict[float, tuple[float, float]]
    dark: dict[float, tuple[float, float]]
    ticks: list[tuple[float, float]]
    dots: list[tuple[float, float]]
    crosses: list[tuple[float, float]]
    limits: tuple[float, float]
    texts: list[str]
    marks: list[str]

    def at(self, place: float) -> Drawn:
        """Return the marks at only this position."""
        return self._replace(
            light={x: bar for x, bar in self.light.items() if x == place},
            dark={x: bar for x, bar in self.dark.items() if x == place},
            ticks=[pair for pair in self.ticks if pair[0] == place],
            dots=[pair for pair in self.dots if pair[0] == place],
            crosses=[pair for pair in self.crosses if pair[0] == place],
        )


def drawn(axis) -> Drawn:
    """Read a panel's artists."""
    from matplotlib.colors import to_hex

    lines = {marker: [line for line in axis.lines if line.get_marker() == marker] for marker in "._"}
    bars: dict[str, dict[float, tuple[float, float]]] = {LIGHT: {}, DARK: {}}
    crosses = []
    for artist in axis.collections:
        if hasattr(artist, "get_segments"):
            for (x, low), (_, high) in artist.get_segments():
                bars[to_hex(artist.get_color()[0])][x] = (low, high)
        elif artist.get_offsets().size:
            assert to_hex(artist.get_facecolor()[0]) == RED
            crosses += [tuple(offset) for offset in artist.get_offsets().data.tolist()]
    points = {marker: [pair for line in lines[marker] for pair in line.get_xydata().tolist()] for marker in lines}
    return Drawn(
        light=bars[LIGHT],
        dark=bars[DARK],
        ticks=[tuple(pair) for pair in points["_"]],
        dots=sorted(tuple(pair) for pair in points["."]),
        crosses=sorted(crosses),
        limits=axis.get_ylim(),
        texts=[text.get_text() for text in axis.texts],
        marks=[text.get_text() for text in axis.get_legend().get_texts()] if axis.get_legend() else [],
    )


def twins(folder: Path, **values: list[float]) -> bnorm.Inspection:
    """Two convolutions with 20 normalised channels and these values each, so that layers are drawn and not channels."""
    changes = {(layer, name): dict(enumerate(numbers)) for layer in (0, 1) for name, numbers in values.items()}
    return bnorm.inspect(odd_pair(folder, " | ".join([f"convolutional filters=20 {BN}"] * 2), changes))


@pytest.fixture
def panels(tmp_path):
    """Return the marks for the first of two layers with these values."""
    pytest.importorskip("matplotlib", reason="drawing needs matplotlib")
    return lambda **values: [drawn(axis).at(0) for axis in draw(twins(tmp_path, **values)).axes]


@pytest.fixture
def figure():
    """The figure of a pair of files."""
    pytest.importorskip("matplotlib", reason="drawing needs matplotlib")
    return lambda *paths: draw(bnorm.inspect(read_model(*paths)))


@pytest.fixture
def plot(invoke, tmp_path):
    """Draw these files into a file of this suffix, and return its path."""
    pytest.importorskip("matplotlib", reason="drawing needs matplotlib")

    def run(*arguments: object, suffix: str = ".svg") -> Path:
        path = tmp_path / f"figure{suffix}"
        invoke("inspect", *arguments, "--plot", path, "--force")
        return path

    return run


# --- the marks in the figure ------------------------------------------------------------------------------------------


def test_a_bar_shows_the_quantiles_of_its_layer(panels):
    """Of 20 channels the 10th percentile is the second, as in the statistics: the lower of two values."""
    shown = panels(scales=[-1.0, *ALIVE[:0:-1]])[SCALE]  # in another order; a magnitude is shown
    assert (shown.light, shown.dark) == ({0: (2, 18)}, {0: (5, 15)})
    assert shown.ticks == [(0, 10)]
    assert shown.dots == [(0, 1), (0, 19), (0, 20)]
    assert shown.crosses == []


def test_quantiles_are_those_of_the_statistics(tmp_path):
    pytest.importorskip("matplotlib", reason="drawing needs matplotlib")
    report = twins(tmp_path)
    for axis, name in zip(draw(report).axes, ("scale_magnitude", "rolling_variance", "gain_magnitude"), strict=True):
        expected, shown = report.layers[0].statistics.quantiles[name], drawn(axis).at(0)
        assert shown.light == {0: pytest.approx((expected.q10, expected.q90))}
        assert shown.dark == {0: pytest.approx((expected.q25, expected.q75))}
        assert shown.ticks == [(0, pytest.approx(expected.q50))]


def test_every_panel_has_a_bar_for_every_layer(tmp_path):
    pytest.importorskip("matplotlib", reason="drawing needs matplotlib")
    source = f"convolutional filters=20 {BN} | maxpool | convolutional filters=20 {BN}"
    for axis in draw(bnorm.inspect(odd_pair(tmp_path, source, {}))).axes:
        shown = drawn(axis)
        assert list(shown.light) == list(shown.dark) == [x for x, _ in shown.ticks] == [0, 2]  # at their numbers


def test_a_dead_channel_is_a_cross_at_its_value_in_every_panel(panels):
    scale, variance, gain = panels(scales=[1e-7, *ALIVE[1:]], rolling_variance=[4.0] * 20)
    assert variance.crosses == [(0, 4)]
    assert scale.crosses == [(0, 2)]  # at the edge, where the living channels begin
    assert [x for x, _ in gain.crosses] == [0]
    assert (0, 1) not in scale.dots  # and it is in no bar
    assert min(scale.light[0][0], *(y for _, y in scale.dots)) == 2


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_a_value_that_a_logarithmic_axis_cannot_show_is_a_cross_at_the_bottom(panels, value):
    variance = panels(rolling_variance=[value, *ALIVE[1:]])[VARIANCE]
    assert variance.crosses == [(0, 2)]  # the smallest value shown
    assert variance.light == {0: (3, 18)}  # of 19 channels


def test_the_axis_goes_from_the_smallest_value_to_the_largest(panels):
    low, high = panels(scales=ALIVE)[SCALE].limits
    assert 0.5 < low < 1
    assert 20 < high < 40


def test_a_value_far_from_the_others_is_drawn_at_the_edge(panels):
    shown = panels(scales=[*ALIVE[:-1], 1e9])[SCALE]
    assert max(shown.dots) == (0, pytest.approx(11 * REACH))  # the upper one of two medians
    assert 11 * REACH < shown.limits[1] < 30 * REACH


def test_without_a_living_channel_there_are_crosses_alone(panels):
    shown = panels(scales=[0.0] * 20)[SCALE]
    assert (shown.light, shown.dark, shown.ticks, shown.dots) == ({}, {}, [], [])
    assert shown.crosses == [(0, NOTHING[0])] * 20
    assert shown.limits[0] < NOTHING[0] < NOTHING[1] < shown.limits[1]


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, 0.0, 1e-45, 3e38])
@pytest.mark.parametrize("offset", [36, 68])
def test_any_number_is_drawn_once_in_every_panel(tiny, offset, value):
    """A bar for all four channels, or a cross for each; for a single layer, a bar or a cross for each."""
    pytest.importorskip("matplotlib", reason="drawing needs matplotlib")
    patch(tiny[1], offset, *[value] * 4)
    model = read_model(*tiny)
    for axis in draw(bnorm.inspect(model, weights=True)).axes[:WEIGHTS]:
        shown = drawn(axis)
        assert (len(shown.light), len(shown.crosses)) in ((1, 0), (0, 4))
        assert np.isfinite(shown.limits).all()
    for axis in draw(bnorm.inspect(model, [0], weights=True)).axes:
        shown = drawn(axis)
        assert (len(shown.dark), len(shown.crosses)) in ((4, 0), (0, 4))
        assert np.isfinite(shown.limits).all()


def test_the_figure_has_three_panels_and_a_title(figure):
    made = figure(*sample("digits"))
    assert [axis.get_ylabel() for axis in made.axes] == ["|scale|", "rolling variance", "|gain|"]
    assert made.axes[-1].get_xlabel() == "layer"
    assert made.get_suptitle() == "digits.weights: 80 normalised channels in 3 layers, 0 dead"


def test_dead_channels_are_counted_in_the_title(figure, tiny):
    patch(tiny[1], 36, 0.0, 0.0)
    assert figure(*tiny).get_suptitle().endswith("in 1 layer, 2 dead")


def labelled(*names: str) -> list[str]:
    """Return the legend's text for these marks."""
    return [mark.label for mark in MARKS if mark.name in names]


SPREAD = ("median", "half", "most", "other", "furthest in layers")


def test_the_legend_explains_the_marks_in_use(tmp_path):
    pytest.importorskip("matplotlib", reason="drawing needs matplotlib")
    first, *others = (drawn(axis).marks for axis in draw(twins(tmp_path, scales=ALIVE)).axes)
    assert first == labelled(*SPREAD)
    assert others == [[], []]
    (first, *_) = (drawn(axis).marks for axis in draw(twins(tmp_path, scales=[0, *ALIVE[1:]])).axes)
    assert first == labelled(*SPREAD, "dead")


def test_three_extremes_are_labelled_by_layer_and_channel(tmp_path):
    """The channel of each layer that is furthest from the median, as a ratio, of the three layers that are furthest."""
    pytest.importorskip("matplotlib", reason="drawing needs matplotlib")
    ones = dict(enumerate([1.0] * 20))
    values = [{7: 50.0}, {3: 1.5}, {5: 0.001}, {9: 8.0, 2: 2.0}]
    changes = {(layer, "scales"): ones | numbers for layer, numbers in enumerate(values)}
    model = odd_pair(tmp_path, " | ".join([f"convolutional filters=20 {BN}"] * 4), changes)
    shown = drawn(draw(bnorm.inspect(model)).axes[SCALE])
    assert shown.texts == ["2:5", "0:7", "3:9"]


# --- one layer --------------------------------------------------------------------------------------------------------


@pytest.fixture
def one(tmp_path):
    """The panels of a single layer with 20 channels and these values."""
    pytest.importorskip("matplotlib", reason="drawing needs matplotlib")

    def run(**values: list[float]) -> list[Drawn]:
        changes = {(0, name): dict(enumerate(numbers)) for name, numbers in values.items()}
        model = odd_pair(tmp_path, f"convolutional filters=20 {BN} | convolutional filters=3", changes)
        return [drawn(axis) for axis in draw(bnorm.inspect(model, [0], weights=True)).axes]

    return run


def test_one_layer_has_a_bar_for_each_channel(one):
    shown = one(scales=ALIVE)[SCALE]
    assert {x: high for x, (_, high) in shown.dark.items()} == dict(enumerate(ALIVE))
    assert {low for low, _ in shown.dark.values()} == {shown.limits[0]}
    assert shown.marks == labelled("channel", "furthest")
    assert set(shown.texts) == {"0", "1", "2"}  # 1, 2 and 3 are furthest from 11


def test_a_dead_channel_of_one_layer_is_a_cross(one):
    shown = one(scales=[0.0, *ALIVE[1:]])[SCALE]
    assert shown.crosses == [(0, 2)]
    assert 0 not in shown.dark
    assert "dead (at the bottom: zero, negative or NaN)" in shown.marks


def test_one_layer_shows_its_largest_weights_before_and_after_folding(tmp_path):
    pytest.importorskip("matplotlib", reason="drawing needs matplotlib")
    report = bnorm.inspect(odd_pair(tmp_path, f"convolutional filters=20 {BN}", {}), weights=True)
    shown, filters = drawn(draw(report).axes[WEIGHTS]), report.layers[0].filters[""]
    assert [high for _, high in shown.dark.values()] == pytest.approx(filters.folded)
    assert [y for _, y in shown.ticks] == pytest.approx(filters.largest)
    assert shown.marks == labelled("folded", "stored", "furthest")


def test_the_title_of_one_layer_names_it(tmp_path):
    pytest.importorskip("matplotlib", reason="drawing needs matplotlib")
    report = bnorm.inspect(odd_pair(tmp_path, f"convolutional filters=20 {BN}", {}))
    assert "layer 0 (convolutional)" in draw(report).get_suptitle()
    assert draw(report).axes[-1].get_xlabel() == "channel"


# --- ranges -----------------------------------------------------------------------------------------------------------


def test_the_last_panel_has_the_range_of_every_layer_with_weights():
    pytest.importorskip("matplotlib", reason="drawing needs matplotlib")
    report = bnorm.inspect(read_model(*sample("digits")), weights=True)
    axis = draw(report).axes[WEIGHTS]
    ranges = {layer.layer.index: layer.filters[""].range for layer in report.layers if layer.filters}
    (points,) = (line.get_xydata().tolist() for line in axis.lines if line.get_marker() == "o")
    assert points == [[layer, found.after] for layer, found in ranges.items()]
    assert drawn(axis).light == {layer: tuple(found) for layer, found in ranges.items()}
    assert list(ranges) == [0, 1, 3, 4]  # 4 is not normalised
    widest = sorted(ranges, key=lambda layer: ranges[layer].after, reverse=True)
    assert drawn(axis).texts == [str(layer) for layer in widest[:3]]


def test_a_network_without_normalisation_has_the_panel_of_ranges_alone(tmp_path):
    pytest.importorskip("matplotlib", reason="drawing needs matplotlib")
    model = odd_pair(tmp_path, "convolutional filters=4 | convolutional filters=3", {})
    (axis,) = draw(bnorm.inspect(model, weights=True)).axes
    assert drawn(axis).marks == labelled("range", "widest")


def test_an_infinite_range_is_a_cross_at_the_top(tmp_path):
    """An infinite variance makes the gain 0, but the spread is unknown: the channel is not dead."""
    pytest.importorskip("matplotlib", reason="drawing needs matplotlib")
    changes = {(0, "scales"): {0: 1e-3}, (0, "rolling_variance"): {0: math.inf}}
    model = odd_pair(tmp_path, f"convolutional filters=4 {BN} | convolutional filters=3", changes)
    report = bnorm.inspect(model, weights=True)
    shown = drawn(draw(report).axes[WEIGHTS])
    assert math.isinf(report.layers[0].filters[""].range.after)
    assert [place for place, _ in shown.crosses] == [0]
    assert "infinite: a channel of zeros" in shown.marks


def labels(made) -> dict[int, str]:
    """The positions on the axis of layers that have a label."""
    axis = made.axes[-1]
    return dict(zip(map(int, axis.get_xticks()), (text.get_text() for text in axis.get_xticklabels()), strict=True))


def test_parts_are_named_on_the_axis(figure):
    found = labels(figure(LAYOUTS / "lstm.cfg", LAYOUTS / "lstm.alexeyab.weights"))
    assert [found[position] for position in range(8)] == [f"0 {part}" for part in "wf wi wg wo uf ui ug uo".split()]


@pytest.mark.parametrize(("layers", "step"), [(2, 1), (40, 1), (41, 2), (81, 5), (201, 10)])
def test_the_axis_has_numbers_at_even_steps(figure, tmp_path, layers, step):
    cfg = tmp_path / "net.cfg"
    cfg.write_text(cfg_source("2x4x4", " | ".join([f"convolutional filters=2 {BN}"] * layers)))
    found = labels(figure(cfg, write_weights(cfg, tmp_path / "net.weights")))
    assert found == {number: str(number) for number in range(0, layers, step)}


@needs_shared("models")
def test_a_real_model_has_all_its_layers_in_the_figure():
    pytest.importorskip("matplotlib", reason="drawing needs matplotlib")
    model = MODELS / "yolo-fastest-1.1"
    report = bnorm.inspect(read_model(f"{model}.cfg", f"{model}.weights"))
    shown = drawn(draw(report).axes[SCALE])
    assert len(shown.light) == len(report.statistics)
    assert len(shown.crosses) == report.dead


# --- the file ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [*MAGIC, ".PNG"])
def test_every_format_is_drawn_and_is_the_same_each_time(plot, tiny, suffix):
    first = plot(*tiny, suffix=suffix).read_bytes()
    assert first.startswith(MAGIC[suffix.lower()])
    assert plot(*tiny, suffix=suffix).read_bytes() == first


@pytest.mark.parametrize("value", [1e-45, 3e38])
def test_extreme_numbers_can_be_rendered(plot, tiny, value):
    patch(tiny[1], 68, *[value] * 4)
    assert plot(*tiny, suffix=".png").read_bytes().startswith(MAGIC[".png"])


@pytest.mark.parametrize("name", ["x.gif", "x"])
def test_the_library_refuses_another_suffix_before_it_draws(tiny, tmp_path, name):
    with pytest.raises(ValueError, match=r"\.png, \.svg, \.pdf"):
        save(bnorm.inspect(read_model(*tiny)), tmp_path / name)
    assert not (tmp_path / name).exists()


def test_without_matplotlib_the_extra_is_named(invoke, tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = invoke("inspect", *tiny, "--plot", tmp_path / "x.png", exit_code=1)
    assert result.stderr == f"error: {tmp_path}/x.png: drawing needs matplotlib\n       {installation('matplotlib')}\n"
    assert not (tmp_path / "x.png").exists()


def test_a_network_without_weights_has_nothing_to_draw(invoke, tmp_path):
    cfg = tmp_path / "net.cfg"
    cfg.write_text(cfg_source("2x4x4", "maxpool"))
    weights = write_weights(cfg, tmp_path / "net.weights")
    error = invoke("inspect", cfg, weights, "--plot", tmp_path / "x.png", exit_code=1).stderr
    assert "has nothing to show" in error


def test_a_figure_needs_weights(invoke, tiny, tmp_path):
    assert "--plot needs WEIGHTS" in invoke("inspect", tiny[0], "--plot", tmp_path / "x.png", exit_code=2).stderr


def test_the_ending_names_the_format(invoke, tiny):
    assert ".png, .svg, .pdf" in invoke("inspect", *tiny, "--plot", "x.jpeg", exit_code=2).stderr
