"""`statistics.normalisers`: one rule for every array that the file lacks."""

from __future__ import annotations

import numpy as np
import pytest

from bnorm.batchnorm.epsilon import DARKNET
from bnorm.darknet.autodetect import read_model
from bnorm.darknet.weights import open_weights
from bnorm.errors import CfgError
from bnorm.replay.layer import layer_from_model
from bnorm.reports.inspect import inspect
from bnorm.statistics.normalisers import Normaliser, normalisers
from support.builders import cfg_source, write_weights

BN = "batch_normalize=1"


def read(folder, dialect, net, layers):
    """The model of this network with random weights, its normalisers, and its arrays by layer and name."""
    cfg = folder / "net.cfg"
    cfg.write_text(cfg_source(net, layers))
    model = read_model(cfg, write_weights(cfg, folder / "net.weights", dialect), dialect)
    with open_weights(model) as weights:
        arrays = {(array.layer, array.name): weights.read(array) for array in model.layout.arrays}
        return model, normalisers(weights), arrays


def vectors(normaliser: Normaliser) -> dict[str, list[float]]:
    (scales, biases), (mean, variance) = normaliser.parameters, normaliser.rolling
    fields = {"scales": scales, "biases": biases, "rolling_mean": mean, "rolling_variance": variance}
    return {field: vector.tolist() for field, vector in fields.items()}


def test_stored_arrays_are_read_unchanged(tmp_path):
    _, found, arrays = read(tmp_path, "alexeyab", "3x5x5", f"convolutional {BN} filters=4 | convolutional filters=2")
    assert list(found) == [(0, "")]
    normaliser = found[0, ""]
    assert (normaliser.layer, normaliser.part, normaliser.kind, normaliser.stored) == (0, "", "convolutional", True)
    assert vectors(normaliser) == {field: arrays[0, field].tolist() for field in vectors(normaliser)}
    assert normaliser.rolling.variance.dtype == np.float64


def test_every_part_of_a_recurrent_layer_has_its_own(tmp_path):
    _, found, arrays = read(tmp_path, "alexeyab", "5", f"lstm output=3 {BN}")
    assert [part for _, part in found] == ["wf", "wi", "wg", "wo", "uf", "ui", "ug", "uo"]
    assert vectors(found[0, "ug"])["rolling_mean"] == arrays[0, "ug.rolling_mean"].tolist()


def test_pjreddie_stores_no_biases_of_a_batchnorm_and_they_are_0(tmp_path):
    model, found, arrays = read(tmp_path, "pjreddie", "3x5x5", "batchnorm")
    assert (0, "biases") not in arrays
    assert found[0, ""].stored
    assert vectors(found[0, ""])["biases"] == [0, 0, 0]
    assert vectors(found[0, ""])["scales"] == arrays[0, "scales"].tolist()
    assert inspect(model).layers[0].channels[""].bias.tolist() == [0, 0, 0]
    assert layer_from_model(model, 0).parameters.biases.tolist() == [0, 0, 0]


@pytest.mark.parametrize(("switch", "biases"), [("dontloadscales", True), ("dontload", False)])
def test_arrays_that_are_not_loaded_have_darknet_s_initial_values(tmp_path, switch, biases):
    """`fold` uses known initial values; `inspect` and `run` only use the values in the file."""
    model, found, arrays = read(tmp_path, "pjreddie", "3x5x5", f"convolutional {BN} filters=2 {switch}=1")
    expected = {"scales": [1, 1], "biases": [0, 0], "rolling_mean": [0, 0], "rolling_variance": [0, 0]}
    if biases:
        expected["biases"] = arrays[0, "biases"].tolist()
    assert vectors(found[0, ""]) == expected
    assert not found[0, ""].stored
    assert inspect(model).layers[0].channels == {}
    with pytest.raises(CfgError):
        layer_from_model(model, 0)


def test_numload_limits_the_vectors_to_the_channels_in_the_file(tmp_path):
    _, found, _ = read(tmp_path, "pjreddie", "3x5x5", f"convolutional {BN} filters=4 numload=2")
    assert {len(vector) for vector in vectors(found[0, ""]).values()} == {2}


def test_a_part_that_uses_another_layer_s_arrays_has_none(tmp_path):
    layers = f"convolutional {BN} filters=3 | convolutional {BN} filters=3 share_index=0"
    _, found, _ = read(tmp_path, "alexeyab", "3x5x5", layers)
    assert list(found) == [(0, "")]


def test_gain_and_offset_are_those_of_inference(tmp_path):
    _, found, arrays = read(tmp_path, "alexeyab", "3x5x5", f"convolutional {BN} filters=4")
    gain, offset = found[0, ""].gain_offset(DARKNET)
    values = {field: array.astype("f8") for (_, field), array in arrays.items()}
    expected = values["scales"] / np.sqrt(values["rolling_variance"] + 1e-5)
    np.testing.assert_allclose(gain, expected, rtol=1e-15)
    np.testing.assert_allclose(offset, values["biases"] - values["rolling_mean"] * expected, rtol=1e-13)
