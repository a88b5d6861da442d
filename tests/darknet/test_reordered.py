"""Arrays in the order of another file: gates by their roles, and rows along another axis."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from bnorm.darknet import weights as weights_module
from bnorm.darknet.autodetect import read_model
from bnorm.darknet.dialects import DIALECTS, roles
from bnorm.darknet.weights import aligned, open_weights, same_bits, save
from support.builders import cfg_source


@pytest.mark.parametrize(("kind", "forks", "count"), [("gru", ("pjreddie", "alexeyab"), 6), ("lstm", DIALECTS, 8)])
def test_every_fork_has_the_same_gates_once(kind, forks, count):
    found = [roles(DIALECTS[fork], kind) for fork in forks]
    assert all(len(set(gates.values())) == count for gates in found)
    assert len({frozenset(gates.values()) for gates in found}) == 1


def test_a_gate_is_named_by_its_letter_and_its_operand():
    lstm, gru = roles(DIALECTS["hank"], "lstm"), roles(DIALECTS["alexeyab"], "gru")
    assert (lstm["wf"], lstm["ug"]) == ("forget of state", "cell of input")
    assert (gru["input_z_layer"], gru["state_h_layer"]) == ("update of input", "candidate of state")
    assert roles(DIALECTS["pjreddie"], "connected") == {}


@pytest.fixture
def array(tmp_path: Path):
    """An open file of one convolution with weights (6, 2, 3, 3), flipped or not, and its values in memory."""
    cfg = tmp_path / "net.cfg"

    def opened(flipped: int):
        cfg.write_text(cfg_source("2x8x8", f"convolutional filters=6 size=3 flipped={flipped}"))
        model = read_model(cfg, None, "alexeyab")
        rng = np.random.default_rng(0)
        save(
            tmp_path / "net.weights",
            model.header,
            model.layout,
            (rng.random(a.shape, "f4") for a in model.layout.arrays),
        )
        model = read_model(cfg, tmp_path / "net.weights", "alexeyab")
        return open_weights(model), model.layout.array(0, "weights")

    return opened


@pytest.mark.parametrize("strip", [1, 40, 1 << 20])
@pytest.mark.parametrize("block", [1, 20, 1 << 17])
@pytest.mark.parametrize("flipped", [0, 1])
@pytest.mark.parametrize("axes", [None, *list(permutations(range(4)))[::5], (3, 0, 1, 2), (3, 2, 1, 0)])
def test_an_array_is_read_in_the_order_of_any_other_file(array, monkeypatch, axes, flipped, block, strip):
    monkeypatch.setattr(weights_module, "STRIP", strip)
    monkeypatch.setattr(weights_module, "BLOCK", block)
    weights, found = array(flipped)
    with weights:
        expected = weights.read(found)
        if axes is not None:
            expected = expected.transpose(np.argsort(axes))
        blocks = [piece.copy() for piece in weights.blocks_as(found, axes)]
    np.testing.assert_array_equal(np.concatenate(blocks), expected)


def pieces(values: np.ndarray, *sizes: int) -> list[np.ndarray]:
    return np.split(values, np.cumsum(sizes))


def test_streams_that_are_cut_in_other_places_are_aligned():
    values = np.arange(20, dtype="f4")
    pairs = list(aligned(pieces(values, 3, 4), pieces(values, 5, 5, 5)))
    assert [left.size for left, _ in pairs] == [3, 2, 2, 3, 5, 5]
    assert all((left == right).all() for left, right in pairs)


@pytest.mark.parametrize("other", [np.arange(19), np.arange(21), np.arange(20) + 1, np.where(np.arange(20), 5, -0.0)])
def test_streams_of_other_bits_or_lengths_are_not_the_same(other):
    values = np.arange(20, dtype="f4")
    assert same_bits(pieces(values, 7), pieces(values, 2, 9))
    assert not same_bits(pieces(values, 7), pieces(other.astype("f4"), 4))
