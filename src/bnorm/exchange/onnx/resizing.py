"""Builders of the layers that pool, resize, reorder and cut."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from bnorm.darknet.reals import real
from bnorm.darknet.shapes import strides
from bnorm.exchange.onnx.context import Context
from bnorm.exchange.onnx.graph import Value
from bnorm.exchange.onnx.linear import blurred

LEAST = float(np.finfo(np.float32).min)  # −FLT_MAX, the value of a maxpool over nothing

NEAREST: dict[str, Any] = {
    "mode": "nearest",
    "coordinate_transformation_mode": "asymmetric",
    "nearest_mode": "floor",
}


def maxpool(context: Context) -> Value:
    section = context.layer.section
    if section.flag("maxpool_zero_nonmax"):
        raise context.refusal("maxpool_zero_nonmax also changes the layer before, expected none", "maxpool_zero_nonmax")
    value = _maxpool_depth(context) if section.flag("maxpool_depth") else _pool(context, "MaxPool", LEAST)
    return blurred(context, value)


def _maxpool_depth(context: Context) -> Value:
    """The largest of every `out_channels`-th channel; one beyond the last channel is −FLT_MAX."""
    graph, x, count = context.graph, context.image(), context.layer.output.channels
    channels, height, width = x.shape
    padded = graph.pad(x, (0, 0, 0), (-channels % count, 0, 0), LEAST)
    rows = graph.reshape(padded, (padded.shape[0] // count, count, height, width))
    return graph.reshape(graph.reduce("ReduceMax", rows, 0), (count, height, width))


def _pool(context: Context, op: str, fill: float | None, **attributes: Any) -> Value:
    """Pool windows; `padding` counts both sides, with the odd one at the end.

    A padding as wide as the window is added beforehand, with `fill`: an operator may not pad that much.
    """
    graph, section, x = context.graph, context.layer.section, context.image()
    across, down = (1, 1) if section.flag("antialiasing") else strides(section)
    size = section.positive("size", section.positive("stride"))
    padding = section.natural("padding", size - 1)
    _, height, width = x.shape
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


def local_avgpool(context: Context) -> Value:
    return _pool(context, "AveragePool", None, count_include_pad=0)


def avgpool(context: Context) -> Value:
    x = context.image()
    return context.graph.add("GlobalAveragePool", [x], (x.shape[0], 1, 1))


def upsample(context: Context) -> Value:
    """Repeat each pixel; with a negative stride add up blocks of pixels (`blas.c: upsample_cpu`)."""
    graph, section = context.graph, context.layer.section
    stride, scale = section.integer("stride", 2), real(section, "scale", 1.0)
    channels, height, width = shape = context.layer.output[:3]
    if stride > 0:
        x = context.image()
        scales = graph.constant("scales", np.array([1, 1, stride, stride], np.float32))
        roi = graph.constant("roi", np.empty(0, np.float32)) if graph.opset < 13 else ""
        nearest: dict[str, Any] = {
            "mode": "nearest",
            "coordinate_transformation_mode": "asymmetric",
            "nearest_mode": "floor",
        }
        return graph.scaled(graph.add("Resize", [x, roi, scales], shape, **nearest), scale)
    step = -stride
    seen = (channels, height * step, width * step)  # the rows that the fork takes the input for
    x = graph.reshape(graph.slice_axis(context.flat(), 0, 0, prod(seen)), seen)
    pooled = graph.add("AveragePool", [x], shape, kernel_shape=[step, step], strides=[step, step])
    return graph.scaled(pooled, scale * step * step)


def reorg(context: Context) -> Value:
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


def reorg3d(context: Context) -> Value:
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


def crop(context: Context) -> Value:
    """Cut the centre out, and map 0..1 to −1..1 unless `noadjust` is set (`crop_layer.c`, without training)."""
    graph, x = context.graph, context.image()
    (channels, height, width), (_, rows, columns) = x.shape, context.layer.output[:3]
    if rows > height or columns > width:
        raise context.refusal(f"cuts {columns}x{rows} out of {width}x{height}, expected no more than there is")
    top, left = (height - rows) // 2, (width - columns) // 2
    cut = graph.slice(x, (0, top, left), (channels, top + rows, left + columns))
    return cut if context.layer.section.flag("noadjust") else graph.scaled(cut, 2.0, -1.0)
