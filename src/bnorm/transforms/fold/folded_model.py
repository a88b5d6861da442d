"""All that folding decides before a byte is written: what goes where, its numbers, and the folded cfg."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from bnorm.batchnorm.epsilon import Epsilon
from bnorm.batchnorm.formulas import Rolling
from bnorm.darknet import cfg
from bnorm.darknet.edit import agree
from bnorm.darknet.layout import Array, plan
from bnorm.darknet.model import Model
from bnorm.darknet.network import Network, build
from bnorm.darknet.parts import array_name
from bnorm.darknet.weights import Floats, Weights
from bnorm.errors import ProofError, WeightsError
from bnorm.statistics.normalisers import Key, Statistics, bad_variances, clamped, statistics
from bnorm.transforms.fold.arrays import Affine, Beyond, affine, folded, lost_signs
from bnorm.transforms.fold.plan import Folds, plan_folds, without_normalisation

DEFECT = "a defect of bnorm: nothing was written"


class Wish(NamedTuple):
    """What the caller asked for."""

    layers: Collection[int] | None
    epsilon: Epsilon
    bad_variance: str
    verify: bool


class Work(NamedTuple):
    """All that is decided before a byte is written."""

    weights: Weights
    epsilon: Epsilon
    statistics: Statistics
    notes: Mapping[Key, str]  # what is said of a part besides: its clamped variances
    folds: Folds
    affines: Mapping[Key, Affine]
    text: bytes
    after: Model  # the folded one, without a file

    def survivors(self) -> list[int]:
        """The old numbers of the layers that remain."""
        return [layer.index for layer in self.weights.model.network.layers if layer.index not in self.folds.removed]

    def stream(self) -> Iterator[Floats]:
        """The folded file's values, in blocks; in the end `Beyond` with all layers that no float32 holds.

        Told of one at a time, the caller would begin anew for each.
        """
        old, survivors = self.weights.layout.by_name, self.survivors()
        beyond: set[int] = set()
        for array in self.after.layout.arrays:
            try:
                yield from self.blocks(old[survivors[array.layer], array.name])
            except Beyond as error:
                beyond |= error.layers
        if beyond:
            raise Beyond(beyond)

    def blocks(self, array: Array) -> Iterator[Floats]:
        """An array of the old file as the new one holds it: folded, or as it is."""
        change = self.affines.get((array.layer, array.part))
        return folded(self.weights, array, change) if change else self.weights.blocks(array)


def prepare(weights: Weights, wish: Wish, beyond: dict[int, str]) -> Work:
    """Decide what goes where, and compute it; the layers in `beyond` stay as they are for the reason given there.

    `WeightsError` for a bad variance, if `wish` says so.
    """
    network, epsilon = weights.model.network, wish.epsilon
    known = statistics(weights)
    bad = {key: text for key, (_, rolling) in known.items() if (text := bad_variances(rolling.variance))}
    fixed = _not_selected(network, wish.layers) | beyond
    if wish.bad_variance == "skip":
        fixed = _reasons(bad) | fixed
    elif wish.bad_variance == "clamp":
        known = {key: (parameters, _clamped(rolling)) for key, (parameters, rolling) in known.items()}
    folds, affines = _settle(weights, known, epsilon, fixed)
    if wish.bad_variance == "error":
        _refuse_bad(weights, {key: text for key, text in bad.items() if key[0] not in folds.kept})
    source = without_normalisation(network, folds, wish.layers)
    after = _after(weights.model, source)
    if not agree(network, after.network, folds.removed):
        raise ProofError(
            network.text.path, "cannot be renumbered, expected each layer to read what it read", cause=DEFECT
        )
    notes = {key: f"clamped: {text}" for key, text in bad.items()} if wish.bad_variance == "clamp" else {}
    return Work(weights, epsilon, known, notes, folds, affines, source, after)


def _reasons(bad: Mapping[Key, str]) -> dict[int, str]:
    """What is wrong with each layer's parts."""
    found: dict[int, str] = {}
    for (layer, part), text in bad.items():
        found[layer] = "; ".join(filter(None, (found.get(layer), array_name(part, text))))
    return found


def _after(model: Model, text: bytes) -> Model:
    network = build(cfg.parse(model.network.text.path, text), model.dialect)
    layout = plan(network, model.header)
    return model._replace(network=network, layout=layout, nbytes=layout.nbytes, weights=None)


def _settle(
    weights: Weights, known: Statistics, epsilon: Epsilon, fixed: dict[int, str]
) -> tuple[Folds, dict[Key, Affine]]:
    """What goes where: decided from the cfg, and again without what would turn the signs of binary weights of 0.

    Each round fixes one more layer: the `[batchnorm]` layers behind such weights, or else the layer itself.
    """
    while True:
        folds = plan_folds(weights.model.network, fixed)
        affines = {(fold.layer, fold.part.name): affine(fold, weights, known, epsilon) for fold in folds.folds}
        lost = {
            layer: reason
            for change in affines.values()
            if True in change.fold.binary and (reason := lost_signs(weights, change))
            for layer in change.fold.behind or (change.fold.layer,)
        }
        if not lost:
            return folds, affines
        fixed = fixed | lost


def _not_selected(network: Network, layers: Collection[int] | None) -> dict[int, str]:
    if layers is None:
        return {}
    return {layer.index: "not selected" for layer in network.layers if layer.index not in layers}


def _refuse_bad(weights: Weights, bad: Mapping[Key, str]) -> None:
    for (layer, part), text in bad.items():
        place = f"layer {layer} {array_name(part, text)}"
        cause = "--bad-variance clamp or skip folds the rest; bnorm check says more"
        raise WeightsError(weights.path, f"{place}, expected finite numbers from 0 on", cause=cause)


def _clamped(rolling: Rolling) -> Rolling:
    return rolling._replace(variance=clamped(rolling.variance))
