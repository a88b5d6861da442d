"""Which batch normalisation can go into which layer exactly, and why the rest stays: decided from the cfg alone.

A part that normalises takes its own batch normalisation in. A stand-alone `[batchnorm]` goes into the linear layer
before it or, where that is not exact, into the convolution or matrix behind it:

    before    y = gain · (W·x + b) + offset = (gain·W)·x + (gain·b + offset)     if W·x + b is read by nobody else
    behind    y = W·(gain·x + offset) + b   = (W·gain)·x + (b + Σ W·offset)      if no padding brings in bare zeros
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from bnorm.darknet.edit import readers, without
from bnorm.darknet.layout import FORMS
from bnorm.darknet.network import Layer, Network
from bnorm.darknet.parts import SWITCHES, Part, groups_of
from bnorm.darknet.section_types import TYPES
from bnorm.darknet.shapes import kernel


class Fold(NamedTuple):
    """A linear part and what it takes in, in this order: `[batchnorm]` layers before it, its `own`, those behind it.

    `binary` says how its weights count: as they are, or by their signs and the mean magnitude of each filter's; in both
    ways where layers that share them differ.
    """

    layer: int
    part: Part
    groups: int
    binary: frozenset[bool]
    before: tuple[int, ...]
    own: bool
    behind: tuple[int, ...]


class Folds(NamedTuple):
    """What goes where. `kept` says why a normalised layer stays, `removed` into which layer a `[batchnorm]` goes.

    `shared` are the layers that use the arrays of another one, which is folded with them.
    """

    folds: tuple[Fold, ...]
    kept: Mapping[int, str]
    removed: Mapping[int, int]
    shared: Mapping[int, int]


def plan_folds(network: Network, fixed: Mapping[int, str]) -> Folds:
    """Decide for every normalised layer; those in `fixed` stay as they are for the reason given there."""
    return _Planner(network, fixed).plan()


def without_normalisation(network: Network, folds: Folds, layers: Collection[int] | None = None) -> bytes:
    """The cfg less the `[batchnorm]` sections that go, and less the lines that turn batch normalisation on or off.

    Those lines stay in layers that stay as they are.
    """
    going = [layer for layer in network.layers if layer.index not in folds.kept]
    chosen = [layer for layer in going if layers is None or layer.index in layers]
    lines = {option.line for layer in chosen for option in layer.section.options if option.key in SWITCHES}
    return without(network, folds.removed, lines)


class _Planner:
    """The decisions so far: why normalised layers stay, and where `[batchnorm]` layers go."""

    def __init__(self, network: Network, fixed: Mapping[int, str]) -> None:
        self.layers, self.readers, self.groups = network.layers, readers(network), _sharing(network)
        self.fixed = dict(fixed) | {layer.index: reason for layer in network.layers if (reason := _unread(layer))}
        self.kept: dict[int, str] = {}
        self.removed: dict[int, int] = {}

    def plan(self) -> Folds:
        normalised = [layer for layer in self.layers if layer.batch_normalize]
        alone = [layer for layer in normalised if layer.type == "batchnorm"]
        own = [layer for layer in normalised if layer.type != "batchnorm"]
        verdicts = {group: self._verdict(group) for group in {self._group(layer) for layer in own}}
        self.kept = {layer.index: reason for layer in own if (reason := verdicts[self._group(layer)].get(layer.index))}
        for layer in alone:
            self._place_before(layer)
        for layer in reversed(alone):
            self._place_behind(layer)
        shared = {
            layer.index: self._group(layer)[0] for layer in own if _shares(layer) and layer.index not in self.kept
        }
        folds = (self._fold(layer, part, around) for layer, around in self._surroundings() for part in layer.parts)
        return Folds(tuple(fold for fold in folds if fold), self.kept, self.removed, shared)

    def _surroundings(self) -> Iterator[tuple[Layer, list[int]]]:
        """Every layer that stands, with the `[batchnorm]` layers that go into it."""
        around: dict[int, list[int]] = {}
        for gone, target in sorted(self.removed.items()):
            around.setdefault(target, []).append(gone)
        return ((layer, around.get(layer.index, [])) for layer in self.layers if layer.type != "batchnorm")

    def _fold(self, layer: Layer, part: Part, around: list[int]) -> Fold | None:
        own = part.batch_normalize and layer.index not in self.kept
        if _shares(layer) or not (own or around):
            return None
        before = tuple(gone for gone in around if gone < layer.index)
        behind = tuple(gone for gone in around if gone > layer.index)
        binary = frozenset(part.kind == "convolutional" and _binary(self.layers[index]) for index in self._group(layer))
        return Fold(layer.index, part, groups_of(layer.section), binary, before, own, behind)

    def _group(self, layer: Layer) -> tuple[int, ...]:
        """The layers with the same arrays, the one first that has them in the file."""
        return self.groups.get(layer.index, (layer.index,))

    def _verdict(self, group: tuple[int, ...]) -> dict[int, str]:
        """Why the layers of a group cannot take in their own batch normalisation; empty where they can."""
        for index in group:
            reason = self.fixed.get(index) or ("" if self.layers[index].batch_normalize else "does not normalise")
            if reason:
                others = dict.fromkeys(group, f"shares its weights with layer {index}: {reason}")
                return others | {index: reason}
        return {}

    def _place_before(self, layer: Layer) -> None:
        """Let a `[batchnorm]` go into the layer before it, or to where the one before it went."""
        target = self.removed.get(layer.index - 1, layer.index - 1)
        reason = self.fixed.get(layer.index) or self._into_before(layer, target)
        if reason:
            self.kept[layer.index] = reason
        else:
            self.removed[layer.index] = target

    def _place_behind(self, layer: Layer) -> None:
        """Let a `[batchnorm]` that cannot go into the layer before it go into the one behind."""
        if layer.index in self.removed or layer.index in self.fixed:
            return
        target = self.removed.get(layer.index + 1, layer.index + 1)
        reason = self._into_behind(layer, target)
        if reason:
            self.kept[layer.index] += f"; {reason}"
        else:
            del self.kept[layer.index]
            self.removed[layer.index] = target

    def _into_before(self, layer: Layer, target: int) -> str:
        """Why a `[batchnorm]` cannot go into the layer before it, or where that is one that goes, into its target."""
        if target < 0:
            return "no layer stands before it"
        linear = self.layers[target]
        kinds = {part.kind for part in linear.parts}
        if len(linear.parts) != 1 or not kinds <= set(FORMS):
            return f"layer {target}, [{linear.section.name}], is no convolution or matrix"
        activation = linear.section.text("activation", "logistic")
        if activation != "linear":
            return f"layer {target} has activation={activation}"
        for key in ("antialiasing", "coordconv"):
            if linear.section.flag(key):
                return f"layer {target} has {key}"
        if reason := self._untouchable(linear):
            return reason
        others = self.readers.get(layer.index - 1)
        return f"layer {min(others)} reads layer {layer.index - 1}, too" if others else ""

    def _into_behind(self, layer: Layer, index: int) -> str:
        """Why a `[batchnorm]` cannot go into the layer behind it, or where that is one that goes, into its target."""
        if index == len(self.layers):
            return "no layer stands behind it"
        linear = self.layers[index]
        if linear.type not in ("convolutional", "connected"):
            return f"layer {index}, [{linear.section.name}], is no convolution or matrix"
        if linear.type == "convolutional" and kernel(linear.section)[1]:
            return f"layer {index} pads its input"
        if others := self.readers.get(layer.index):
            return f"layer {min(others)} reads it, too"
        if _binary(linear):
            return f"layer {index} binarises its weights"
        if linear.type == "convolutional" and not _whole_groups(linear):
            return f"layer {index} has groups of different sizes"
        return self._untouchable(linear)

    def _untouchable(self, linear: Layer) -> str:
        """Why a linear layer can take in nothing from outside."""
        if linear.index in self.groups:
            return f"layer {linear.index} shares its weights"
        reason = self.fixed.get(linear.index)
        return f"layer {linear.index} stays as it is: {reason}" if reason else ""


def _unread(layer: Layer) -> str:
    """Why the file does not hold what a layer computes with; `dontloadscales` leaves known values: 1, 0 and 0.

    What shares another layer's arrays has none in the file anyway.
    """
    if _shares(layer):
        return ""
    if layer.section.flag("dontload"):
        return "dontload: its values are not in the file"
    filters = layer.section.integer("numload", 0) if TYPES[layer.type].loads_filters else 0
    if filters and filters != layer.parts[0].channels:
        return f"numload: {filters} of its {layer.parts[0].channels} filters are in the file"
    return ""


def _binary(layer: Layer) -> bool:
    return layer.section.flag("binary") or layer.section.flag("xnor")


def _shares(layer: Layer) -> bool:
    return any(part.shared is not None for part in layer.parts)


def _sharing(network: Network) -> dict[int, tuple[int, ...]]:
    """For each layer that shares its arrays, all that use the same ones; the first of them has them in the file."""
    root: dict[int, int] = {}
    groups: dict[int, list[int]] = {}
    for layer in network.layers:
        for part in layer.parts:
            if part.shared is not None:
                base = root[layer.index] = root.get(part.shared, part.shared)
                groups.setdefault(base, [base]).append(layer.index)
    return {layer: group for group in map(tuple, groups.values()) for layer in group}


def _whole_groups(layer: Layer) -> bool:
    """Whether groups divide inputs and filters without rest."""
    groups = groups_of(layer.section)
    return layer.incoming.channels % groups == 0 and layer.parts[0].channels % groups == 0
