"""The trained sample: its accuracy with several readers, and the correctness of its gradients."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from bnorm.batchnorm.epsilon import DARKNET
from bnorm.darknet.autodetect import read_model
from bnorm.transforms.fold.fold import fold
from support.forward import Run
from support.golden import ROOT, sample

CFG, WEIGHTS = sample("digits")


@pytest.fixture(scope="module")
def training():
    """The script that trains, as a module."""
    spec = importlib.util.spec_from_file_location("train_digits", ROOT / "sample_weights/train_digits.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["train_digits"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def data(training):
    """The fixed split."""
    pytest.importorskip("sklearn")
    return training.load()


@pytest.fixture(scope="module")
def folded(tmp_path_factory) -> tuple[Path, Path]:
    output = tmp_path_factory.mktemp("digits") / "folded.weights"
    fold(read_model(CFG, WEIGHTS), output)
    return output.with_suffix(".cfg"), output


def predictions(cfg: Path, weights: Path, images: np.ndarray) -> np.ndarray:
    """Return the accuracy by the plain forward pass."""
    run = Run(cfg, weights, "alexeyab", DARKNET)
    return np.array([int(outputs[-1].argmax()) for outputs in run.layers(*images)])


@pytest.fixture(scope="module")
def expected(data) -> np.ndarray:
    """Return the digits that the sample recognises in the test images."""
    return predictions(CFG, WEIGHTS, data[1].images)


def test_it_recognises_97_of_100_digits_that_it_was_not_trained_on(data, expected):
    assert (expected == data[1].digits).mean() >= 0.97


def test_the_folded_network_recognises_the_same_digits(data, expected, folded):
    np.testing.assert_array_equal(predictions(*folded, data[1].images), expected)


def test_opencv_recognises_the_same_digits_before_and_after(data, expected, folded):
    cv2 = pytest.importorskip("cv2")
    _, test = data
    for pair in ((CFG, WEIGHTS), folded):
        net = cv2.dnn.readNetFromDarknet(*map(str, pair))
        net.setInput(test.images.astype("f4"))
        np.testing.assert_array_equal(net.forward().reshape(len(expected), 10).argmax(axis=1), expected)


def random_batch(training):
    rng = np.random.default_rng(3)
    return training.Data(rng.uniform(size=(12, 1, 8, 8)), rng.integers(0, 10, 12))


@pytest.mark.parametrize("normalised", [True, False])
def test_gradients_are_those_of_numerical_differences(training, normalised):
    """Central differences with a step of 1e-6: the error of the difference itself is about 1e-9."""
    network, batch = training.Network(normalised=normalised), random_batch(training)
    network.loss(batch)
    updates = [{name: array.copy() for name, array in layer.updates.items()} for layer in network.layers]
    rng = np.random.default_rng(4)
    for layer, found in zip(network.layers, updates, strict=True):
        for name, array in layer.arrays.items():
            for place in rng.integers(0, array.size, 3):
                value, losses = array.flat[place], []
                for step in (1e-6, -1e-6):
                    array.flat[place] = value + step
                    losses.append(network.loss(batch))
                array.flat[place] = value
                difference = (losses[0] - losses[1]) / 2e-6
                assert found[name].flat[place] == pytest.approx(difference, rel=1e-4, abs=1e-7)


def test_the_loss_falls(training):
    losses = list(training.train(training.Network(), training_data(training), 0.05, epochs=4))
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0] / 2


def training_data(training):
    """Images of two kinds, without scikit-learn: bright at the top, or bright on the left."""
    rng = np.random.default_rng(5)
    digits = rng.integers(0, 2, 256)
    images = rng.uniform(0, 0.5, (256, 1, 8, 8))
    images[digits == 0, :, :4] += 0.5
    images[digits == 1, :, :, :4] += 0.5
    return training.Data(images, digits)


def test_training_again_gives_the_same_bytes(training, tmp_path):
    for name in "ab":
        network = training.Network()
        list(training.train(network, training_data(training), 0.05, epochs=1))
        network.save(tmp_path / name, seen=256)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_saved_network_computes_what_the_trained_one_does(training, tmp_path):
    """Logits, with weights rounded to float32."""
    network, data = training.Network(), training_data(training)
    list(training.train(network, data, 0.05, epochs=1))
    network.save(tmp_path / "net.weights", seen=256)
    run = Run(CFG, tmp_path / "net.weights", "alexeyab", DARKNET)
    logits = np.array([outputs[-2].ravel() for outputs in run.layers(*data.images[:8])])
    np.testing.assert_allclose(logits, network.logits(data.images[:8]), rtol=1e-4, atol=1e-5)


SAVED = 3  # the layer whose tensors are saved


def saved(name: str) -> np.ndarray:
    array = np.load(ROOT / f"sample_weights/digits_{name}.npy")
    assert array.dtype == np.float32
    return array


def test_the_saved_tensors_are_those_of_one_mini_batch_of_training(training, data):
    """For the first eight training images, with the weights of the file, which are rounded to float32."""
    network, images = training.Network(), data[0]
    arrays = Run(CFG, WEIGHTS, "alexeyab", DARKNET).arrays
    for number, layer in enumerate(network.layers):
        for name, array in layer.arrays.items():
            array[:] = arrays[number][name]
    network.loss(training.Data(images.images[:8], images.digits[:8]))
    layer = network.layers[SAVED]
    for found, expected in ((saved("x"), layer.z), (saved("delta"), layer.delta)):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
