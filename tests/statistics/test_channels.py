"""`statistics.channels` against a recomputation from the file's bytes, in float64 and one channel at a time."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

import bnorm
from bnorm.batchnorm.epsilon import Epsilon
from bnorm.darknet.autodetect import read_model
from bnorm.reports.inspect import Inspection, channel_rows
from bnorm.statistics.channel_state import DEAD_BELOW, NEAR_DEAD, SELDOM
from bnorm.statistics.channels import Channels, above_zero
from support.builders import cfg_source, write_weights
from support.golden import LAYOUTS, SHARED, Golden, needs_shared
from support.oracle import EXACT

SUMMED = 1e-12  # sums of at most 10^5 squares in float64, in another order


def report(cfg: Path, weights: Path, dialect: str = "auto", **options) -> Inspection:
    return bnorm.inspect(read_model(cfg, weights, dialect), weights=True, **options)


def filters(case: Golden, layer: int, weights: np.ndarray, channels: int) -> np.ndarray:
    """The weights of each channel, (C, -1), from an array as the file holds it."""
    section = read_model(case.cfg, None, case.dialect).network.layers[layer].section
    if section.type == "deconvolutional":
        windows = weights.reshape(-1, channels, section.integer("size", 1) ** 2)
        return windows.swapaxes(0, 1).reshape(channels, -1)
    return weights.reshape(channels, -1)


def expected_rows(case: Golden) -> list[tuple]:
    """Every normalised channel, by the formulas, from the bytes."""
    data = case.weights.read_bytes()
    stored: dict[tuple[int, str], dict[str, np.ndarray]] = {}
    for row in case.arrays:
        part, _, field = row["name"].rpartition(".")
        values = np.frombuffer(data, "<f4", row["count"], row["offset"]).astype("f8")
        stored.setdefault((row["layer"], part), {})[field] = values
    return [
        row
        for (layer, part), arrays in stored.items()
        if "rolling_variance" in arrays
        for row in channel_by_channel(case, layer, part, arrays)
    ]


def channel_by_channel(case: Golden, layer: int, part: str, arrays: dict[str, np.ndarray]) -> list[tuple]:
    count = arrays["scales"].size
    weights = filters(case, layer, arrays["weights"], count) if "weights" in arrays else [None] * count
    biases = arrays.get("biases", np.zeros(count))
    rows = []
    for channel in range(count):
        scale, mean, variance = (arrays[name][channel] for name in ("scales", "rolling_mean", "rolling_variance"))
        deviation = math.sqrt(variance) + 1e-6 if case.dialect == "pjreddie" else math.sqrt(variance + 1e-5)
        gain = scale / deviation
        own = weights[channel]
        sizes = (None,) * 3
        if own is not None:
            largest = max(map(abs, own))
            sizes = (math.sqrt(math.fsum(value * value for value in own)), largest, largest * abs(gain))
        share = 0.5 * math.erfc(-biases[channel] / (abs(scale) * math.sqrt(2)))
        line = (scale, biases[channel], mean, variance, gain, biases[channel] - mean * gain)
        rows.append((layer, part, channel, *line, *sizes, share))
    return rows


def test_every_channel_agrees_with_the_formulas(layout_case: Golden):
    """On every network of the reference data, parts of recurrent layers and [batchnorm] among them."""
    found = channel_rows(report(layout_case.cfg, layout_case.weights, layout_case.dialect).layers)
    expected = expected_rows(layout_case)
    assert [row[:3] for row in found] == [row[:3] for row in expected]
    for row, other in zip(found, expected, strict=True):
        for value, number in zip(row[3:13], other[3:], strict=True):
            assert value == (number if number is None else pytest.approx(number, rel=EXACT))


@needs_shared("models")
@pytest.mark.parametrize("name", ["yolo-fastest-1.1", "yolo-fastest-1.1-xl"])
def test_the_channels_of_a_real_model_agree_with_the_formulas(name):
    model = SHARED / "models" / name
    found = channel_rows(report(model.with_name(f"{name}.cfg"), model.with_name(f"{name}.weights")).layers)
    plan = read_model(model.with_name(f"{name}.cfg"), None, "alexeyab").layout
    data = model.with_name(f"{name}.weights").read_bytes()
    values = {
        (array.layer, array.name): np.frombuffer(data, "<f4", array.size, array.offset).astype("f8")
        for array in plan.arrays
    }
    expected = []
    for layer, field in values:
        if field == "scales":
            scales, biases, mean, variance, weights = (
                values[layer, other] for other in ("scales", "biases", "rolling_mean", "rolling_variance", "weights")
            )
            gain = scales / np.sqrt(variance + 1e-5)
            weights = weights.reshape(scales.size, -1)
            largest = abs(weights).max(axis=1)
            norm = np.sqrt((weights**2).sum(axis=1))
            columns = (scales, biases, mean, variance, gain, biases - mean * gain, norm, largest, largest * abs(gain))
            expected.append(np.stack(columns, axis=1))
    np.testing.assert_allclose([row[3:12] for row in found], np.concatenate(expected), rtol=SUMMED)


@pytest.mark.parametrize("dialect", ["pjreddie", "alexeyab", "hank"])
@pytest.mark.parametrize("options", ["flipped=1", ""])
def test_a_flipped_matrix_has_its_channels_in_columns(tmp_path, dialect, options):
    cfg = tmp_path / "net.cfg"
    cfg.write_text(cfg_source("3x8x8", f"convolutional filters=5 size=3 batch_normalize=1 {options}"))
    weights = write_weights(cfg, tmp_path / "net.weights", dialect)
    stored = np.fromfile(weights, "<f4", offset=20)[20:].astype("f8")
    own = stored.reshape(-1, 5).T if options else stored.reshape(5, -1)
    found = channel_rows(report(cfg, weights, dialect).layers)
    assert [row.weight_norm for row in found] == pytest.approx(np.linalg.norm(own, axis=1), rel=SUMMED)
    assert [row.weight_max for row in found] == pytest.approx(abs(own).max(axis=1), rel=EXACT)


def test_weights_of_several_blocks_are_measured_as_a_whole(tmp_path):
    """Transposed, so that every block holds some weights of every channel: 300 inputs of 2000 channels."""
    cfg = tmp_path / "net.cfg"
    cfg.write_text(cfg_source("300", "connected output=2000 batch_normalize=1"))
    weights = write_weights(cfg, tmp_path / "net.weights")
    data = bytearray(weights.read_bytes())
    data[4:8] = (1001).to_bytes(4, "little")
    weights.write_bytes(data)
    own = np.fromfile(weights, "<f4", offset=20)[2000 : 2000 + 600_000].astype("f8").reshape(300, 2000)
    found = channel_rows(report(cfg, weights, "alexeyab").layers)
    assert [row.weight_norm for row in found] == pytest.approx(np.linalg.norm(own, axis=0), rel=SUMMED)
    assert [row.weight_max for row in found] == pytest.approx(abs(own).max(axis=0), rel=EXACT)


def test_no_weights_are_read_unless_requested(tiny):
    rows = channel_rows(bnorm.inspect(read_model(*tiny)).layers)
    assert {row[9:12] for row in rows} == {(None, None, None)}
    assert all(row.above_zero is not None for row in rows)


def test_another_epsilon_gives_other_gains(tiny):
    (plain, *_), (keras, *_) = (
        channel_rows(report(*tiny, "alexeyab", epsilon=epsilon).layers)
        for epsilon in (None, Epsilon(1e-3, inside=False))
    )
    assert plain.gain == pytest.approx(plain.scale / math.sqrt(plain.variance + 1e-5), rel=EXACT)
    assert keras.gain == pytest.approx(plain.scale / (math.sqrt(plain.variance) + 1e-3), rel=EXACT)


# --- summaries --------------------------------------------------------------------------------------------------------


def test_a_quantile_is_a_value_of_the_data():
    """NumPy's method `lower`, level by level and quantity by quantity."""
    for layer in report(LAYOUTS / "conv.cfg", LAYOUTS / "conv.alexeyab.weights", "alexeyab").layers:
        if layer.statistics:
            channels = layer.channels[""]
            values = {"scale_magnitude": abs(channels.scale), "bias": channels.bias, "folded_max": channels.folded_max}
            for name, column in values.items():
                expected = np.quantile(column, (0, 0.1, 0.25, 0.5, 0.75, 0.9, 1), method="lower")
                assert tuple(layer.statistics.quantiles[name]) == tuple(expected)


def test_the_range_is_that_of_the_channels_that_live(tiny):
    (layer, _) = report(*tiny, "alexeyab").layers
    channels = layer.channels[""]
    assert layer.statistics.weight_range.before == channels.weight_max.max() / channels.weight_max.min()
    assert layer.statistics.weight_range.after == channels.folded_max.max() / channels.folded_max.min()


def test_a_channel_without_weights_counts_for_no_range(tiny):
    cfg, weights = tiny
    data = bytearray(weights.read_bytes())
    data[20 + 4 * 16 : 20 + 4 * (16 + 27)] = bytes(4 * 27)  # the first filter's
    weights.write_bytes(data)
    (layer, _) = report(cfg, weights, "alexeyab").layers
    channels = layer.channels[""]
    assert channels.weight_max[0] == 0
    assert layer.statistics.weight_range.before == channels.weight_max.max() / channels.weight_max[1:].min()


def test_the_statistics_of_parts_are_pooled():
    layer = report(LAYOUTS / "lstm.cfg", LAYOUTS / "lstm.alexeyab.weights", "alexeyab").layers[0]
    assert list(layer.parts) == ["wf", "wi", "wg", "wo", "uf", "ui", "ug", "uo"]
    assert layer.statistics.channels == sum(part.channels for part in layer.parts.values())
    lows = [part.quantiles["rolling_variance"].low for part in layer.parts.values()]
    assert layer.statistics.quantiles["rolling_variance"].low == min(lows)


def test_channels_are_joined_by_name_and_a_vector_that_one_part_lacks_is_none(tiny):
    (with_weights, _), (without, _) = (
        bnorm.inspect(read_model(*tiny, "alexeyab"), weights=weights).layers for weights in (True, False)
    )
    first, second = with_weights.channels[""], without.channels[""]
    both = Channels.concatenate([first, first])
    for name in ("scale", "weight_norm", "state", "rectified", "dead", "near_dead", "constant"):
        vector = getattr(first, name)
        np.testing.assert_array_equal(getattr(both, name), np.concatenate([vector, vector]))
    mixed = Channels.concatenate([first, second])
    assert (mixed.weight_norm, mixed.scale.size) == (None, 2 * first.scale.size)


# --- states -----------------------------------------------------------------------------------------------------------


def states(tmp_path: Path, activation: str, scales: list[float], biases: list[float]) -> list[str]:
    """The states of a layer's channels, all of which have a variance of 1."""
    cfg, weights = tmp_path / "net.cfg", tmp_path / "net.weights"
    layer = f"convolutional filters={len(scales)} batch_normalize=1{f' activation={activation}' * bool(activation)}"
    cfg.write_text(cfg_source("1x4x4", layer))
    write_weights(cfg, weights)
    count = len(scales)
    values = [*biases, *scales, *[0.0] * count, *[1.0] * count, *[1.0] * count]
    weights.write_bytes(weights.read_bytes()[:20] + np.array(values, "<f4").tobytes())
    return [row.state for row in channel_rows(report(cfg, weights, "alexeyab").layers)]


def test_a_channel_is_dead_constant_near_dead_or_none(tmp_path):
    scales = [1.0, -1.0, 0.0, 0.0, DEAD_BELOW * 0.9, NEAR_DEAD * 0.9, NEAR_DEAD * 1.1, 1.0]
    biases = [0.0, 5.0, 0.0, 0.5, 0.0, 0.0, 0.0, -9.0]
    expected = ["", "", "dead", "constant", "dead", "near-dead", "", ""]
    assert states(tmp_path, "leaky", scales, biases) == expected


@pytest.mark.parametrize(("activation", "rectified"), [("relu6", True), ("laeky", True), ("mish", False), ("", False)])
def test_an_activation_that_the_fork_lacks_is_a_relu_and_none_is_a_logistic(tmp_path, activation, rectified):
    assert states(tmp_path, activation, [1.0, 1.0], [0.0, -9.0]) == ["", "near-dead" if rectified else ""]


def test_a_relu_makes_negative_constants_0_and_channels_below_0_near_dead(tmp_path):
    """A Gaussian is above 3.09 in 1 of 1000 cases, which is `SELDOM`."""
    assert SELDOM == 1e-3
    scales, biases = [1.0, 1.0, 1.0, 0.0, 0.0], [0.0, -3.05, -3.15, -0.5, 0.5]
    assert states(tmp_path, "relu", scales, biases) == ["", "", "near-dead", "dead", "constant"]


@pytest.mark.parametrize(
    ("scale", "bias", "share"),
    [
        (1.0, 0.0, 0.5),
        (-2.0, 0.0, 0.5),
        (1.0, 1.0, 0.8413447460685429),
        (-1.0, 1.0, 0.8413447460685429),
        (2.0, -2.0, 0.15865525393145707),
        (0.0, 1.0, 1.0),
        (0.0, -1.0, 0.0),
        (0.0, 0.0, 0.0),
        (1.0, 1e30, 1.0),
    ],
)
def test_the_share_above_zero_is_that_of_a_gaussian(scale, bias, share):
    """Φ(1) to 16 digits from a table."""
    assert above_zero(np.array([scale]), np.array([bias]))[0] == pytest.approx(share, rel=EXACT)


def test_the_share_of_a_channel_without_numbers_is_none():
    assert np.isnan(above_zero(np.array([math.nan, 1.0]), np.array([0.0, math.nan]))).all()
