"""Builders of the layers with weights: convolutions, fully connected and local ones, and batch normalisation."""

from __future__ import annotations

from typing import Any

import numpy as np

from bnorm.darknet.im2col import misread_windows
from bnorm.darknet.parts import groups_of
from bnorm.darknet.shapes import kernel, strides
from bnorm.darknet.weights import Floats
from bnorm.exchange.onnx.activations import activate
from bnorm.exchange.onnx.context import Context
from bnorm.exchange.onnx.graph import Value

Attributes = dict[str, Any]

BLURS = {2: np.full((2, 2), 1 / 4)}  # `antialiasing` = 2; any other value is the kernel below

BINOMIAL = np.outer([1, 2, 1], [1, 2, 1]) / 16


def window_end(length: int, window: int, step: int, begin: int, count: int) -> int:
    """Return the padding after an axis: as before it, or more where C's division makes a window of less than none."""
    return max(begin, (count - 1) * step + window - length - begin)


def convolutional(context: Context) -> Value:
    """Build a convolution; its value is what the next layer gets, blurred with `antialiasing`."""
    layer, section = context.layer, context.layer.section
    part, (size, padding) = layer.parts[0], kernel(section)
    if section.flag("coordconv"):
        raise context.refusal("coordconv=1, which only the fork's GPU code knows", "coordconv")
    across, down = (1, 1) if section.flag("antialiasing") else strides(section)
    dilation = 1 if size == 1 else section.positive("dilation")
    if misread := misread_windows(layer):
        raise context.refusal(f"has {misread}", cause="its numbers there are not those of a GPU")
    groups = groups_of(section)
    if layer.incoming.channels % groups or part.channels % groups:
        raise context.refusal(f"groups={groups}, expected a divisor of its channels and of its filters", "groups")
    xnor, binary = section.flag("xnor"), section.flag("binary") or section.flag("xnor")
    if binary and context.dialect != "pjreddie":
        what = "binarises its weights, expected a network for pjreddie"
        raise context.refusal(what, "xnor" if xnor else "binary", f"{context.dialect} reads beyond its arrays there")
    x = _signs(context, context.image()) if xnor else context.image()
    weights = context.weight("weights", part.weights, binarised if binary else None)
    reach = dilation * (size - 1) + 1
    begin = padding * dilation
    _, height, width = x.shape
    rows, columns = layer.output[1:3]
    axes = ((height, down, rows), (width, across, columns))
    ends = [window_end(length, reach, step, begin, count) for length, step, count in axes]
    attributes: Attributes = {
        "kernel_shape": [size, size],
        "strides": [down, across],
        "pads": [begin, begin, *ends],
        "dilations": [dilation, dilation],
        "group": groups,
    }
    y = _with_biases(context, "Conv", x, weights, layer.output[:3], attributes)
    return blurred(context, activate(context, y))


def binarised(weights: Floats) -> Floats:
    """Return the signs of each filter, 0 counting as negative, times its mean magnitude (`binarize_weights`)."""
    rows = weights.reshape(len(weights), -1).astype(np.float64)
    mean = np.abs(rows).mean(axis=1, keepdims=True)
    signed: Floats = np.where(rows > 0, mean, -mean).astype(np.float32).reshape(weights.shape)
    return signed


def _signs(context: Context, value: Value) -> Value:
    """Return 1 where a value is positive and −1 elsewhere (`binarize_cpu`)."""
    graph = context.graph
    positive = graph.binary("Greater", value, 0.0)
    return graph.add("Where", [positive, graph.number(1.0), graph.number(-1.0)], value.shape)


def _with_biases(
    context: Context, op: str, x: Value, weights: str, shape: tuple[int, ...], attributes: Attributes
) -> Value:
    """Add a linear operator, then its biases or the batch normalisation that it has kept."""
    part = context.layer.parts[0]
    if part.batch_normalize:
        return normalised(context, context.graph.add(op, [x, weights], shape, **attributes))
    biases = context.weight("biases", (part.channels,))
    return context.graph.add(op, [x, weights, biases], shape, **attributes)


def normalised(context: Context, value: Value) -> Value:
    """Normalise each channel: by BatchNormalization where it was asked for, else by a gain and an offset."""
    graph = context.graph
    normaliser, epsilon = context.normaliser(), context.arrays.epsilon
    if context.keep_batchnorm:
        vectors = {
            "scales": normaliser.parameters.scales,
            "biases": normaliser.parameters.biases,
            "rolling_mean": normaliser.rolling.mean,
            "rolling_variance": normaliser.rolling.variance,
        }
        names = [context.vector(name, vector, (len(vector),)) for name, vector in vectors.items()]
        return graph.add("BatchNormalization", [value, *names], value.shape, epsilon=epsilon.value)
    along = (-1,) + (1,) * (len(value.shape) - 1)
    gain, offset = normaliser.gain_offset(epsilon)
    shape = tuple(len(gain) if size == -1 else size for size in along)
    scaled = graph.binary("Mul", value, context.vector("gain", gain, shape))
    return graph.binary("Add", scaled, context.vector("offset", offset, shape))


def blurred(context: Context, value: Value) -> Value:
    """Blur with `antialiasing`: a fixed depthwise convolution that has the layer's stride."""
    section = context.layer.section
    if not section.flag("antialiasing"):
        return value
    choice = section.integer("antialiasing", 0)
    blur = BLURS.get(choice, BINOMIAL)
    size, padding = len(blur), (0 if choice in BLURS else 1)
    across, down = strides(section)
    channels, height, width = value.shape
    rows, columns = ((n + 2 * padding - size) // step + 1 for n, step in ((height, down), (width, across)))
    if min(rows, columns) < 1:
        raise context.refusal(f"blurs {width}x{height}, expected at least {size}x{size}", "antialiasing")
    context.afford(channels * size * size, "the blur")
    weights = context.vector("blur", np.tile(blur, (channels, 1, 1, 1)), (channels, 1, size, size))
    attributes: Attributes = {
        "kernel_shape": [size, size],
        "strides": [down, across],
        "pads": [padding] * 4,
        "dilations": [1, 1],
        "group": channels,
    }
    return context.graph.add("Conv", [value, weights], (channels, rows, columns), **attributes)


def deconvolutional(context: Context) -> Value:
    """Build a transposed convolution; darknet's order of the weights, (c, n, k, k), is ONNX's."""
    section, part = context.layer.section, context.layer.parts[0]
    size, padding = kernel(section)
    stride = section.positive("stride")
    attributes: Attributes = {"kernel_shape": [size, size], "strides": [stride, stride], "pads": [padding] * 4}
    weights = context.weight("weights", part.weights)
    shape = context.layer.output[:3]
    return activate(context, _with_biases(context, "ConvTranspose", context.image(), weights, shape, attributes))


def connected(context: Context) -> Value:
    """Build a fully connected layer; its value is an image of one pixel, as the fork reports it."""
    part, x = context.layer.parts[0], context.flat()
    if x.size != part.weights[1]:
        raise context.refusal(f"reads {x.size} values, expected {part.weights[1]}")
    weights = context.weight("weights", part.weights)
    if part.batch_normalize and context.keep_batchnorm:  # which takes no matrix in every reader
        product = context.graph.add("Gemm", [x, weights], (part.channels,), transB=1)
        y = normalised(context, context.graph.reshape(product, (part.channels, 1, 1)))
    else:
        y = _with_biases(context, "Gemm", x, weights, (part.channels,), {"transB": 1})
    return activate(context, context.graph.reshape(y, (part.channels, 1, 1)))


def local(context: Context) -> Value:
    """Build a convolution with other weights at each place (`local_layer.c`).

    A depthwise convolution with one filter per value of a window lines up the windows, as `im2col` does; a product of
    matrices follows for each place.
    """
    layer, section, graph = context.layer, context.layer.section, context.graph
    size, stride, padding = section.positive("size"), section.positive("stride"), int(section.flag("pad"))
    part, x = layer.parts[0], context.image()
    (channels, height, width), (filters, rows, columns) = x.shape, layer.output[:3]
    lengths = ((height, rows), (width, columns))
    if any(n + 2 * padding < size or (n + 2 * padding - size) // stride + 1 != count for n, count in lengths):
        raise context.refusal(
            f"size={size} with pad={padding} is another output than the fork's {columns}x{rows}", "size"
        )
    context.afford(channels * size**4, "the windows")
    taps = np.tile(np.eye(size * size).reshape(-1, 1, size, size), (channels, 1, 1, 1))
    one_hot = context.vector("windows", taps, (channels * size * size, 1, size, size))
    attributes: Attributes = {"kernel_shape": [size, size], "strides": [stride, stride], "pads": [padding] * 4}
    windows = graph.add("Conv", [x, one_hot], (channels * size * size, rows, columns), group=channels, **attributes)
    window, places = windows.shape[0], rows * columns
    columned = graph.reshape(graph.transpose(graph.reshape(windows, (window, places)), (1, 0)), (places, window, 1))
    weights = context.weight("weights", part.weights)
    product = graph.add("MatMul", [weights, columned], (places, filters, 1))
    y = graph.reshape(graph.transpose(graph.reshape(product, (places, filters)), (1, 0)), (filters, rows, columns))
    return activate(context, graph.binary("Add", y, context.weight("biases", (filters, rows, columns))))


def batchnorm(context: Context) -> Value:
    """Build a batch normalisation that could not go into a layer beside it."""
    if not context.layer.parts:
        raise context.refusal("normalises an output without channels, expected an image")
    return normalised(context, context.image())
