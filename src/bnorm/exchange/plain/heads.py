"""The heads in the plain forward pass: their own outputs, and their boxes, indexed as the C programs index them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnorm.darknet.network import Layer, Network
from bnorm.darknet.reals import real, reals

Tensor = NDArray[Any]


def logistic(x: Tensor) -> Tensor:
    """Return 1 / (1 + e^−x)."""
    return np.asarray(1 / (1 + np.exp(-x)))


def softmax(x: Tensor, axis: int) -> Tensor:
    """Return e^x by its sum along an axis."""
    powers = np.exp(x - x.max(axis=axis, keepdims=True))
    return np.asarray(powers / powers.sum(axis=axis, keepdims=True))


def _anchors(layer: Layer, chosen: list[int]) -> Tensor:
    values = np.full(2 * max([*chosen, 0]) + 2, 0.5)
    given = reals(layer.section, "anchors")[: len(values)]
    values[: len(given)] = given
    return values.reshape(-1, 2)[chosen].astype(np.float32).astype(np.float64)


def _chosen(layer: Layer) -> list[int]:
    mask = layer.section.integers("mask") if layer.type != "region" else None
    return list(range(layer.section.natural("num", 1))) if mask is None else mask


def _planes(layer: Layer, x: Tensor) -> Tensor:
    """Return the input as (boxes, values of a box, h, w)."""
    return x.reshape(len(_chosen(layer)), -1, *layer.incoming[1:3]).copy()


def _rows(x: Tensor, y: Tensor, w: Tensor, h: Tensor, objectness: Tensor, classes: Tensor) -> Tensor:
    """Return boxes, (h·w·boxes, 5 + classes), from planes (boxes, h, w) and (boxes, classes, h, w)."""
    planes = np.concatenate([np.stack([x, y, w, h, objectness], axis=1), classes], axis=1)
    return planes.transpose(2, 3, 0, 1).reshape(-1, planes.shape[1])


def _yolo(_network: Network, layer: Layer, x: Tensor) -> Tensor:
    p, scale = _planes(layer, x), real(layer.section, "scale_x_y", 1.0)
    if not layer.section.flag("new_coords"):
        p[:, :2], p[:, 4:] = logistic(p[:, :2]), logistic(p[:, 4:])
    p[:, :2] = p[:, :2] * scale - 0.5 * (scale - 1)
    return p


def _yolo_boxes(network: Network, layer: Layer, x: Tensor) -> Tensor:
    p = _yolo(network, layer, x)
    height, width = p.shape[2:]
    anchors = _anchors(layer, _chosen(layer))
    rows, columns = np.indices((height, width))
    powers = 4 * p[:, 2:4] ** 2 if layer.section.flag("new_coords") else np.exp(p[:, 2:4])
    w = powers[:, 0] * anchors[:, 0, None, None] / network.input.width
    h = powers[:, 1] * anchors[:, 1, None, None] / network.input.height
    return _rows((columns + p[:, 0]) / width, (rows + p[:, 1]) / height, w, h, p[:, 4], p[:, 4:5] * p[:, 5:])


def _gaussian(_network: Network, layer: Layer, x: Tensor) -> Tensor:
    p, scale = _planes(layer, x), real(layer.section, "scale_x_y", 1.0)
    squashed = [0, 1, 2, 3, 5, 7, *range(8, p.shape[1])]
    p[:, squashed] = logistic(p[:, squashed])
    p[:, [0, 2]] = p[:, [0, 2]] * scale - 0.5 * (scale - 1)
    return p


def _gaussian_boxes(network: Network, layer: Layer, x: Tensor) -> Tensor:
    p = _gaussian(network, layer, x)
    height, width = p.shape[2:]
    anchors = _anchors(layer, _chosen(layer))
    rows, columns = np.indices((height, width))
    w = np.exp(p[:, 4]) * anchors[:, 0, None, None] / network.input.width
    h = np.exp(p[:, 6]) * anchors[:, 1, None, None] / network.input.height
    corner = {"left_top": 0.5, "right_bottom": -0.5}.get(layer.section.text("yolo_point", "center"), 0)
    bx, by = (columns + p[:, 0]) / width + corner * w, (rows + p[:, 2]) / height + corner * h
    certainty = 1 - p[:, [1, 3, 5, 7]].mean(axis=1)
    return _rows(bx, by, w, h, p[:, 8], (p[:, 8] * certainty)[:, None] * p[:, 9:])


def _region(network: Network, layer: Layer, x: Tensor) -> Tensor:
    """Planes, activated; each fork's own order is `_region_output`."""
    p, own = _planes(layer, x), network.dialect.name == "pjreddie"
    coords = layer.section.natural("coords", 4)
    p[:, coords] = logistic(p[:, coords])
    if own:
        p[:, :2] = logistic(p[:, :2])
    if layer.section.flag("softmax"):
        p[:, coords + 1 :] = softmax(p[:, coords + 1 :], 1)
    elif own:
        p[:, coords + 1 :] = logistic(p[:, coords + 1 :])
    return p


def _region_output(network: Network, layer: Layer, x: Tensor) -> Tensor:
    p = _region(network, layer, x)
    return p if network.dialect.name == "pjreddie" else p.transpose(2, 3, 0, 1)


def _region_boxes(network: Network, layer: Layer, x: Tensor) -> Tensor:
    p = _region(network, layer, x)
    coords, (height, width) = layer.section.natural("coords", 4), p.shape[2:]
    xy = p[:, :2] if network.dialect.name == "pjreddie" else logistic(p[:, :2])
    anchors = _anchors(layer, _chosen(layer))
    rows, columns = np.indices((height, width))
    w, h = (np.exp(p[:, 2 + n]) * anchors[:, n, None, None] / size for n, size in enumerate((width, height)))
    objectness = p[:, coords]
    classes = objectness[:, None] * p[:, coords + 1 :]
    return _rows((columns + xy[:, 0]) / width, (rows + xy[:, 1]) / height, w, h, objectness, classes)


def _detection(_network: Network, layer: Layer, x: Tensor) -> Tensor:
    y, section = x.reshape(-1).copy(), layer.section
    places, classes = section.positive("side", 7) ** 2, section.natural("classes", 1)
    if section.flag("softmax"):
        y[: places * classes] = softmax(y[: places * classes].reshape(places, classes), 1).reshape(-1)
    return y


def _detection_boxes(network: Network, layer: Layer, x: Tensor) -> Tensor:
    predictions, section = _detection(network, layer, x), layer.section
    side, boxes, classes = section.positive("side", 7), section.positive("num"), section.natural("classes", 1)
    rows = []
    for place in range(side * side):
        for number in range(boxes):
            scale = predictions[side * side * classes + place * boxes + number]
            first = side * side * (classes + boxes) + (place * boxes + number) * 4
            bx, by, w, h = predictions[first : first + 4]
            power = 2 if section.flag("sqrt") else 1
            centre = [(bx + place % side) / side, (by + place // side) / side]
            scores = scale * predictions[place * classes : (place + 1) * classes]
            rows.append([*centre, w**power, h**power, scale, *scores])
    return np.array(rows)


Decode = Callable[[Network, Layer, Tensor], Tensor]

OUTPUTS: dict[str, Decode] = {
    "yolo": _yolo,
    "Gaussian_yolo": _gaussian,
    "region": _region_output,
    "detection": _detection,
}

BOXES: dict[str, Decode] = {
    "yolo": _yolo_boxes,
    "Gaussian_yolo": _gaussian_boxes,
    "region": _region_boxes,
    "detection": _detection_boxes,
}
