"""The output shape of each section type: a table of small rules.

Every rule is the arithmetic of the fork's `parse_*` and `make_*_layer`. C's integer division truncates towards zero, so
the size for a kernel larger than its padded input is not that of Python's `//`: `c_division` is used throughout. A key
that a dialect never asks for has its default value here, so most differences between the forks need no branch.
"""

from __future__ import annotations

from collections.abc import Callable

from bnorm.darknet.cfg import Section
from bnorm.darknet.grammar import INT_MAX
from bnorm.darknet.section_types import TYPES
from bnorm.darknet.shapes import LayerContext, Shape, c_division, flat, image, kernel, size_text, strides


def output_shape(layer: LayerContext) -> Shape:
    """Return the shape that this layer reports; raise `CfgError` where the fork would fail."""
    section = layer.section
    if TYPES[section.type].needs_image and not all(layer.incoming[:3]):
        raise section.error("follows a layer that has no channels, height and width, expected an image")
    shape = RULES[section.type](layer)
    if min(shape) < 0:
        raise section.error(f"has an output of {size_text(shape)}, expected no negative size", "size")
    if max(shape) > INT_MAX:
        what = f"has an output of {size_text(shape)}, {shape.outputs} values"
        raise section.error(f"{what}, expected numbers that fit a 32-bit int")
    return shape


Rule = Callable[[LayerContext], Shape]


def _windows(layer: LayerContext, channels: int, size: int, padding: int) -> Shape:
    """Return the output of windows of `size`, over an input with `padding` more rows and columns in total."""
    across, down = (1, 1) if layer.section.flag("antialiasing") else strides(layer.section)
    height = c_division(layer.incoming.height + padding - size, down) + 1
    return image(channels, height, c_division(layer.incoming.width + padding - size, across) + 1)


def _same(layer: LayerContext) -> Shape:
    return layer.incoming


def _volume(layer: LayerContext) -> Shape:
    return image(*layer.incoming[:3])


def _no_image(layer: LayerContext) -> Shape:
    return flat(layer.incoming.outputs)


def _convolutional(layer: LayerContext) -> Shape:
    size, padding = kernel(layer.section)
    return _windows(layer, layer.section.positive("filters"), size, 2 * padding)


def _deconvolutional(layer: LayerContext) -> Shape:
    size, padding = kernel(layer.section)
    stride = layer.section.positive("stride")
    grown = [(n - 1) * stride + size - 2 * padding for n in (layer.incoming.height, layer.incoming.width)]
    return image(layer.section.positive("filters"), *grown)


def _local(layer: LayerContext) -> Shape:
    size, stride = layer.section.positive("size"), layer.section.positive("stride")
    reach = 1 if layer.section.flag("pad") else size
    height, width = (c_division(n - reach, stride) + 1 for n in (layer.incoming.height, layer.incoming.width))
    return image(layer.section.positive("filters"), height, width)


def _connected(layer: LayerContext) -> Shape:
    return image(layer.section.positive("output"), 1, 1)


def _recurrent(layer: LayerContext) -> Shape:
    output = _connected(layer)
    return output if layer.section.type in layer.section.dialect.shaped_recurrent else flat(output.outputs)


def _crnn(layer: LayerContext) -> Shape:
    filters = layer.section.positive("output_filters", layer.section.positive("output"))
    if layer.section.dialect.fixed_crnn:  # pjreddie, parser.c: parse_crnn passes width and height in the wrong order
        return image(filters, layer.incoming.width, layer.incoming.height)
    size, padding = kernel(layer.section, 3)
    return _windows(layer, filters, size, 2 * padding)


def _conv_lstm(layer: LayerContext) -> Shape:
    size, padding = kernel(layer.section, 3)
    return _windows(layer, layer.section.positive("output"), size, 2 * padding)


def _maxpool(layer: LayerContext) -> Shape:
    if layer.section.flag("maxpool_depth"):
        return image(layer.section.positive("out_channels"), layer.incoming.height, layer.incoming.width)
    size = layer.section.positive("size", layer.section.positive("stride"))
    return _windows(layer, layer.incoming.channels, size, layer.section.natural("padding", size - 1))


def _avgpool(layer: LayerContext) -> Shape:
    return image(layer.incoming.channels, 1, 1)


def _upsample(layer: LayerContext) -> Shape:
    stride = layer.section.integer("stride", 2)
    if stride == 0:
        raise layer.section.error("stride=0, expected any other number", "stride")
    channels, height, width, _ = layer.incoming
    if stride > 0:
        return image(channels, height * stride, width * stride)
    return image(channels, c_division(height, -stride), c_division(width, -stride))


def _reorg(layer: LayerContext) -> Shape:
    stride = layer.section.positive("stride")
    channels, height, width, _ = layer.incoming
    if extra := layer.section.natural("extra"):
        return flat(channels * height * width + extra)
    if layer.section.flag("reverse"):
        return image(c_division(channels, stride * stride), height * stride, width * stride)
    return image(channels * stride * stride, c_division(height, stride), c_division(width, stride))


def _route(layer: LayerContext) -> Shape:
    """Add up the channels of inputs of the same size; otherwise the fork reports no shape (`parse_route`)."""
    channels, height, width, _ = first = layer.numbered[0]
    for other in layer.numbered[1:]:
        same = other[1:3] == first[1:3]
        channels, height, width = (channels + other.channels, height, width) if same else (0, 0, 0)
    groups, outputs = layer.section.positive("groups"), sum(shape.outputs for shape in layer.numbered)
    return Shape(c_division(channels, groups), height, width, c_division(outputs, groups))


def _scaled(layer: LayerContext) -> Shape:
    return image(*layer.numbered[0][:3])


def _implicit(layer: LayerContext) -> Shape:
    return image(layer.section.positive("filters", 128), layer.section.positive("atoms"), 1)


def _crop(layer: LayerContext) -> Shape:
    height, width = layer.section.positive("crop_height"), layer.section.positive("crop_width")
    return image(layer.incoming.channels, height, width)


def _history(layer: LayerContext) -> Shape:
    return image(
        layer.incoming.channels * layer.section.positive("history_size", 4),
        layer.incoming.height,
        layer.incoming.width,
    )


def _detector(boxes: Callable[[Section], int]) -> Rule:
    """Return the rule of a layer that reads `boxes(section)` channels and must get exactly as many values."""

    def rule(layer: LayerContext) -> Shape:
        shape = image(boxes(layer.section), layer.incoming.height, layer.incoming.width)
        if shape.outputs != layer.incoming.outputs:
            raise layer.section.error(
                f"gets {layer.incoming.channels} channels, expected {shape.channels}, by classes and boxes",
                cause=f"filters={shape.channels} belongs in the last [convolutional] before it, or classes is wrong"
                if layer.incoming.channels
                else "the layer before it outputs no image",
                finding="cfg-filters",
            )
        return shape

    return rule


def _yolo_channels(extra: int) -> Callable[[Section], int]:
    """Return the count of channels of a layer with classes + `extra` channels for each box in `mask`."""

    def channels(section: Section) -> int:
        return boxes(section) * (section.natural("classes", 20) + extra)

    return channels


def boxes(section: Section) -> int:
    """Return the boxes of each cell of a detection layer: those in `mask`, or all of them."""
    return len(section.integers("mask") or ()) or section.natural("num", 1)


def _region_channels(section: Section) -> int:
    values = section.natural("coords", 4) + section.natural("classes", 20) + 1
    return section.positive("num") * values


def _iseg_channels(section: Section) -> int:
    return section.natural("classes", 20) + section.natural("ids", 32)


def _detection(layer: LayerContext) -> Shape:
    boxes = layer.section.positive("num") * (1 + layer.section.natural("coords", 1))
    cells = layer.section.positive("side", 7) ** 2
    expected = cells * (boxes + layer.section.natural("classes", 1))
    if layer.incoming.outputs != expected:
        raise layer.section.error(
            f"gets {layer.incoming.outputs} values, expected {expected}, by side, num, coords and classes"
        )
    return flat(layer.incoming.outputs)


# The number of channels that a detection layer needs, from its classes and boxes.
DETECTORS: dict[str, Callable[[Section], int]] = {
    "region": _region_channels,
    "yolo": _yolo_channels(5),
    "Gaussian_yolo": _yolo_channels(9),
}

RULES: dict[str, Rule] = {
    "convolutional": _convolutional,
    "deconvolutional": _deconvolutional,
    "local": _local,
    "connected": _connected,
    "rnn": _recurrent,
    "gru": _recurrent,
    "lstm": _recurrent,
    "crnn": _crnn,
    "conv_lstm": _conv_lstm,
    "maxpool": _maxpool,
    "local_avgpool": _maxpool,
    "avgpool": _avgpool,
    "upsample": _upsample,
    "reorg": _reorg,
    "reorg3d": _reorg,
    "route": _route,
    "shortcut": _volume,
    "scale_channels": _scaled,
    "sam": _scaled,
    "implicit": _implicit,
    "crop": _crop,
    "history": _history,
    "dropout": _same,
    "activation": _same,
    "logistic": _same,
    "l2norm": _same,
    "empty": _same,
    "normalization": _volume,
    "batchnorm": _volume,
    "softmax": _no_image,
    "cost": _no_image,
    "contrastive": _no_image,
    "detection": _detection,
    "iseg": _detector(_iseg_channels),
    **{name: _detector(channels) for name, channels in DETECTORS.items()},
}
