"""An exported graph in OpenCV 4, OpenCV 5 and onnxruntime, and the same network in OpenCV 4's own darknet importer."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bnorm import export, read_model
from bnorm.darknet.weights import save
from support.builders import cfg_source
from support.golden import MODELS, needs_shared, sample

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
cv2 = pytest.importorskip("cv2")

OPENCV5 = os.environ.get("BNORM_OPENCV5", "")

READER = """
import sys
sys.path.insert(0, sys.argv[1])
import cv2, numpy as np
assert cv2.__version__.startswith("5"), cv2.__version__
net = cv2.dnn.readNetFromONNX(sys.argv[2])
net.setInput(np.load(sys.argv[3]))
names = sys.argv[5:]
np.savez(sys.argv[4], **dict(zip(names, net.forward(names))))
"""

PAIRS = {name: sample(name) for name in ("detector", "digits")}
BIG = {
    name: (MODELS / f"{name}.cfg", MODELS / f"{name}.weights") for name in ("yolo-fastest-1.1", "yolo-fastest-1.1-xl")
}


def opencv4(net, image, names):
    net.setInput(image)
    return dict(zip(names, net.forward(names), strict=True))


def opencv5(path, image, names, folder):
    np.save(folder / "image.npy", image)
    files = [str(folder / name) for name in ("image.npy", "outputs.npz")]
    subprocess.run([sys.executable, "-c", READER, OPENCV5, str(path), *files, *names], check=True)
    return dict(np.load(folder / "outputs.npz"))


def darknet_importer(cfg, weights, folder):
    """Let OpenCV 4 read the pair, without the thresholds that it applies inside its detection layers."""
    text = re.sub(r"(?m)^\[(yolo|region)\]\s*$", r"[\1]\nthresh=0\nnms_threshold=0", cfg.read_text())
    (folder / "opencv.cfg").write_text(text)
    return cv2.dnn.readNetFromDarknet(str(folder / "opencv.cfg"), str(weights))


def ort(path, image, names):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return dict(zip(names, session.run(names, {"input": image}), strict=True))


def agree(got, expected, bound):
    for name, values in expected.items():
        assert got[name].size == values.size
        assert np.abs(got[name].reshape(-1) - values.reshape(-1)).max() <= bound * np.abs(values).max(), name


def compare(cfg, weights, folder, opset=13):
    model = read_model(cfg, weights)
    details = export(model, folder / "net.onnx", epsilon="opencv", opset=opset).details
    names = [output.name for output in details.outputs]
    image = np.random.default_rng(0).random((1, *details.input[1:]), np.float32)
    reference = ort(folder / "net.onnx", image, names)
    agree(opencv4(cv2.dnn.readNetFromONNX(str(folder / "net.onnx")), image, names), reference, 1e-5)
    importer = darknet_importer(cfg, weights, folder)
    own = opencv4(importer, image, importer.getUnconnectedOutLayersNames())
    agree(dict(zip(names, own.values(), strict=True)), reference, 1e-5)
    if OPENCV5:
        agree(opencv5(folder / "net.onnx", image, names, folder), reference, 1e-5)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("opset", [12, 13, 18])
def test_samples(name, opset, tmp_path):
    compare(*PAIRS[name], tmp_path, opset)


@needs_shared("models")
@pytest.mark.parametrize("name", BIG)
def test_real_detectors(name, tmp_path):
    compare(*BIG[name], tmp_path)


# One network of everything that a detector may have, which OpenCV's own importer reads partly wrong.
ALL = (
    "convolutional filters=8 size=3 stride=2 pad=1 batch_normalize=1 activation=mish | "
    "convolutional filters=8 size=3 groups=8 pad=1 dilation=2 activation=swish | "
    "shortcut from=-2,0 activation=relu6 | maxpool size=2 stride=1 | maxpool size=5 stride=1 | "
    "route layers=-1,-2 groups=2 group_id=1 | reorg3d stride=2 | convolutional filters=12 activation=hard_mish | "
    "upsample scale=.5 | avgpool | connected output=12 activation=gelu | scale_channels from=8 | "
    "local_avgpool size=3 stride=2 | lrn | convolutional filters=14 activation=linear | "
    "yolo num=2 classes=2 scale_x_y=1.1 | route layers=-2 | region num=2 classes=2 softmax=1 | route layers=-4 | "
    "convolutional filters=11 activation=selu | Gaussian_yolo classes=2 num=1 | route layers=-2 | "
    "convolutional filters=4 size=2 stride=2 activation=stair | softmax groups=2"
)


def tame_weights(cfg, path):
    """Write random weights with which the values stay as large as they are."""
    model, rng = read_model(cfg, None, "alexeyab"), np.random.default_rng(0)
    spread = {"weights": lambda shape: rng.normal(0, np.prod(shape[1:]) ** -0.5, shape)}
    spread |= dict.fromkeys(("scales", "rolling_variance"), lambda shape: rng.uniform(0.5, 1.5, shape))
    arrays = [
        spread.get(array.field, lambda shape: rng.normal(0, 0.3, shape))(array.shape).astype("f4")
        for array in model.layout.arrays
    ]
    save(path, model.header, model.layout, arrays)
    return path


@pytest.mark.parametrize("opset", [11, 13, 18])
def test_every_operator_in_every_reader(opset, tmp_path):
    cfg = tmp_path / "all.cfg"
    cfg.write_text(cfg_source("3x32x32", ALL))
    model = read_model(cfg, tame_weights(cfg, tmp_path / "all.weights"), "alexeyab")
    details = export(model, tmp_path / "net.onnx", opset=opset).details
    names = [output.name for output in details.outputs]
    image = np.random.default_rng(0).random((1, 3, 32, 32), np.float32)
    reference = ort(tmp_path / "net.onnx", image, names)
    agree(opencv4(cv2.dnn.readNetFromONNX(str(tmp_path / "net.onnx")), image, names), reference, 1e-4)
    if OPENCV5:
        agree(opencv5(tmp_path / "net.onnx", image, names, tmp_path), reference, 1e-4)


@pytest.mark.skipif(not OPENCV5, reason="BNORM_OPENCV5 does not name a folder with OpenCV 5")
def test_opencv_5_is_compared_with():
    assert (Path(OPENCV5) / "cv2").is_dir()
