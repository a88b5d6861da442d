"""A folded model before anything is written: its folds, its arrays, and its cfg.

judge_variances    normalisers → the normalisers to fold with, and the layers to keep
settle             cfg, normalisers, layers to keep → the folds, and the new arrays of each
rewrite_cfg        cfg, folds → the new cfg and its plan
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from bnorm.batchnorm.epsilon import Epsilon
from bnorm.darknet import cfg
from bnorm.darknet.edit import agree
from bnorm.darknet.layout import Array, plan
from bnorm.darknet.model import Model
from bnorm.darknet.network import Network, build
from bnorm.darknet.weights import Floats, Weights
from bnorm.errors import ProofError
from bnorm.folding.fates import NOT_SELECTED, Kept
from bnorm.folding.plan import Folds, plan_folds, without_normalisation
from bnorm.statistics.bad_variance import BadChannels, BadVariance
from bnorm.statistics.normalisers import Key, Normaliser, normalisers
from bnorm.transforms.fold.arrays import Affine, affine, folded, lost_signs
from bnorm.transforms.fold.variances import judge_variances, refuse_bad

DEFECT = "a defect of bnorm: nothing was written"


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldOptions:
    """The options of `fold`; `layers` is None for all."""

    layers: frozenset[int] | None
    epsilon: Epsilon
    bad_variance: BadVariance


class Piece(NamedTuple):
    """A block of the new file, and the layers folded into it if its values exceed float32."""

    values: Floats
    overflowing: frozenset[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldedModel:
    """Everything that is decided before a byte is written. `after` is the new model, without a file."""

    weights: Weights
    epsilon: Epsilon
    normalisers: Mapping[Key, Normaliser]
    clamped: Mapping[Key, BadChannels]
    folds: Folds
    changes: Mapping[Key, Affine]
    text: bytes
    after: Model

    def survivors(self) -> list[int]:
        """Return the old number of each layer of the new network."""
        removed = self.folds.removed
        return [layer.index for layer in self.weights.model.network.layers if layer.index not in removed]

    def stream(self) -> Iterator[Piece]:
        """Yield the values of the new file, in blocks."""
        old, survivors = self.weights.layout.by_name, self.survivors()
        for array in self.after.layout.arrays:
            yield from self._pieces(old[survivors[array.layer], array.name])

    def blocks(self, array: Array) -> Iterator[Floats]:
        """Yield an array of the old file as the new file holds it: folded, or unchanged."""
        return (piece.values for piece in self._pieces(array))

    def _pieces(self, array: Array) -> Iterator[Piece]:
        """Yield an array of the old file as the new file holds it, with the layers that overflow in it."""
        change = self.changes.get((array.layer, array.part))
        if change is None:
            # Copies: a block is still in use while the next one is read into the same memory.
            yield from (Piece(block.copy(), frozenset()) for block in self.weights.blocks(array))
            return
        layers = frozenset({change.fold.layer, *change.fold.before, *change.fold.after})
        for values, overflows in folded(self.weights, array, change):
            yield Piece(values, layers if overflows else frozenset())


def fold_model(weights: Weights, options: FoldOptions, overflowing: Mapping[int, Kept]) -> FoldedModel:
    """Decide what is folded into what, and compute it; the layers in `overflowing` stay unchanged.

    `WeightsError` for a bad variance in a folded layer, if `options` ask for it.
    """
    network = weights.model.network
    judged = judge_variances(normalisers(weights), options.bad_variance, options.epsilon)
    fixed = {**judged.kept, **_not_selected(network, options.layers), **overflowing}
    folds, changes = settle(weights, judged.normalisers, options.epsilon, fixed)
    if options.bad_variance is BadVariance.ERROR:
        refuse_bad(weights.path, judged.bad, folds.kept, options.epsilon)
    text, after = rewrite_cfg(weights.model, folds, options.layers)
    after = after._replace(nbytes=after.layout.nbytes + weights.kept_bytes)
    return FoldedModel(
        weights=weights,
        epsilon=options.epsilon,
        normalisers=judged.normalisers,
        clamped=judged.bad if options.bad_variance is BadVariance.CLAMP else {},
        folds=folds,
        changes=changes,
        text=text,
        after=after,
    )


def settle(
    weights: Weights, normalisers: Mapping[Key, Normaliser], epsilon: Epsilon, fixed: Mapping[int, Kept]
) -> tuple[Folds, dict[Key, Affine]]:
    """Plan the folds from the cfg, then again without folds that would have to flip the sign of a binary weight of 0.

    Each round keeps more layers: the `[batchnorm]` layers after such weights, or else the layer itself.
    """
    while True:
        folds = plan_folds(weights.model.network, fixed)
        changes = {(fold.layer, fold.part.name): affine(fold, weights, normalisers, epsilon) for fold in folds.folds}
        lost = {
            layer: kept
            for change in changes.values()
            if True in change.fold.binary and (kept := lost_signs(weights, change))
            for layer in change.fold.after or (change.fold.layer,)
        }
        if not lost:
            return folds, changes
        fixed = {**fixed, **lost}


def rewrite_cfg(model: Model, folds: Folds, layers: Collection[int] | None) -> tuple[bytes, Model]:
    """Return the new cfg, and the new model as a reader of these bytes sees it."""
    network = model.network
    text = without_normalisation(network, folds, layers)
    new = build(cfg.parse(network.text.path, text), model.dialect)
    if not agree(network, new, folds.removed):
        raise ProofError(
            network.text.path, "cannot be renumbered, expected each layer to keep its inputs", cause=DEFECT
        )
    layout = plan(new, model.header)
    return text, model._replace(network=new, layout=layout, nbytes=layout.nbytes, weights=None)


def _not_selected(network: Network, layers: Collection[int] | None) -> dict[int, Kept]:
    """Return the layers that the caller did not select."""
    chosen = range(len(network.layers)) if layers is None else layers
    return {layer.index: NOT_SELECTED for layer in network.layers if layer.index not in chosen}
