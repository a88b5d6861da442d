"""A real reader, OpenCV 4, loads folded networks and computes the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bnorm.darknet.autodetect import read_model
from bnorm.transforms.fold.fold import fold
from support.golden import MODELS, needs_shared, sample


def outputs(cfg: Path, weights: Path) -> list[np.ndarray]:
    """Return OpenCV's result at every output layer for one random image."""
    cv2 = pytest.importorskip("cv2")
    net = cv2.dnn.readNetFromDarknet(str(cfg), str(weights))
    _, channels, height, width = 1, *read_model(cfg, weights).network.input[:3]
    net.setInput(np.random.default_rng(0).random((1, channels, height, width), dtype=np.float32))
    return net.forward(net.getUnconnectedOutLayersNames())


# Its ε is 1e-6 where darknet's is 1e-5: folded with darknet's, outputs move by up to 1e-3; with its own, by roundings.
LIMITS = [("darknet", 2e-3), ("opencv", 2e-5)]


def compare(cfg: Path, weights: Path, tmp_path: Path, epsilon: str, limit: float) -> None:
    fold(read_model(cfg, weights), tmp_path / "folded.weights", epsilon=epsilon)
    pairs = zip(outputs(cfg, weights), outputs(tmp_path / "folded.cfg", tmp_path / "folded.weights"), strict=True)
    for before, after in pairs:
        assert before.shape == after.shape
        assert np.abs(before - after).max() < limit


@pytest.mark.parametrize("name", ["detector", "digits"])
@pytest.mark.parametrize(("epsilon", "limit"), LIMITS)
def test_a_sample_computes_the_same_when_it_is_folded(tmp_path, name, epsilon, limit):
    compare(*sample(name), tmp_path, epsilon, limit)


@needs_shared("models")
@pytest.mark.parametrize("name", ["yolo-fastest-1.1", "yolo-fastest-1.1-xl"])
@pytest.mark.parametrize(("epsilon", "limit"), LIMITS)
def test_a_detector_computes_the_same_when_it_is_folded(name, tmp_path, epsilon, limit):
    compare(MODELS / f"{name}.cfg", MODELS / f"{name}.weights", tmp_path, epsilon, limit)
