"""One builder for each section type. A type without one is refused by name and line, see `REFUSED`.

Every rule is that of the fork's `forward_*_layer` at inference, on the CPU; where the CPU and the GPU differ, the
builder says which it takes.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np

from bnorm.darknet.reals import real
from bnorm.darknet.shapes import strides
from bnorm.exchange.onnx import heads, linear
from bnorm.exchange.onnx.activations import activate
from bnorm.exchange.onnx.context import Context
from bnorm.exchange.onnx.graph import INPUT, Value

Builder = Callable[[Context], Value]

LEAST = float(np.finfo(np.float32).min)  # −FLT_MAX, the value of a maxpool over nothing


def _through(context: Context) -> Value:
    return context.before


# --- pooling and resizing ---------------------------------------------------------------------------------------------


def _maxpool(context: Context) -> Value:
    section = context.layer.section
    if section.flag("maxpool_zero_nonmax"):
        raise context.refusal("maxpool_zero_nonmax also changes the layer before, expected none", "maxpool_zero_nonmax")
    value = _maxpool_depth(context) if section.flag("maxpool_depth") else _pool(context, "MaxPool", LEAST)
    return linear.blurred(context, value)


def _maxpool_depth(context: Context) -> Value:
    """The largest of every `out_channels`-th channel; one beyond the last channel is −FLT_MAX."""
    graph, x, count = context.graph, context.image(), context.layer.output.channels
    channels, height, width = x.shape
    padded = graph.pad(x, (0, 0, 0), (-channels % count, 0, 0), LEAST)
    rows = graph.reshape(padded, (padded.shape[0] // count, count, height, width))
    return graph.reshape(graph.reduce("ReduceMax", rows, 0), (count, height, width))


def _pool(context: Context, op: str, fill: float | None, **attributes: int) -> Value:
    """Pool windows; `padding` counts both sides, with the odd one at the end.

    A padding as wide as the window is added beforehand, with `fill`: an operator may not pad that much.
    """
    graph, section, x = context.graph, context.layer.section, context.image()
    across, down = (1, 1) if section.flag("antialiasing") else strides(section)
    size = section.positive("size", section.positive("stride"))
    padding = section.natural("padding", size - 1)
    channels, height, width = x.shape
    _, rows, columns = shape = context.layer.output[:3]
    begin = padding // 2
    ends = []
    for length, step, count in ((height, down, rows), (width, across, columns)):
        needed = (count - 1) * step + size - length - begin
        ends.append(max(needed, 0))
        x = x if needed >= 0 else _trimmed(context, x, len(ends), count, step, size, begin)
    pads = [begin, begin, *ends]
    if max(pads) >= size:
        if fill is None:
            raise context.refusal(f"padding={padding} of windows of {size}, expected less", "padding")
        x = graph.pad(x, (0, begin, begin), (0, *ends), fill)
        pads = [0, 0, 0, 0]
    strides_of = [down, across]
    return graph.add(op, [x], shape, kernel_shape=[size, size], strides=strides_of, pads=pads, **attributes)


def _trimmed(context: Context, x: Value, axis: int, count: int, step: int, size: int, begin: int) -> Value:
    """Cut rows or columns that no window reaches, if they would make one more."""
    used = (count - 1) * step + size - begin
    return context.graph.slice_axis(x, axis, 0, used) if x.shape[axis] - used >= step else x


def _local_avgpool(context: Context) -> Value:
    return _pool(context, "AveragePool", None, count_include_pad=0)


def _avgpool(context: Context) -> Value:
    x = context.image()
    return context.graph.add("GlobalAveragePool", [x], (x.shape[0], 1, 1))


def _upsample(context: Context) -> Value:
    """Repeat each pixel; with a negative stride add up blocks of pixels (`blas.c: upsample_cpu`)."""
    graph, section = context.graph, context.layer.section
    stride, scale = section.integer("stride", 2), real(section, "scale", 1.0)
    channels, height, width = shape = context.layer.output[:3]
    if stride > 0:
        x = context.image()
        scales = graph.constant("scales", np.array([1, 1, stride, stride], np.float32))
        roi = graph.constant("roi", np.empty(0, np.float32)) if graph.opset < 13 else ""
        nearest = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        return graph.scaled(graph.add("Resize", [x, roi, scales], shape, **nearest), scale)
    step = -stride
    seen = (channels, height * step, width * step)  # the rows that the fork takes the input for
    x = graph.reshape(graph.slice_axis(context.flat(), 0, 0, prod(seen)), seen)
    pooled = graph.add("AveragePool", [x], shape, kernel_shape=[step, step], strides=[step, step])
    return graph.scaled(pooled, scale * step * step)


def _reorg(context: Context) -> Value:
    """Reorder as `reorg_cpu` of pjreddie does: not space to depth of the image as it is."""
    graph, section = context.graph, context.layer.section
    if section.integer("extra", 0):
        flat = context.flat()
        return graph.pad(flat, (0,), (context.layer.output.outputs - flat.size,))
    if section.flag("flatten"):
        if section.flag("reverse"):
            raise context.refusal("flatten=1 with reverse=1, which pjreddie leaves undefined", "flatten")
        channels, height, width = context.image().shape
        columns = graph.reshape(context.image(), (channels, height * width))
        return context.viewed(graph.transpose(columns, (1, 0)), context.layer.output[:3])
    stride = _reorg_stride(context, *context.layer.incoming[:3])
    channels, height, width = context.layer.incoming[:3]
    if section.flag("reverse"):
        return _depth_to_space(context, stride, channels, height, width)
    return _space_to_depth(context, stride, channels // stride**2, height, width)


def _reorg3d(context: Context) -> Value:
    """Reorder as `reorg_cpu` of AlexeyAB does, which counts in the channels of the output."""
    stride = _reorg_stride(context, *context.layer.output[:3])
    channels, height, width = context.layer.output[:3]
    if context.layer.section.flag("reverse"):
        return _depth_to_space(context, stride, channels, height, width)
    return _space_to_depth(context, stride, channels // stride**2, height, width)


def _reorg_stride(context: Context, channels: int, height: int, width: int) -> int:
    """Return the stride; a refusal where the loops leave the image."""
    stride = context.layer.section.positive("stride")
    whole = context.layer.output.outputs == context.layer.incoming.outputs
    if channels % stride**2 or not whole:
        sizes = f"{width}x{height}x{channels}"
        raise context.refusal(f"stride={stride} does not divide {sizes}, expected whole blocks", "stride")
    return stride


def _space_to_depth(context: Context, stride: int, channels: int, height: int, width: int) -> Value:
    """out[dy, dx, c, y, x] = in[c, y, dy, x, dx]."""
    graph = context.graph
    blocks = graph.reshape(context.before, (channels, height, stride, width, stride))
    return graph.reshape(graph.transpose(blocks, (2, 4, 0, 1, 3)), context.layer.output[:3])


def _depth_to_space(context: Context, stride: int, channels: int, height: int, width: int) -> Value:
    """out[c, y, dy, x, dx] = in[dy, dx, c, y, x]."""
    graph = context.graph
    blocks = graph.reshape(context.before, (stride, stride, channels // stride**2, height, width))
    return graph.reshape(graph.transpose(blocks, (2, 3, 0, 4, 1)), context.layer.output[:3])


def _crop(context: Context) -> Value:
    """Cut the centre out, and map 0..1 to −1..1 unless `noadjust` is set (`crop_layer.c`, without training)."""
    graph, x = context.graph, context.image()
    (channels, height, width), (_, rows, columns) = x.shape, context.layer.output[:3]
    if rows > height or columns > width:
        raise context.refusal(f"cuts {columns}x{rows} out of {width}x{height}, expected no more than there is")
    top, left = (height - rows) // 2, (width - columns) // 2
    cut = graph.slice(x, (0, top, left), (channels, top + rows, left + columns))
    return cut if context.layer.section.flag("noadjust") else graph.scaled(cut, 2.0, -1.0)


# --- layers that read others by number --------------------------------------------------------------------------------


def _route(context: Context) -> Value:
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


def _shortcut(context: Context) -> Value:
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


def _shortcut_weights(context: Context) -> np.ndarray:
    """Return a factor per input and channel (`blas.c: shortcut_multilayer_cpu`), (inputs, 1 or channels)."""
    values = context.read("weights").astype(np.float64)
    values = values.reshape(len(context.reads) + 1, -1)
    kind = context.layer.section.text("weights_normalization", "none")
    if kind in ("relu", "avg_relu"):
        positive = np.maximum(values, 0)
        return positive / (1e-4 + positive.sum(axis=0))
    if kind == "softmax":
        powers = np.exp(values - values.max(axis=0))
        return powers / (1e-4 + powers.sum(axis=0))
    return values


def _weighted(context: Context, value: Value, weights: np.ndarray | None, row: int) -> Value:
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
        mask = np.ones(x.shape, np.float32)
        mask[:c, : h * sample : sample, : w * sample : sample] = alpha
        x = graph.binary("Mul", x, context.vector("alpha", mask, x.shape))
    return graph.binary("Add", x, added)


def _spread(context: Context, value: Value, sample: int, shape: tuple[int, ...]) -> Value:
    """Put the pixels `sample` apart, with zeros between and after them, in an image of this shape."""
    graph, (c, h, w) = context.graph, value.shape
    if sample > 1:
        cells = graph.reshape(value, (c, h, 1, w, 1))
        value = graph.reshape(graph.pad(cells, (0,) * 5, (0, 0, sample - 1, 0, sample - 1)), (c, h * sample, w * sample))
    missing = tuple(size - got for size, got in zip(shape, value.shape, strict=True))
    return graph.pad(value, (0, 0, 0), missing)


def _scale_channels(context: Context) -> Value:
    scaled, factors = context.numbered(0), context.image()  # (c, 1, 1), or with scale_wh (1, h, w)
    return activate(context, context.graph.binary("Mul", scaled, factors), "linear")


def _sam(context: Context) -> Value:
    return activate(context, context.graph.binary("Mul", context.numbered(0), context.image()), "linear")


# --- layers that keep their input's shape, or bring values of their own -----------------------------------------------


def _activation(context: Context) -> Value:
    return activate(context, context.before, "linear")


def _logistic(context: Context) -> Value:
    return context.graph.unary("Sigmoid", context.before)


def _l2norm(context: Context) -> Value:
    """Divide each pixel by the length of its channels (`blas.c: l2normalize_cpu`)."""
    x = context.image()
    return context.graph.binary("Div", x, context.graph.reduce("ReduceL2", x, 0))


def _normalization(context: Context) -> Value:
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
    counts = alpha * _neighbours(channels, size)
    weights = context.vector("neighbours", counts, (channels, channels, 1, 1))
    squares = graph.binary("Mul", x, x)
    sums = graph.add("Conv", [squares, weights], x.shape, kernel_shape=[1, 1])
    return graph.binary("Mul", x, graph.binary("Pow", graph.scaled(sums, offset=kappa), -beta))


def _neighbours(channels: int, size: int) -> np.ndarray:
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


def _softmax(context: Context) -> Value:
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


def _implicit(context: Context) -> Value:
    """The layer's weights, once for each image."""
    graph, shape = context.graph, context.layer.output[:3]
    constant = context.weight("weights", (1, *shape))
    if graph.batch == 1:
        return graph.add("Identity", [constant], shape)
    if graph.batch is None:
        images = graph.add("Shape", [INPUT], (len(graph.input) + 1,), batched=False)
        batch = graph.add("Slice", [images, *(graph.constant("edge", [n]) for n in (0, 1))], (1,), batched=False)
        whole: Value | str = graph.add("Concat", [batch, graph.constant("shape", list(shape))], (4,), batched=False, axis=0)
    else:
        whole = graph.constant("shape", [graph.batch, *shape])
    return graph.add("Expand", [constant, whole], shape)


BUILDERS: dict[str, Builder] = {
    "convolutional": linear.convolutional,
    "deconvolutional": linear.deconvolutional,
    "connected": linear.connected,
    "local": linear.local,
    "batchnorm": linear.batchnorm,
    "maxpool": _maxpool,
    "local_avgpool": _local_avgpool,
    "avgpool": _avgpool,
    "upsample": _upsample,
    "reorg": _reorg,
    "reorg3d": _reorg3d,
    "crop": _crop,
    "route": _route,
    "shortcut": _shortcut,
    "scale_channels": _scale_channels,
    "sam": _sam,
    "activation": _activation,
    "logistic": _logistic,
    "l2norm": _l2norm,
    "normalization": _normalization,
    "softmax": _softmax,
    "implicit": _implicit,
    "dropout": _through,
    "cost": _through,
    "empty": _through,
    **{name: head.activated for name, head in heads.HEADS.items()},
}

RECURRENT = "has a state that moves from image to image, expected a feed-forward layer"

REFUSED: dict[str, str] = {
    **dict.fromkeys(("rnn", "gru", "lstm", "crnn", "conv_lstm", "history"), RECURRENT),
    "contrastive": "compares images with each other in training, expected a layer of inference",
    "iseg": "outputs masks and embeddings, which no rule turns into boxes",
}
