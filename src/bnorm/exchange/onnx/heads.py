"""The heads: layers whose output is boxes.

Each has two functions. `activated` is the layer's own output, for a layer that reads it. `boxes` decodes it: a row for
each cell and anchor, first y, then x, then the anchor; the columns are cx, cy, w, h in parts of the network's input,
objectness, and objectness times each class. No box is left out: thresholds and suppression are the reader's.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bnorm.darknet.reals import real, reals
from bnorm.exchange.onnx.context import Context
from bnorm.exchange.onnx.graph import Value

COLUMNS = "cx, cy, w, h, objectness, objectness times each class"
ROWS = "cells by y, then x, then anchors"

MOST_ANCHORS = 10_000


class Head(NamedTuple):
    """One type of head: its own output, and its boxes, (rows, columns)."""

    activated: Callable[[Context], Value]
    boxes: Callable[[Context], Value]


# --- what heads have in common ----------------------------------------------------------------------------------------


def _entries(context: Context, boxes: int) -> Value:
    """Return the input as the fork indexes it: (boxes, values of a box, height·width)."""
    channels, height, width = context.image().shape
    return context.graph.reshape(context.image(), (boxes, channels // boxes, height * width))


def _cells(context: Context, boxes: int) -> Value:
    """Return the input with a box's values last: (height·width, boxes, values of a box)."""
    image = context.image()
    channels, height, width = image.shape
    last = context.graph.transpose(image, (1, 2, 0))
    return context.graph.reshape(last, (height * width, boxes, channels // boxes))


def _cut(context: Context, value: Value, axis: int, *sizes: int) -> list[Value]:
    """Cut an axis into parts of these sizes, and the rest."""
    ends = [sum(sizes[: count + 1]) for count in range(len(sizes))]
    bounds = [0, *ends, value.shape[axis]]
    return [context.graph.slice_axis(value, axis, start, end) for start, end in pairwise(bounds) if end > start]


def _grid(height: int, width: int) -> NDArray[np.float64]:
    """Return the column and the row of each cell, (height·width, 1, 2)."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([columns, rows], axis=-1).reshape(-1, 1, 2).astype(np.float64)


def _constant(context: Context, name: str, values: NDArray[np.floating]) -> str:
    """Return the name of a float32 constant that broadcasts with the cells."""
    return context.graph.constant(name, values[np.newaxis].astype(np.float32))


def _centres(context: Context, xy: Value, scale: float) -> Value:
    """Return (cell + scale·xy − (scale − 1)/2) / size."""
    _, height, width = context.image().shape
    context.afford(2 * height * width, "the grid")
    size = np.array([width, height], np.float64)
    moved = (_grid(height, width) - (scale - 1) / 2) / size
    factor = _constant(context, "factor", np.reshape(scale / size, (1, 1, 2)))
    return context.graph.binary("Add", context.graph.binary("Mul", xy, factor), _constant(context, "grid", moved))


def _sizes(context: Context, powers: Value, anchors: NDArray[np.float64]) -> Value:
    """Return powers · anchors, which are (boxes, 2) in parts of the input."""
    return context.graph.binary("Mul", powers, _constant(context, "anchors", anchors[np.newaxis]))


def _rows(context: Context, *columns: Value) -> Value:
    """Join the columns, and count cells and anchors in one axis."""
    graph = context.graph
    joined = graph.concat(columns, axis=2)
    rows = (joined.shape[0] * joined.shape[1], joined.shape[2])
    if graph.batch == 1:
        return graph.add("Reshape", [joined, graph.constant("shape", list(rows))], rows, batched=False)
    return graph.reshape(joined, rows)


def _anchors(context: Context, count: int, chosen: list[int]) -> NDArray[np.float64]:
    """Return the anchors of these numbers, (boxes, 2); darknet's own where the cfg has too few are 0.5."""
    section = context.layer.section
    if count > MOST_ANCHORS:
        raise context.refusal(f"num={count}, expected at most {MOST_ANCHORS}", "num")
    given = reals(section, "anchors")[: 2 * count]
    values = np.full(2 * count, 0.5)
    values[: len(given)] = given
    if wrong := [number for number in chosen if not 0 <= number < count]:
        raise context.refusal(f"mask={wrong[0]}, expected 0 to {count - 1}, by num", "mask")
    return values.reshape(-1, 2)[chosen].astype(np.float32).astype(np.float64)


def _masked(context: Context) -> tuple[int, NDArray[np.float64]]:
    """Return the number of boxes of each cell, and their anchors in parts of the input, (boxes, 2)."""
    section, entry = context.layer.section, context.network.input
    count = section.natural("num", 1)
    mask = section.integers("mask")
    chosen = list(range(min(count, MOST_ANCHORS))) if mask is None else mask
    anchors = _anchors(context, count, chosen)
    return len(chosen), anchors / np.array([entry.width, entry.height], np.float64)


# --- yolo -------------------------------------------------------------------------------------------------------------


def _yolo_activated(context: Context) -> Value:
    """σ of x, y, objectness and classes, and x and y scaled (`forward_yolo_layer`); `new_coords` omits σ."""
    graph, section = context.graph, context.layer.section
    boxes, scale = _masked(context)[0], real(section, "scale_x_y", 1.0)
    xy, wh, scores = _cut(context, _entries(context, boxes), 1, 2, 2)
    if not section.flag("new_coords"):
        xy, scores = graph.unary("Sigmoid", xy), graph.unary("Sigmoid", scores)
    joined = graph.concat([graph.scaled(xy, scale, -(scale - 1) / 2), wh, scores], axis=1)
    return graph.reshape(joined, context.image().shape)


def _yolo_boxes(context: Context) -> Value:
    """Decode as `get_yolo_box` does; with `new_coords` sizes are 4·t²·anchor instead of exp(t)·anchor."""
    graph, section = context.graph, context.layer.section
    boxes, anchors = _masked(context)
    xy, wh, objectness, *classes = _cut(context, _cells(context, boxes), 2, 2, 2, 1)
    if section.flag("new_coords"):
        powers, anchors = graph.binary("Mul", wh, wh), 4 * anchors
    else:
        xy, objectness, powers = graph.unary("Sigmoid", xy), graph.unary("Sigmoid", objectness), graph.unary("Exp", wh)
        classes = [graph.unary("Sigmoid", scores) for scores in classes]
    scores = [graph.binary("Mul", scores, objectness) for scores in classes]
    centres = _centres(context, xy, real(section, "scale_x_y", 1.0))
    return _rows(context, centres, _sizes(context, powers, anchors), objectness, *scores)


# --- Gaussian_yolo ----------------------------------------------------------------------------------------------------


def _gaussian_activated(context: Context) -> Value:
    """σ of all but the means of w and h; the means of x and y scaled (`forward_gaussian_yolo_layer`)."""
    graph, section = context.graph, context.layer.section
    scale = real(section, "scale_x_y", 1.0)
    parts = _cut(context, _entries(context, _masked(context)[0]), 1, *[1] * 8)
    for number, part in enumerate(parts):
        if number not in (4, 6):
            parts[number] = graph.unary("Sigmoid", part)
        if number in (0, 2):
            parts[number] = graph.scaled(parts[number], scale, -(scale - 1) / 2)
    return graph.reshape(graph.concat(parts, axis=1), context.image().shape)


def _gaussian_boxes(context: Context) -> Value:
    """Decode the means; each class is weighted by 1 − the mean uncertainty (`get_gaussian_yolo_detections`)."""
    graph, section = context.graph, context.layer.section
    boxes, anchors = _masked(context)
    x, sx, y, sy, w, sw, h, sh, objectness, *classes = _cut(context, _cells(context, boxes), 2, *[1] * 9)
    xy = graph.unary("Sigmoid", graph.concat([x, y], axis=2))
    sizes = _sizes(context, graph.unary("Exp", graph.concat([w, h], axis=2)), anchors)
    centres = _moved(context, _centres(context, xy, real(section, "scale_x_y", 1.0)), sizes)
    deviations = graph.unary("Sigmoid", graph.concat([sx, sy, sw, sh], axis=2))
    certainty = graph.scaled(graph.reduce("ReduceSum", deviations, 2), -0.25, 1.0)
    objectness = graph.unary("Sigmoid", objectness)
    weight = graph.binary("Mul", objectness, certainty)
    scores = [graph.binary("Mul", graph.unary("Sigmoid", part), weight) for part in classes]
    return _rows(context, centres, sizes, objectness, *scores)


POINTS = {"center": 0.0, "left_top": 0.5, "right_bottom": -0.5}  # of `yolo_point`: how far the centre is from it


def _moved(context: Context, points: Value, sizes: Value) -> Value:
    """Return the centres of boxes that `yolo_point` gives by a corner."""
    name = context.layer.section.text("yolo_point", "center")
    shift = POINTS.get(name, 0.0)
    return context.graph.binary("Add", points, context.graph.scaled(sizes, shift)) if shift else points


# --- region -----------------------------------------------------------------------------------------------------------


def _region_values(context: Context) -> tuple[int, int]:
    """Return the number of boxes of each cell, and of the coordinates of each."""
    section = context.layer.section
    if section.find("tree"):
        raise context.refusal("reads a tree of classes from another file, expected none", "tree")
    if section.flag("background"):
        raise context.refusal("background=1 has no objectness, expected background=0", "background")
    coords = section.natural("coords", 4)
    if coords < 4 or (coords > 4 and context.dialect != "pjreddie"):
        raise context.refusal(f"coords={coords}, expected 4", "coords")
    return section.positive("num"), coords


def _region_classes(context: Context, classes: list[Value], axis: int) -> list[Value]:
    """Return the classes activated: softmax, or σ in pjreddie; the others leave them as they are."""
    if context.layer.section.flag("softmax"):
        return [_softmax(context, value, axis) for value in classes]
    if context.dialect == "pjreddie":
        return [context.graph.unary("Sigmoid", value) for value in classes]
    return classes


def _softmax(context: Context, value: Value, axis: int) -> Value:
    """Apply Softmax along an axis; below opset 13 the operator wants the last one."""
    graph, last = context.graph, len(value.shape) - 1
    if axis == last:
        return graph.add("Softmax", [value], value.shape, axis=last + 1)
    order = [number for number in range(last + 1) if number != axis] + [axis]
    turned = graph.transpose(value, order)
    return graph.transpose(graph.add("Softmax", [turned], turned.shape, axis=last + 1), np.argsort(order).tolist())


def _region_activated(context: Context) -> Value:
    """The output in each fork's own order: pjreddie keeps the image, the others put a box's values last."""
    graph = context.graph
    boxes, coords = _region_values(context)
    if context.dialect == "pjreddie":
        xy, *rest, objectness = _cut(
            context, _cut(context, _entries(context, boxes), 1, coords + 1)[0], 1, 2, coords - 2
        )
        classes = _cut(context, _entries(context, boxes), 1, coords + 1)[1:]
        parts = [graph.unary("Sigmoid", xy), *rest, graph.unary("Sigmoid", objectness)]
        joined = graph.concat([*parts, *_region_classes(context, classes, 1)], axis=1)
    else:
        place, objectness, *classes = _cut(context, _cells(context, boxes), 2, 4, 1)
        parts = [place, graph.unary("Sigmoid", objectness), *_region_classes(context, classes, 2)]
        joined = graph.concat(parts, axis=2)
    return graph.reshape(joined, context.image().shape)


def _region_boxes(context: Context) -> Value:
    """Decode as `get_region_box` does; anchors count cells."""
    graph, section = context.graph, context.layer.section
    boxes, coords = _region_values(context)
    if section.integer("classfix", 0) == -1:
        raise context.refusal("classfix=-1 drops boxes below 0.5, expected another value", "classfix")
    _, height, width = context.image().shape
    anchors = _anchors(context, boxes, list(range(min(boxes, MOST_ANCHORS)))) / np.array([width, height], np.float64)
    place, objectness, *classes = _cut(context, _cells(context, boxes), 2, coords, 1)
    xy, wh, *_ = _cut(context, place, 2, 2, 2)
    objectness = graph.unary("Sigmoid", objectness)
    scores = [graph.binary("Mul", part, objectness) for part in _region_classes(context, classes, 2)]
    centres = _centres(context, graph.unary("Sigmoid", xy), 1.0)
    return _rows(context, centres, _sizes(context, graph.unary("Exp", wh), anchors), objectness, *scores)


# --- detection --------------------------------------------------------------------------------------------------------


def _detection_parts(context: Context) -> tuple[Value, Value, Value]:
    """Return classes, confidences and boxes, (side², n) each; the classes of a cell are those of all its boxes."""
    graph, section, flat = context.graph, context.layer.section, context.flat()
    places, boxes = section.positive("side", 7) ** 2, section.positive("num")
    coords, classes = section.natural("coords", 1), section.natural("classes", 1)
    if coords != 4 or not classes:
        raise context.refusal(f"coords={coords} and classes={classes}, expected 4 and at least 1", "coords")
    parts = _cut(context, flat, 0, places * classes, places * boxes)
    scores, objectness, boxed = (graph.reshape(part, (places, part.size // places)) for part in parts)
    if section.flag("softmax"):
        scores = _softmax(context, scores, 1)
    return scores, objectness, boxed


def _detection_activated(context: Context) -> Value:
    return context.graph.concat([context.graph.flat(part) for part in _detection_parts(context)])


def _detection_boxes(context: Context) -> Value:
    """Decode as `get_detection_detections` does; `sqrt` says that the sizes are square roots."""
    graph, section = context.graph, context.layer.section
    scores, objectness, boxed = _detection_parts(context)
    side, boxes = section.positive("side", 7), section.positive("num")
    objectness = graph.reshape(objectness, (side * side, boxes, 1))
    xy, wh = _cut(context, graph.reshape(boxed, (side * side, boxes, 4)), 2, 2)
    context.afford(2 * side * side, "the grid")
    centres = graph.binary("Add", graph.scaled(xy, 1 / side), _constant(context, "grid", _grid(side, side) / side))
    sizes = graph.binary("Mul", wh, wh) if section.flag("sqrt") else wh
    classes = graph.reshape(scores, (side * side, 1, scores.shape[1]))
    weighted = graph.add("Mul", [classes, objectness], (side * side, boxes, scores.shape[1]))
    return _rows(context, centres, sizes, objectness, weighted)


HEADS: dict[str, Head] = {
    "yolo": Head(_yolo_activated, _yolo_boxes),
    "Gaussian_yolo": Head(_gaussian_activated, _gaussian_boxes),
    "region": Head(_region_activated, _region_boxes),
    "detection": Head(_detection_activated, _detection_boxes),
}
