"""`transforms.fold.plan` and the networks that follow from it: the same outputs, by a plain forward pass."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bnorm.batchnorm.epsilon import DARKNET, RUNTIMES, Epsilon
from bnorm.darknet.autodetect import read_model
from bnorm.darknet.edit import agree, references
from bnorm.errors import CfgError
from bnorm.folding.fates import Into, Kept, OwnLayer
from bnorm.folding.plan import plan_folds
from bnorm.transforms.fold.fold import FoldReport, fold
from bnorm.transforms.response import signs
from support.builders import BN, cfg_source, odd_pair, write_weights
from support.forward import Run, convolve

# Each weight is rounded once, 6e-8 of it; a few dozen of them make an output, and a few layers follow one another.
CLOSE = 1e-5  # in relation to the layer's largest output


def folded(folder: Path, net: str, source: str, dialect: str = "alexeyab", odd: bool = False, **options) -> FoldReport:
    """Fold a network with random weights, and compare every layer's output before and after."""
    cfg = folder / "net.cfg"
    cfg.write_text(cfg_source(net, source))
    weights = write_weights(cfg, folder / "net.weights", dialect)
    if odd:
        make_odd(cfg, weights, dialect)
    report = fold(read_model(cfg, weights, dialect), folder / "out.weights", force=True, **options)
    same_outputs(folder, dialect, report, options.get("epsilon", DARKNET))
    return report


def make_odd(cfg: Path, weights: Path, dialect: str) -> None:
    """Let some scales be negative or 0, and some weights 0."""
    data = bytearray(weights.read_bytes())
    rng = np.random.default_rng(len(data))
    for array in read_model(cfg, None, dialect).layout.arrays:
        values = np.frombuffer(data, "<f4", array.size, array.offset)
        if array.field == "scales":
            values[:] *= rng.choice([-1, 0, 1, 1], array.size).astype("f4")
        if array.field == "weights":
            values[:] *= (rng.random(array.size) > 0.1).astype("f4")
    weights.write_bytes(data)


def same_outputs(folder: Path, dialect: str, report: FoldReport, epsilon: Epsilon) -> None:
    before = Run(folder / "net.cfg", folder / "net.weights", dialect, epsilon)
    after = Run(folder / "out.cfg", folder / "out.weights", dialect, epsilon)
    into = {row.index: row.into for row in report.layers if row.into is not None}
    survivors = [layer.index for layer in before.network.layers if layer.index not in into]
    gives = [max([layer, *(gone for gone in into if into[gone] == layer)]) for layer in survivors]
    entry = before.network.input
    rng = np.random.default_rng(0)
    images = rng.normal(size=(3, *(entry[:3] if entry.channels else (entry.outputs, 1, 1))))
    for old, new in zip(before.layers(*images), after.layers(*images), strict=True):
        assert len(new) == len(survivors)
        for number, output in zip(gives, new, strict=True):
            np.testing.assert_allclose(output, old[number], rtol=0, atol=CLOSE * np.abs(old[number]).max())


KEPT = "kept"


def fates(report: FoldReport) -> dict[int, int | str | None]:
    """Each layer's fate: `KEPT`, the layer that it was folded into, or None where that is itself."""
    return {row.index: row.into if row.folded else KEPT for row in report.layers}


def reason(report: FoldReport, layer: int) -> str:
    return next(row.reason for row in report.layers if row.index == layer)


# --- every layer ------------------------------------------------------------------------------------------------------

NETWORKS = [
    ("alexeyab", "3x8x8", f"convolutional {BN} filters=6 size=3 pad=1 stride=2 groups=3 activation=leaky"),
    (
        "alexeyab",
        "3x8x8",
        f"convolutional {BN} filters=4 | connected {BN} output=5 activation=relu | connected output=2",
    ),
    ("pjreddie", "3x5x5", f"convolutional {BN} filters=4 | deconvolutional {BN} filters=3 size=4 stride=2 padding=1"),
    ("alexeyab", "4x5x5", f"convolutional {BN} filters=4 size=3 binary=1 activation=leaky"),
    ("alexeyab", "4x5x5", f"convolutional {BN} filters=4 size=3 xnor=1 groups=2 activation=leaky"),
    ("alexeyab", "7", f"rnn {BN} output=4 hidden=3 activation=relu | connected output=2 activation=linear"),
    ("pjreddie", "7", f"rnn {BN} output=4 | lstm {BN} output=3 | gru {BN} output=2 | connected output=2"),
    ("alexeyab", "7", f"lstm {BN} output=3 | gru {BN} output=2 | connected output=2"),
    ("pjreddie", "2x5x5", f"crnn {BN} output_filters=3 hidden_filters=4 activation=leaky"),
    ("alexeyab", "2x5x5", f"crnn {BN} output=3 hidden=4 pad=1 activation=leaky"),
    ("alexeyab", "2x5x5", f"conv_lstm {BN} output=4 pad=1 peephole=1 groups=2 | conv_lstm {BN} output=4 pad=1"),
    ("pjreddie", "3x5x5", f"convolutional {BN} filters=4 size=3 flipped=1 activation=leaky"),
    ("pjreddie", "3x5x5", f"convolutional {BN} filters=4 size=3 dontloadscales=1 activation=leaky"),
    ("pjreddie", "3x5x5", f"convolutional {BN} filters=4 size=3 numload=4 activation=leaky"),
    ("pjreddie", "7", f"connected {BN} output=4 numload=2 | connected output=2"),  # where it means nothing
    (
        "alexeyab",
        "4x5x5",
        f"convolutional {BN} filters=4 size=3 pad=1 | convolutional {BN} filters=4 size=3 pad=1 share_index=0"
        f" | convolutional {BN} filters=4 size=3 pad=1 share_index=-1 activation=leaky",
    ),
    (  # what shares the arrays of another layer has none of its own to leave out
        "alexeyab",
        "4x5x5",
        f"convolutional {BN} filters=4 size=3 pad=1"
        f" | convolutional {BN} filters=4 size=3 pad=1 share_index=0 dontload=1",
    ),
]


@pytest.mark.parametrize(("dialect", "net", "layers"), NETWORKS)
@pytest.mark.parametrize("epsilon", RUNTIMES.values(), ids=RUNTIMES)
def test_every_kind_of_layer_computes_the_same_without_batch_normalisation(tmp_path, dialect, net, layers, epsilon):
    report = folded(tmp_path, net, layers, dialect, epsilon=epsilon)
    assert report.layers
    assert all(row.folded for row in report.layers)
    assert "batch_normalize" not in (tmp_path / "out.cfg").read_text()


# --- stand-alone [batchnorm] ------------------------------------------------------------------------------------------

LINEAR = "convolutional filters=4 size=3 pad=1 activation=linear"
ALONE = [
    ("3x6x6", f"{LINEAR} | batchnorm | activation activation=leaky", {1: 0}),
    ("3x6x6", f"{LINEAR} {BN} | batchnorm", {0: None, 1: 0}),
    ("3x6x6", f"{LINEAR} | batchnorm | batchnorm", {1: 0, 2: 0}),
    ("3x6x6", "connected output=4 activation=linear | batchnorm", {1: 0}),
    ("3x6x6", "local filters=4 size=3 activation=linear | batchnorm", {1: 0}),
    ("4x6x6", f"{LINEAR} groups=2 xnor=1 | batchnorm", {1: 0}),
    ("3x6x6", f"batchnorm | convolutional filters=4 size=3 activation=leaky {BN}", {0: 1, 1: None}),
    ("4x6x6", "batchnorm | convolutional filters=6 size=3 groups=2 activation=leaky", {0: 1}),
    ("4x6x6", "batchnorm | batchnorm | convolutional filters=4", {0: 2, 1: 2}),
    ("3x6x6", f"batchnorm | connected output=4 {BN}", {0: 1, 1: None}),
    (
        "3x6x6",
        "batchnorm | convolutional filters=4 activation=linear | batchnorm",
        {0: 1, 2: 1},
    ),
    (
        "3x6x6",
        f"{LINEAR} | batchnorm | convolutional filters=4 | shortcut from=1 activation=linear | route layers=-1,-3,0",
        {1: KEPT},
    ),
    (
        "3x6x6",
        f"{LINEAR} | batchnorm | convolutional filters=4 | shortcut from=1 activation=linear | route layers=-1,-3",
        {1: 0},
    ),
    (
        "3x6x6",
        f"{LINEAR} | {LINEAR} | batchnorm | convolutional filters=4 | route layers=0,-2",
        {2: 1},
    ),
]


@pytest.mark.parametrize(("net", "layers", "expected"), ALONE)
def test_a_batchnorm_goes_where_that_is_exact(tmp_path, net, layers, expected):
    assert fates(folded(tmp_path, net, layers)) == expected


def test_the_fates_are_values(tmp_path):
    cfg = tmp_path / "net.cfg"
    cfg.write_text(cfg_source("3x6x6", f"{LINEAR} {BN} | batchnorm | maxpool | batchnorm"))
    not_linear = "layer 2 ([maxpool]) is not a convolution or fully connected layer"
    folds = plan_folds(read_model(cfg, None, "alexeyab").network, {})
    assert folds.fates == {0: OwnLayer(), 1: Into(0), 3: Kept((not_linear, "no layer follows it"))}
    assert (folds.removed, list(folds.kept)) == ({1: 0}, [3])
    (fold_of_0,) = folds.folds
    assert (fold_of_0.layer, fold_of_0.before, fold_of_0.own, fold_of_0.after) == (0, (), True, (1,))


OBSTACLES = [
    (
        "alexeyab",
        "convolutional filters=4 activation=leaky | batchnorm",
        1,
        ["layer 0 has activation=leaky", "no layer follows it"],
    ),
    (
        "alexeyab",
        f"{LINEAR} | maxpool size=2 | batchnorm | maxpool size=2",
        2,
        [
            "layer 1 ([maxpool]) is not a convolution or fully connected layer",
            "layer 3 ([maxpool]) is not a convolution or fully connected layer",
        ],
    ),
    ("alexeyab", f"{LINEAR} antialiasing=1 | batchnorm", 1, ["layer 0 has antialiasing", "no layer follows it"]),
    ("alexeyab", f"{LINEAR} coordconv=1 | batchnorm", 1, ["layer 0 has coordconv", "no layer follows it"]),
    (
        "alexeyab",
        f"{LINEAR} | batchnorm | route layers=0",
        1,
        ["layer 2 also reads layer 0", "layer 2 ([route]) is not a convolution or fully connected layer"],
    ),
    (
        "alexeyab",
        f"{LINEAR} | batchnorm | batchnorm | route layers=1",
        2,
        ["layer 3 also reads layer 1", "layer 3 ([route]) is not a convolution or fully connected layer"],
    ),
    ("alexeyab", f"batchnorm | {LINEAR}", 0, ["no layer precedes it", "layer 1 pads its input"]),
    (
        "alexeyab",
        "batchnorm | convolutional filters=4 size=7 stride=2",
        0,
        ["no layer precedes it", "layer 1 pads its input"],
    ),
    (
        "alexeyab",
        "batchnorm | convolutional filters=4 binary=1",
        0,
        ["no layer precedes it", "layer 1 binarises its weights"],
    ),
    (
        "alexeyab",
        "batchnorm | convolutional filters=4 | route layers=0",
        0,
        ["no layer precedes it", "layer 2 also reads it"],
    ),
    (
        "alexeyab",
        "batchnorm | convolutional filters=4 stride_x=1 stride_y=2",
        0,
        [
            "no layer precedes it",
            "layer 1 has a 1x1 kernel with stride 1 across and 2 down, padding 0, and alexeyab's CPU path ignores them",
        ],
    ),
    (
        "alexeyab",
        "batchnorm | convolutional filters=4 size=3 dilation=2",
        0,
        [
            "no layer precedes it",
            "layer 1 has dilation=2 and padding 0, so that alexeyab's CPU path makes 2x2 windows, and uses them as 4x4",
        ],
    ),
    (
        "alexeyab",
        "batchnorm | convolutional filters=4 groups=3",
        0,
        [
            "no layer precedes it",
            "layer 1 is kept: groups=3 do not divide its 4 filters: the rows of its weights are not its filters",
        ],
    ),
    (
        "pjreddie",
        f"convolutional filters=4 groups=3 {BN}",
        0,
        ["groups=3 do not divide its 4 filters: the rows of its weights are not its filters"],
    ),
    (
        "alexeyab",
        f"convolutional filters=4 groups=2 size=3 {BN}",
        0,
        ["groups=2 do not divide its 3 input channels: the rows of its weights are not its filters"],
    ),
    (
        "alexeyab",
        "convolutional filters=4 groups=3 activation=linear | batchnorm",
        1,
        [
            "layer 0 is kept: groups=3 do not divide its 4 filters: the rows of its weights are not its filters",
            "no layer follows it",
        ],
    ),
    (
        "alexeyab",
        f"crnn hidden=3 output=4 groups=3 pad=1 {BN}",
        0,
        ["groups=3 do not divide its 4 filters: the rows of its weights are not its filters"],
    ),
    (
        "pjreddie",
        f"{LINEAR} dontload=1 | batchnorm",
        1,
        ["layer 0 is kept: dontload: its values are not in the file", "no layer follows it"],
    ),
    ("pjreddie", f"{LINEAR} | batchnorm dontload=1", 1, ["dontload: its values are not in the file"]),
    ("pjreddie", f"convolutional dontload=1 {BN}", 0, ["dontload: its values are not in the file"]),
    ("pjreddie", f"convolutional filters=3 numload=2 {BN}", 0, ["numload: 2 of its 3 filters are in the file"]),
    (
        "alexeyab",
        f"convolutional filters=3 {BN} | convolutional filters=3 share_index=0",
        0,
        ["shares its weights with layer 1: does not normalise"],
    ),
    (
        "alexeyab",
        "convolutional filters=3 | convolutional filters=3 share_index=0 activation=linear | batchnorm",
        2,
        ["layer 1 shares its weights", "no layer follows it"],
    ),
]


@pytest.mark.parametrize(("dialect", "layers", "layer", "expected"), OBSTACLES)
def test_a_layer_that_cannot_be_folded_exactly_is_kept_for_the_reasons_of_both_neighbours(
    tmp_path, dialect, layers, layer, expected
):
    cfg = tmp_path / "net.cfg"
    cfg.write_text(cfg_source("3x6x6", layers))
    weights = write_weights(cfg, tmp_path / "net.weights", dialect)
    model = read_model(cfg, weights, dialect)
    assert plan_folds(model.network, {}).fates[layer] == Kept(tuple(expected))
    report = fold(model, tmp_path / "out.weights")
    assert fates(report)[layer] == KEPT
    assert reason(report, layer) == "; ".join(expected)
    assert read_model(tmp_path / "out.cfg", tmp_path / "out.weights", dialect).fits


def test_a_sharing_layer_whose_base_does_not_normalise_stays(tmp_path):
    """AlexeyAB's program would look for statistics that do not exist."""
    cfg = tmp_path / "net.cfg"
    cfg.write_text(cfg_source("3x6x6", f"convolutional filters=3 | convolutional filters=3 share_index=0 {BN}"))
    weights = write_weights(cfg, tmp_path / "net.weights")
    report = fold(read_model(cfg, weights, "alexeyab"), tmp_path / "out.weights")
    assert fates(report) == {1: KEPT}
    assert reason(report, 1) == "shares its weights with layer 0: does not normalise"
    assert (tmp_path / "out.weights").read_bytes() == weights.read_bytes()


# --- selected layers --------------------------------------------------------------------------------------------------


def test_layers_that_were_not_selected_stay_as_they_are(tmp_path):
    layers = f"convolutional {BN} filters=4 | convolutional filters=2 batch_normalize=0 | convolutional {BN} filters=4"
    report = folded(tmp_path, "3x6x6", layers, layers={2})
    assert fates(report) == {0: KEPT, 2: None}
    assert reason(report, 0) == "not selected"
    assert (tmp_path / "out.cfg").read_text() == cfg_source(
        "3x6x6", layers.removesuffix(f" {BN} filters=4") + " filters=4"
    )


def test_a_batchnorm_stays_after_a_layer_that_stays_normalised(tmp_path):
    report = folded(tmp_path, "3x6x6", f"{LINEAR} {BN} | batchnorm", layers={1})
    assert fates(report) == {0: KEPT, 1: KEPT}


def test_sharing_layers_are_folded_together_or_not_at_all(tmp_path):
    layers = f"convolutional filters=3 {BN} | convolutional filters=3 share_index=0 {BN}"
    report = folded(tmp_path, "3x6x6", layers, layers={0})
    assert fates(report) == {0: KEPT, 1: KEPT}
    assert reason(report, 0) == "shares its weights with layer 1: not selected"


@pytest.mark.parametrize("layers", [{2}, {-1}, [0, 99]])
def test_layers_that_are_not_there_are_refused(tiny, layers):
    """`{99}` used to fold nothing, and to say nothing."""
    model = read_model(*tiny)
    tiny[1].unlink()  # nothing is read before
    with pytest.raises(ValueError, match=r"expected 0 to 1$"):
        fold(model, None, dry_run=True, layers=layers)


def test_layers_may_come_from_an_iterator(tiny):
    report = fold(read_model(*tiny), None, dry_run=True, layers=iter([0]))
    assert [layer.folded for layer in report.layers] == [True]


# --- binary weights ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("switch", ["binary=1", "xnor=1"])
@pytest.mark.parametrize(("scale", "folds"), [(0.5, True), (0.0, True), (-0.5, False)])
def test_a_binary_weight_of_zero_cannot_turn_its_sign(tmp_path, scale, folds, switch):
    """To darknet 0 is negative; times a negative gain it would have to become positive."""
    cfg = tmp_path / "net.cfg"
    cfg.write_text(cfg_source("3x6x6", f"convolutional filters=4 size=3 {switch} {BN}"))
    weights = write_weights(cfg, tmp_path / "net.weights")
    data = bytearray(weights.read_bytes())
    struct.pack_into("<f", data, 20 + 4 * (4 + 1), scale)  # scales[1]
    struct.pack_into("<f", data, 20 + 4 * (16 + 27 + 5), 0)  # a weight of filter 1
    weights.write_bytes(data)
    report = fold(read_model(cfg, weights, "alexeyab"), tmp_path / "out.weights")
    assert fates(report) == {0: None if folds else KEPT}
    same_outputs(tmp_path, "alexeyab", report, DARKNET)


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ([{0: 1.0, 1: -1.0}], "folding would change signs of weights in 1 binary filter"),  # whose sum is 0
        ([{0: 1.0}, {5: 1.0}], "folding would change signs of weights in 2 binary filters"),
        ([{}], ""),  # of zeros alone: it gives 0, whatever its signs
    ],
)
def test_a_binary_filter_counts_where_its_magnitude_is_not_0(tmp_path, filters, expected):
    weights = {27 * row + column: 0.0 for row in range(len(filters)) for column in range(27)}
    weights |= {27 * row + column: value for row, kept in enumerate(filters) for column, value in kept.items()}
    source = f"convolutional filters=4 size=3 binary=1 {BN}"
    model = odd_pair(tmp_path, source, {(0, "weights"): weights, (0, "scales"): dict.fromkeys(range(4), -1.0)})
    report = fold(model, tmp_path / "out.weights")
    assert reason(report, 0) == expected
    same_outputs(tmp_path, "alexeyab", report, DARKNET)


def test_layers_that_share_one_s_weights_leave_those_that_share_another_s_alone(tmp_path):
    pair = f"convolutional filters=4 size=3 pad=1 {BN} | convolutional filters=4 size=3 pad=1 {BN} share_index=-1"
    report = folded(tmp_path, "4x6x6", f"{pair} | {pair}", layers=[0, 1, 2])
    assert fates(report) == {0: None, 1: None, 2: KEPT, 3: KEPT}


def test_a_missing_activation_is_logistic(tmp_path):
    report = folded(tmp_path, "3x6x6", "convolutional filters=4 | batchnorm")
    assert fates(report) == {1: KEPT}


def test_a_batchnorm_stays_after_a_binary_layer_whose_signs_it_would_change(tmp_path):
    source = "convolutional filters=4 size=3 binary=1 activation=linear | batchnorm"
    model = odd_pair(tmp_path, source, {(0, "weights"): {5: 0}, (1, "scales"): {0: -1}})
    report = fold(model, tmp_path / "out.weights")
    assert fates(report) == {1: KEPT}
    assert reason(report, 1) == "folding would change signs of weights in 1 binary filter"


def test_a_binary_layer_is_folded_though_the_batchnorm_after_it_is_not(tmp_path):
    source = f"convolutional filters=4 size=3 binary=1 activation=linear {BN} | batchnorm"
    model = odd_pair(tmp_path, source, {(0, "weights"): {5: 0}, (1, "scales"): {0: -1}})
    report = fold(model, tmp_path / "out.weights")
    assert fates(report) == {0: None, 1: KEPT}
    same_outputs(tmp_path, "alexeyab", report, DARKNET)


def test_a_plain_layer_is_not_folded_under_a_binary_one_that_shares_its_weights(tmp_path):
    first = f"convolutional filters=4 size=3 pad=1 activation=linear {BN}"
    source = f"{first} | convolutional filters=3 activation=linear | {first} share_index=0 binary=1"
    model = odd_pair(tmp_path, source, {(0, "weights"): {5: 0, 7: 0}, (0, "scales"): {0: -1}})
    report = fold(model, tmp_path / "out.weights")
    assert set(fates(report).values()) == {KEPT}
    same_outputs(tmp_path, "alexeyab", report, DARKNET)


def test_the_sign_of_a_binary_weight_of_0_is_negative():
    signs(values := np.array([2.0, 0.0, -0.0, -2.0]), out=values)
    assert list(values) == [1, -1, -1, -1]


# --- any network ------------------------------------------------------------------------------------------------------


@st.composite
def networks(draw) -> str:
    """Layers of four channels and 5x5 places, in any order, that read each other by relative and absolute numbers."""
    count = draw(st.integers(2, 8))
    layers = []
    for index in range(count):
        kind = draw(
            st.sampled_from(["convolutional", "convolutional", "batchnorm", "batchnorm", "shortcut", "activation"])
        )
        activation = draw(st.sampled_from(["linear", "linear", "leaky"]))
        if kind == "shortcut" and index:
            target = draw(st.integers(-index, index - 1))
            layers.append(f"shortcut from={target} activation=linear")
        elif kind == "activation":
            layers.append(f"activation activation={activation}")
        elif kind == "batchnorm":
            layers.append("batchnorm")
        else:
            size = draw(st.sampled_from(["size=1", "size=3 pad=1"]))
            groups = draw(st.sampled_from([1, 2, 4]))
            switch = draw(st.sampled_from(["", BN, "cbn=1", "binary=1", f"{BN} binary=1", "xnor=1"]))
            share = draw(st.sampled_from(["", "", f"share_index={draw(st.integers(-count, count))}"]))
            options = f"{size} groups={groups} activation={activation} {switch} {share}"
            layers.append(f"convolutional filters=4 {options}".strip())
    first, second = draw(st.integers(-count, count - 1)), draw(st.integers(-count, count - 1))
    layers.append(f"route layers={first},{second}")
    return " | ".join(layers)


@pytest.mark.slow
@settings(max_examples=150)
@given(layers=networks(), selection=st.none() | st.sets(st.integers(0, 8)))
def test_any_network_computes_the_same_and_folds_no_further(tmp_path_factory, layers, selection):
    folder = tmp_path_factory.mktemp("net")
    try:
        count = layers.count("|") + 1
        chosen = selection and {layer for layer in selection if layer < count}
        report = folded(folder, "4x5x5", layers, layers=chosen, odd=True)
    except CfgError:  # shares the weights of a layer of another shape
        assume(False)
    again = fold(read_model(folder / "out.cfg", folder / "out.weights", "alexeyab"), None, dry_run=True)
    if selection is None:
        assert not any(row.folded for row in again.layers)
    assert report.parameters_after == again.parameters_before


# --- numbers of layers in the cfg -------------------------------------------------------------------------------------

TEXT = """\
[net]
width=6
height=6
channels=3
# first
[convolutional]
filters=4
[convolutional]
filters=4
activation=linear

[batchnorm]
# about the batchnorm

# about the next
[convolutional]
filters=4
[route]
layers = -1, 2 # both
[shortcut]
from= 3
[route]
layers=-4,3,0,
"""


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_numbers_are_rewritten_in_place_and_nothing_else_changes(tmp_path, end):
    """A comment after numbers is dropped, since AlexeyAB reads it as a part of them; an empty last number becomes 0."""
    cfg = tmp_path / "net.cfg"
    cfg.write_bytes(TEXT.replace("\n", end).encode())
    weights = write_weights(cfg, tmp_path / "net.weights")
    fold(read_model(cfg, weights, "alexeyab"), tmp_path / "out.weights")
    expected = TEXT.replace("[batchnorm]\n", "").replace("-1, 2 # both", "-1, 1").replace("from= 3", "from= 2")
    expected = expected.replace("layers=-4,3,0,", "layers=-4,2,0,0")
    assert (tmp_path / "out.cfg").read_bytes() == expected.replace("\n", end).encode()


def test_every_key_that_names_layers_is_rewritten(tmp_path):
    layers = (
        f"{LINEAR} | batchnorm | convolutional filters=4 | convolutional filters=4 share_index=2 | shortcut from=-2,2"
    )
    folded(tmp_path, "4x6x6", f"{layers} activation=linear | route layers=2,-1,1")
    lines = (tmp_path / "out.cfg").read_text().splitlines()
    assert [line for line in lines if line.startswith(("share_index", "from", "layers"))] == [
        "share_index=1",
        "from=-2,1",
        "layers=1,-1,0",
    ]


def test_numbers_that_would_read_another_layer_are_noticed(tmp_path):
    cfg = tmp_path / "net.cfg"
    cfg.write_text(cfg_source("3x6x6", "convolutional | batchnorm | convolutional | route layers=-1,2"))
    old = read_model(cfg, None, "alexeyab").network
    for numbers, right in (("-1,1", True), ("-1,0", False), ("-2,1", False)):
        cfg.write_text(cfg_source("3x6x6", f"convolutional | convolutional | route layers={numbers}"))
        assert agree(old, read_model(cfg, None, "alexeyab").network, {1: 0}) == right


def test_every_key_that_holds_numbers_of_layers_is_known(tmp_path):
    """Numbers of layers in the keys of all dialects, as AlexeyAB's parser reads them."""
    cfg = tmp_path / "net.cfg"
    source = (
        "convolutional filters=3 activation=linear | convolutional filters=3 share_index=0 | route layers=0"
        " | shortcut from=0 | sam from=0 | avgpool | scale_channels from=0"
        " | convolutional filters=21 | yolo classes=2 num=3 embedding_layer=7 | contrastive yolo_layer=8"
    )
    cfg.write_text(cfg_source("3x6x6", source))
    found = [reference.option.key for reference in references(read_model(cfg, None, "alexeyab").network)]
    assert found == ["share_index", "layers", "from", "from", "from", "embedding_layer", "yolo_layer"]


# --- ε ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "epsilon"),
    [
        ("darknet", Epsilon(1e-5, inside=True)),
        ("pjreddie-cpu", Epsilon(1e-6, inside=False)),
        ("opencv", Epsilon(1e-6, inside=True)),
        ("ultralytics", Epsilon(1e-4, inside=True)),
        ("keras", Epsilon(1e-3, inside=True)),
        ("0.5", Epsilon(0.5, inside=True)),
        ("1E-2:outside", Epsilon(0.01, inside=False)),
        ("0", Epsilon(0, inside=True)),
    ],
)
def test_epsilon_by_name_and_by_value(invoke, tiny, option, epsilon):
    cfg, weights = tiny
    chosen, expected = cfg.with_name("a.weights"), cfg.with_name("b.weights")
    invoke("fold", cfg, weights, "-o", chosen, "--epsilon", option)
    fold(read_model(cfg, weights), expected, epsilon=epsilon)
    assert chosen.read_bytes() == expected.read_bytes()


@pytest.mark.parametrize(("text", "epsilon"), [("opencv", RUNTIMES["opencv"]), ("1e-2:outside", Epsilon(0.01, False))])
def test_the_library_takes_epsilon_as_text(tiny, text, epsilon):
    cfg, weights = tiny
    for name, value in (("a", text), ("b", epsilon)):
        fold(read_model(cfg, weights), cfg.with_name(f"{name}.weights"), epsilon=value)
    assert cfg.with_name("a.weights").read_bytes() == cfg.with_name("b.weights").read_bytes()


def test_a_text_that_is_not_an_epsilon_is_refused(tiny):
    model = read_model(*tiny)
    tiny[1].unlink()  # nothing is read before
    with pytest.raises(ValueError, match=r"'tensorflow', expected .*darknet, pjreddie-cpu, opencv"):
        fold(model, None, dry_run=True, epsilon="tensorflow")


@pytest.mark.parametrize(
    "option", ["", "tensorflow", "-1", "nan", "inf", "1e-5:beside", "1e-5:", "1e999", ".", "opencv:inside"]
)
def test_an_unknown_epsilon_is_a_usage_error(invoke, tiny, option):
    assert "--epsilon" in invoke("fold", *tiny, "--dry-run", "--epsilon", option, exit_code=2).stderr


def test_the_change_of_gain_is_that_of_the_most_sensitive_channel(invoke, tiny):
    cfg, weights = tiny
    data = bytearray(weights.read_bytes())
    struct.pack_into("<f", data, 20 + 4 * (12 + 1), 1e-6)  # rolling_variance[1]
    weights.write_bytes(data)
    document = json.loads(invoke("fold", cfg, weights, "--dry-run", "--format", "json").stdout)
    change = document["layers"][0]["gain_change"]
    variance = np.float64(np.float32(1e-6))
    assert change["darknet"] == 0
    assert change["opencv"] == pytest.approx(np.sqrt((variance + 1e-5) / (variance + 1e-6)) - 1)
    assert change["keras"] == pytest.approx(1 - np.sqrt((variance + 1e-5) / (variance + 1e-3)))
    assert change["pjreddie-cpu"] == pytest.approx(np.sqrt(variance + 1e-5) / (np.sqrt(variance) + 1e-6) - 1)


@pytest.mark.parametrize(("epsilon", "arithmetic"), [("pjreddie-cpu", "pjreddie"), ("darknet", "alexeyab")])
def test_a_folded_layer_and_bnorm_run_agree(invoke, tmp_path, epsilon, arithmetic):
    """`run` on the output of the convolution, rounded to float32, and the folded convolution."""
    cfg, output = tmp_path / "net.cfg", tmp_path / "out.weights"
    cfg.write_text(cfg_source("3x6x6", f"convolutional filters=4 size=3 pad=1 {BN}"))
    weights = write_weights(cfg, tmp_path / "net.weights")
    data = bytearray(weights.read_bytes())
    struct.pack_into("<f", data, 20 + 4 * 12, 1e-5)  # a rolling_variance that tells the two apart
    weights.write_bytes(data)
    invoke("fold", cfg, weights, "-o", output, "--epsilon", epsilon, "--dialect", "alexeyab")
    old, new = (Run(*pair, "alexeyab", DARKNET).arrays[0] for pair in ((cfg, weights), (tmp_path / "out.cfg", output)))
    image = np.random.default_rng(0).normal(size=(3, 6, 6))
    np.save(tmp_path / "x.npy", convolve(image, old["weights"], 1, 1, 1).astype("f4"))
    options = ["--layer", 0, "--input", tmp_path / "x.npy", "--arithmetic", arithmetic, "-o", tmp_path / "y"]
    invoke("run", cfg, weights, *options, "--dialect", "alexeyab")
    after = convolve(image, new["weights"], 1, 1, 1) + new["biases"][:, None, None]
    y = np.load(tmp_path / "y/y.npy")
    # One rounding of x and one of y, and some dozen of weights, all in relation to the channel's largest output.
    np.testing.assert_allclose(
        y / abs(y).max((1, 2), keepdims=True), after / abs(y).max((1, 2), keepdims=True), atol=5e-7
    )
