"""Builders of the layers that keep their input's shape, or have values of their own."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnorm.darknet.reals import real
from bnorm.exchange.onnx.activations import activate
from bnorm.exchange.onnx.context import Context
from bnorm.exchange.onnx.graph import INPUT, Value


def through(context: Context) -> Value:
    """Return the output of the layer before."""
    return context.before


def activation(context: Context) -> Value:
    return activate(context, context.before, "linear")


def logistic(context: Context) -> Value:
    return context.graph.unary("Sigmoid", context.before)


def l2norm(context: Context) -> Value:
    """Divide each pixel by the length of its channels (`blas.c: l2normalize_cpu`)."""
    x = context.image()
    return context.graph.binary("Div", x, context.graph.reduce("ReduceL2", x, 0))


def normalization(context: Context) -> Value:
    """x · (kappa + alpha·Σ x²)^−beta over neighbouring channels (`normalization_layer.c`).

    The fork moves a sum from each channel to the next, and never adds the square that its first window leaves out:
    which squares count, and how often, is a matrix.
    """
    graph, section, x = context.graph, context.layer.section, context.image()
    alpha, beta = real(section, "alpha", 0.0001), real(section, "beta", 0.75)
    kappa, size = real(section, "kappa", 1.0), section.integer("size", 5)
    channels = x.shape[0]
    if not 1 <= size // 2 <= channels:
        raise context.refusal(f"size={size} of {channels} channels, expected 2 to {2 * channels}", "size")
    context.afford(channels**2, "the sums over neighbours")
    counts = alpha * _neighbours(channels, size)
    weights = context.vector("neighbours", counts, (channels, channels, 1, 1))
    squares = graph.binary("Mul", x, x)
    sums = graph.add("Conv", [squares, weights], x.shape, kernel_shape=[1, 1])
    return graph.binary("Mul", x, graph.binary("Pow", graph.scaled(sums, offset=kappa), -beta))


def _neighbours(channels: int, size: int) -> NDArray[Any]:
    """Return how often each channel's square is in each channel's sum, (channels, channels)."""
    rows = np.zeros((channels, channels))
    rows[0, : size // 2] = 1
    for k in range(1, channels):
        rows[k] = rows[k - 1]
        leaves, enters = k - (size - 1) // 2 - 1, k + size // 2
        if leaves >= 0:
            rows[k, leaves] -= 1
        if enters < channels:
            rows[k, enters] += 1
    return rows


def softmax(context: Context) -> Value:
    """exp(x/temperature) by its sum, in each of `groups` groups (`softmax_layer.c`)."""
    graph, section, flat = context.graph, context.layer.section, context.flat()
    if section.find("tree"):
        raise context.refusal("reads a tree of classes from another file, expected none", "tree")
    if section.flag("spatial"):
        raise context.refusal("spatial=1, which only the fork's GPU code knows", "spatial")
    groups, temperature = section.positive("groups"), real(section, "temperature", 1.0)
    if temperature == 0:
        raise context.refusal("temperature=0, expected another number", "temperature")
    rows = graph.reshape(graph.scaled(flat, 1 / temperature), (groups, flat.size // groups))
    return graph.reshape(graph.add("Softmax", [rows], rows.shape, axis=2), flat.shape)


def implicit(context: Context) -> Value:
    """The layer's weights, once for each image."""
    graph, shape = context.graph, context.layer.output[:3]
    constant = context.weight("weights", (1, *shape))
    if graph.batch == 1:
        return graph.add("Identity", [constant], shape)
    if graph.batch is None:
        images = graph.add("Shape", [INPUT], (len(graph.input) + 1,), batched=False)
        batch = graph.add("Slice", [images, *(graph.constant("edge", [n]) for n in (0, 1))], (1,), batched=False)
        whole: Value | str = graph.add(
            "Concat", [batch, graph.constant("shape", list(shape))], (4,), batched=False, axis=0
        )
    else:
        whole = graph.constant("shape", [graph.batch, *shape])
    return graph.add("Expand", [constant, whole], shape)
