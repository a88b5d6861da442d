"""A converted model before anything is written: its cfg, its plan, and the source of each array.

translate          cfg → a cfg that the target reads in the same way
unfolding          cfg → a cfg with identity batch normalisation
new_header         header → the requested header
part_changes       the new vectors, and the changes to each part
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from bnorm.batchnorm.epsilon import Epsilon
from bnorm.darknet.counterparts import counterparts
from bnorm.darknet.dialects import Dialect
from bnorm.darknet.layout import NORMALISATION, Array, Layout, plan
from bnorm.darknet.model import Model
from bnorm.darknet.network import Layer, Network
from bnorm.darknet.parts import Part, array_name
from bnorm.darknet.translation import CfgChange, Obstacle, translate
from bnorm.darknet.weights import Floats, Weights
from bnorm.errors import CfgError, WeightsError
from bnorm.folding.obstacles import unread
from bnorm.statistics.bad_variance import BadVariance
from bnorm.statistics.normalisers import Key, Normaliser, normalisers
from bnorm.transforms.convert.header import new_header
from bnorm.transforms.convert.refusal import refuse
from bnorm.transforms.convert.request import EpsilonChange, Request
from bnorm.transforms.convert.unfolding import bare_convolutions, identity, with_normalisation
from bnorm.transforms.fold.variances import Judgement, judge_variances, refuse_bad
from bnorm.transforms.rescaling import rescaled


@dataclass(frozen=True, slots=True, kw_only=True)
class PartChange:
    """The changes to one part: its name in the old network, the `kinds` of change and the new vectors by field.

    `reason` says why a requested change is not made. `scale_change` is the largest |new / old − 1|.
    """

    layer: Layer
    part: Part
    old_name: str
    kinds: tuple[str, ...] = ()
    reason: str = ""
    vectors: Mapping[str, Floats]
    scale_change: float | None = None
    clamped: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertedModel:
    """Everything that is decided before a byte is written. `after` is the new model, without a file."""

    weights: Weights
    after: Model
    cfg_changes: tuple[CfgChange, ...]
    parts: Mapping[Key, PartChange]  # by layer and name of the part in the new network
    normalisers: Mapping[Key, Normaliser]  # of the old network, clamped if requested
    rescaled_for: EpsilonChange | None
    guard: Epsilon  # of an identity batch normalisation

    @property
    def epsilons(self) -> EpsilonChange:
        """Return the ε of the old file and of the new file."""
        return self.rescaled_for or EpsilonChange(self.guard, self.guard)

    @property
    def layout(self) -> Layout:
        """Return the plan of the new file."""
        return self.after.layout

    def text(self) -> bytes:
        """Return the new cfg."""
        return self.after.network.text.encode()

    def source(self, array: Array) -> Array | None:
        """Return the old array whose values a new array holds; None for a new vector."""
        part = self.parts[array.layer, array.part]
        if array.field in part.vectors:
            return None
        return self.weights.layout.array(array.layer, array_name(part.old_name, array.field))

    def blocks(self, array: Array) -> Iterator[Floats]:
        """Yield an array of the new file as it is stored, in blocks."""
        source = self.source(array)
        if source is None:
            yield self.parts[array.layer, array.part].vectors[array.field]
        else:
            yield from self.weights.blocks_as(source, array.axes)

    def __getitem__(self, key: tuple[int, str]) -> Floats:
        """Return an array of the new file by its layer and name."""
        return self.read(self.layout.array(*key))

    def read(self, array: Array) -> Floats:
        """Return an array of the new file in its shape in memory."""
        stored = np.concatenate([block.copy() for block in self.blocks(array)]).reshape(array.stored)
        return stored if array.axes is None else stored.transpose(array.axes)


def converted_model(weights: Weights, request: Request) -> ConvertedModel:
    """Decide what happens to each array; raise `CfgError` or `WeightsError` if that would not be exact."""
    model = weights.model
    network, cfg_changes = _translated(model, request.dialect)
    bare = bare_convolutions(network, request.layers) if request.unfold else {}
    unfolded = [layer for layer, reason in bare.items() if not reason]
    network = with_normalisation(network, unfolded) if unfolded else network
    header = new_header(model, request)
    layout = plan(network, header)
    after = model._replace(
        network=network, header=header, layout=layout, nbytes=layout.nbytes + weights.kept_bytes, weights=None
    )
    judged = _judged(weights, request)
    draft = _Draft(weights=weights, after=after, request=request, judged=judged, bare=bare)
    parts, obstacles = draft.parts()
    if obstacles:
        refuse(WeightsError, weights.path, "cannot be converted", obstacles)
    return ConvertedModel(
        weights=weights,
        after=after,
        cfg_changes=cfg_changes,
        parts=parts,
        normalisers=judged.normalisers,
        rescaled_for=request.epsilons,
        guard=request.guard,
    )


def _translated(model: Model, target: Dialect | None) -> tuple[Network, tuple[CfgChange, ...]]:
    """Return the network as the target reads it, and the changed lines; raise `CfgError` if that is impossible."""
    if target is None or target == model.dialect:
        return model.network, ()
    result = translate(model.network, target)
    if result.network is None:
        refuse(CfgError, model.network.text.path, f"cannot be converted to {target.name}", result.obstacles)
    return result.network, result.changes


def _judged(weights: Weights, request: Request) -> Judgement:
    """Return the normalisers after the policy for bad variances; raise `WeightsError` if the policy says so."""
    if request.epsilons is None:
        return Judgement(normalisers(weights), {}, {})
    judged = judge_variances(normalisers(weights), request.bad_variance, *request.epsilons)
    if request.bad_variance is BadVariance.ERROR:
        refuse_bad(weights.path, judged.bad, (), *request.epsilons)
    return judged


class _Vectors(NamedTuple):
    """New vectors of a part, with the kinds of change."""

    kinds: tuple[str, ...] = ()
    vectors: Mapping[str, Floats] = {}
    reason: str = ""
    scale_change: float | None = None
    clamped: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Draft:
    """The inputs for the decisions about the parts of the new network."""

    weights: Weights
    after: Model
    request: Request
    judged: Judgement
    bare: Mapping[int, str]

    def parts(self) -> tuple[dict[Key, PartChange], list[Obstacle]]:
        """Return the change to each part with arrays of its own, and the obstacles."""
        changes: dict[Key, PartChange] = {}
        obstacles: list[Obstacle] = []
        for old, new in zip(self.weights.model.network.layers, self.after.network.layers, strict=True):
            names = counterparts(old, new)
            moved = [names[part.name] for part in new.parts] != [part.name for part in old.parts]
            for part in new.parts:
                if part.shared is None:
                    change = self._part(new, part, names[part.name], moved)
                    changes[new.index, part.name] = change
                    obstacles += self._obstacles(change)
        return changes, obstacles

    def _part(self, layer: Layer, part: Part, old_name: str, moved: bool) -> PartChange:
        """Return the change to one part."""
        steps = [
            _Vectors(kinds=("moved",)) if moved else _Vectors(),
            self._biases(layer, part, old_name),
            self._transposed(layer, part, old_name),
            self._epsilon(layer, part, old_name),
            self._unfolded(layer, part),
        ]
        return PartChange(
            layer=layer,
            part=part,
            old_name=old_name,
            kinds=tuple(kind for step in steps for kind in step.kinds),
            reason="; ".join(step.reason for step in steps if step.reason),
            vectors={field: values for step in steps for field, values in step.vectors.items()},
            scale_change=next((step.scale_change for step in steps if step.scale_change is not None), None),
            clamped=tuple(channel for step in steps for channel in step.clamped),
        )

    def _biases(self, layer: Layer, part: Part, old_name: str) -> _Vectors:
        """Add or remove the biases of a [batchnorm]: pjreddie's fork does not store them, and they are 0."""
        new, old = self._array(layer, part.name, "biases"), self._old(layer, old_name, "biases")
        if new and not old:
            return _Vectors(("biases added",), {"biases": np.zeros(part.channels, np.float32)})
        return _Vectors(("biases removed",)) if old and not new else _Vectors()

    def _transposed(self, layer: Layer, part: Part, old_name: str) -> _Vectors:
        new, old = self._array(layer, part.name, "weights"), self._old(layer, old_name, "weights")
        return _Vectors(("transposed",)) if new and old and new.axes != old.axes else _Vectors()

    def _epsilon(self, layer: Layer, part: Part, old_name: str) -> _Vectors:
        """Rewrite the scales for another ε."""
        normaliser = self.judged.normalisers.get((layer.index, old_name))
        if self.request.epsilons is None or normaliser is None:
            return _Vectors()
        if layer.index in self.judged.kept:
            return _Vectors(reason="; ".join(self.judged.kept[layer.index].reasons))
        bad = self.judged.bad.get((layer.index, old_name))
        before, variance = normaliser.parameters.scales, normaliser.rolling.variance
        scales = rescaled(before, variance, self.request.epsilons.old, self.request.epsilons.new).astype(np.float32)
        vectors = {"scales": scales}
        if bad:
            vectors["rolling_variance"] = variance.astype(np.float32)
        change = np.abs(scales / np.where(before == 0, 1, before) - 1)[before != 0]
        return _Vectors(
            kinds=("scales", "clamped") if bad else ("scales",),
            vectors=vectors,
            reason=f"clamped: {bad}" if bad else "",
            scale_change=float(change.max(initial=0)),
            clamped=bad.channels if bad else (),
        )

    def _unfolded(self, layer: Layer, part: Part) -> _Vectors:
        """Give a bare convolution an identity batch normalisation, unless there is an obstacle."""
        if layer.index not in self.bare or self.bare[layer.index]:
            return _Vectors(reason=self.bare.get(layer.index, ""))
        return _Vectors(("unfolded",), identity(part.channels, self.request.guard))

    def _obstacles(self, change: PartChange) -> Iterator[Obstacle]:
        """Yield the reasons why a part cannot be converted exactly."""
        layer, fields = change.layer, {array.field for array in self._arrays(change)}
        name = f"{change.part.name} " if change.part.name else ""
        if "biases removed" in change.kinds:
            biases = self.weights[layer.index, array_name(change.old_name, "biases")]
            if count := int(np.count_nonzero(biases)):
                what = f"{name}biases of {count} channel{'s' * (count != 1)} are not 0"
                yield Obstacle(layer.index, None, f"{what}, and {layer.section.dialect.name}'s [batchnorm] stores none")
        if "scales" in change.kinds:
            missing = "" if fields >= set(NORMALISATION) else "its scales are not in the file"
            if reason := unread(layer) or missing or self._lost(change):
                yield Obstacle(layer.index, None, f"{name}{reason}")

    def _lost(self, change: PartChange) -> str:
        """Return why no float32 scale gives the same gain with the other ε; empty if one does."""
        normaliser = self.judged.normalisers[change.layer.index, change.old_name]
        finite = np.isfinite(normaliser.parameters.scales)
        old, new = self.request.epsilons or (self.request.guard, self.request.guard)
        for epsilon in (old, new):
            if not epsilon.deviation(normaliser.rolling.variance).all():
                return f"rolling_variance is 0, which ε of {epsilon.value:g} divides by"
        return "" if np.isfinite(change.vectors["scales"][finite]).all() else "rewritten, its scales exceed float32"

    def _arrays(self, change: PartChange) -> Sequence[Array]:
        arrays = self.after.layout.by_layer().get(change.layer.index, ())
        return [array for array in arrays if array.part == change.part.name]

    def _array(self, layer: Layer, part: str, field: str) -> Array | None:
        return self.after.layout.by_name.get((layer.index, array_name(part, field)))

    def _old(self, layer: Layer, part: str, field: str) -> Array | None:
        return self.weights.layout.by_name.get((layer.index, array_name(part, field)))
