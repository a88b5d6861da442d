"""`checks.channel_rules`: NaN, bad variances, dead channels; each finding's layer, part and worst channel."""

from __future__ import annotations

import math
import struct

import numpy as np
import pytest

from bnorm.checks.channel_rules import RULES
from bnorm.checks.findings import KINDS
from bnorm.darknet.autodetect import read_model
from bnorm.darknet.weights import open_weights
from support.builders import cfg_source, patch, write_weights
from support.damage import BAD_VALUES, TEXT, findings, offset, patched
from support.golden import sample


@pytest.mark.parametrize("kind", BAD_VALUES)
def test_a_problem_in_the_values_is_found(pair, kind):
    cfg, weights = pair
    bad = BAD_VALUES[kind]
    weights.write_bytes(bad.data)
    found, *others = findings(cfg, weights)
    assert (found.id, found.severity) == (kind, KINDS[kind].severity)
    assert (found.layer, found.part, found.channel) == (bad.layer, None, bad.channel)
    assert bad.counted in found.message
    assert not found.message.startswith("layer ")
    assert {other.id for other in others} <= {"constant-channels"}


def test_every_rule_is_a_kind():
    assert set(RULES) <= set(KINDS)


def value(cfg, weights, layer: int, name: str, channel: int) -> float:
    with open_weights(read_model(cfg, weights)) as opened:
        return float(opened[layer, name][channel])


def test_a_dead_channel_with_a_bias_is_a_constant_one(pair):
    cfg, weights = pair
    weights.write_bytes(patched(4, "scales", 7, 0.0))
    dead, constant = findings(cfg, weights)
    assert (dead.id, constant.id) == ("dead-channels", "constant-channels")
    assert (constant.layer, constant.channel) == (4, 7)
    assert f"{value(cfg, weights, 4, 'biases', 7):.3g}" in constant.message


def test_a_dead_channel_without_bias_is_not_a_constant_one(pair):
    cfg, weights = pair
    weights.write_bytes(patched(4, "scales", 7, 0.0))
    patch(weights, offset(4, "biases", 7), 0.0)
    assert [found.id for found in findings(cfg, weights)] == ["dead-channels"]


@pytest.mark.parametrize(("activation", "worst"), [("leaky", 7), ("relu", 9)])
def test_the_worst_near_dead_channel_varies_least_or_passes_a_relu_most_rarely(pair, activation, worst):
    cfg, weights = pair
    cfg.write_text(TEXT.replace("=leaky", f"={activation}"))
    for channel, scale, bias in ((7, 1e-5, 1.0), (9, 1e-3, -1.0)):
        patch(weights, offset(4, "scales", channel), scale)
        patch(weights, offset(4, "biases", channel), bias)
    (found,) = (found for found in findings(cfg, weights) if found.layer == 4)
    assert (found.id, found.channel) == ("near-dead-channels", worst)
    assert f"{2 + (activation == 'relu')} of 32" in found.message  # one more is rarely above 0


def test_the_worst_channel_is_named_and_all_are_counted(pair):
    cfg, weights = pair
    weights.write_bytes(patched(4, "rolling_variance", 5, -1e-6, -3e-6, -2e-6))
    (found,) = findings(cfg, weights)
    assert (found.channel, "3 of 32" in found.message) == (6, True)


@pytest.mark.parametrize(
    ("kind", "name", "values", "worst"),
    [
        ("variance-zero", "rolling_variance", (0.0, 0.0), 8),  # the larger scale
        ("variance-tiny", "rolling_variance", (1e-6, 1e-7), 8),
        ("epsilon-sensitive", "rolling_variance", (2e-4, 1e-4), 8),
        ("scale-diverged", "scales", (4e5, -5e5), 8),
        ("dead-channels", "scales", (-1e-8, 1e-9), 8),
    ],
)
def test_each_rule_has_its_own_worst_channel(pair, kind, name, values, worst):
    cfg, weights = pair
    if kind == "variance-zero":
        patch(weights, offset(4, "scales", 7), 1.0, -2.0)
    patch(weights, offset(4, name, 7), *values)
    found = next(found for found in findings(cfg, weights) if found.id == kind)
    assert (found.layer, found.channel) == (4, worst)
    assert "2 of 32" in found.message


def test_all_kinds_in_one_layer_are_one_finding_each(pair):
    cfg, weights = pair
    weights.write_bytes(patched(4, "rolling_variance", 3, math.nan, math.inf, 0.0, 0.0, 1e-7, 1e-4))
    assert [found.id for found in findings(cfg, weights)] == [
        *["nan", "variance-infinite"],
        *["variance-zero", "variance-tiny", "epsilon-sensitive"],
    ]


@pytest.mark.parametrize(
    ("values", "cause"),
    [
        ({7: -9.9998997e-06}, "variance - ε"),
        ({0: -0.2}, "header"),
        ({31: -0.2}, "header"),
        ({3: -0.2}, "training diverged"),
        (dict.fromkeys(range(1, 9), -0.2), "another array"),
    ],
)
def test_a_negative_variance_has_a_likely_cause(pair, values, cause):
    """The first value is from a real file, that of darknet-mobilenet-v2."""
    cfg, weights = pair
    for channel, variance in values.items():
        patch(weights, offset(4, "rolling_variance", channel), variance)
    (found,) = findings(cfg, weights)
    assert (found.id, found.channel) == ("variance-negative", min(values))
    assert cause in found.cause
    assert f"{len(values)} of 32" in found.message


@pytest.mark.parametrize("size", [7e-44, 1e-12, 9e-9])
def test_a_rounding_residue_is_found_as_its_positive_twin(pair, size):
    cfg, weights = pair
    rows = []
    for variance in (-size, size):
        weights.write_bytes(patched(4, "rolling_variance", 7, variance))
        (found,) = findings(cfg, weights)
        rows.append((found.id, found.severity, found.channel))
    assert rows == [("variance-tiny", "warning", 7)] * 2


def test_a_gain_that_depends_on_epsilon_is_shown_for_every_runtime(pair):
    """Recomputed here in float64; three digits are shown."""
    cfg, weights = pair
    weights.write_bytes(patched(4, "rolling_variance", 7, 1e-4))
    scale, variance = (value(cfg, weights, 4, name, 7) for name in ("scales", "rolling_variance"))
    (found,) = findings(cfg, weights)
    for name, deviation in {
        "darknet": math.sqrt(variance + 1e-5),
        "pjreddie-cpu": math.sqrt(variance) + 1e-6,
        "opencv": math.sqrt(variance + 1e-6),
        "ultralytics": math.sqrt(variance + 1e-4),
        "keras": math.sqrt(variance + 1e-3),
    }.items():
        assert f"{name} {scale / deviation:.3g}" in found.message


@pytest.mark.parametrize(("variance", "sensitive"), [(4e-4, True), (5e-4, False)])
def test_epsilon_matters_from_one_percent_on(pair, variance, sensitive):
    """√((4.5e-4 + 1e-5) / (4.5e-4 + 1e-6)) is 1.01."""
    cfg, weights = pair
    weights.write_bytes(patched(4, "rolling_variance", 7, variance))
    assert bool(findings(cfg, weights)) is sensitive


@pytest.mark.parametrize(("variance", "untrained"), [(0.0, True), (1.0, True), (2.0, False)])
def test_statistics_as_a_fork_initialises_them_are_untrained(pair, variance, untrained):
    cfg, weights = pair
    patch(weights, offset(0, "scales"), *(1.0,) * 8, *(0.0,) * 8, *(variance,) * 8)
    assert [found.id for found in findings(cfg, weights)] == (["untrained"] if untrained else [])


def test_scales_and_biases_that_no_step_has_changed_are_untrained(pair):
    """Statistics change with every batch; scales and biases only with an update."""
    cfg, weights = pair
    patch(weights, offset(0, "biases"), *(0.0,) * 8, *(1.0,) * 8)
    (found,) = findings(cfg, weights)
    assert (found.id, found.severity, found.layer) == ("untrained", "warning", 0)
    assert "burn_in" not in found.cause
    cfg.write_text(TEXT.replace("[net]\n", "[net]\nburn_in=4000\n", 1))
    (found,) = (finding for finding in findings(cfg, weights) if finding.id == "untrained")
    batches = read_model(cfg, weights).header.seen // read_model(cfg, weights).network.images_per_batch
    assert f"{batches:,} batches" in found.cause
    assert "burn_in=4000" in found.cause


@pytest.mark.parametrize(("array", "value"), [("scales", 1 + 2**-23), ("biases", 1e-20)])
def test_one_value_that_a_step_has_changed_is_training(pair, array, value):
    cfg, weights = pair
    patch(weights, offset(0, "biases"), *(0.0,) * 8, *(1.0,) * 8)
    patch(weights, offset(0, array, 3), value)
    assert "untrained" not in [found.id for found in findings(cfg, weights)]


def test_a_batchnorm_without_biases_is_not_called_untrained(tmp_path):
    """pjreddie's [batchnorm] stores no biases, and has no update: its scales are always 1."""
    cfg = tmp_path / "net.cfg"
    cfg.write_text(cfg_source("3x8x8", "batchnorm | convolutional filters=2"))
    for dialect, expected in (("pjreddie", []), ("alexeyab", ["untrained"])):
        weights = write_weights(cfg, tmp_path / "net.weights", dialect)
        arrays = read_model(cfg, weights, dialect).layout.by_name
        patch(weights, arrays[0, "scales"].offset, 1.0, 1.0, 1.0)
        if dialect == "alexeyab":
            patch(weights, arrays[0, "biases"].offset, 0.0, 0.0, 0.0)
        assert [found.id for found in findings(cfg, weights, dialect)] == expected


def test_a_part_is_a_field(tmp_path):
    cfg = tmp_path / "net.cfg"
    cfg.write_text("[net]\ninputs=12\n[lstm]\noutput=4\nbatch_normalize=1\n")
    weights = write_weights(cfg, tmp_path / "net.weights")
    array = read_model(cfg, weights, "alexeyab").layout.by_name[0, "wg.rolling_variance"]
    patch(weights, array.offset + 8, -1.0)
    found, crash = findings(cfg, weights, "alexeyab")
    assert (found.id, found.layer, found.part, found.channel) == ("variance-negative", 0, "wg", 2)
    assert crash.id == "cfg-crash"


# --- the channel of a value that is not finite ------------------------------------------------------------------------


def test_a_value_in_the_weights_of_a_part_names_the_part(tmp_path):
    cfg = tmp_path / "net.cfg"
    cfg.write_text("[net]\ninputs=12\n[lstm]\noutput=4\nbatch_normalize=1\n")
    weights = write_weights(cfg, tmp_path / "net.weights")
    array = read_model(cfg, weights, "alexeyab").layout.by_name[0, "uf.weights"]
    patch(weights, array.offset + 4 * array.shape[1], math.inf)
    found, *_ = findings(cfg, weights, "alexeyab")
    assert (found.id, found.layer, found.part, found.channel) == ("infinite", 0, "uf", 1)


def test_values_that_are_not_finite_are_counted_across_blocks(tmp_path):
    """A layer of more than one block, with NaN in the first and in the last filter."""
    cfg = tmp_path / "net.cfg"
    cfg.write_text("[net]\nchannels=64\nheight=4\nwidth=4\n[convolutional]\nfilters=512\nsize=3\npad=1\n")
    weights = write_weights(cfg, tmp_path / "net.weights")
    data = np.fromfile(weights, "<f4")
    data[[5 + 512, -1]] = math.nan
    data.tofile(weights)
    (found,) = findings(cfg, weights)
    assert (found.id, found.channel, "2 of 294,912" in found.message) == ("nan", 0, True)


def test_a_transposed_matrix_has_its_channels_in_columns(tmp_path):
    cfg = tmp_path / "net.cfg"
    cfg.write_text("[net]\ninputs=12\n[connected]\noutput=4\nactivation=linear\n")
    weights = write_weights(cfg, tmp_path / "net.weights")
    weights.write_bytes(struct.pack("<3i", 0, 1001, 0) + weights.read_bytes()[12:])
    patch(weights, 20 + 4 * 4 + 4 * (4 * 5 + 3), math.nan)  # biases, then input 5 of output 3
    found, *others = findings(cfg, weights, "alexeyab")
    assert (found.id, found.channel) == ("nan", 3)
    assert [other.id for other in others] == ["header-version", "cfg-crash"]


def test_the_weights_of_a_shortcut_have_their_channels_last(tmp_path):
    cfg = tmp_path / "net.cfg"
    shortcut = "shortcut from=-2 weights_type=per_channel weights_normalization=relu"
    cfg.write_text(cfg_source("3x8x8", f"convolutional filters=4 | convolutional filters=4 | {shortcut}"))
    weights = write_weights(cfg, tmp_path / "net.weights")
    patch(weights, weights.stat().st_size - 4, math.nan)
    (found,) = findings(cfg, weights)
    assert (found.id, found.layer, found.channel) == ("nan", 2, 3)


def test_the_weights_of_a_local_layer_have_their_filters_second(tmp_path):
    """They are stored as [position][filter][window]."""
    (cfg, source), weights = sample("local"), tmp_path / "local.weights"
    weights.write_bytes(source.read_bytes())
    array = read_model(cfg, None, "alexeyab").layout.by_name[1, "weights"]
    _, _, window = array.shape
    patch(weights, array.offset + 4 * 2 * window, math.nan)
    (found,) = findings(cfg, weights)
    assert (found.id, found.layer, found.channel) == ("nan", 1, 2)
