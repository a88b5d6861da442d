"""The plan of a fold, from the cfg alone: which batch normalisation is folded into which layer, and why others stay.

The batch normalisation of a part is folded into the part itself. A stand-alone `[batchnorm]` goes into the linear layer
before it or, if that is not exact, into the convolution or fully connected layer after it:

    after     y = gain · (W·x + b) + offset = (gain·W)·x + (gain·b + offset)     if nothing else reads W·x + b
    before    y = W·(gain·x + offset) + b   = (W·gain)·x + (b + Σ W·offset)      if no padding adds plain zeros

The names say where the `[batchnorm]` is: `after` the linear layer that it is folded into, or `before` it.
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
    """A linear part and the batch normalisation folded into it: layers `before` it, its `own`, and layers `after` it.

    `binary` says how its weights are used: as they are, or as signs times the mean magnitude of the filter; in both
    ways if layers that share them differ.
    """

    layer: int
    part: Part
    binary: frozenset[bool]
    before: tuple[int, ...]
    own: bool
    after: tuple[int, ...]


class Folds(NamedTuple):
    """The fate of every normalised layer, and the resulting fold of each linear part.

    `shared` maps layers that use the arrays of another layer to that layer, which is folded together with them.
    """

    fates: Mapping[int, Fate]
    folds: tuple[Fold, ...]
    shared: Mapping[int, int]

    @property
    def kept(self) -> dict[int, Kept]:
        """Return the layers that keep their batch normalisation."""
        return {layer: fate for layer, fate in self.fates.items() if isinstance(fate, Kept)}

    @property
    def removed(self) -> dict[int, int]:
        """Return the `[batchnorm]` layers that are removed, each with the layer that it is folded into."""
        return _removed(self.fates)


def plan_folds(network: Network, fixed: Mapping[int, Kept]) -> Folds:
    """Decide the fate of every normalised layer; the layers in `fixed` stay unchanged, for the reasons given there."""
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
    """Return the cfg without folded `[batchnorm]` sections and without lines that turn batch normalisation on or off.

    Those lines stay in layers that keep their batch normalisation, and in layers that are not among `layers`.
    """
    kept = folds.kept
    chosen = [
        layer for layer in network.layers if layer.index not in kept and (layers is None or layer.index in layers)
    ]
    lines = {option.line for layer in chosen for option in layer.section.options if option.key in SWITCHES}
    return without(network, folds.removed, lines)


def _own_fates(cfg: Constraints) -> dict[int, Fate]:
    """Return the fates of the layers that normalise their own output. Layers that share arrays share their fate."""
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
    """Return the fates of the `[batchnorm]` layers if each is folded into the layer before it.

    If that layer is a `[batchnorm]` that is folded as well, both have the same target.
    """
    fates: dict[int, Fate] = {}
    for layer in _alone(cfg):
        target = _target(fates, layer.index - 1)
        obstacle = obstacle_after(cfg, layer, target)
        fates[layer.index] = cfg.fixed.get(layer.index) or (Kept((obstacle,)) if obstacle else Into(target))
    return fates


def _fates_before(cfg: Constraints, fates: Mapping[int, Fate]) -> dict[int, Fate]:
    """Return new fates of `[batchnorm]` layers that were kept: each is folded into the layer after it if possible."""
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
    """Return the layer next to a `[batchnorm]`, or the layer that this neighbour is folded into."""
    fate = fates.get(neighbour)
    return fate.target if isinstance(fate, Into) else neighbour


def _removed(fates: Mapping[int, Fate]) -> dict[int, int]:
    """Return the layers that are folded into another layer, each with its target."""
    return {layer: fate.target for layer, fate in fates.items() if isinstance(fate, Into)}


def _folds(cfg: Constraints, fates: Mapping[int, Fate]) -> Iterator[Fold]:
    """Yield a fold for every part that any batch normalisation is folded into."""
    around: dict[int, list[int]] = {}  # the [batchnorm] layers that are folded into each layer
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
