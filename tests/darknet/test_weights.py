"""The bytes of a weights file: where it ends and by how much, arrays and blocks of them, and writing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bnorm.darknet import weights as weights_module
from bnorm.darknet.autodetect import read_model
from bnorm.darknet.layout import Array
from bnorm.darknet.size_mismatch import SizeMismatch, worded
from bnorm.darknet.weights import copy, open_weights, save
from bnorm.errors import WeightsError
from support.builders import cfg_source
from support.golden import Golden

# The tiny model: header 20; layer 0 biases, scales, rolling_mean, rolling_variance 4 each, weights 108; layer 1 biases
# 2, weights 8. In bytes: 20 + 4 * 134 = 556.


def mismatch(cfg: Path, path: Path, dialect: str = "alexeyab") -> SizeMismatch | None:
    with open_weights(read_model(cfg, path, dialect), allow_misfit=True) as weights:
        return weights.mismatch()


def resized(tiny: tuple[Path, Path], nbytes: int) -> tuple[Path, Path]:
    """Return the tiny model with a file of `nbytes`."""
    cfg, path = tiny
    path.write_bytes((path.read_bytes() + bytes(100))[:nbytes])
    return cfg, path


# --- files that do not fit --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nbytes", "array", "floats_held", "between_layers"),
    [
        (20, (0, "biases"), 0, False),
        (28, (0, "biases"), 2, False),
        (36, (0, "scales"), 0, False),
        (124, (0, "weights"), 10, False),
        (516, (1, "biases"), 0, True),
        (552, (1, "weights"), 7, False),
        (555, (1, "weights"), 7, False),
    ],
)
def test_the_mismatch_of_a_short_file_says_where_it_ends(tiny, nbytes, array, floats_held, between_layers):
    found = mismatch(*resized(tiny, nbytes))
    assert (found.array.layer, found.array.name) == array
    assert (found.floats_held, found.between_layers) == (floats_held, between_layers)
    assert (found.expected, found.actual, found.missing) == (556, nbytes, 556 - nbytes)


@pytest.mark.parametrize("nbytes", [557, 560, 600])
def test_the_mismatch_of_a_long_file_has_the_last_array(tiny, nbytes):
    found = mismatch(*resized(tiny, nbytes))
    assert (found.array, found.last.layer, found.last.name) == (None, 1, "weights")
    assert (found.missing, found.floats_held, found.between_layers) == (556 - nbytes, 0, False)


def test_a_file_that_fits_has_no_mismatch(tiny):
    assert mismatch(*tiny) is None
    with open_weights(read_model(*tiny, "alexeyab")) as weights:
        weights.require_fit()


def test_the_mismatch_of_a_network_that_stores_nothing_has_no_last_array(tmp_path):
    cfg, path = tmp_path / "net.cfg", tmp_path / "net.weights"
    cfg.write_text(cfg_source("3x8x8", "maxpool"))
    path.write_bytes(bytes(28))
    found = mismatch(cfg, path, "pjreddie")
    assert (found.array, found.last, found.missing) == (None, None, -12)


def test_the_mismatch_of_a_recurrent_layer_s_file_names_the_gate(tmp_path):
    cfg, path = tmp_path / "net.cfg", tmp_path / "net.weights"
    cfg.write_text(cfg_source("3", "lstm output=2"))
    path.write_bytes(bytes(16 + 8 + 12))
    found = mismatch(cfg, path, "pjreddie")
    assert (found.array.layer, found.array.name, found.floats_held) == (0, "wi.weights", 3)


LAST = Array(layer=1, part="", field="weights", shape=(2, 4), offset=524, stored=(2, 4), axes=None)


@pytest.mark.parametrize(
    ("array", "held", "last", "actual", "where", "amount"),
    [
        (LAST, 0, LAST, 524, "ends before layer 1 weights", "8 floats (32 bytes) missing"),
        (LAST, 7, LAST, 552, "ends inside layer 1 weights, after 7 of 8 floats", "1 float (4 bytes) missing"),
        (LAST, 7, LAST, 555, "ends inside layer 1 weights, after 7 of 8 floats", "1 byte missing"),
        (None, 0, LAST, 560, "continues after the last array, layer 1 weights", "1 float (4 bytes) left over"),
        (None, 0, None, 558, "continues after the header", "2 bytes left over"),
    ],
)
def test_a_mismatch_in_words(array, held, last, actual, where, amount):
    found = SizeMismatch(expected=556, actual=actual, array=array, floats_held=held, between_layers=False, last=last)
    words = worded(found)
    assert (words.where, words.amount, words.sizes) == (where, amount, f"expected 556 bytes, got {actual}")
    assert words.cause != worded(found._replace(between_layers=True)).cause


def test_the_error_of_a_file_that_does_not_fit_has_the_words_of_its_mismatch(tiny):
    cfg, path = resized(tiny, 516)
    with pytest.raises(WeightsError) as caught:
        open_weights(read_model(cfg, path, "alexeyab"))
    words = worded(mismatch(cfg, path))
    assert (caught.value.path, caught.value.what, caught.value.cause) == (path, words.sentence, words.cause)


@pytest.mark.parametrize("nbytes", [552, 560])
def test_arrays_of_a_file_that_does_not_fit_are_read_only_on_request(tiny, nbytes):
    model = read_model(*resized(tiny, nbytes), "alexeyab")
    with pytest.raises(WeightsError):
        open_weights(model)
    with open_weights(model, allow_misfit=True) as weights:
        assert weights[0, "scales"].shape == (4,)


def test_bytes_after_the_last_array_are_accepted_on_request_and_a_cut_file_is_not(tiny):
    with open_weights(read_model(*resized(tiny, 560)), "drop") as weights:
        assert weights[0, "scales"].shape == (4,)
    with pytest.raises(WeightsError):
        open_weights(read_model(*resized(tiny, 552)), "drop")


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
    with pytest.raises(ValueError, match="without weights"):
        open_weights(read_model(tiny[0]))


# --- reading ----------------------------------------------------------------------------------------------------------


def test_arrays_are_found_by_layer_and_name(tiny):
    with open_weights(read_model(*tiny)) as weights:
        assert weights[0, "weights"].shape == (4, 3, 3, 3)
        assert weights[1, "biases"].shape == (2,)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ((0, "wf.weights"), "biases, scales, rolling_mean, rolling_variance, weights"),
        ((1, "scales"), "biases, weights"),
        ((2, "biases"), "layer 2 stores no arrays, expected 0, 1"),
        ((-1, "biases"), "expected 0, 1"),
        (0, "a layer and a name"),
        ("biases", "a layer and a name"),
    ],
)
def test_a_key_error_lists_the_existing_names(tiny, key, expected):
    with open_weights(read_model(*tiny)) as weights, pytest.raises(KeyError, match=expected):
        weights[key]


def test_a_model_and_its_pieces_print_as_one_short_line(tiny):
    model = read_model(*tiny)
    with open_weights(model) as weights:
        layer = model.network.layers[0]
        pieces = (model.network.text, model.network.net, layer, layer.section, model.dialect)
        for value in (model, model.network, model.layout, weights, *pieces):
            assert len(repr(value)) < 250 + len(str(tiny[0])) * 2
            assert repr(value).startswith(f"<{type(value).__name__}: ")
    assert all(piece in repr(model) for piece in (str(tiny[0]), str(tiny[1]), "alexeyab", "556 bytes"))


def test_leaving_the_with_statement_closes_the_file(tiny):
    with open_weights(read_model(*tiny)) as weights:
        pass
    assert weights.file.closed


def test_the_header_s_bytes_are_those_of_the_file(tiny):
    with open_weights(read_model(*tiny)) as weights:
        assert weights.head() == tiny[1].read_bytes()[:20]


def stored(weights, array) -> np.ndarray:
    """Return the array from the file's bytes, in its stored shape."""
    data = weights.path.read_bytes()[array.offset : array.end]
    return np.frombuffer(data, "<f4").reshape(array.stored)


@pytest.mark.parametrize("block", [1, 10, 1 << 20])
def test_blocks_are_the_array_in_file_order(layout_case: Golden, monkeypatch, block):
    monkeypatch.setattr(weights_module, "BLOCK", block)
    with open_weights(read_model(layout_case.cfg, layout_case.weights, layout_case.dialect)) as weights:
        for array in weights.layout.arrays:
            np.testing.assert_array_equal(
                np.concatenate([block.copy() for block in weights.blocks(array)]), stored(weights, array)
            )


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
        blocks = np.concatenate([block.copy() for block in weights.blocks(weights.layout.arrays[1])])
        np.testing.assert_array_equal(blocks, matrix)
        np.testing.assert_array_equal(weights[0, "weights"], matrix.T)


# --- writing ----------------------------------------------------------------------------------------------------------


def test_the_error_for_an_array_that_was_never_in_the_file_does_not_blame_a_change(tiny):
    cfg, weights = tiny
    weights.write_bytes(weights.read_bytes()[:100])
    model = read_model(cfg, weights)
    with open_weights(model, allow_misfit=True) as opened, pytest.raises(WeightsError) as caught:
        opened[0, "weights"]
    assert caught.value.cause == worded(mismatch(cfg, weights)).cause


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


def test_a_copy_replaces_the_arrays_that_are_given(tiny, tmp_path):
    model = read_model(*tiny)
    mean = np.arange(4) + 0.1  # float64
    copy(model, tmp_path / "out", {(0, "rolling_mean"): mean, (1, "weights"): np.ones((2, 4, 1, 1))})
    expected = bytearray(tiny[1].read_bytes())
    expected[52:68] = mean.astype("<f4").tobytes()
    expected[524:556] = np.ones(8, "<f4").tobytes()
    assert (tmp_path / "out").read_bytes() == expected


def test_a_copy_stores_a_transposed_array_in_the_file_s_order(tmp_path):
    cfg, path = tmp_path / "net.cfg", tmp_path / "net.weights"
    cfg.write_text(cfg_source("3", "connected output=2"))
    path.write_bytes(np.array([0, 2000, 0, 0], "<i4").tobytes() + bytes(4 * 8))
    matrix = np.arange(6.0).reshape(2, 3)
    model = read_model(cfg, path, "pjreddie")
    copy(model, tmp_path / "out", {(0, "weights"): matrix})
    with open_weights(read_model(cfg, tmp_path / "out", "pjreddie")) as weights:
        np.testing.assert_array_equal(weights[0, "weights"], matrix)


@pytest.mark.parametrize(("name", "error"), [("scales", KeyError), ("weights", ValueError)])
def test_a_copy_with_an_array_that_does_not_belong_writes_nothing(tiny, tmp_path, name, error):
    with pytest.raises(error):
        copy(read_model(*tiny), tmp_path / "out", {(1, name): np.zeros(8)})
    assert sorted(tmp_path.iterdir()) == sorted(tiny)
