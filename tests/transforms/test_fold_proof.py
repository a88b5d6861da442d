"""`transforms.fold.proof`: small differences where folding is right, and a failure where anything is wrong."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from bnorm.darknet.autodetect import read_model
from bnorm.errors import ProofError
from bnorm.transforms.fold import folded_model
from bnorm.transforms.fold.fold import fold
from support.builders import BN, cfg_source, write_weights

LAYERS = [
    ("alexeyab", "4x6x6", f"convolutional {BN} filters=6 size=3 groups=2"),
    ("alexeyab", "4x6x6", f"convolutional {BN} filters=6 size=3 binary=1"),
    ("pjreddie", "4x6x6", f"convolutional {BN} filters=6 size=3 flipped=1"),
    ("pjreddie", "4x6x6", f"deconvolutional {BN} filters=6 size=3"),
    ("alexeyab", "4x6x6", f"connected {BN} output=5"),
    ("alexeyab", "4x6x6", "local filters=5 size=3 activation=linear | batchnorm"),
    ("alexeyab", "4x6x6", "batchnorm | convolutional filters=6 groups=2"),
    ("alexeyab", "9", f"lstm {BN} output=4"),
]


def pair(folder, dialect, net, layers, seed=0):
    cfg = folder / "net.cfg"
    cfg.write_text(cfg_source(net, layers))
    return read_model(cfg, write_weights(cfg, folder / "net.weights", dialect, seed), dialect)


@pytest.mark.parametrize(("dialect", "net", "layers"), LAYERS)
def test_the_difference_is_that_of_one_rounding(tmp_path, dialect, net, layers):
    """Some dozens of roundings of 6e-8 each, in relation to the channel's largest output."""
    report = fold(pair(tmp_path, dialect, net, layers), None, dry_run=True)
    assert report.layers
    assert all(0 < row.max_rel_error < 1e-6 and 0 < row.max_abs_error < 1e-4 for row in report.layers)


CONNECTED = f"batchnorm | connected {BN} output=5 activation=linear | batchnorm"
IN_BLOCKS = [
    *((*row, 2) for row in LAYERS),
    ("pjreddie", "4x6x6", "batchnorm | convolutional filters=6 size=3 flipped=1", 2),
    ("pjreddie", "4x6x6", f"convolutional filters=4 | deconvolutional {BN} filters=6 size=3", 2),
    ("alexeyab", "4x6x6", f"convolutional {BN} filters=6 size=3 groups=2 flipped=1 activation=linear | batchnorm", 2),
    ("alexeyab", "4x6x6", "batchnorm | convolutional filters=6 size=3 groups=2 flipped=1", 2),
    ("alexeyab", "4x6x6", f"convolutional {BN} filters=6 groups=2 binary=1 activation=linear | batchnorm", 2),
    ("alexeyab", "4x6x6", CONNECTED, 2),
    ("alexeyab", "4x6x6", CONNECTED, 2000),
    ("alexeyab", "9", f"lstm {BN} output=4", 2000),
]


@pytest.mark.parametrize("block", [1, 4, 40])
@pytest.mark.parametrize(("dialect", "net", "layers", "version"), IN_BLOCKS)
def test_weights_read_in_blocks_give_the_same_as_whole_arrays(
    tmp_path, monkeypatch, dialect, net, layers, version, block
):
    path = pair(tmp_path, dialect, net, layers).weights
    data = bytearray(path.read_bytes())
    struct.pack_into("<i", data, 4, version)  # from 1000 on matrices are transposed
    path.write_bytes(data)
    model = read_model(tmp_path / "net.cfg", path, dialect)
    whole = fold(model, tmp_path / "whole.weights").layers
    monkeypatch.setattr("bnorm.darknet.weights.BLOCK", block)
    found = fold(model, tmp_path / "blocks.weights").layers
    assert (tmp_path / "blocks.weights").read_bytes() == (tmp_path / "whole.weights").read_bytes()
    assert all(row.folded for row in whole)
    for row, other in zip(found, whole, strict=True):
        assert (row.into, row.max_abs_error) == (other.into, pytest.approx(other.max_abs_error, rel=1e-3))


def spoil(array: str, by: float):
    """A `folded` that moves one value of an array by this part of itself."""
    from bnorm.transforms.fold.arrays import folded

    def spoiled(weights, stored, change):
        for block in folded(weights, stored, change):
            if stored.field == array:
                block.values.flat[0] *= 1 + by
            yield block

    return spoiled


@pytest.mark.parametrize("array", ["weights", "biases"])
@pytest.mark.parametrize(("dialect", "net", "layers"), LAYERS)
def test_one_value_that_is_off_by_a_thousandth_fails_and_leaves_nothing(
    tmp_path, monkeypatch, dialect, net, layers, array
):
    model = pair(tmp_path, dialect, net, layers)
    before = set(tmp_path.iterdir())
    monkeypatch.setattr(folded_model, "folded", spoil(array, 1e-3))
    with pytest.raises(ProofError) as caught:
        fold(model, tmp_path / "out.weights")
    assert caught.value.path == model.weights
    assert set(tmp_path.iterdir()) == before


def test_one_more_rounding_is_not_a_failure(tmp_path, monkeypatch):
    """2⁻²⁵ of one weight, which the bound of its layer's roundings holds many times."""
    model = pair(tmp_path, *LAYERS[0])
    monkeypatch.setattr(folded_model, "folded", spoil("weights", 2.0**-25))
    fold(model, tmp_path / "out.weights")


def test_a_cfg_whose_layers_read_something_else_fails_and_leaves_nothing(tmp_path, monkeypatch):
    model = pair(tmp_path, *LAYERS[0])
    before = set(tmp_path.iterdir())
    monkeypatch.setattr(folded_model, "agree", lambda *_: False)
    with pytest.raises(ProofError) as caught:
        fold(model, tmp_path / "out.weights")
    assert caught.value.path == model.network.text.path
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_layer_without_finite_outputs_is_not_compared(tmp_path, value):
    model = pair(tmp_path, *LAYERS[0])
    data = np.fromfile(model.weights, "<f4")
    data[5:11] = value  # all biases, after the header's 20 bytes
    data.tofile(model.weights)
    (row,) = fold(model, None, dry_run=True).layers
    assert (row.max_abs_error, row.max_rel_error, row.silent_channels) == (None, None, 6)
    assert row.reason == "6 channels without a finite output: not compared"


def test_if_one_channel_has_no_finite_output_the_others_are_compared(tmp_path):
    model = pair(tmp_path, *LAYERS[0])
    data = np.fromfile(model.weights, "<f4")
    data[5] = np.nan
    data.tofile(model.weights)
    (row,) = fold(model, None, dry_run=True).layers
    assert 0 < row.max_rel_error < 1e-6
    assert row.silent_channels == 1


def test_large_terms_that_cancel_are_not_a_failure(tmp_path):
    """Two inputs with a mean of 1e10 each, and weights 1 and -1: the loss of float64 is not an error of the fold."""
    model = pair(tmp_path, "alexeyab", "2x6x6", "batchnorm | convolutional filters=1 size=1 activation=linear")
    header = np.fromfile(model.weights, "<f4")[:5]
    values = np.array([0, 0, 1, 1, 1e10, 1e10, 1, 1, 0, 1, -1], "<f4")
    np.concatenate([header, values]).tofile(model.weights)
    fold(model, None, dry_run=True)


@pytest.mark.parametrize("seed", range(20))
def test_weights_of_every_size_pass(tmp_path, seed):
    """From float32's smallest numbers on, where a rounding is relative to nothing, to large ones."""
    model = pair(tmp_path, *LAYERS[seed % len(LAYERS)], seed=seed)
    data = np.fromfile(model.weights, "<f4")
    rng = np.random.default_rng(seed)
    with np.errstate(under="ignore"):
        data[5:] *= (10 ** rng.uniform(-40, 4, data.size - 5)).astype("f4")
    data.tofile(model.weights)
    fold(model, tmp_path / "out.weights")
