"""Shapes, C's division, strides and kernels, and the layers that a layer reads by number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bnorm.darknet.cfg import Section
from bnorm.darknet.section_types import TYPES, SectionType


class Shape(NamedTuple):
    """A layer's channels, height and width as the fork reports them, which may be 0, and its number of outputs."""

    channels: int
    height: int
    width: int
    outputs: int


def image(channels: int, height: int, width: int) -> Shape:
    """Return a shape whose outputs are its volume."""
    return Shape(channels=channels, height=height, width=width, outputs=channels * height * width)


def flat(outputs: int) -> Shape:
    """Return outputs without a shape, as softmax, cost and some recurrent layers report them."""
    return Shape(channels=0, height=0, width=0, outputs=outputs)


@dataclass(frozen=True, slots=True)
class LayerContext:
    """The inputs of the rules for shapes and arrays: a layer's section and number, and the outputs that it reads."""

    section: Section
    index: int
    incoming: Shape  # passed on by the layer before
    reads: tuple[int, ...]  # the layers that it reads by number, in addition
    numbered: tuple[Shape, ...]  # the outputs of the layers in `reads`


def size_text(sizes: Sequence[int]) -> str:
    """Return channels, height and width as `16x20x30`; `-` where the fork reports none."""
    return "x".join(map(str, sizes[:3])) if any(sizes[:3]) else "-"


def c_division(numerator: int, denominator: int) -> int:
    """Divide by a positive integer as C does: the quotient is rounded towards zero."""
    return numerator // denominator if numerator >= 0 else -(-numerator // denominator)


def passed_on(section: Section, output: Shape) -> Shape:
    """Return the shape that the next layer receives: with `antialiasing`, the fork blurs the layer's output.

    Layers that read this one by number get the output itself. AlexeyAB, `convolutional_layer.c:
    make_convolutional_layer`.
    """
    value = section.integer("antialiasing", 0)
    if not value:
        return output
    size, padding = (2, 0) if value == 2 else (3, 1)
    across, down = strides(section)
    height = c_division(output.height + 2 * padding - size, down) + 1
    width = c_division(output.width + 2 * padding - size, across) + 1
    if min(height, width) < 0:
        raise section.error(f"blurs {size_text(output)} to {height}x{width}, expected no negative size", "antialiasing")
    return image(output.channels, height, width)


def layers_read(section: Section, index: int) -> tuple[int, ...]:
    """Return the layers that layer `index` reads by number, in addition to the one before it.

    `CfgError` if there is no number, or if a number does not refer to an earlier layer.
    """
    kind = TYPES[section.type]
    if not kind.reads_numbered:
        return ()
    numbers = _numbers(section, kind)
    if not numbers:
        raise section.error(f"has no {kind.numbers_in}, expected the number of a layer", kind.numbers_in)
    return tuple(resolve(section, kind.numbers_in, number, index) for number in numbers)


def _numbers(section: Section, kind: SectionType) -> list[int]:
    """Return the numbers as the fork reads them: a list, or one number (whose fraction hank drops)."""
    if reads_list(section):
        return section.integers(kind.numbers_in) or []
    return [section.integer(kind.numbers_in, 0)] if section.find(kind.numbers_in) else []


def reads_list(section: Section) -> bool:
    """Return whether the layer reads all layers that its option lists, or only the first."""
    return TYPES[section.type].reads_several and section.type not in section.dialect.reads_first_only


def resolve(section: Section, key: str, number: int, index: int) -> int:
    """Return the absolute number of the layer that `number` refers to in layer `index`; negative ones count back."""
    absolute = index + number if number < 0 else number
    if not 0 <= absolute < index:
        where = "before the first layer" if absolute < 0 else "to itself" if absolute == index else "ahead"
        what = f"{key}={number} points {where}, expected a layer before {index}"
        raise section.error(what, key, finding="cfg-index")
    return absolute


def strides(section: Section) -> tuple[int, int]:
    """Return the steps across and down; pjreddie only asks for `stride`. A convolution ignores values below 1."""
    if TYPES[section.type].is_pool:
        stride = section.positive("stride")
        return section.positive("stride_x", stride), section.positive("stride_y", stride)
    across, down = section.integer("stride_x", -1), section.integer("stride_y", -1)
    if across < 1 or down < 1:
        stride = section.positive("stride")
        across, down = across if across >= 1 else stride, down if down >= 1 else stride
    return across, down


def kernel(section: Section, size: int = 1) -> tuple[int, int]:
    """Return size and padding of a convolution: `pad` is a switch for a padding of size/2, and overrides `padding`."""
    size = section.natural("size", size)
    return size, size // 2 if section.flag("pad") else section.natural("padding")
