"""Which batch normalisation can go into which layer exactly, and why the rest stays: decided from the cfg alone.

A part that normalises takes its own batch normalisation in. A stand-alone `[batchnorm]` goes into the linear layer
before it or, where that is not exact, into the convolution or fully connected layer after it:

    after     y = gain · (W·x + b) + offset = (gain·W)·x + (gain·b + offset)     if nothing else reads W·x + b
    before    y = W·(gain·x + offset) + b   = (W·gain)·x + (b + Σ W·offset)      if no padding adds plain zeros

The names are those of the `[batchnorm]`: `after` the linear layer that it goes into, or `before` it.
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


class OwnLayer(NamedTuple):
    """The layer's batch normalisation is folded into the layer itself."""


class Into(NamedTuple):
    """A stand-alone `[batchnorm]` is folded into the layer with this number, and its section is removed."""

    target: int


class Kept(NamedTuple):
    """The layer keeps its batch normalisation, for these reasons."""

    reasons: tuple[str, ...]


Fate = OwnLayer | Into | Kept

NOT_SELECTED = Kept(("not selected",))


class Fold(NamedTuple):
    """A linear part and what is folded into it, in this order: `[batchnorm]` layers before it, its `own`, those after.

    `binary` says how its weights count: as they are, or by their signs and the mean magnitude of each filter's; in both
    ways where layers that share them differ.
    """

    layer: int
    part: Part
    groups: int
    binary: frozenset[bool]
    before: tuple[int, ...]
    own: bool
    after: tuple[int, ...]


class Folds(NamedTuple):
    """The fate of every normalised layer, and what that means for each linear part.

    `shared` are the layers that use the arrays of another one, which is folded with them.
    """

    fates: Mapping[int, Fate]
    folds: tuple[Fold, ...]
    shared: Mapping[int, int]

    @property
    def kept(self) -> dict[int, Kept]:
        """The layers that keep their batch normalisation."""
        return {layer: fate for layer, fate in self.fates.items() if isinstance(fate, Kept)}

    @property
    def removed(self) -> dict[int, int]:
        """The `[batchnorm]` layers that are removed, and the layers that they go into."""
        return _removed(self.fates)


class _Cfg(NamedTuple):
    """What decides about the layers of a network."""

    layers: tuple[Layer, ...]
    readers: Mapping[int, Collection[int]]  # the layers that name each layer by number
    groups: Mapping[int, tuple[int, ...]]  # for layers that share their arrays: all that use the same
    fixed: Mapping[int, Kept]  # the layers that must stay as they are

    def group(self, layer: int) -> tuple[int, ...]:
        """Return the layers with the same arrays, first the one that has them in the file."""
        return self.groups.get(layer, (layer,))


def plan_folds(network: Network, fixed: Mapping[int, Kept]) -> Folds:
    """Decide for every normalised layer; those in `fixed` stay as they are, for the reasons given there."""
    unread = {layer.index: Kept((reason,)) for layer in network.layers if (reason := _unread(layer))}
    cfg = _Cfg(network.layers, readers(network), _sharing(network), {**fixed, **unread})
    fates = _own_fates(cfg)
    fates |= _fates_after(cfg)
    fates |= _fates_before(cfg, fates)
    shared = {
        layer.index: cfg.group(layer.index)[0]
        for layer in network.layers
        if _shares(layer) and isinstance(fates.get(layer.index), OwnLayer)
    }
    return Folds(fates, tuple(_folds(cfg, fates)), shared)


def without_normalisation(network: Network, folds: Folds, layers: Collection[int] | None = None) -> bytes:
    """Return the cfg without the `[batchnorm]` sections that are folded, nor the lines that switch it on or off.

    Those lines stay in layers that keep their batch normalisation, and in layers that are not among `layers`.
    """
    kept = folds.kept
    chosen = [
        layer for layer in network.layers if layer.index not in kept and (layers is None or layer.index in layers)
    ]
    lines = {option.line for layer in chosen for option in layer.section.options if option.key in SWITCHES}
    return without(network, folds.removed, lines)


def _own_fates(cfg: _Cfg) -> dict[int, Fate]:
    """Return the fates of the layers that normalise their own output. Those that share arrays share their fate."""
    own = [layer.index for layer in cfg.layers if layer.batch_normalize and layer.type != "batchnorm"]
    return {layer: _own_fate(cfg, layer) for layer in own}


def _own_fate(cfg: _Cfg, layer: int) -> Fate:
    """Return `Kept` if any of the layers with the same arrays must stay, or does not normalise; else `OwnLayer`."""
    for index in cfg.group(layer):
        reasons = cfg.fixed[index].reasons if index in cfg.fixed else ()
        if not (reasons or cfg.layers[index].batch_normalize):
            reasons = ("does not normalise",)
        if reasons:
            shared = f"shares its weights with layer {index}: {'; '.join(reasons)}"
            return Kept(reasons if index == layer else (shared,))
    return OwnLayer()


def _fates_after(cfg: _Cfg) -> dict[int, Fate]:
    """Return the fates of the `[batchnorm]` layers if each goes into the layer before it.

    Where that is a `[batchnorm]` that goes, too, the target is the same.
    """
    fates: dict[int, Fate] = {}
    for layer in _alone(cfg):
        target = _target(fates, layer.index - 1)
        obstacle = _obstacle_after(cfg, layer, target)
        fates[layer.index] = cfg.fixed.get(layer.index) or (Kept((obstacle,)) if obstacle else Into(target))
    return fates


def _fates_before(cfg: _Cfg, fates: Mapping[int, Fate]) -> dict[int, Fate]:
    """Return new fates of `[batchnorm]` layers that stayed: each goes into the layer after it if it can."""
    changed = dict(fates)
    for layer in reversed(_alone(cfg)):
        fate = fates[layer.index]
        if isinstance(fate, Kept) and layer.index not in cfg.fixed:
            target = _target(changed, layer.index + 1)
            obstacle = _obstacle_before(cfg, layer, target)
            changed[layer.index] = Kept((*fate.reasons, obstacle)) if obstacle else Into(target)
    return changed


def _alone(cfg: _Cfg) -> list[Layer]:
    """Return the stand-alone `[batchnorm]` layers that have channels."""
    return [layer for layer in cfg.layers if layer.type == "batchnorm" and layer.batch_normalize]


def _target(fates: Mapping[int, Fate], neighbour: int) -> int:
    """Return the layer next to a `[batchnorm]`, or the one that this neighbour goes into."""
    fate = fates.get(neighbour)
    return fate.target if isinstance(fate, Into) else neighbour


def _removed(fates: Mapping[int, Fate]) -> dict[int, int]:
    """Return the layers that go into another one, and those targets."""
    return {layer: fate.target for layer, fate in fates.items() if isinstance(fate, Into)}


def _folds(cfg: _Cfg, fates: Mapping[int, Fate]) -> Iterator[Fold]:
    """Yield a fold for every part that takes something in."""
    around: dict[int, list[int]] = {}  # the [batchnorm] layers that go into each layer
    for gone, target in sorted(_removed(fates).items()):
        around.setdefault(target, []).append(gone)
    for layer in cfg.layers:
        gone_into = around.get(layer.index, [])
        own = isinstance(fates.get(layer.index), OwnLayer)
        for part in () if _shares(layer) else layer.parts:
            if gone_into or (own and part.batch_normalize):
                yield Fold(
                    layer=layer.index,
                    part=part,
                    groups=groups_of(layer.section),
                    binary=frozenset(
                        part.kind == "convolutional" and _binary(cfg.layers[index]) for index in cfg.group(layer.index)
                    ),
                    before=tuple(gone for gone in gone_into if gone < layer.index),
                    own=own and part.batch_normalize,
                    after=tuple(gone for gone in gone_into if gone > layer.index),
                )


def _obstacle_after(cfg: _Cfg, layer: Layer, target: int) -> str:
    """Return why a `[batchnorm]` cannot go into `target`, a layer before it; an empty text if it can."""
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


def _obstacle_before(cfg: _Cfg, layer: Layer, target: int) -> str:
    """Return why a `[batchnorm]` cannot go into `target`, a layer after it; an empty text if it can."""
    if target == len(cfg.layers):
        return "no layer follows it"
    linear = cfg.layers[target]
    if linear.type not in ("convolutional", "connected"):
        return _not_linear(linear)
    if linear.type == "convolutional" and kernel(linear.section)[1]:
        return f"layer {target} pads its input"
    if others := cfg.readers.get(layer.index):
        return f"layer {min(others)} also reads it"
    if _binary(linear):
        return f"layer {target} binarises its weights"
    if linear.type == "convolutional" and not _whole_groups(linear):
        return f"layer {target} has groups of different sizes"
    return _untouchable(cfg, target)


def _not_linear(layer: Layer) -> str:
    return f"layer {layer.index} ([{layer.section.name}]) is not a convolution or fully connected layer"


def _untouchable(cfg: _Cfg, target: int) -> str:
    """Return why nothing from outside can be folded into a linear layer; an empty text if something can."""
    if target in cfg.groups:
        return f"layer {target} shares its weights"
    if target in cfg.fixed:
        return f"layer {target} stays as it is: {'; '.join(cfg.fixed[target].reasons)}"
    return ""


def _unread(layer: Layer) -> str:
    """Return why the file does not hold what a layer computes with; an empty text if it does.

    `dontloadscales` leaves known values, see `statistics.normalisers`. A layer that shares another one's arrays has
    none in the file anyway.
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
    """Return for each layer that shares its arrays all that use the same, first the one that has them in the file."""
    root: dict[int, int] = {}
    groups: dict[int, list[int]] = {}
    for layer in network.layers:
        for part in layer.parts:
            if part.shared is not None:
                base = root[layer.index] = root.get(part.shared, part.shared)
                groups.setdefault(base, [base]).append(layer.index)
    return {layer: group for group in map(tuple, groups.values()) for layer in group}


def _whole_groups(layer: Layer) -> bool:
    """Return whether the groups divide inputs and filters without remainder."""
    groups = groups_of(layer.section)
    return layer.incoming.channels % groups == 0 and layer.parts[0].channels % groups == 0
