"""`reports.inspect`: the report against the reference data, its totals and rows, arguments, and how much it reads."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import bnorm
from bnorm.darknet.autodetect import read_model
from bnorm.darknet.weights import Weights, open_weights
from bnorm.reports.inspect import ChannelRow, Inspection, channel_rows
from bnorm.statistics.channel_state import DEAD_BELOW
from support.builders import BN, TINY, cfg_source, odd_pair, patch, write_weights
from support.golden import LAYOUTS, NETWORKS, Golden, golden
from support.oracle import EXACT

SCALES, VARIANCES = 36, 68  # offsets in the tiny file


class Inspected(NamedTuple):
    """A network of the reference data, and the one report on it that all tests below use."""

    case: Golden
    report: Inspection


@pytest.fixture(scope="module", params=NETWORKS, ids=lambda path: path.stem)
def inspected(request: pytest.FixtureRequest) -> Inspected:
    """Every network of golden/layouts in turn, with its weights measured."""
    case = golden(request.param)
    return Inspected(case, bnorm.inspect(read_model(case.cfg, case.weights, case.dialect), weights=True))


# --- the reference data -----------------------------------------------------------------------------------------------


def test_the_report_has_every_layer_s_shape(inspected):
    layers = [report.layer for report in inspected.report.layers]
    assert [layer.index for layer in layers] == [row["i"] for row in inspected.case.layers]
    for layer, row in zip(layers, inspected.case.layers, strict=True):
        assert layer.output == (row["out_c"], row["out_h"], row["out_w"], row["outputs"])


def test_the_report_has_every_array_and_the_number_of_parameters(inspected):
    arrays = [
        (array.layer, array.name, array.offset, math.prod(array.shape))
        for report in inspected.report.layers
        for array in report.arrays
    ]
    expected = inspected.case.arrays
    assert arrays == [(array["layer"], array["name"], array["offset"], array["count"]) for array in expected]
    assert inspected.report.parameters == sum(array["count"] for array in expected)
    for report in inspected.report.layers:
        counts = [array["count"] for array in expected if array["layer"] == report.layer.index]
        assert report.parameters == sum(counts)


def statistics(case: Golden, layer: int) -> dict | None:
    """A layer's statistics by the formula of its fork's forward pass, in float64; None where it stores none."""
    with open_weights(read_model(case.cfg, case.weights, case.dialect)) as weights:
        values = {
            field: [weights[row["layer"], row["name"]].astype("f8") for row in case.arrays if _is(row, layer, field)]
            for field in ("scales", "rolling_variance")
        }
    if not values["scales"]:
        return None
    scales, variance = (np.abs(np.concatenate(values[field])) for field in values)
    gain = scales / (np.sqrt(variance) + 1e-6 if case.dialect == "pjreddie" else np.sqrt(variance + 1e-5))
    return {
        "channels": scales.size,
        "dead": np.count_nonzero(gain * np.sqrt(variance) < DEAD_BELOW),
        "scale_magnitude": (scales.min(), scales.max()),
        "rolling_variance": (variance.min(), variance.max()),
        "gain_magnitude": (gain.min(), gain.max()),
    }


def _is(row: dict, layer: int, field: str) -> bool:
    return row["layer"] == layer and row["name"].rpartition(".")[2] == field


def test_the_statistics_are_those_of_the_formula(inspected):
    """The reference variances are all positive, so that the magnitude of one is the variance itself."""
    for report in inspected.report.layers:
        expected, found = statistics(inspected.case, report.layer.index), report.statistics
        assert (found is None) == (expected is None)
        if found and expected:
            assert (found.channels, found.dead) == (expected["channels"], expected["dead"])
            for name in ("scale_magnitude", "rolling_variance", "gain_magnitude"):
                ends = found.quantiles[name].low, found.quantiles[name].high
                assert ends == pytest.approx(expected[name], rel=EXACT)


def test_the_totals_are_those_of_the_layers(inspected):
    report = inspected.report
    found = [layer.statistics for layer in report.layers if layer.statistics]
    assert report.statistics == tuple(found)
    assert report.channels == sum(each.channels for each in found)
    assert report.dead == sum(each.dead for each in found)


def test_there_is_a_row_for_every_channel_with_its_values(inspected):
    rows = channel_rows(inspected.report.layers)
    assert len(rows) == inspected.report.channels
    by_part: dict[tuple[int, str], list[ChannelRow]] = {}
    for row in rows:
        by_part.setdefault((row.layer, row.part), []).append(row)
    parts = {
        (layer.layer.index, part): channels
        for layer in inspected.report.layers
        for part, channels in layer.channels.items()
    }
    assert list(by_part) == list(parts)
    for key, channels in parts.items():
        assert [row.channel for row in by_part[key]] == [*range(channels.scale.size)]
        for name in ("scale", "bias", "mean", "variance", "gain", "offset", "above_zero"):
            assert [getattr(row, name) for row in by_part[key]] == getattr(channels, name).tolist()
        for name in ("weight_norm", "weight_max", "folded_max"):
            values = getattr(channels, name)
            known = [None] * channels.scale.size if values is None else values.tolist()
            assert [getattr(row, name) for row in by_part[key]] == known


# --- one layer --------------------------------------------------------------------------------------------------------


def test_totals_count_channels_and_dead_ones_of_all_layers(tmp_path):
    layers = f"convolutional filters=4 {BN} | convolutional filters=6 {BN} | maxpool"
    model = odd_pair(tmp_path, layers, {(0, "scales"): {1: 0.0, 2: 1e-9}, (1, "scales"): {5: 0.0}})
    report = bnorm.inspect(model)
    assert (report.channels, report.dead, len(report.statistics)) == (10, 3, 2)
    assert report.parameters == model.layout.parameters
    one = bnorm.inspect(model, [1])
    assert (one.channels, one.dead, one.parameters) == (6, 1, one.layers[0].parameters)


def test_the_state_of_a_channel_is_a_word(tmp_path):
    changes = {
        (0, "scales"): {0: 1.0, 1: 0.0, 2: 0.0, 3: 1e-4, 4: 1.0, 5: 1.0},
        (0, "biases"): {1: 0.0, 2: 1.0},
        (0, "rolling_variance"): dict.fromkeys(range(6), 1.0),
    }
    rows = channel_rows(bnorm.inspect(odd_pair(tmp_path, f"convolutional filters=6 {BN}", changes)).layers)
    assert [row.state for row in rows] == ["", "dead", "constant", "near-dead", "", ""]


@pytest.mark.parametrize(("offset", "dead"), [(SCALES, 1), (VARIANCES, 0)])
def test_a_channel_without_scale_is_dead_and_one_without_variance_is_not(tiny, offset, dead):
    """Its gain is scale / √ε: an input unlike the training data still drives it."""
    assert bnorm.inspect(read_model(*tiny)).dead == 0
    patch(tiny[1], offset, 0.0)
    report = bnorm.inspect(read_model(*tiny))
    assert report.dead == dead
    assert report.findings[0].id == ("dead-channels" if dead else "variance-zero")


@pytest.mark.parametrize(("scale", "dead"), [(5e-7, 1), (-5e-7, 1), (2e-6, 0)])
def test_a_channel_that_varies_by_less_than_a_millionth_is_dead(tiny, scale, dead):
    patch(tiny[1], SCALES, scale)
    assert bnorm.inspect(read_model(*tiny)).dead == dead


def test_a_gain_without_root_is_nan(tiny):
    patch(tiny[1], VARIANCES, -1.0)
    (statistics,) = bnorm.inspect(read_model(*tiny)).statistics
    assert statistics.quantiles["rolling_variance"].low == -1
    assert all(math.isnan(value) for value in statistics.quantiles["gain_magnitude"])


# --- arguments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("selection", [[2], [0, 7], [-1]])
def test_a_layer_that_is_not_there_is_refused_with_the_range(tiny, selection):
    with pytest.raises(ValueError, match="expected 0 to 1"):
        bnorm.inspect(read_model(*tiny), selection)


def test_layers_are_selected_in_the_order_of_the_file(tiny):
    model = read_model(*tiny)
    for selection, expected in (
        ([1, 0], [0, 1]),
        ({1}, [1]),
        (range(1), [0]),
        (iter([1]), [1]),
        ([], []),
        (None, [0, 1]),
    ):
        assert [layer.layer.index for layer in bnorm.inspect(model, selection).layers] == expected


@pytest.mark.parametrize(
    ("epsilon", "deviation"),
    [
        ("keras", lambda variance: math.sqrt(variance + 1e-3)),
        ("opencv", lambda variance: math.sqrt(variance + 1e-6)),
        ("pjreddie-cpu", lambda variance: math.sqrt(variance) + 1e-6),
        (None, lambda variance: math.sqrt(variance + 1e-5)),
    ],
)
def test_an_epsilon_may_be_the_name_of_a_runtime(tiny, epsilon, deviation):
    report = bnorm.inspect(read_model(*tiny, "alexeyab"), epsilon=epsilon)
    for row in channel_rows(report.layers):
        assert row.gain == pytest.approx(row.scale / deviation(row.variance), rel=EXACT)


def test_an_unknown_epsilon_is_refused_with_the_names(tiny):
    with pytest.raises(ValueError, match="darknet, pjreddie-cpu, opencv, ultralytics, keras"):
        bnorm.inspect(read_model(*tiny), epsilon="torch")


# --- findings ---------------------------------------------------------------------------------------------------------


def test_an_oddity_in_the_cfg_is_a_finding_in_its_line(tmp_path):
    cfg = tmp_path / "net.cfg"
    cfg.write_bytes(TINY.replace("=leaky", "=leaky # why\ncolour=red").replace("\n", "\r\n").encode())
    found = bnorm.inspect(read_model(cfg, None, "alexeyab")).findings
    assert [(finding.id, finding.line) for finding in found] == [
        *[("cfg-cr", 1), ("cfg-inline-comment", 12), ("cfg-unknown-key", 13)]
    ]


def test_a_plain_model_has_no_findings(tiny):
    assert bnorm.inspect(read_model(*tiny)).findings == ()


def test_the_findings_in_the_numbers_are_those_of_check(tiny):
    patch(tiny[1], VARIANCES + 8, -1.0)
    (found,) = bnorm.inspect(read_model(*tiny)).findings
    assert (found.id, found.layer, found.channel) == ("variance-negative", 0, 2)
    assert (found,) == bnorm.check(*tiny).findings


def test_other_layers_have_no_findings(tiny):
    patch(tiny[1], VARIANCES + 8, -1.0)
    assert bnorm.inspect(read_model(*tiny), [1]).findings == ()


def test_a_pair_that_does_not_fit_has_its_cause_and_no_findings_in_its_numbers(tiny):
    cfg, weights = tiny
    patch(weights, VARIANCES + 8, -1.0)
    weights.write_bytes(weights.read_bytes()[:-4])
    report = bnorm.inspect(read_model(cfg, weights))
    assert [finding.id for finding in report.findings] == ["weights-other-cfg"]
    assert report.misfit is not None


def test_statistics_after_the_end_of_the_file_are_none(tiny):
    cfg, weights = tiny
    weights.write_bytes(weights.read_bytes()[:80])
    report = bnorm.inspect(read_model(cfg, weights))
    assert report.statistics == ()
    assert report.layers[0].channels == {}


def test_without_weights_there_are_arrays_and_no_statistics(tiny):
    report = bnorm.inspect(read_model(tiny[0]))
    assert [array.name for array in report.layers[1].arrays] == ["biases", "weights"]
    assert (report.layers[0].layer.batch_normalize, report.statistics, report.misfit) == (True, (), None)


# --- it reads no more than it needs -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("weights", "selection", "floats"), [(False, None, 16), (True, None, 132), (True, [1], 8)])
def test_only_the_necessary_arrays_are_read(tiny, monkeypatch, weights, selection, floats):
    """Layer 1 does not normalise and has 8 weights, layer 0 has 108."""
    read: list[int] = []
    original = Weights._fill

    def counting(self, values, offset, array):
        read.append(values.size)
        return original(self, values, offset, array)

    monkeypatch.setattr(Weights, "_fill", counting)
    bnorm.inspect(read_model(*tiny), selection, weights=weights)
    assert sum(read) == floats


def test_the_parts_of_a_layer_have_statistics_of_their_own():
    report = bnorm.inspect(read_model(LAYOUTS / "lstm.cfg", LAYOUTS / "lstm.alexeyab.weights"))
    (layer,) = (layer for layer in report.layers if layer.parts)
    assert list(layer.parts) == list(layer.channels) == "wf wi wg wo uf ui ug uo".split()
    assert sum(part.channels for part in layer.parts.values()) == layer.statistics.channels


def test_a_layer_may_be_normalised_without_stored_biases(tmp_path):
    """pjreddie's [batchnorm] stores none: they are 0."""
    cfg: Path = tmp_path / "net.cfg"
    cfg.write_text(cfg_source("3x4x4", "batchnorm"))
    weights = write_weights(cfg, tmp_path / "net.weights", "pjreddie")
    rows = channel_rows(bnorm.inspect(read_model(cfg, weights, "pjreddie"), weights=True).layers)
    assert [row.bias for row in rows] == [0.0] * 3
    assert [row.weight_norm for row in rows] == [None] * 3


def test_the_key_error_of_a_part_lists_the_parts(tiny):
    layer = bnorm.inspect(*tiny).layers[0]
    for parts in (layer.channels, layer.parts):
        with pytest.raises(KeyError, match="expected ''"):
            parts["wf"]
