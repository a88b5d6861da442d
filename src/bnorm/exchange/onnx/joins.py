"""Builders of the layers that read others by number."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnorm.darknet.reals import real
from bnorm.exchange.onnx.activations import activate
from bnorm.exchange.onnx.context import Context
from bnorm.exchange.onnx.graph import Value

Factors = NDArray[Any]


def route(context: Context) -> Value:
    """Join layers; with `groups`, a share of each of them (`route_layer.c`: shares of the flat outputs)."""
    graph, section, output = context.graph, context.layer.section, context.layer.output
    groups, chosen = section.positive("groups"), section.natural("group_id")
    if chosen >= groups:
        raise context.refusal(f"group_id={chosen}, expected less than groups={groups}", "group_id")
    values = [context.numbered(position) for position in range(len(context.reads))]
    sizes = {value.shape[1:] if len(value.shape) == 3 else () for value in values}
    if len(sizes) == 1 and () not in sizes and all(value.shape[0] % groups == 0 for value in values):
        shares = [value.shape[0] // groups for value in values]
    else:
        values = [graph.flat(value) for value in values]
        shares = [value.size // groups for value in values]
    cut = [graph.slice_axis(v, 0, n * chosen, n * (chosen + 1)) for v, n in zip(values, shares, strict=True)]
    joined = graph.concat(cut)
    if joined.size != output.outputs:
        raise context.refusal(f"joins {joined.size} values, expected {output.outputs}", "layers")
    return graph.reshape(joined, output[:3]) if all(output[:3]) and prod(output[:3]) == output.outputs else joined


def shortcut(context: Context) -> Value:
    if context.dialect == "pjreddie":
        return activate(context, _pjreddie_shortcut(context), "linear")
    weights = _shortcut_weights(context) if context.layer.parts else None
    total = _weighted(context, context.image(), weights, 0)
    for position in range(len(context.reads)):
        other = _first_channels(context, context.numbered(position))
        total = context.graph.binary("Add", total, _weighted(context, other, weights, position + 1))
    return activate(context, total, "linear")


def _first_channels(context: Context, value: Value) -> Value:
    """Return as many channels as the layer has: the first ones, or with zeros after the last."""
    channels = context.layer.output.channels
    cut = context.graph.slice_axis(value, 0, 0, min(channels, value.shape[0]))
    return context.graph.pad(cut, (0, 0, 0), (channels - cut.shape[0], 0, 0))


def _shortcut_weights(context: Context) -> Factors:
    """Return a factor per input and channel (`blas.c: shortcut_multilayer_cpu`), (inputs, 1 or channels)."""
    values = context.read("weights").astype(np.float64)
    values = values.reshape(len(context.reads) + 1, -1)
    kind = context.layer.section.text("weights_normalization", "none")
    if kind in ("relu", "avg_relu"):
        positive = np.maximum(values, 0)
        return np.asarray(positive / (1e-4 + positive.sum(axis=0)))
    if kind == "softmax":
        powers = np.exp(values - values.max(axis=0))
        return np.asarray(powers / (1e-4 + powers.sum(axis=0)))
    return values


def _weighted(context: Context, value: Value, weights: Factors | None, row: int) -> Value:
    if weights is None:
        return value
    name = context.vector(f"factor_{row}", weights[row], (weights.shape[1], 1, 1))
    return context.graph.binary("Mul", value, name)


def _pjreddie_shortcut(context: Context) -> Value:
    """alpha·x + beta·other where the two overlap: at every stride-th pixel of the larger (`blas.c: shortcut_cpu`)."""
    graph, x, other = context.graph, context.image(), context.numbered(0)
    if len(other.shape) != 3:
        raise context.refusal("reads an output without a size, expected an image", "from")
    (channels, height, width), (others, rows, columns) = x.shape, other.shape
    stride, sample = max(columns // width, 1), max(width // columns, 1)
    if columns // width != rows // height or width // columns != height // rows:
        raise context.refusal(f"adds {columns}x{rows} to {width}x{height}, expected one ratio for both", "from")
    c, h, w = min(channels, others), min(height, rows), min(width, columns)
    part = graph.slice(other, (0, 0, 0), (c, (h - 1) * stride + 1, (w - 1) * stride + 1), (1, stride, stride))
    alpha, beta = (real(context.layer.section, key, 1.0) for key in ("alpha", "beta"))
    added = _spread(context, graph.scaled(part, beta), sample, x.shape)
    if alpha != 1:
        context.afford(x.size, "alpha")
        mask = np.ones(x.shape, np.float32)
        mask[:c, : h * sample : sample, : w * sample : sample] = alpha
        x = graph.binary("Mul", x, context.vector("alpha", mask, x.shape))
    return graph.binary("Add", x, added)


def _spread(context: Context, value: Value, sample: int, shape: tuple[int, ...]) -> Value:
    """Put the pixels `sample` apart, with zeros between and after them, in an image of this shape."""
    graph, (c, h, w) = context.graph, value.shape
    if sample > 1:
        cells = graph.reshape(value, (c, h, 1, w, 1))
        value = graph.reshape(
            graph.pad(cells, (0,) * 5, (0, 0, sample - 1, 0, sample - 1)), (c, h * sample, w * sample)
        )
    missing = tuple(size - got for size, got in zip(shape, value.shape, strict=True))
    return graph.pad(value, (0, 0, 0), missing)


def scale_channels(context: Context) -> Value:
    scaled, factors = context.numbered(0), context.image()  # (c, 1, 1), or with scale_wh (1, h, w)
    return activate(context, context.graph.binary("Mul", scaled, factors), "linear")


def sam(context: Context) -> Value:
    return activate(context, context.graph.binary("Mul", context.numbered(0), context.image()), "linear")
