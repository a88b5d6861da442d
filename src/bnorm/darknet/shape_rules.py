"""The output shape of each section type: a table of small rules.

Every rule is the arithmetic of the fork's `parse_*` and `make_*_layer`. C's integer division truncates towards zero, so
a kernel larger than its padded input gives other sizes than Python's `//` would: `tdiv` is used throughout. A key that
a dialect never asks for has its default value here, so most differences between the forks need no branch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from bnorm.darknet.cfg import Section
from bnorm.darknet.grammar import INT_MAX
from bnorm.darknet.shapes import Shape, flat, image, kernel, size_text, sources, strides, tdiv


class Node(NamedTuple):
    """Where a layer stands: its section, what it receives, and what the layers before it reported."""

    section: Section
    incoming: Shape
    earlier: Sequence[Shape]


def output_shape(node: Node) -> Shape:
    """The shape that this layer reports; a `CfgError` where the fork would fail."""
    section, incoming, _ = node
    if section.type in NEEDS_IMAGE and not (incoming.channels and incoming.height and incoming.width):
        raise section.error("follows a layer that has no channels, height and width, expected an image")
    shape = RULES[section.type](node)
    if min(shape) < 0:
        raise section.error(f"has an output of {size_text(shape)}, expected no negative size", "size")
    if max(shape) > INT_MAX:
        what = f"has an output of {size_text(shape)}, {shape.outputs} values"
        raise section.error(f"{what}, expected numbers that fit a 32-bit int")
    return shape


Rule = Callable[[Node], Shape]


def _windows(node: Node, channels: int, size: int, padding: int) -> Shape:
    """Output of windows of `size` over an input with `padding` more rows and columns in all."""
    across, down = (1, 1) if node.section.flag("antialiasing") else strides(node.section)
    height = tdiv(node.incoming.height + padding - size, down) + 1
    return image(channels, height, tdiv(node.incoming.width + padding - size, across) + 1)


def _same(node: Node) -> Shape:
    return node.incoming


def _volume(node: Node) -> Shape:
    return image(*node.incoming[:3])


def _no_image(node: Node) -> Shape:
    return flat(node.incoming.outputs)


def _convolutional(node: Node) -> Shape:
    size, padding = kernel(node.section)
    return _windows(node, node.section.positive("filters"), size, 2 * padding)


def _deconvolutional(node: Node) -> Shape:
    size, padding = kernel(node.section)
    stride = node.section.positive("stride")
    grown = [(n - 1) * stride + size - 2 * padding for n in (node.incoming.height, node.incoming.width)]
    return image(node.section.positive("filters"), *grown)


def _local(node: Node) -> Shape:
    size, stride = node.section.positive("size"), node.section.positive("stride")
    reach = 1 if node.section.flag("pad") else size
    height, width = (tdiv(n - reach, stride) + 1 for n in (node.incoming.height, node.incoming.width))
    return image(node.section.positive("filters"), height, width)


def _connected(node: Node) -> Shape:
    return image(node.section.positive("output"), 1, 1)


def _recurrent(node: Node) -> Shape:
    output = _connected(node)
    return output if node.section.type in node.section.dialect.shaped_recurrent else flat(output.outputs)


def _crnn(node: Node) -> Shape:
    filters = node.section.positive("output_filters", node.section.positive("output"))
    if node.section.dialect.fixed_crnn:  # PJ parser.c: parse_crnn hands width and height over in the wrong order
        return image(filters, node.incoming.width, node.incoming.height)
    size, padding = kernel(node.section, 3)
    output = _windows(node, filters, size, 2 * padding)
    if output[1:3] != node.incoming[1:3]:
        sizes = f"{size_text(output[1:3])}, expected the input's {size_text(node.incoming[1:3])}"
        raise node.section.error(f"has an output of {sizes}", cause="crnn needs pad=1 and stride=1")
    return output


def _conv_lstm(node: Node) -> Shape:
    size, padding = kernel(node.section, 3)
    return _windows(node, node.section.positive("output"), size, 2 * padding)


def _maxpool(node: Node) -> Shape:
    if node.section.flag("maxpool_depth"):
        return image(node.section.positive("out_channels"), node.incoming.height, node.incoming.width)
    size = node.section.positive("size", node.section.positive("stride"))
    return _windows(node, node.incoming.channels, size, node.section.natural("padding", size - 1))


def _avgpool(node: Node) -> Shape:
    return image(node.incoming.channels, 1, 1)


def _upsample(node: Node) -> Shape:
    stride = node.section.integer("stride", 2)
    if stride == 0:
        raise node.section.error("stride=0, expected another number", "stride")
    sizes = [n * stride if stride > 0 else tdiv(n, -stride) for n in (node.incoming.height, node.incoming.width)]
    return image(node.incoming.channels, *sizes)


def _reorg(node: Node) -> Shape:
    stride = node.section.positive("stride")
    channels, height, width, _ = node.incoming
    if extra := node.section.natural("extra"):
        return flat(channels * height * width + extra)
    if node.section.flag("reverse"):
        return image(tdiv(channels, stride * stride), height * stride, width * stride)
    return image(channels * stride * stride, tdiv(height, stride), tdiv(width, stride))


def _route(node: Node) -> Shape:
    """Channels add up where all inputs have the first one's size; else the fork reports no shape (`parse_route`)."""
    inputs = [node.earlier[index] for index in sources(node.section, len(node.earlier))]
    channels, height, width, _ = first = inputs[0]
    for other in inputs[1:]:
        same = other[1:3] == first[1:3]
        channels, height, width = (channels + other.channels, height, width) if same else (0, 0, 0)
    groups = node.section.positive("groups")
    return Shape(tdiv(channels, groups), height, width, tdiv(sum(shape.outputs for shape in inputs), groups))


def _shortcut(node: Node) -> Shape:
    for index in sources(node.section, len(node.earlier)):
        if node.section.dialect.shortcut_lists and node.earlier[index][1:3] != node.incoming[1:3]:
            sizes = f"{size_text(node.earlier[index][1:3])}, expected {size_text(node.incoming[1:3])}"
            raise node.section.error(f"from layer {index}, which has a size of {sizes} as the layer before", "from")
    return _volume(node)


def _scale_channels(node: Node) -> Shape:
    (index,) = sources(node.section, len(node.earlier))
    scaled = node.earlier[index]
    expected = (1, *scaled[1:3]) if node.section.flag("scale_wh") else (scaled.channels, 1, 1)
    if node.incoming[:3] != expected:
        raise node.section.error(
            f"gets {size_text(node.incoming)} scales for layer {index}, expected {size_text(expected)}", "from"
        )
    return image(*scaled[:3])


def _sam(node: Node) -> Shape:
    (index,) = sources(node.section, len(node.earlier))
    if node.earlier[index][:3] != node.incoming[:3]:
        sizes = f"{size_text(node.earlier[index])}, expected {size_text(node.incoming)} as in the layer before"
        raise node.section.error(f"from layer {index}, which has {sizes}", "from")
    return _volume(node)


def _implicit(node: Node) -> Shape:
    return image(node.section.positive("filters", 128), node.section.positive("atoms"), 1)


def _crop(node: Node) -> Shape:
    height, width = node.section.positive("crop_height"), node.section.positive("crop_width")
    return image(node.incoming.channels, height, width)


def _history(node: Node) -> Shape:
    return image(
        node.incoming.channels * node.section.positive("history_size", 4),
        node.incoming.height,
        node.incoming.width,
    )


def _softmax(node: Node) -> Shape:
    groups = node.section.positive("groups")
    if node.incoming.outputs % groups:
        raise node.section.error(f"groups={groups}, expected a divisor of {node.incoming.outputs}", "groups")
    return flat(node.incoming.outputs)


def _detector(boxes: Callable[[Section], int]) -> Rule:
    """A layer that reads `boxes(section)` channels and must get exactly as many values."""

    def rule(node: Node) -> Shape:
        shape = image(boxes(node.section), node.incoming.height, node.incoming.width)
        if shape.outputs != node.incoming.outputs:
            raise node.section.error(
                f"gets {node.incoming.channels} channels, expected {shape.channels}, by classes and boxes",
                cause=f"filters={shape.channels} belongs into the last [convolutional] before it, or classes is wrong"
                if node.incoming.channels
                else "no image comes from the layer before it",
                finding="cfg-filters",
            )
        return shape

    return rule


def _yolo_channels(extra: int) -> Callable[[Section], int]:
    def channels(section: Section) -> int:
        mask, boxes = section.integers("mask"), section.natural("num", 1)
        boxes = boxes if mask is None else len(mask)
        return boxes * (section.natural("classes", 20) + extra)

    return channels


def _region_channels(section: Section) -> int:
    values = section.natural("coords", 4) + section.natural("classes", 20) + 1
    return section.positive("num") * values


def _iseg_channels(section: Section) -> int:
    return section.natural("classes", 20) + section.natural("ids", 32)


def _contrastive(node: Node) -> Shape:
    if not node.section.integer("yolo_layer", 0):
        raise node.section.error("has no yolo_layer, expected the number of a [yolo] layer")
    return flat(node.incoming.outputs)


def _detection(node: Node) -> Shape:
    boxes = node.section.positive("num") * (1 + node.section.natural("coords", 1))
    cells = node.section.positive("side", 7) ** 2
    expected = cells * (boxes + node.section.natural("classes", 1))
    if node.incoming.outputs != expected:
        raise node.section.error(
            f"gets {node.incoming.outputs} values, expected {expected}, by side, num, coords and classes"
        )
    return flat(node.incoming.outputs)


# The channels that a detection layer reads, by its classes and boxes.
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
    "shortcut": _shortcut,
    "scale_channels": _scale_channels,
    "sam": _sam,
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
    "softmax": _softmax,
    "cost": _no_image,
    "contrastive": _contrastive,
    "detection": _detection,
    "iseg": _detector(_iseg_channels),
    **{name: _detector(channels) for name, channels in DETECTORS.items()},
}

NEEDS_IMAGE = frozenset(
    """convolutional deconvolutional local crnn conv_lstm maxpool local_avgpool avgpool crop reorg reorg3d""".split()
)
