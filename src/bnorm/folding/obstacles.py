"""Reasons in the cfg against folding a layer, or against folding a `[batchnorm]` into a layer next to it.

An obstacle is a text, empty if there is none.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from bnorm.darknet.edit import readers
from bnorm.darknet.im2col import misread_windows
from bnorm.darknet.layout import FORMS
from bnorm.darknet.network import Layer, Network
from bnorm.darknet.section_types import TYPES
from bnorm.darknet.shapes import kernel
from bnorm.folding.fates import Kept


class Constraints(NamedTuple):
    """The facts about a network that decide which layers can be folded."""

    layers: tuple[Layer, ...]
    readers: Mapping[int, Collection[int]]  # for each layer, the layers that refer to it by number
    groups: Mapping[int, tuple[int, ...]]  # for each layer that shares arrays: all layers that use the same arrays
    fixed: Mapping[int, Kept]  # the layers that must stay as they are

    def group(self, layer: int) -> tuple[int, ...]:
        """Return the layers with the same arrays, beginning with the layer that stores them in the file."""
        return self.groups.get(layer, (layer,))


def constraints(network: Network, fixed: Mapping[int, Kept]) -> Constraints:
    """Return the constraints of a network; the layers in `fixed` stay unchanged, for the given reasons."""
    odd = {
        layer.index: Kept((reason,)) for layer in network.layers if (reason := unread(layer) or _uneven_groups(layer))
    }
    return Constraints(
        layers=network.layers, readers=readers(network), groups=_sharing(network), fixed={**fixed, **odd}
    )


def obstacle_after(cfg: Constraints, layer: Layer, target: int) -> str:
    """Return why a `[batchnorm]` cannot be folded into `target`, a layer before it; empty if it can."""
    if target < 0:
        return "no layer precedes it"
    linear = cfg.layers[target]
    kinds = {part.kind for part in linear.parts}
    if len(linear.parts) != 1 or not kinds <= set(FORMS):
        return _not_linear(linear)
    activation = linear.section.text("activation", "logistic")
    if activation != "linear":
        return f"layer {target} has activation={activation}"
    for key in ("antialiasing", "coordconv"):
        if linear.section.flag(key):
            return f"layer {target} has {key}"
    if obstacle := _untouchable(cfg, target):
        return obstacle
    others = cfg.readers.get(layer.index - 1)
    return f"layer {min(others)} also reads layer {layer.index - 1}" if others else ""


def obstacle_before(cfg: Constraints, layer: Layer, target: int) -> str:
    """Return why a `[batchnorm]` cannot be folded into `target`, a layer after it; empty if it can."""
    if target == len(cfg.layers):
        return "no layer follows it"
    linear = cfg.layers[target]
    if linear.type not in ("convolutional", "connected"):
        return _not_linear(linear)
    if linear.type == "convolutional" and _reads_zeros(linear):
        return f"layer {target} pads its input"
    if others := cfg.readers.get(layer.index):
        return f"layer {min(others)} also reads it"
    if is_binary(linear):
        return f"layer {target} binarises its weights"
    if misread := misread_windows(linear):
        return f"layer {target} has {misread}"
    return _untouchable(cfg, target)


def _reads_zeros(layer: Layer) -> bool:
    """Return whether a convolution reads zeros beside its input.

    Without padding, too, where the kernel is larger than the input: C's division towards zero leaves it one window.
    """
    size, padding = kernel(layer.section)
    reach = layer.section.integer("dilation", 1) * (size - 1) + 1
    return padding > 0 or reach > min(layer.incoming.height, layer.incoming.width)


def _not_linear(layer: Layer) -> str:
    return f"layer {layer.index} ([{layer.section.name}]) is not a convolution or fully connected layer"


def _untouchable(cfg: Constraints, target: int) -> str:
    """Return why no `[batchnorm]` can be folded into this linear layer; empty if one can."""
    if target in cfg.groups:
        return f"layer {target} shares its weights"
    if target in cfg.fixed:
        return f"layer {target} is kept: {'; '.join(cfg.fixed[target].reasons)}"
    return ""


def unread(layer: Layer) -> str:
    """Return why the file lacks values that a layer computes with; empty if it has them all.

    With `dontloadscales` the values are known, see `statistics.normalisers`. A layer that shares another layer's arrays
    has none in the file in any case.
    """
    if shares_arrays(layer):
        return ""
    if layer.section.flag("dontload"):
        return "dontload: its values are not in the file"
    filters = layer.section.integer("numload", 0) if TYPES[layer.type].loads_filters else 0
    if filters and filters != layer.parts[0].channels:
        return f"numload: {filters} of its {layer.parts[0].channels} filters are in the file"
    return ""


def is_binary(layer: Layer) -> bool:
    return layer.section.flag("binary") or layer.section.flag("xnor")


def shares_arrays(layer: Layer) -> bool:
    return any(part.shared is not None for part in layer.parts)


def _sharing(network: Network) -> dict[int, tuple[int, ...]]:
    """Return, for each layer that shares arrays, all layers that use them, first the layer that stores them."""
    root: dict[int, int] = {}
    groups: dict[int, list[int]] = {}
    for layer in network.layers:
        for part in layer.parts:
            if part.shared is not None:
                base = root[layer.index] = root.get(part.shared, part.shared)
                groups.setdefault(base, [base]).append(layer.index)
    return {layer: group for group in map(tuple, groups.values()) for layer in group}


def _uneven_groups(layer: Layer) -> str:
    """Return why the rows of a grouped convolution's weights are not its filters; empty if they are.

    See `transforms.response.Rows`: if the groups divide both filters and channels, each row is one filter.
    """
    for part in layer.parts:
        for count, what in ((part.channels, "filters"), (part.inputs, "input channels")):
            if count % part.groups:
                why = "the rows of its weights are not its filters"
                return f"groups={part.groups} do not divide its {count} {what}: {why}"
    return ""
