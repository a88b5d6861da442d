"""A real reader, OpenCV 4, loads what bnorm folds and computes the same with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bnorm.folding import fold
from bnorm.model import read_model
from conftest import SHARED, needs_shared

SAMPLES = Path(__file__).parents[1]


def outputs(cfg: Path, weights: Path) -> list[np.ndarray]:
    """What OpenCV computes at every output layer for one random image."""
    cv2 = pytest.importorskip("cv2")
    net = cv2.dnn.readNetFromDarknet(str(cfg), str(weights))
    _, channels, height, width = 1, *read_model(cfg, weights).network.input[:3]
    net.setInput(np.random.default_rng(0).random((1, channels, height, width), dtype=np.float32))
    return net.forward(net.getUnconnectedOutLayersNames())


def compare(cfg: Path, weights: Path, tmp_path: Path) -> None:
    """OpenCV normalises with ε 1e-6 where darknet has 1e-5: that alone moves outputs by up to 1e-3."""
    fold(read_model(cfg, weights), tmp_path / "folded.weights", tmp_path / "folded.cfg")
    for before, after in zip(
        outputs(cfg, weights), outputs(tmp_path / "folded.cfg", tmp_path / "folded.weights"), strict=True
    ):
        assert before.shape == after.shape
        assert np.abs(before - after).max() < 2e-3


def test_the_sample_computes_the_same_when_it_is_folded(tmp_path):
    compare(SAMPLES / "sample_cfgs/sample.cfg", SAMPLES / "sample_weights/sample.weights", tmp_path)


@needs_shared("models")
@pytest.mark.parametrize("name", ["yolo-fastest-1.1", "yolo-fastest-1.1-xl"])
def test_a_detector_computes_the_same_when_it_is_folded(name, tmp_path):
    models = SHARED / "models"
    compare(models / f"{name}.cfg", models / f"{name}.weights", tmp_path)
