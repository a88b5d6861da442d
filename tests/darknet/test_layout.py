"""`darknet.layout`: the arrays of a weights file, their order and offsets, and the mapping of their axes."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from bnorm.darknet import cfg
from bnorm.darknet.autodetect import read_model
from bnorm.darknet.dialects import DIALECTS
from bnorm.darknet.header import written_by
from bnorm.darknet.layout import Layout, ends_at_layer, plan
from bnorm.darknet.network import build
from bnorm.darknet.weights import open_weights, save
from bnorm.errors import CfgError
from support.builders import cfg_source
from support.golden import Golden

PJ, AB, HK = "pjreddie", "alexeyab", "hank"
ALL, SINCE_AB, UNTIL_AB = (PJ, AB, HK), (AB, HK), (PJ, AB)
NORMALISED = ["biases", "scales", "rolling_mean", "rolling_variance", "weights"]


def layout(dialect: str, net: str, layers: str, *, transposed: bool = False) -> Layout:
    text = cfg.parse(Path("net.cfg"), cfg_source(net, layers).encode())
    header = written_by(DIALECTS[dialect])
    return plan(build(text, DIALECTS[dialect]), header._replace(major=2000) if transposed else header)


def shapes(dialect: str, net: str, layers: str) -> dict[str, tuple[int, ...]]:
    """The shapes of the arrays of the last layer, by name and in file order."""
    planned = layout(dialect, net, layers)
    last = len(layers.split(" | ")) - 1
    return {array.name: array.shape for array in planned.arrays if array.layer == last}


def parts(dialect: str, net: str, layers: str) -> dict[str, tuple[int, ...]]:
    """The shapes of the weights of the last layer's parts, by the part's name and in file order."""
    found = shapes(dialect, net, layers)
    return {name.partition(".")[0]: shape for name, shape in found.items() if name.endswith("weights")}


def floats(*counts: tuple[int, ...]) -> list[np.ndarray]:
    """Arrays of these shapes that hold 0, 1, 2 and so on, through all of them."""
    values, arrays = 0, []
    for shape in counts:
        size = int(np.prod(shape))
        arrays.append(np.arange(values, values + size, dtype="<f4").reshape(shape))
        values += size
    return arrays


def file_of(folder: Path, net: str, layers: str, version: tuple[int, int, int], nbytes: int, arrays: list[np.ndarray]):
    """A cfg and a weights file with a header of `nbytes` and these arrays, in file order."""
    cfg_path, weights = folder / "net.cfg", folder / "net.weights"
    cfg_path.write_text(cfg_source(net, layers))
    seen = struct.pack("<Q" if nbytes == 20 else "<I", 7)
    weights.write_bytes(struct.pack("<3i", *version) + seen + b"".join(array.tobytes() for array in arrays))
    return cfg_path, weights


# --- files that the reference programs wrote --------------------------------------------------------------------------


def test_a_golden_file_s_arrays_are_where_the_fork_put_them(layout_case: Golden):
    model = read_model(layout_case.cfg, layout_case.weights, layout_case.dialect)
    planned = [(array.layer, array.name, array.offset, array.size) for array in model.layout.arrays]
    expected = [(array["layer"], array["name"], array["offset"], array["count"]) for array in layout_case.arrays]
    assert planned == expected
    assert model.layout.nbytes == layout_case.size == model.nbytes


def test_a_golden_file_s_header_is_read(layout_case: Golden):
    header = read_model(layout_case.cfg, layout_case.weights, layout_case.dialect).header
    assert (header[:3], header.seen, header.nbytes) == (layout_case.header, layout_case.seen, 20)


def test_a_golden_file_s_values_are_those_that_the_fork_had_in_memory(layout_case: Golden):
    model = read_model(layout_case.cfg, layout_case.weights, layout_case.dialect)
    with open_weights(model) as weights:
        ends = [weights[array["layer"], array["name"]].ravel()[[0, -1]].tolist() for array in layout_case.arrays]
    assert ends == [[array["first"], array["last"]] for array in layout_case.arrays]


def test_writing_what_was_read_from_a_golden_file_gives_the_same_bytes(layout_case: Golden, tmp_path):
    model = read_model(layout_case.cfg, layout_case.weights, layout_case.dialect)
    with open_weights(model) as weights:
        save(tmp_path / "copy", model.header, model.layout, map(weights.read, model.layout.arrays))
    assert (tmp_path / "copy").read_bytes() == layout_case.weights.read_bytes()


def test_a_layout_has_no_gaps(layout_case: Golden):
    arrays = read_model(layout_case.cfg, dialect=layout_case.dialect).layout.arrays
    assert [array.offset for array in arrays] == [20, *(array.end for array in arrays[:-1])]


# --- one record per layer ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", ALL)
def test_a_plain_convolution_has_biases_and_weights(dialect):
    found = shapes(dialect, "6x8x8", "convolutional filters=4 size=3 groups=2")
    assert list(found.items()) == [("biases", (4,)), ("weights", (4, 3, 3, 3))]


@pytest.mark.parametrize("dialect", ALL)
@pytest.mark.parametrize("switch", ["1", "2", "-1"])
def test_a_normalised_convolution_has_its_statistics_before_its_weights(dialect, switch):
    assert list(shapes(dialect, "3x8x8", f"convolutional filters=4 batch_normalize={switch}")) == NORMALISED


@pytest.mark.parametrize("dialect", SINCE_AB)
def test_cbn_turns_batch_normalisation_on(dialect):
    assert list(shapes(dialect, "3x8x8", "convolutional filters=4 cbn=1")) == NORMALISED


def test_pjreddie_has_no_cbn():
    assert list(shapes(PJ, "3x8x8", "convolutional filters=4 cbn=1")) == ["biases", "weights"]


@pytest.mark.parametrize("dialect", ALL)
def test_a_normalised_connected_layer_has_its_statistics_after_its_weights(dialect):
    found = shapes(dialect, "3x8x8", "connected output=4 batch_normalize=1")
    assert list(found) == ["biases", "weights", "scales", "rolling_mean", "rolling_variance"]
    assert found["weights"] == (4, 192)


def test_a_deconvolution_s_weights_begin_with_its_inputs():
    found = shapes(PJ, "3x8x8", "deconvolutional filters=5 size=2 batch_normalize=1")
    assert list(found) == NORMALISED
    assert (found["weights"], found["scales"]) == ((3, 5, 2, 2), (5,))


@pytest.mark.parametrize("dialect", UNTIL_AB)
def test_a_local_layer_has_a_bias_per_output(dialect):
    found = shapes(dialect, "3x8x10", "local filters=2 size=3")
    assert list(found.items()) == [("biases", (2, 6, 8)), ("weights", (48, 2, 27))]


def test_a_batchnorm_section_has_no_biases_in_pjreddie():
    assert list(shapes(PJ, "3x8x8", "batchnorm")) == ["scales", "rolling_mean", "rolling_variance"]


def test_a_batchnorm_section_begins_with_biases_in_alexeyab():
    assert list(shapes(AB, "3x8x8", "batchnorm")) == ["biases", "scales", "rolling_mean", "rolling_variance"]


@pytest.mark.parametrize("dialect", UNTIL_AB)
def test_a_batchnorm_section_after_a_layer_without_shape_stores_nothing(dialect):
    assert shapes(dialect, "3x8x8", "softmax | batchnorm") == {}


@pytest.mark.parametrize("dialect", ALL)
@pytest.mark.parametrize(
    "layers", ["maxpool", "avgpool", "dropout", "softmax", "cost", "upsample", "dropout | route layers=0"]
)
def test_a_layer_that_learns_nothing_stores_nothing(dialect, layers):
    assert layout(dialect, "3x8x8", layers).nbytes == 20


def test_an_implicit_layer_stores_its_values():
    assert shapes(AB, "3x8x8", "implicit") == {"weights": (128, 1)}
    assert shapes(AB, "3x8x8", "implicit filters=6 atoms=2") == {"weights": (6, 2)}


# --- xnor, blur and shared weights ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", SINCE_AB)
def test_xnor_forces_one_group_since_alexeyab(dialect):
    assert shapes(dialect, "8x8x8", "convolutional filters=4 groups=4 xnor=1")["weights"] == (4, 8, 1, 1)


def test_xnor_keeps_the_groups_in_pjreddie():
    assert shapes(PJ, "8x8x8", "convolutional filters=4 groups=4 xnor=1")["weights"] == (4, 2, 1, 1)


@pytest.mark.parametrize("dialect", ALL)
def test_a_binary_convolution_is_stored_as_floats(dialect):
    assert shapes(dialect, "8x8x8", "convolutional filters=4 groups=4 binary=1")["weights"] == (4, 2, 1, 1)


@pytest.mark.parametrize("dialect", SINCE_AB)
@pytest.mark.parametrize("layer", ["convolutional filters=4 stride=2", "maxpool stride=2"])
@pytest.mark.parametrize("value", [1, 2])
def test_the_blur_of_antialiasing_is_not_stored(dialect, layer, value):
    assert shapes(dialect, "3x8x8", f"{layer} antialiasing={value}") == shapes(dialect, "3x8x8", layer)


@pytest.mark.parametrize("dialect", SINCE_AB)
@pytest.mark.parametrize("index", ["0", "-2"])
def test_shared_weights_are_not_stored_again(dialect, index):
    layers = f"convolutional filters=3 | dropout | convolutional filters=3 share_index={index}"
    assert shapes(dialect, "3x8x8", layers) == {}


def test_pjreddie_shares_no_weights():
    assert list(shapes(PJ, "3x8x8", "convolutional filters=3 | convolutional filters=3 share_index=0"))


@pytest.mark.parametrize("dialect", SINCE_AB)
@pytest.mark.parametrize(
    "layers",
    [
        "convolutional filters=3 size=3 pad=1 | convolutional filters=3 share_index=0",
        "convolutional filters=4 | convolutional filters=3 share_index=0",
        "convolutional filters=4 | convolutional filters=4 share_index=0",
        "maxpool | convolutional filters=3 share_index=0",
        "connected output=3 | convolutional share_index=0",
        "convolutional filters=6 | convolutional filters=6 groups=3 share_index=0",
    ],
)
def test_weights_of_another_shape_are_not_shared(dialect, layers):
    with pytest.raises(CfgError):
        layout(dialect, "3x8x8", layers)


@pytest.mark.parametrize("dialect", SINCE_AB)
def test_weights_of_as_many_values_over_other_inputs_are_not_shared(dialect):
    """8 filters over 4 channels, and 8 filters over 2 groups of 4: equally many weights, but different inputs."""
    with pytest.raises(CfgError, match="shares the weights"):
        layout(dialect, "4x8x8", "convolutional filters=8 | convolutional filters=8 groups=2 share_index=0")


@pytest.mark.parametrize("dialect", SINCE_AB)
@pytest.mark.parametrize("index", ["1", "2", "-2"])
def test_weights_of_a_layer_that_is_not_earlier_are_not_shared(dialect, index):
    layers = f"convolutional filters=3 | convolutional filters=3 share_index={index} | convolutional filters=3"
    with pytest.raises(CfgError, match=rf"share_index={index} points"):
        layout(dialect, "3x8x8", layers)


# --- recurrent layers -------------------------------------------------------------------------------------------------


def test_an_rnn_of_pjreddie_has_no_hidden_size():
    found = parts(PJ, "7", "rnn output=5 hidden=3")
    assert list(found.items()) == [("input_layer", (5, 7)), ("self_layer", (5, 5)), ("output_layer", (5, 5))]


@pytest.mark.parametrize("dialect", SINCE_AB)
def test_an_rnn_has_a_hidden_size_since_alexeyab(dialect):
    found = parts(dialect, "7", "rnn output=5 hidden=3")
    assert list(found.items()) == [("input_layer", (3, 7)), ("self_layer", (3, 3)), ("output_layer", (5, 3))]
    assert parts(dialect, "7", "rnn output=5")["self_layer"] == (1, 1)


def test_a_crnn_of_pjreddie_is_3_by_3():
    found = parts(PJ, "2x8x8", "crnn output_filters=5 hidden_filters=3 size=1 groups=2")
    assert list(found.items()) == [
        ("input_layer", (3, 2, 3, 3)),
        ("self_layer", (3, 3, 3, 3)),
        ("output_layer", (5, 3, 3, 3)),
    ]


@pytest.mark.parametrize("dialect", SINCE_AB)
def test_a_crnn_shares_its_groups_since_alexeyab(dialect):
    found = parts(dialect, "2x8x8", "crnn output=6 hidden=4 size=1 groups=2")
    assert list(found.values()) == [(4, 1, 1, 1), (4, 2, 1, 1), (6, 2, 1, 1)]


LSTM = {PJ: "wi wf wo wg ui uf uo ug", AB: "wf wi wg wo uf ui ug uo", HK: "wf wi wg wo uf ui ug uo"}
GRU = {
    PJ: "wz wr wh uz ur uh",
    AB: "input_z_layer input_r_layer input_h_layer state_z_layer state_r_layer state_h_layer",
}


@pytest.mark.parametrize("dialect", ALL)
def test_the_parts_of_an_lstm_are_in_the_dialect_s_order(dialect):
    found = parts(dialect, "7", "lstm output=5 batch_normalize=1")
    assert " ".join(found) == LSTM[dialect]
    assert {name[0]: shape for name, shape in found.items()} == {"w": (5, 5), "u": (5, 7)}


@pytest.mark.parametrize("dialect", UNTIL_AB)
def test_the_parts_of_a_gru_are_in_the_dialect_s_order(dialect):
    assert " ".join(parts(dialect, "7", "gru output=5")) == GRU[dialect]


def test_a_gru_s_state_parts_are_square():
    assert parts(PJ, "7", "gru output=5") == dict.fromkeys(("wz", "wr", "wh"), (5, 5)) | dict.fromkeys(
        ("uz", "ur", "uh"), (5, 7)
    )
    found = parts(AB, "7", "gru output=5")
    assert {shape for name, shape in found.items() if name.startswith("state")} == {(5, 5)}
    assert {shape for name, shape in found.items() if name.startswith("input")} == {(5, 7)}


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ("", "wf wi wg wo uf ui ug uo"),
        ("peephole=1", "vf vi vo wf wi wg wo uf ui ug uo"),
        ("bottleneck=1", "wf uf ui ug uo"),
        ("peephole=1 bottleneck=1", "vf vi vo wf uf ui ug uo"),
    ],
)
def test_the_parts_of_a_conv_lstm_depend_on_peephole_and_bottleneck(options, names):
    assert " ".join(parts(AB, "3x8x8", f"conv_lstm output=5 {options}")) == names


def test_a_conv_lstm_sees_the_input_the_state_and_the_cell():
    found = parts(AB, "3x8x8", "conv_lstm output=5 peephole=1")
    assert [found[name] for name in ("vf", "wf", "uf")] == [(5, 5, 3, 3), (5, 5, 3, 3), (5, 3, 3, 3)]


def test_a_conv_lstm_s_bottleneck_sees_state_and_input_together():
    found = parts(AB, "3x8x8", "conv_lstm output=5 bottleneck=1")
    assert (found["wf"], found["uf"]) == ((5, 10, 3, 3), (5, 3, 3, 3))


def test_a_conv_lstm_with_xnor_has_one_group():
    assert parts(AB, "4x8x8", "conv_lstm output=4 groups=2")["uf"] == (4, 2, 3, 3)
    assert parts(AB, "4x8x8", "conv_lstm output=4 groups=2 xnor=1")["uf"] == (4, 4, 3, 3)


# --- weighted shortcuts -----------------------------------------------------------------------------------------------


def shortcut(dialect: str, options: str) -> dict[str, tuple[int, ...]]:
    return shapes(dialect, "3x8x8", f"dropout | dropout | shortcut from=-2,0 {options}")


@pytest.mark.parametrize("dialect", SINCE_AB)
@pytest.mark.parametrize("normalization", ["relu", "avg_relu", "softmax"])
def test_a_weighted_shortcut_has_a_row_for_each_layer_that_it_adds(dialect, normalization):
    tail = f"weights_normalization={normalization}"
    assert shortcut(dialect, f"weights_type=per_feature {tail}") == {"weights": (3, 1)}
    assert shortcut(dialect, f"weights_type=per_channel {tail}") == {"weights": (3, 3)}


@pytest.mark.parametrize("options", ["", "weights_type=none", "weights_type=none weights_normalization=relu"])
@pytest.mark.parametrize("dialect", SINCE_AB)
def test_a_plain_shortcut_stores_nothing(dialect, options):
    assert shortcut(dialect, options) == {}


def test_pjreddie_has_no_weighted_shortcuts():
    assert shortcut(PJ, "weights_type=per_channel weights_normalization=relu") == {}


def test_per_layer_is_per_feature_in_alexeyab():
    assert shortcut(AB, "weights_type=per_layer weights_normalization=relu") == {"weights": (3, 1)}


def test_per_layer_is_refused_by_hank():
    with pytest.raises(CfgError, match="weights_type=per_layer, expected one of none, per_feature, per_channel"):
        shortcut(HK, "weights_type=per_layer weights_normalization=relu")


@pytest.mark.parametrize("dialect", SINCE_AB)
def test_an_unknown_weights_type_is_refused(dialect):
    with pytest.raises(CfgError, match="weights_type=per_pixel"):
        shortcut(dialect, "weights_type=per_pixel weights_normalization=relu")


@pytest.mark.parametrize("normalization", ["", "weights_normalization=none"])
def test_only_alexeyab_requires_normalised_weights(normalization):
    with pytest.raises(CfgError, match="weights_normalization=none"):
        shortcut(AB, f"weights_type=per_feature {normalization}")
    assert shortcut(HK, f"weights_type=per_feature {normalization}") == {"weights": (3, 1)}


# --- plans that differ from what the fork saved -----------------------------------------------------------------------


@pytest.mark.parametrize("dialect", ALL)
@pytest.mark.parametrize("layer", ["convolutional batch_normalize=1", "connected batch_normalize=1", "lstm", "rnn"])
def test_a_layer_with_dontload_is_not_in_the_file(dialect, layer):
    assert layout(dialect, "3x8x8", f"{layer} dontload=1").nbytes == 20


@pytest.mark.parametrize("dialect", ALL)
@pytest.mark.parametrize("layer", ["convolutional", "connected"])
def test_statistics_with_dontloadscales_are_not_in_the_file(dialect, layer):
    assert list(shapes(dialect, "3x8x8", f"{layer} batch_normalize=1 dontloadscales=1")) == ["biases", "weights"]


@pytest.mark.parametrize(
    ("dialect", "layer"),
    [(PJ, "batchnorm"), (AB, "batchnorm"), (PJ, "lstm batch_normalize=1"), (HK, "rnn batch_normalize=1"),
     (AB, "gru batch_normalize=1"), (AB, "crnn batch_normalize=1 pad=1"), (AB, "conv_lstm batch_normalize=1")],
)  # fmt: skip
def test_dontloadscales_changes_no_other_layer(dialect, layer):
    assert shapes(dialect, "3x8x8", f"{layer} dontloadscales=1") == shapes(dialect, "3x8x8", layer)


def test_a_layer_with_dontsave_is_still_expected_in_the_file():
    assert list(shapes(PJ, "3x8x8", "convolutional dontsave=1")) == ["biases", "weights"]


def test_numload_is_the_number_of_filters_in_the_file():
    found = shapes(PJ, "3x8x8", "convolutional filters=8 size=3 batch_normalize=1 numload=5")
    assert list(found.values()) == [(5,), (5,), (5,), (5,), (5, 3, 3, 3)]


def test_only_pjreddie_has_numload():
    assert shapes(AB, "3x8x8", "convolutional filters=8 numload=5")["biases"] == (8,)


def test_numload_also_counts_the_filters_of_a_deconvolution():
    found = shapes(PJ, "3x8x8", "deconvolutional filters=8 size=2 numload=5")
    assert found == {"biases": (5,), "weights": (3, 5, 2, 2)}


@pytest.mark.parametrize("number", [1, 8])
def test_numload_may_be_any_number_of_the_filters(number):
    assert shapes(PJ, "3x8x8", f"convolutional filters=8 numload={number}")["biases"] == (number,)


@pytest.mark.parametrize("number", ["9", "-1"])
def test_numload_cannot_exceed_the_filters(number):
    with pytest.raises(CfgError, match=f"numload={number}, expected 1 to 8") as caught:
        layout(PJ, "3x8x8", f"convolutional filters=8 numload={number}")
    assert caught.value.line == 7


@pytest.mark.parametrize("dialect", ALL)
def test_a_flipped_convolution_has_its_filters_last(dialect, tmp_path):
    biases, matrix = floats((4,), (3 * 2 * 2, 4))
    layers = "convolutional filters=4 size=2 flipped=1"
    paths = file_of(tmp_path, "3x8x8", layers, (0, 2, 0), 20, [biases, matrix])
    with open_weights(read_model(*paths, dialect)) as weights:
        np.testing.assert_array_equal(weights[0, "biases"], biases)
        np.testing.assert_array_equal(weights[0, "weights"], matrix.T.reshape(4, 3, 2, 2))


@pytest.mark.parametrize("dialect", SINCE_AB)
def test_a_flipped_convolution_may_have_groups_since_alexeyab(dialect, tmp_path):
    biases, matrix = floats((4,), (2 * 3 * 3, 4))
    layers = "convolutional filters=4 size=3 groups=2 flipped=1"
    paths = file_of(tmp_path, "4x8x8", layers, (0, 2, 5), 20, [biases, matrix])
    with open_weights(read_model(*paths, dialect)) as weights:
        np.testing.assert_array_equal(weights[0, "weights"], matrix.T.reshape(4, 2, 3, 3))


def test_a_flipped_convolution_with_groups_overruns_pjreddie_s_memory():
    with pytest.raises(CfgError, match="flipped=1 with groups") as caught:
        layout(PJ, "4x8x8", "convolutional filters=4 groups=2 flipped=1")
    assert caught.value.line == 8


@pytest.mark.parametrize(("dialect", "nbytes"), [(PJ, 16), (AB, 20), (HK, 20)])
def test_a_header_over_1000_transposes_connected_weights(dialect, nbytes, tmp_path):
    biases, stored, *statistics = floats((2,), (3, 2), (2,), (2,), (2,))
    layers = "connected output=2 batch_normalize=1"
    paths = file_of(tmp_path, "3", layers, (0, 2000, 0), nbytes, [biases, stored, *statistics])
    with open_weights(read_model(*paths, dialect)) as weights:
        np.testing.assert_array_equal(weights[0, "weights"], stored.T)
        np.testing.assert_array_equal(weights[0, "rolling_variance"], statistics[2])


def test_a_header_over_1000_transposes_the_parts_of_an_lstm(tmp_path):
    arrays = floats(*[(2,), (2, 2)] * 4, *[(2,), (3, 2)] * 4)
    paths = file_of(tmp_path, "3", "lstm output=2", (1001, 0, 0), 16, arrays)
    with open_weights(read_model(*paths, PJ)) as weights:
        np.testing.assert_array_equal(weights[0, "wi.weights"], arrays[1].T)
        np.testing.assert_array_equal(weights[0, "ug.weights"], arrays[-1].T)


def test_a_header_over_1000_leaves_convolutions_alone(tmp_path):
    biases, filters = floats((4,), (4, 3, 2, 2))
    paths = file_of(tmp_path, "3x8x8", "convolutional filters=4 size=2", (0, 2000, 0), 16, [biases, filters])
    with open_weights(read_model(*paths, PJ)) as weights:
        np.testing.assert_array_equal(weights[0, "weights"], filters)


@pytest.mark.parametrize("minor", [999, 1000])
def test_a_header_up_to_1000_transposes_nothing(minor, tmp_path):
    biases, matrix = floats((2,), (2, 3))
    nbytes = 16 if minor == 1000 else 20
    paths = file_of(tmp_path, "3", "connected output=2", (0, minor, 0), nbytes, [biases, matrix])
    with open_weights(read_model(*paths, PJ)) as weights:
        np.testing.assert_array_equal(weights[0, "weights"], matrix)


@pytest.mark.parametrize(
    ("net", "layers", "version", "arrays"),
    [
        ("3", "connected output=2", (0, 2000, 0), [(2,), (3, 2)]),
        ("3x4x4", "convolutional filters=4 size=2 flipped=1", (0, 1, 0), [(4,), (12, 4)]),
        ("3x4x4", "convolutional filters=4 size=2 numload=3", (0, 1, 0), [(3,), (3, 12)]),
    ],
)
def test_writing_what_was_read_gives_the_same_bytes_in_any_order_of_axes(net, layers, version, arrays, tmp_path):
    cfg_path, weights_path = file_of(tmp_path, net, layers, version, 16, floats(*arrays))
    model = read_model(cfg_path, weights_path, PJ)
    with open_weights(model) as weights:
        save(tmp_path / "copy", model.header, model.layout, map(weights.read, model.layout.arrays))
    assert (tmp_path / "copy").read_bytes() == weights_path.read_bytes()


# --- methods of a layout ----------------------------------------------------------------------------------------------

TWO = "convolutional filters=2 | maxpool | convolutional filters=1"  # 2 + 6, then 1 + 2 floats


def test_a_layout_knows_its_arrays_by_layer():
    found = layout(AB, "3x8x8", TWO).by_layer()
    assert {layer: [array.name for array in arrays] for layer, arrays in found.items()} == {
        0: ["biases", "weights"],
        2: ["biases", "weights"],
    }


@pytest.mark.parametrize(
    ("nbytes", "place"),
    [
        (20, (0, "biases")),
        (27, (0, "biases")),
        (28, (0, "weights")),
        (51, (0, "weights")),
        (52, (2, "biases")),
        (63, (2, "weights")),
    ],
)
def test_a_layout_knows_where_a_short_file_ends(nbytes, place):
    cut = layout(AB, "3x8x8", TWO).cut(nbytes)
    assert (cut.layer, cut.name) == place


def test_a_file_that_is_long_enough_ends_nowhere_in_the_layout():
    assert layout(AB, "3x8x8", TWO).cut(64) is None


def test_only_a_file_that_ends_between_two_layers_may_be_partial():
    planned = layout(AB, "3x8x8", TWO)
    assert [nbytes for nbytes in range(80) if ends_at_layer(planned, nbytes)] == [52]
