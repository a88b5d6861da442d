"""Shapes, C's arithmetic on them, and what the layers that read others by number refer to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from bnorm.darknet.cfg import Section


class Shape(NamedTuple):
    """What a layer hands on: channels, height, width as the fork reports them (0 where it reports 0), and outputs."""

    channels: int
    height: int
    width: int
    outputs: int


def image(channels: int, height: int, width: int) -> Shape:
    """A shape whose outputs are its volume."""
    return Shape(channels, height, width, channels * height * width)


def flat(outputs: int) -> Shape:
    """What softmax, cost and some recurrent layers report: outputs without a shape."""
    return Shape(0, 0, 0, outputs)


def size_text(sizes: Sequence[int]) -> str:
    """Channels, height and width as `16x20x30`; `-` where the fork reports none."""
    return "x".join(map(str, sizes[:3])) if any(sizes[:3]) else "-"


def tdiv(numerator: int, denominator: int) -> int:
    """C's integer division of a number by a positive one."""
    return numerator // denominator if numerator >= 0 else -(-numerator // denominator)


def handed_on(section: Section, output: Shape) -> Shape:
    """What the next layer receives: with `antialiasing`, the output of the blur that the fork adds behind the layer.

    `[route]` and `[shortcut]` see the unblurred output (AB `convolutional_layer.c: make_convolutional_layer`).
    """
    value = section.integer("antialiasing", 0)
    if not value:
        return output
    size, padding = (2, 0) if value == 2 else (3, 1)
    across, down = strides(section)
    height = tdiv(output.height + 2 * padding - size, down) + 1
    width = tdiv(output.width + 2 * padding - size, across) + 1
    if min(height, width) < 0:
        raise section.error(f"blurs {size_text(output)} to {height}x{width}, expected no negative size", "antialiasing")
    return image(output.channels, height, width)


REFERENCES = {"route": "layers", "shortcut": "from", "scale_channels": "from", "sam": "from"}


def sources(section: Section, index: int) -> tuple[int, ...]:
    """The layers that this one reads by number, besides the one before it; negative numbers count back from it."""
    key = REFERENCES[section.type]
    numbers = section.integers(key)
    if not numbers:
        raise section.error(f"has no {key}, expected the number of a layer", key)
    if not reads_list(section):
        numbers = numbers[:1]
    return tuple(resolve(section, key, number, index) for number in numbers)


def reads_list(section: Section) -> bool:
    """Whether it may read several layers by number, or only the first of them."""
    return section.type == "route" or (section.type == "shortcut" and section.dialect.shortcut_lists)


def resolve(section: Section, key: str, number: int, index: int) -> int:
    """The absolute number of the layer that layer `index` means by `number`."""
    absolute = index + number if number < 0 else number
    if not 0 <= absolute < index:
        where = "before the first layer" if absolute < 0 else "to itself" if absolute == index else "ahead"
        what = f"{key}={number} points {where}, expected an earlier layer than {index}"
        raise section.error(what, key, finding="cfg-index")
    return absolute


POOLS = frozenset({"maxpool", "local_avgpool"})


def strides(section: Section) -> tuple[int, int]:
    """Steps across and down. pjreddie asks for `stride` alone; a convolution takes what is under 1 as not given."""
    if section.type in POOLS:
        stride = section.positive("stride")
        return section.positive("stride_x", stride), section.positive("stride_y", stride)
    across, down = section.integer("stride_x", -1), section.integer("stride_y", -1)
    if across < 1 or down < 1:
        stride = section.positive("stride")
        across, down = across if across >= 1 else stride, down if down >= 1 else stride
    return across, down


def kernel(section: Section, size: int = 1) -> tuple[int, int]:
    """Size and padding of a convolution: `pad` is a switch that means size/2 and hides `padding`."""
    size = section.positive("size", size)
    return size, size // 2 if section.flag("pad") else section.natural("padding")
