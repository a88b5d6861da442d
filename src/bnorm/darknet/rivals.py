"""The dialects that would have given a different answer from the chosen one, and the first difference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from bnorm.darknet.layout import Array
from bnorm.darknet.model import Model, Rival
from bnorm.darknet.network import Layer
from bnorm.darknet.vocabulary import ACTIVATIONS
from bnorm.errors import BnormError


class Differs(StrEnum):
    """The kind of answer in which another dialect differs."""

    REFUSED = "refused"  # it cannot read the cfg or the header
    SIZE = "size"  # whether the file fits
    HEADER = "header"  # the header's fields or size
    ORDER = "order"  # the order of a layer's arrays, or of their axes
    ARRAYS = "arrays"  # the arrays of a layer
    SHAPE = "shape"  # the output of a layer, or the layers that it reads
    ACTIVATION = "activation"  # only one of the two knows a layer's activation


class Difference(NamedTuple):
    """The first difference, and its layer; None if it is not in a layer."""

    differs: Differs
    layer: int | None = None


def rivals(
    chosen: Model, others: Sequence[Model], errors: Mapping[str, BnormError], why: Mapping[str, str]
) -> Iterator[Rival]:
    """Yield the dialects with a different answer: those that refuse the model, and those that read it differently.

    `why` gives, by name, the reason why a dialect was not chosen.
    """
    for name in errors:
        yield Rival(dialect=name, why=why[name], differs=Differs.REFUSED, layer=None)
    for other in others:
        difference = first_difference(chosen, other)
        if difference:
            name = other.dialect.name
            yield Rival(dialect=name, why=why.get(name, ""), differs=difference.differs, layer=difference.layer)


def first_difference(one: Model, two: Model) -> Difference | None:
    """Return the first answer that differs between two dialects, or None if all are the same."""
    if one.fits != two.fits:
        return Difference(Differs.SIZE)
    if one.weights and one.header != two.header:
        return Difference(Differs.HEADER)
    arrays, others = one.layout.by_layer(), two.layout.by_layer()
    for a, b in zip(one.network.layers, two.network.layers, strict=True):
        differs = _in_layer(a, b, arrays.get(a.index, ()), others.get(b.index, ()))
        if differs:
            return Difference(differs, a.index)
    return None


def _in_layer(a: Layer, b: Layer, arrays: Sequence[Array], others: Sequence[Array]) -> Differs | None:
    """Return what differs in a layer. Offsets are ignored: they may differ because of earlier layers."""
    if list(map(_stored, arrays)) != list(map(_stored, others)):
        same = sorted(array.size for array in arrays) == sorted(array.size for array in others)
        return Differs.ORDER if same else Differs.ARRAYS
    if (a.output, a.reads) != (b.output, b.reads):
        return Differs.SHAPE
    return Differs.ACTIVATION if _knows_activation(a) != _knows_activation(b) else None


def _stored(array: Array) -> tuple[object, ...]:
    return array.name, array.stored, array.axes


def _knows_activation(layer: Layer) -> bool:
    """Return whether the fork knows the layer's activation; it computes relu for an unknown one."""
    return layer.section.text("activation", "logistic") in ACTIVATIONS[layer.section.dialect.name]
