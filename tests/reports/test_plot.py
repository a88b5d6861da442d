"""`bnorm inspect --plot`: a figure in each format, of any numbers."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest

from support.builders import cfg_source, patch, write_weights
from support.golden import LAYOUTS, MODELS, needs_shared

MAGIC = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}


@pytest.fixture
def plot(invoke, tmp_path):
    """Draw these files into a file of this suffix; its path."""
    pytest.importorskip("matplotlib", reason="drawing needs matplotlib")

    def run(*arguments: object, suffix: str = ".svg") -> Path:
        path = tmp_path / f"figure{suffix}"
        invoke("inspect", *arguments, "--plot", path)
        return path

    return run


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [*MAGIC, ".PNG"])
def test_every_format_is_drawn_and_is_the_same_each_time(plot, tiny, suffix):
    first = plot(*tiny, suffix=suffix).read_bytes()
    assert first.startswith(MAGIC[suffix.lower()])
    assert plot(*tiny, suffix=suffix).read_bytes() == first


def test_the_figure_has_three_panels_and_a_title(plot, tiny):
    """The words stand in an SVG's comments."""
    text = plot(*tiny).read_text()
    words = ["|scale|", "rolling variance", "|gain|", "layer", "tiny.weights: 4 normalised channels in 1 layer, 0 dead"]
    for word in words:
        assert f"<!-- {word} -->" in text


@pytest.mark.slow
@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, 0.0, 1e-45, 3e38])
@pytest.mark.parametrize("offset", [36, 68])
def test_any_number_can_be_drawn(plot, tiny, offset, value):
    patch(tiny[1], offset, *[value] * 4)
    assert plot(*tiny, suffix=".png").stat().st_size > 1000


def test_dead_channels_are_counted_in_the_title(plot, tiny):
    patch(tiny[1], 36, 0.0, 0.0)
    assert "in 1 layer, 2 dead" in plot(*tiny).read_text()


def test_parts_are_named_on_the_axis(plot):
    text = plot(LAYOUTS / "lstm.cfg", LAYOUTS / "lstm.alexeyab.weights").read_text()
    assert all(f"<!-- 0 {part} -->" in text for part in ("wf", "ui", "uo"))


@pytest.mark.slow
@pytest.mark.parametrize("layers", [1, 41, 120])
def test_labels_of_many_layers_are_thinned_out(plot, tmp_path, layers):
    cfg = tmp_path / "net.cfg"
    cfg.write_text(cfg_source("2x4x4", " | ".join(["convolutional filters=2 batch_normalize=1"] * layers)))
    text = plot(cfg, write_weights(cfg, tmp_path / "net.weights")).read_text()
    step = -(-layers // 40)
    far = range(21, layers)  # lower numbers label the other axes, too
    assert [number for number in far if f"<!-- {number} -->" in text] == [n for n in far if n % step == 0]


@pytest.mark.slow
@needs_shared("models")
def test_a_real_model_is_drawn(plot):
    model = MODELS / "yolo-fastest-1.1"
    assert plot(f"{model}.cfg", f"{model}.weights", suffix=".png").stat().st_size > 50_000


def test_without_matplotlib_the_extra_is_named(invoke, tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = invoke("inspect", *tiny, "--plot", tmp_path / "x.png", exit_code=1)
    assert result.stderr == f"error: {tmp_path}/x.png: drawing needs matplotlib: install bnorm[plot]\n"
    assert not (tmp_path / "x.png").exists()


def test_a_network_without_batch_normalisation_has_nothing_to_draw(invoke, tmp_path):
    cfg = tmp_path / "net.cfg"
    cfg.write_text(cfg_source("2x4x4", "convolutional filters=2"))
    weights = write_weights(cfg, tmp_path / "net.weights")
    error = invoke("inspect", cfg, weights, "--plot", tmp_path / "x.png", exit_code=1).stderr
    assert "has nothing to show" in error


def test_a_figure_needs_weights(invoke, tiny, tmp_path):
    assert "--plot needs WEIGHTS" in invoke("inspect", tiny[0], "--plot", tmp_path / "x.png", exit_code=2).stderr


def test_the_ending_names_the_format(invoke, tiny):
    assert ".png, .svg, .pdf" in invoke("inspect", *tiny, "--plot", "x.jpeg", exit_code=2).stderr
