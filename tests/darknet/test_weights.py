"""The bytes of a weights file: where it ends and by how much, arrays and blocks of them, and writing."""

from __future__ import annotations

import numpy as np
import pytest

from bnorm.darknet import weights as weights_module
from bnorm.darknet.autodetect import read_model
from bnorm.darknet.weights import open_weights, save
from bnorm.errors import WeightsError
from support.builders import cfg_source
from support.golden import Golden

# The tiny model: header 20; layer 0 biases, scales, rolling_mean, rolling_variance 4 each, weights 108; layer 1 biases
# 2, weights 8. In bytes: 20 + 4 * 134 = 556.
WRONG_CFG = "is this the right cfg, and the right --dialect? `bnorm check` looks for the cause"
PARTIAL = "it ends between two layers: a partial file such as NAME.conv.N?"


def misfit(tiny, nbytes: int) -> WeightsError:
    """What the tiny model's file is told when it has `nbytes`."""
    cfg, path = tiny
    data = path.read_bytes()
    path.write_bytes((data + bytes(100))[:nbytes])
    with open_weights(read_model(cfg, path, "alexeyab")) as weights, pytest.raises(WeightsError) as caught:
        weights.require_fit()
    assert caught.value.path == path
    return caught.value


# --- files that do not fit --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nbytes", "where", "cause"),
    [
        (20, "ends before layer 0 biases, 134 floats (536 bytes) short", WRONG_CFG),
        (28, "ends inside layer 0 biases, behind 2 of its 4 floats, 132 floats (528 bytes) short", WRONG_CFG),
        (36, "ends before layer 0 scales, 130 floats (520 bytes) short", WRONG_CFG),
        (124, "ends inside layer 0 weights, behind 10 of its 108 floats, 108 floats (432 bytes) short", WRONG_CFG),
        (516, "ends before layer 1 biases, 10 floats (40 bytes) short", PARTIAL),
        (552, "ends inside layer 1 weights, behind 7 of its 8 floats, 1 float (4 bytes) short", WRONG_CFG),
        (555, "ends inside layer 1 weights, behind 7 of its 8 floats, 1 byte short", WRONG_CFG),
        (557, "1 byte left over behind the last array, layer 1 weights", WRONG_CFG),
        (560, "1 float (4 bytes) left over behind the last array, layer 1 weights", WRONG_CFG),
        (600, "11 floats (44 bytes) left over behind the last array, layer 1 weights", WRONG_CFG),
    ],
)
def test_a_file_that_does_not_fit_names_the_layer_and_the_array(tiny, nbytes, where, cause):
    error = misfit(tiny, nbytes)
    assert error.what == f"{where}, expected 556 bytes, got {nbytes}"
    assert error.cause == cause


def test_a_file_that_fits_is_no_error(tiny):
    with open_weights(read_model(*tiny, "alexeyab")) as weights:
        assert weights.misfit() is None
        weights.require_fit()


def test_bytes_behind_a_network_that_stores_nothing_are_left_over(tmp_path):
    cfg, path = tmp_path / "net.cfg", tmp_path / "net.weights"
    cfg.write_text(cfg_source("3x8x8", "maxpool"))
    path.write_bytes(bytes(28))
    with open_weights(read_model(cfg, path, "pjreddie")) as weights:
        assert "3 floats (12 bytes) left over behind the header" in str(weights.misfit())


def test_the_array_in_which_a_recurrent_layer_s_file_ends_has_its_part_s_name(tmp_path):
    cfg, path = tmp_path / "net.cfg", tmp_path / "net.weights"
    cfg.write_text(cfg_source("3", "lstm output=2"))
    path.write_bytes(bytes(16 + 8 + 12))
    with open_weights(read_model(cfg, path, "pjreddie")) as weights:
        assert "ends inside layer 0 wi.weights, behind 3 of its 4 floats" in str(weights.misfit())


def test_a_file_that_changed_since_its_header_was_read_is_refused(tiny):
    model = read_model(*tiny)
    with model.weights.open("ab") as file:
        file.write(b"\0")
    with pytest.raises(WeightsError, match="changed while it was read, expected 556 bytes"):
        open_weights(model)


def test_a_file_that_is_cut_while_it_is_read_is_refused(tiny):
    model = read_model(*tiny)
    with open_weights(model) as weights:
        with model.weights.open("r+b") as file:
            file.truncate(100)
        with pytest.raises(WeightsError, match="ends inside layer 0 weights, expected 432 bytes at 84, got 16"):
            weights[0, "weights"]


def test_a_model_without_weights_has_nothing_to_open(tiny):
    with pytest.raises(ValueError, match="no weights file"):
        open_weights(read_model(tiny[0]))


# --- reading ----------------------------------------------------------------------------------------------------------


def test_arrays_are_found_by_layer_and_name(tiny):
    with open_weights(read_model(*tiny)) as weights:
        assert weights[0, "weights"].shape == (4, 3, 3, 3)
        assert weights[1, "biases"].shape == (2,)


@pytest.mark.parametrize("key", [(0, "wf.weights"), (1, "scales"), (2, "biases")])
def test_an_array_that_is_not_stored_is_a_key_error(tiny, key):
    with open_weights(read_model(*tiny)) as weights, pytest.raises(KeyError):
        weights[key]


def test_leaving_the_with_statement_closes_the_file(tiny):
    with open_weights(read_model(*tiny)) as weights:
        pass
    assert weights.file.closed


def test_the_header_s_bytes_are_those_of_the_file(tiny):
    with open_weights(read_model(*tiny)) as weights:
        assert weights.head() == tiny[1].read_bytes()[:20]


def stored(weights, array) -> np.ndarray:
    """The array's bytes in the file, in the shape that they have there."""
    data = weights.path.read_bytes()[array.offset : array.end]
    return np.frombuffer(data, "<f4").reshape(array.stored)


@pytest.mark.parametrize("block", [1, 10, 1 << 20])
def test_blocks_are_the_array_as_it_is_stored(layout_case: Golden, monkeypatch, block):
    monkeypatch.setattr(weights_module, "BLOCK", block)
    with open_weights(read_model(layout_case.cfg, layout_case.weights, layout_case.dialect)) as weights:
        for array in weights.layout.arrays:
            np.testing.assert_array_equal(np.concatenate(list(weights.blocks(array))), stored(weights, array))


@pytest.mark.parametrize(("block", "rows"), [(1, [1, 1, 1, 1]), (27, [1, 1, 1, 1]), (60, [2, 2]), (100, [3, 1])])
def test_blocks_are_whole_rows_and_at_least_one(tiny, monkeypatch, block, rows):
    monkeypatch.setattr(weights_module, "BLOCK", block)
    with open_weights(read_model(*tiny)) as weights:
        filters = weights.layout.arrays[4]
        assert [found.shape for found in weights.blocks(filters)] == [(count, 3, 3, 3) for count in rows]


def test_blocks_of_a_transposed_array_are_in_the_file_s_order(tmp_path, monkeypatch):
    monkeypatch.setattr(weights_module, "BLOCK", 3)
    cfg, path = tmp_path / "net.cfg", tmp_path / "net.weights"
    cfg.write_text(cfg_source("3", "connected output=2"))
    matrix = np.arange(6, dtype="<f4").reshape(3, 2)
    path.write_bytes(np.array([0, 2000, 0, 0], "<i4").tobytes() + bytes(8) + matrix.tobytes())
    with open_weights(read_model(cfg, path, "pjreddie")) as weights:
        blocks = np.concatenate(list(weights.blocks(weights.layout.arrays[1])))
        np.testing.assert_array_equal(blocks, matrix)
        np.testing.assert_array_equal(weights[0, "weights"], matrix.T)


# --- writing ----------------------------------------------------------------------------------------------------------


def test_an_array_that_the_file_never_held_was_not_cut_meanwhile(tiny):
    cfg, weights = tiny
    weights.write_bytes(weights.read_bytes()[:100])
    with open_weights(read_model(cfg, weights)) as opened, pytest.raises(WeightsError) as caught:
        opened[0, "weights"]
    assert "is this the right cfg" in caught.value.cause


def test_an_array_of_another_shape_is_not_written(tiny, tmp_path):
    model = read_model(*tiny)
    arrays = [np.zeros(array.shape, "f4") for array in model.layout.arrays]
    arrays[4] = arrays[4].reshape(4, 27)
    with pytest.raises(ValueError, match=r"layer 0 weights: expected shape \(4, 3, 3, 3\), got \(4, 27\)"):
        save(tmp_path / "out", model.header, model.layout, arrays)
    assert sorted(tmp_path.iterdir()) == sorted(tiny)


@pytest.mark.parametrize("count", [6, 8])
def test_another_number_of_arrays_is_not_written(tiny, tmp_path, count):
    model = read_model(*tiny)
    arrays = [np.zeros(array.shape, "f4") for array in model.layout.arrays]
    with pytest.raises(ValueError, match="argument"):
        save(tmp_path / "out", model.header, model.layout, [*arrays, arrays[0]][:count])
    assert sorted(tmp_path.iterdir()) == sorted(tiny)


def test_arrays_may_come_from_a_generator_and_from_any_memory_order(tiny, tmp_path):
    model = read_model(*tiny)
    with open_weights(model) as weights:
        arrays = (np.asfortranarray(weights.read(array)) for array in model.layout.arrays)
        save(tmp_path / "out", model.header, model.layout, arrays)
    assert (tmp_path / "out").read_bytes() == tiny[1].read_bytes()
