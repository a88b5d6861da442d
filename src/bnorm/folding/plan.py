"""Which batch normalisation can go into which layer exactly, and why the rest stays: decided from the cfg alone.

The batch normalisation of a part is folded into the part itself. A stand-alone `[batchnorm]` goes into the linear layer
before it or, where that is not exact, into the convolution or fully connected layer after it:

    after     y = gain · (W·x + b) + offset = (gain·W)·x + (gain·b + offset)     if nothing else reads W·x + b
    before    y = W·(gain·x + offset) + b   = (W·gain)·x + (b + Σ W·offset)      if no padding adds plain zeros

The names are those of the `[batchnorm]`: `after` the linear layer that it goes into, or `before` it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from bnorm.darknet.edit import without
from bnorm.darknet.network import Layer, Network
from bnorm.darknet.parts import SWITCHES, Part
from bnorm.folding.fates import Fate, Into, Kept, OwnLayer
from bnorm.folding.obstacles import (
    Constraints,
    constraints,
    is_binary,
    obstacle_after,
    obstacle_before,
    shares_arrays,
)


class Fold(NamedTuple):
    """A linear part and what is folded into it, in this order: `[batchnorm]` layers before it, its `own`, those after.

    `binary` says how its weights count: as they are, or by their signs and the mean magnitude of each filter's; in both
    ways where layers that share them differ.
    """

    layer: int
    part: Part
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


def plan_folds(network: Network, fixed: Mapping[int, Kept]) -> Folds:
    """Decide for every normalised layer; those in `fixed` stay as they are, for the reasons given there."""
    cfg = constraints(network, fixed)
    fates = _own_fates(cfg)
    fates |= _fates_after(cfg)
    fates |= _fates_before(cfg, fates)
    shared = {
        layer.index: cfg.group(layer.index)[0]
        for layer in network.layers
        if shares_arrays(layer) and isinstance(fates.get(layer.index), OwnLayer)
    }
    return Folds(fates, tuple(_folds(cfg, fates)), shared)


def without_normalisation(network: Network, folds: Folds, layers: Collection[int] | None = None) -> bytes:
    """Return the cfg without its folded `[batchnorm]` sections, and without the lines that switch it on or off.

    Those lines stay in layers that keep their batch normalisation, and in layers that are not among `layers`.
    """
    kept = folds.kept
    chosen = [
        layer for layer in network.layers if layer.index not in kept and (layers is None or layer.index in layers)
    ]
    lines = {option.line for layer in chosen for option in layer.section.options if option.key in SWITCHES}
    return without(network, folds.removed, lines)


def _own_fates(cfg: Constraints) -> dict[int, Fate]:
    """Return the fates of the layers that normalise their own output. Those that share arrays share their fate."""
    own = [layer.index for layer in cfg.layers if layer.batch_normalize and layer.type != "batchnorm"]
    return {layer: _own_fate(cfg, layer) for layer in own}


def _own_fate(cfg: Constraints, layer: int) -> Fate:
    """Return `Kept` if any of the layers with the same arrays must stay, or does not normalise; else `OwnLayer`."""
    for index in cfg.group(layer):
        reasons = cfg.fixed[index].reasons if index in cfg.fixed else ()
        if not (reasons or cfg.layers[index].batch_normalize):
            reasons = ("does not normalise",)
        if reasons:
            shared = f"shares its weights with layer {index}: {'; '.join(reasons)}"
            return Kept(reasons if index == layer else (shared,))
    return OwnLayer()


def _fates_after(cfg: Constraints) -> dict[int, Fate]:
    """Return the fates of the `[batchnorm]` layers if each goes into the layer before it.

    Where that is a `[batchnorm]` that is folded as well, both have the same target.
    """
    fates: dict[int, Fate] = {}
    for layer in _alone(cfg):
        target = _target(fates, layer.index - 1)
        obstacle = obstacle_after(cfg, layer, target)
        fates[layer.index] = cfg.fixed.get(layer.index) or (Kept((obstacle,)) if obstacle else Into(target))
    return fates


def _fates_before(cfg: Constraints, fates: Mapping[int, Fate]) -> dict[int, Fate]:
    """Return new fates of `[batchnorm]` layers that stayed: each goes into the layer after it if it can."""
    changed = dict(fates)
    for layer in reversed(_alone(cfg)):
        fate = fates[layer.index]
        if isinstance(fate, Kept) and layer.index not in cfg.fixed:
            target = _target(changed, layer.index + 1)
            obstacle = obstacle_before(cfg, layer, target)
            changed[layer.index] = Kept((*fate.reasons, obstacle)) if obstacle else Into(target)
    return changed


def _alone(cfg: Constraints) -> list[Layer]:
    """Return the stand-alone `[batchnorm]` layers that have channels."""
    return [layer for layer in cfg.layers if layer.type == "batchnorm" and layer.batch_normalize]


def _target(fates: Mapping[int, Fate], neighbour: int) -> int:
    """Return the layer next to a `[batchnorm]`, or the one that this neighbour goes into."""
    fate = fates.get(neighbour)
    return fate.target if isinstance(fate, Into) else neighbour


def _removed(fates: Mapping[int, Fate]) -> dict[int, int]:
    """Return the layers that go into another one, and those targets."""
    return {layer: fate.target for layer, fate in fates.items() if isinstance(fate, Into)}


def _folds(cfg: Constraints, fates: Mapping[int, Fate]) -> Iterator[Fold]:
    """Yield a fold for every part that something is folded into."""
    around: dict[int, list[int]] = {}  # the [batchnorm] layers that go into each layer
    for gone, target in sorted(_removed(fates).items()):
        around.setdefault(target, []).append(gone)
    for layer in cfg.layers:
        gone_into = around.get(layer.index, [])
        own = isinstance(fates.get(layer.index), OwnLayer)
        for part in () if shares_arrays(layer) else layer.parts:
            if gone_into or (own and part.batch_normalize):
                yield Fold(
                    layer=layer.index,
                    part=part,
                    binary=frozenset(
                        part.kind == "convolutional" and is_binary(cfg.layers[index])
                        for index in cfg.group(layer.index)
                    ),
                    before=tuple(gone for gone in gone_into if gone < layer.index),
                    own=own and part.batch_normalize,
                    after=tuple(gone for gone in gone_into if gone > layer.index),
                )
