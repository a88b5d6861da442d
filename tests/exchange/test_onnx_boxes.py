"""The boxes of published detectors with random weights, beside a decoding in float64 with loops."""

from __future__ import annotations

import re

import numpy as np
import pytest

from bnorm import export, read_model
from bnorm.darknet.weights import save
from support.golden import SHARED, needs_shared

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

CFGS = SHARED / "golden" / "cfgs"
NAMES = ("yolov3-tiny.cfg", "yolov4-tiny.cfg", "yolov7-tiny.cfg", "yolov2-tiny.cfg", "yolov4-csp.cfg", "yolov7x.cfg")
DETECTORS = sorted(path for path in CFGS.glob("*/*.cfg") if path.name in NAMES)


def sigma(x):
    return 1 / (1 + np.exp(-x))


def decoded(section, raw, size):
    """One row for each cell and anchor, as darknet's get_yolo_box and get_region_box compute it."""
    options = {option.key: option.value for option in section.options}
    anchors = [float(text) for text in options["anchors"].split(",")]
    count, classes = int(options["num"]), int(options["classes"])
    mask = [int(text) for text in options["mask"].split(",")] if "mask" in options else range(count)
    scale, region = float(options.get("scale_x_y", 1)), section.type == "region"
    _, height, width = raw.shape
    boxes = raw.astype(np.float64).reshape(len(mask), 5 + classes, height, width)
    rows = []
    for y in range(height):
        for x in range(width):
            for number, anchor in enumerate(mask):
                tx, ty, tw, th, to, *scores = boxes[number, :, y, x]
                scores, across, down = np.array(scores), anchors[2 * anchor], anchors[2 * anchor + 1]
                whole = (width, height) if region else size
                if int(options.get("new_coords", 0)):
                    w, h, objectness = 4 * tw**2 * across, 4 * th**2 * down, to
                else:
                    tx, ty, objectness, w, h = sigma(tx), sigma(ty), sigma(to), np.exp(tw) * across, np.exp(th) * down
                    softmax = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
                    scores = softmax if region and int(options.get("softmax", 0)) else sigma(scores)
                cx, cy = (tx * scale - (scale - 1) / 2 + x) / width, (ty * scale - (scale - 1) / 2 + y) / height
                rows.append([cx, cy, w / whole[0], h / whole[1], objectness, *(objectness * scores)])
    return np.array(rows)


def random_weights(model, path):
    rng = np.random.default_rng(0)

    def values():
        for array in model.layout.arrays:
            if array.field == "weights":
                deviation = np.float32(np.prod(array.shape[1:]) ** -0.5)
                yield rng.standard_normal(array.shape, np.float32) * deviation
            elif array.field in ("scales", "rolling_variance"):
                yield rng.random(array.shape, np.float32) + np.float32(0.5)
            else:
                yield rng.standard_normal(array.shape, np.float32) * np.float32(0.3)

    save(path, model.header, model.layout, values())


@pytest.mark.slow
@needs_shared("golden/cfgs")
@pytest.mark.parametrize("source", DETECTORS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_boxes_are_those_of_a_decoding_in_float64(source, tmp_path):
    cfg, weights, dialect = tmp_path / "net.cfg", tmp_path / "net.weights", source.parent.name
    cfg.write_text(re.sub(r"(?m)^(width|height)(\s*=\s*)\d+", r"\g<1>\g<2>96", source.read_text()))
    random_weights(read_model(cfg, None, dialect), weights)
    model = read_model(cfg, weights, dialect)
    image = np.random.default_rng(0).random((1, 3, 96, 96), np.float32)
    outputs = {}
    for head in ("boxes", "raw"):
        export(model, tmp_path / f"{head}.onnx", head=head, verify=False)
        session = onnxruntime.InferenceSession(tmp_path / f"{head}.onnx", providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        outputs[head] = dict(zip(names, session.run(names, {"input": image}), strict=True))
    for name, raw in outputs["raw"].items():
        expected = decoded(model.network.layers[int(name.rsplit("_", 1)[1])].section, raw[0], (96, 96))
        np.testing.assert_allclose(outputs["boxes"][name], expected, rtol=2e-5, atol=1e-6)
