"""`checks.misfit.header`: a header of 16 bytes that is read as 20, or the reverse: the size is off by one float."""

from __future__ import annotations

from bnorm.checks.misfit.header import other_header
from bnorm.darknet.autodetect import read_model
from bnorm.darknet.weights import open_weights
from support.builders import cfg_source, with_floats, write_weights
from support.damage import ARRAYS, DATA, findings, headed


def test_a_file_without_its_last_4_bytes_is_cut_and_not_shifted(pair):
    cfg, weights = pair
    weights.write_bytes(DATA[:-4])
    assert [found.id for found in findings(cfg, weights)] == ["weights-cut"]


def test_a_header_of_20_bytes_that_says_16_is_4_bytes_off(pair):
    cfg, weights = pair
    weights.write_bytes(headed(0, 1, 0))
    assert [found.id for found in findings(cfg, weights)] == ["weights-header-offset"]


def test_the_candidate_is_the_plan_with_the_header_of_the_other_length(pair):
    cfg, weights = pair
    weights.write_bytes(headed(0, 1, 0))
    model = read_model(cfg, weights)
    with open_weights(model, allow_misfit=True) as opened:
        (candidate,) = other_header(opened)
    assert (model.header.nbytes, candidate.layout.arrays[0].offset) == (16, 20)
    assert candidate.layout.nbytes == len(DATA)


def test_a_header_of_16_bytes_before_a_bias_of_0_is_4_bytes_off(pair):
    """The bias looks like the upper half of `seen`: the variances decide, each with a negative weight after it."""
    cfg, weights = pair
    data = with_floats(DATA, 20, 0.0)
    for array in ARRAYS.values():
        if array.field == "rolling_variance":  # of fewer than ten, one alone is a tenth
            data = with_floats(data, array.end, -1.0 if array.size > 10 else 1.0)
    weights.write_bytes(data[:12] + data[16:])
    assert [found.id for found in findings(cfg, weights)] == ["weights-header-offset"]


def test_without_normalisation_the_bytes_of_seen_tell_the_header_s_length(tmp_path):
    cfg = tmp_path / "net.cfg"
    cfg.write_text(cfg_source("3x8x8", "convolutional filters=2"))
    weights = write_weights(cfg, tmp_path / "net.weights")
    data = weights.read_bytes()
    for shorter, kind in ((data[:-4], "weights-cut"), (data[:12] + data[16:], "weights-header-offset")):
        weights.write_bytes(shorter)
        assert [found.id for found in findings(cfg, weights)] == [kind]
