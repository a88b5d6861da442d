"""Which batch normalisation can go into which layer exactly, and why the rest stays: decided from the cfg alone.

A part that normalises takes its own batch normalisation in. A stand-alone `[batchnorm]` goes into the linear layer
before it or, where that is not exact, into the convolution or matrix behind it:

    before    y = gain · (W·x + b) + offset = (gain·W)·x + (gain·b + offset)     if W·x + b is read by nobody else
    behind    y = W·(gain·x + offset) + b   = (W·gain)·x + (b + Σ W·offset)      if no padding brings in bare zeros
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from bnorm.layout import FILTERED
from bnorm.linear import FORMS
from bnorm.network import Layer, Network
from bnorm.parts import Part, groups_of
from bnorm.references import readers
from bnorm.shapes import kernel


class Fold(NamedTuple):
    """A linear part and what it takes in, in this order: `[batchnorm]` layers before it, its `own`, those behind it."""

    layer: int
    part: Part
    groups: int
    binary: bool  # its weights count by their signs and the mean magnitude of each filter's
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


def plan_folds(network: Network, stay: Mapping[int, str]) -> Folds:
    """Decide for every normalised layer; those in `stay` are kept for the reason given there."""
    return _Planner(network, stay).plan()


class _Planner:
    """The decisions so far."""

    def __init__(self, network: Network, stay: Mapping[int, str]) -> None:
        self.layers, self.readers, self.stay = network.layers, readers(network), stay
        self.groups = _sharing(network)
        self.kept = {
            layer.index: stay[layer.index] for layer in network.layers if layer.batch_normalize and layer.index in stay
        }
        self.removed: dict[int, int] = {}

    def plan(self) -> Folds:
        for layer in self.layers:
            if layer.batch_normalize and layer.type != "batchnorm":
                self._keep(layer, self._own(layer))
        alone = [layer for layer in self.layers if layer.batch_normalize and layer.type == "batchnorm"]
        for layer in alone:
            self._keep(layer, _unread(layer) or self._place_before(layer))
        for layer in reversed(alone):
            self._place_behind(layer)
        own = [layer for layer in self.layers if layer.batch_normalize and layer.index not in self.kept]
        shared = {layer.index: self.groups[layer.index][0] for layer in own if _shares(layer)}
        folds = (self._fold(layer, part) for layer in self.layers for part in layer.parts)
        return Folds(tuple(fold for fold in folds if fold), self.kept, self.removed, shared)

    def _fold(self, layer: Layer, part: Part) -> Fold | None:
        own = part.batch_normalize and layer.index not in self.kept
        around = {gone for gone, target in self.removed.items() if target == layer.index}
        if part.kind == "batchnorm" or _shares(layer) or not (own or around):
            return None
        before = tuple(sorted(gone for gone in around if gone < layer.index))
        behind = tuple(sorted(gone for gone in around if gone > layer.index))
        convolution = part.kind == "convolutional"
        groups = groups_of(layer.section) if convolution else 1
        return Fold(layer.index, part, groups, convolution and _binary(layer), before, own, behind)

    def _keep(self, layer: Layer, reason: str) -> None:
        if reason:
            self.kept.setdefault(layer.index, reason)

    def _own(self, layer: Layer) -> str:
        """Why a layer cannot take in its own batch normalisation; empty where it can."""
        group = self.groups.get(layer.index, (layer.index,))
        for index in group:
            other = self.layers[index]
            reason = self.kept.get(index) or (_unread(other) if index == group[0] else "")
            reason = reason or ("" if other.batch_normalize else "does not normalise")
            if reason:
                return reason if other is layer else f"shares its weights with layer {index}: {reason}"
        return ""

    def _place_before(self, layer: Layer) -> str:
        """Let a `[batchnorm]` go into the layer before it, or to where the one before it went; else why not."""
        if layer.index in self.kept:
            return ""
        target = self.removed.get(layer.index - 1, layer.index - 1)
        reason = self._into_before(layer, target)
        if not reason:
            self.removed[layer.index] = target
        return reason

    def _place_behind(self, layer: Layer) -> None:
        """Let a `[batchnorm]` that cannot go into the layer before it go into the one behind."""
        if layer.index in self.removed or layer.index in self.stay or _unread(layer):
            return
        target = self.removed.get(layer.index + 1, layer.index + 1)
        reason = self._into_behind(layer, target)
        if reason:
            self.kept[layer.index] += f"; {reason}"
            return
        del self.kept[layer.index]
        self.removed[layer.index] = target

    def _into_before(self, layer: Layer, target: int) -> str:
        """Why a `[batchnorm]` cannot go into the layer before it, or where that is one that goes, into its target."""
        if target < 0:
            return "no layer stands before it"
        linear = self.layers[target]
        kinds = {part.kind for part in linear.parts}
        if len(linear.parts) != 1 or not kinds <= set(FORMS):
            return f"layer {target}, [{linear.section.name}], is not linear"
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
            return f"layer {index}, [{linear.section.name}], is no convolution"
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
        if reason := _unread(linear):
            return f"layer {linear.index} has {reason}"
        if linear.index in self.groups:
            return f"layer {linear.index} shares its weights"
        return f"layer {linear.index} stays normalised" if linear.index in self.kept else ""


def _unread(layer: Layer) -> str:
    """Why the file does not hold what a layer computes with; `dontloadscales` leaves known values: 1, 0 and 0."""
    if layer.section.flag("dontload"):
        return "dontload: its values are not in the file"
    filters = layer.section.integer("numload", 0) if layer.type in FILTERED else 0
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
    for layer in network.layers:
        for part in layer.parts:
            if part.shared is not None:
                root[layer.index] = root.get(part.shared, part.shared)
    groups = {base: (base, *(layer for layer in root if root[layer] == base)) for base in root.values()}
    return {layer: group for group in groups.values() for layer in group}


def _whole_groups(layer: Layer) -> bool:
    """Whether groups divide inputs and filters without rest."""
    groups = groups_of(layer.section)
    return layer.incoming.channels % groups == 0 and layer.parts[0].channels % groups == 0
