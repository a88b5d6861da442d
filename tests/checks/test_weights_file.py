"""`checks.weights_file`: the one reason why a file is not as planned, and oddities that are not a reason."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bnorm.checks.findings import KINDS
from bnorm.darknet.autodetect import read_model
from support.builders import cfg_source, patch, with_floats, write_weights
from support.damage import ARRAYS, BAD_FILES, DATA, TEXT, findings
from support.golden import MODELS, needs_shared

VARIANCES = [array for array in ARRAYS.values() if array.field == "rolling_variance"]


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_problem_in_a_weights_file_is_found(pair, kind):
    """One cause, not a list of symptoms."""
    cfg, weights = pair
    weights.write_bytes(BAD_FILES[kind].data)
    (found,) = findings(cfg, weights)
    assert (found.id, found.severity, found.layer) == (kind, KINDS[kind].severity, BAD_FILES[kind].layer)
    assert [found.line, found.part, found.channel] == [None] * 3
    assert found.message


# --- the bytes themselves ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("encoding", "cause"), [("latin-1", "decode it again"), ("utf-8", "cannot be restored")])
def test_text_that_was_re_encoded_can_be_restored_unless_bytes_were_lost(pair, encoding, cause):
    cfg, weights = pair
    weights.write_bytes(DATA.decode(encoding, errors="replace").encode())
    (found,) = findings(cfg, weights)
    assert (found.id, cause in found.cause) == ("weights-reencoded", True)


def test_zeros_alone_are_found(pair):
    cfg, weights = pair
    weights.write_bytes(bytes(len(DATA)))
    (found,) = findings(cfg, weights)
    assert found.id == "weights-zeros"
    assert "byte 0 " in found.message
    assert "27,560 of 27,560" in found.message


def test_the_array_in_which_zeros_begin_is_named(pair):
    cfg, weights = pair
    end = ARRAYS[4, "weights"].offset + 4 * 100
    weights.write_bytes(DATA[:end] + bytes(len(DATA) - end))
    (found,) = findings(cfg, weights)
    assert (found.id, "layer 4 weights" in found.message) == ("weights-zeros", True)


def test_filters_at_the_end_that_are_pruned_to_0_are_sound(tmp_path):
    """Zeros that begin with a filter of the last layer are intended; zeros that begin elsewhere are not."""
    cfg = tmp_path / "net.cfg"
    cfg.write_text(cfg_source("3x8x8", "convolutional filters=8 size=3 | convolutional filters=8 size=3"))
    weights = write_weights(cfg, tmp_path / "net.weights")
    arrays = read_model(cfg, weights).layout.arrays
    data, row = weights.read_bytes(), 4 * 8 * 9
    kept = {"a filter": arrays[-1].end - 2 * row, "within": arrays[-1].end - 2 * row + 4, "before": arrays[1].offset}
    for name, end in kept.items():
        weights.write_bytes(data[:end] + bytes(len(data) - end))
        found = {row.id for row in findings(cfg, weights)}
        assert ("weights-zeros" in found) is (name != "a filter"), name


def test_a_layer_that_ends_in_zeros_as_initialised_is_untrained(tmp_path):
    """The statistics of a [connected] are stored last."""
    cfg = tmp_path / "net.cfg"
    cfg.write_text(cfg_source("3x8x8", "convolutional | connected output=128 batch_normalize=1"))
    weights = write_weights(cfg, tmp_path / "net.weights")
    data = weights.read_bytes()
    weights.write_bytes(data[: -4 * 384] + np.ones(128, "<f4").tobytes() + bytes(4 * 256))
    assert [found.id for found in findings(cfg, weights)] == ["untrained"]


# --- another size -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nbytes", [1, 15, 19])
def test_a_file_that_ends_in_its_header_is_cut(pair, nbytes):
    cfg, weights = pair
    weights.write_bytes(DATA[:nbytes] if nbytes > 12 else b"\0" * nbytes)
    assert [found.id for found in findings(cfg, weights)] == ["weights-cut"]


def test_the_header_alone_ends_before_the_first_layer(pair):
    cfg, weights = pair
    weights.write_bytes(DATA[:20])
    (found,) = findings(cfg, weights)
    assert (found.id, found.layer) == ("weights-cut", 0)
    assert found.cause


def test_a_partial_file_has_the_numbers_that_darknet_partial_needs(pair):
    """Layer 3 stores nothing: NAME.conv.3 and NAME.conv.4 have the same bytes."""
    cfg, weights = pair
    weights.write_bytes(BAD_FILES["weights-partial"].data)
    (found,) = findings(cfg, weights)
    assert "NAME.conv.3" in found.message
    assert "3 to 4" in found.message


def test_a_cfg_without_its_last_layers_leaves_bytes_over(pair):
    """Two layers are missing: the options of a single layer could be computed."""
    cfg, weights = pair
    cut = TEXT[: TEXT.rindex("[convolutional]")]
    cfg.write_text(cut[: cut.rindex("[convolutional]")])
    (found,) = findings(cfg, weights)
    assert found.id == "weights-left-over"


def test_the_weights_of_another_network_belong_to_another_cfg(pair):
    """Other filters and kernels from layer 2 on: layers 0 and 1 are still read at the right offsets."""
    cfg, weights = pair
    text = (
        TEXT.replace("filters=16", "filters=24", 1)
        .replace("filters=32", "filters=40")
        .replace("filters=64", "filters=24")
    )
    cfg.write_text(text)
    (found,) = findings(cfg, weights)
    assert (found.id, found.layer) == ("weights-other-cfg", 2)
    assert "up to layer 1 rolling_variance" in found.message
    assert "27,560" in found.message


@needs_shared("models")
def test_a_pair_of_two_models_belongs_to_another_cfg():
    (found,) = findings(MODELS / "yolo-fastest-1.1.cfg", MODELS / "yolo-fastest-1.1-xl.weights")
    assert (found.id, found.layer) == ("weights-other-cfg", 1)


def test_noise_is_not_a_darknet_file(pair):
    cfg, weights = pair
    weights.write_bytes(np.random.default_rng(0).bytes(5000))
    (found,) = findings(cfg, weights)
    assert found.id == "weights-foreign"


# --- the same size ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("early", "nbytes"), [(True, "20 bytes"), (False, "16 bytes")])
def test_a_header_that_is_4_bytes_off_shows_at_the_edges_of_the_variances(pair, early, nbytes):
    """The header is off, and somebody has padded or cut the file so that its size fits."""
    cfg, weights = pair
    data = DATA
    for array in ARRAYS.values():  # the neighbours of every variance are negative
        if array.field == "rolling_mean":
            data = with_floats(data, array.end - 4, -1.0)
        if array.field == "rolling_variance":
            data = with_floats(data, array.end, -1.0)
    body = data[20:]
    weights.write_bytes(data[:20] + ((bytes(4) + body)[: len(body)] if early else body[4:] + b"\0\0\0\1"))
    (found,) = findings(cfg, weights)
    assert (found.id, found.layer) == ("weights-header-offset", 0)
    assert nbytes in found.cause


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.01])
@pytest.mark.parametrize("cut", [0, 400])
def test_bad_variances_in_every_layer_are_not_another_cfg(pair, value, cut):
    """Training may leave such values."""
    cfg, weights = pair
    for array in VARIANCES:
        if array.size > 10:
            patch(weights, array.offset + 20, value)
    weights.write_bytes(weights.read_bytes()[: len(DATA) - cut])
    kind = {"nan": "nan", "inf": "variance-infinite"}.get(str(value), "variance-negative")
    assert {found.id for found in findings(cfg, weights)} == ({"weights-cut"} if cut else {kind})


def test_one_misread_layer_is_not_another_cfg_though_others_have_bad_variances(pair):
    cfg, weights = pair
    for array in VARIANCES[1:]:  # of the eight of the first, one alone is a tenth
        patch(weights, array.offset + 20, -0.2)
    patch(weights, VARIANCES[-1].offset, *[-0.2] * 8)
    assert {found.id for found in findings(cfg, weights)} == {"variance-negative"}


def test_values_that_are_all_nan_are_reported_as_nan(pair):
    cfg, weights = pair
    weights.write_bytes(DATA[:20] + np.full(len(DATA) // 4 - 5, np.nan, "<f4").tobytes())
    assert {found.id for found in findings(cfg, weights)} == {"nan"}
