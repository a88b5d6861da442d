"""The kernel, stride, groups and activation of a layer, from its section or the fork's defaults."""

from __future__ import annotations

from typing import NamedTuple

from bnorm.darknet.cfg import Section
from bnorm.darknet.layer import Layer
from bnorm.darknet.section_types import TYPES
from bnorm.darknet.shapes import kernel, strides

KERNELS = {"convolutional": 1, "deconvolutional": 1, "local": 1, "crnn": 3, "conv_lstm": 3}  # the defaults of `size`

LINEAR = frozenset({"shortcut", "activation", "scale_channels", "sam", "conv_lstm"})  # linear by default, not logistic


class Geometry(NamedTuple):
    """The window that a layer slides over its input, and the activation of its output; None for what it lacks."""

    kernel: int | None
    stride: str | None  # `2`, or across and down if they differ: `2x1`
    groups: int | None
    activation: str | None


def geometry(layer: Layer) -> Geometry:
    """Return a layer's geometry; the activation is the name in the cfg, even if the fork reads it as another one."""
    section = layer.section
    has_kernel = layer.type in KERNELS or TYPES[layer.type].is_pool
    return Geometry(
        kernel=_kernel(section) if has_kernel else None,
        stride=_stride(section) if has_kernel else None,
        groups=next((part.groups for part in layer.parts if part.kind == "convolutional"), None),
        activation=_activation(section),
    )


def _kernel(section: Section) -> int:
    if section.type in KERNELS:
        return kernel(section, KERNELS[section.type])[0]
    return section.positive("size", section.positive("stride"))  # a pool's window is its stride by default


def _stride(section: Section) -> str:
    across, down = strides(section)
    return str(across) if across == down else f"{across}x{down}"


def _activation(section: Section) -> str | None:
    if not section.knows("activation"):
        return None
    return section.text("activation", "linear" if section.type in LINEAR else "logistic")
