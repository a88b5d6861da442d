"""The comparable arrays of a model: its stored arrays, or the arrays that its layers compute with.

By function, every linear part is compared as `fold` would write it: weights times gain, and biases; a batch
normalisation that cannot be folded is compared as its gain and offset. So a folded and an unfolded file, or two files
for two ε, have equal arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np

from bnorm.batchnorm.epsilon import Epsilon
from bnorm.darknet.counterparts import task
from bnorm.darknet.layout import NORMALISATION, Array, Layout, channel_axis
from bnorm.darknet.network import Layer
from bnorm.darknet.parts import Part, array_name
from bnorm.darknet.weights import Floats, Weights
from bnorm.folding.fates import Kept
from bnorm.folding.plan import plan_folds
from bnorm.statistics.normalisers import Key, Normaliser, normalises, read_normaliser
from bnorm.transforms.fold.arrays import Affine, affine, folded
from bnorm.transforms.response import Doubles

Axes = tuple[int, ...] | None


class Place(NamedTuple):
    """The place of a value: its index in the array in memory, and its filter or channel."""

    place: tuple[int, ...]
    channel: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparable:
    """One array of one model. `task` is the task of its part in words that all forks share, for matching.

    `blocks` yields the values as a file with given `Array.axes` stores them. `missing` says why the file does not hold
    them; it is empty if it does. `terms` are the magnitudes of the terms that each value is a sum of, None for
    products.
    """

    array: Array
    name: str
    task: str
    channels_along: int
    missing: str
    blocks: Callable[[Axes], Iterator[Floats]]
    terms: Doubles | None = None

    def place(self, flat: int) -> Place:
        """Return the place of the value with this number in file order."""
        stored = [int(number) for number in np.unravel_index(flat, self.array.stored)]
        memory = stored if self.array.axes is None else [stored[axis] for axis in self.array.axes]
        return Place(tuple(memory), stored[self.channels_along])


Comparables = dict[tuple[int, str, str], Comparable]  # by layer, task of the part, and field


def stored_arrays(weights: Weights) -> Comparables:
    """Return every planned array."""
    layers = weights.model.network.layers
    return _keyed(_stored(weights, layers[array.layer], array) for array in weights.layout.arrays)


def _keyed(items: Iterator[Comparable]) -> Comparables:
    return {(item.array.layer, item.task, item.array.field): item for item in items}


def _stored(weights: Weights, layer: Layer, array: Array) -> Comparable:
    return Comparable(
        array=array,
        name=array.name,
        task=task(layer, array.part),
        channels_along=channel_axis(layer, array),
        missing=_missing(weights, array),
        blocks=lambda axes: weights.blocks_as(array, axes),
    )


def _missing(weights: Weights, array: Array) -> str:
    """Return where the file ends if it does not hold the whole array."""
    if array.end <= weights.nbytes:
        return ""
    return "ends inside it" if array.offset < weights.nbytes else "ends before it"


# --- by function ------------------------------------------------------------------------------------------------------


def computed_arrays(weights: Weights, epsilon: Epsilon) -> Comparables:
    """Return the arrays that every part computes with, for this ε."""
    return _keyed(_Computed(weights, epsilon).items())


class _Computed:
    """The folds of a network, and the normalisers of all parts that the file holds completely."""

    def __init__(self, weights: Weights, epsilon: Epsilon) -> None:
        network = weights.model.network
        self.weights, self.epsilon = weights, epsilon
        self.cut = cut = {array.layer for array in weights.layout.arrays if _missing(weights, array)}
        self.normalisers = {
            (layer.index, part.name): read_normaliser(weights, layer.index, part)
            for layer in network.layers
            for part in layer.parts
            if normalises(part) and layer.index not in cut
        }
        self.magnitudes = {key: _magnitudes(item) for key, item in self.normalisers.items()}
        plan = plan_folds(network, dict.fromkeys(cut, Kept(("not in the file",))))
        self.removed = plan.removed
        self.folds = {(fold.layer, fold.part.name): fold for fold in plan.folds}

    def items(self) -> Iterator[Comparable]:
        """Yield the arrays of each part."""
        by_layer = self.weights.layout.by_layer()
        for layer in self.weights.model.network.layers:
            for part in layer.parts:
                arrays = [array for array in by_layer.get(layer.index, ()) if array.part == part.name]
                if arrays and layer.index not in self.removed:
                    yield from self._part(layer, part, arrays)

    def _part(self, layer: Layer, part: Part, arrays: list[Array]) -> Iterator[Comparable]:
        key = (layer.index, part.name)
        kept = key in self.normalisers and key not in self.folds
        if kept:
            hidden = {*NORMALISATION, "biases"}
        else:
            hidden = {*NORMALISATION} if key in self.folds or layer.index in self.cut else set()
        change = self._change(key)
        for array in arrays:
            if array.field not in hidden:
                item = _stored(self.weights, layer, array)
                if layer.index in self.cut:
                    yield replace(item, missing=item.missing or "ends inside the layer")
                else:
                    yield self._folded(item, *change) if change else item
        if kept:
            yield from self._line(layer, part, self.normalisers[key])

    def _change(self, key: Key) -> tuple[Affine, Doubles] | None:
        """Return the change that folding makes to a part, and the magnitudes of the terms of its biases."""
        fold = self.folds.get(key)
        if fold is None:
            return None
        terms = affine(fold, _Magnitudes(self.weights), self.magnitudes, self.epsilon).biases
        return affine(fold, self.weights, self.normalisers, self.epsilon), terms

    def _folded(self, item: Comparable, change: Affine, terms: Doubles) -> Comparable:
        """Return an array of a part as folding would write it."""

        def blocks(axes: Axes) -> Iterator[Floats]:
            source = _InOrder(self.weights, item.array, axes)
            return (block.values for block in folded(source, source.array, change))

        return Comparable(
            array=item.array,
            name=item.name,
            task=item.task,
            channels_along=item.channels_along,
            missing=item.missing,
            blocks=blocks,
            terms=terms if item.array.field == "biases" else None,
        )

    def _line(self, layer: Layer, part: Part, normaliser: Normaliser) -> Iterator[Comparable]:
        """Yield gain and offset of a batch normalisation that cannot be folded into another layer."""
        gain, offset = normaliser.gain_offset(self.epsilon)
        size, terms = _magnitudes(normaliser).gain_offset(self.epsilon)
        for field, values, bound in (("gain", gain, size), ("offset", offset, terms)):
            array = Array(layer.index, part.name, field, values.shape, 0, values.shape, None)
            yield Comparable(
                array=array,
                name=array_name(part.name, field),
                task=task(layer, part.name),
                channels_along=0,
                missing="",
                blocks=partial(_one_block, values),
                terms=bound,
            )


def _one_block(values: Doubles, _axes: Axes) -> Iterator[Floats]:
    yield values.astype(np.float32)


def _magnitudes(normaliser: Normaliser) -> Normaliser:
    """Return a normaliser whose offset is |bias| + |mean · gain|, and whose gain is |gain|."""
    parameters, rolling = normaliser.parameters, normaliser.rolling
    return normaliser._replace(
        parameters=parameters._replace(scales=np.abs(parameters.scales), biases=np.abs(parameters.biases)),
        rolling=rolling._replace(mean=-np.abs(rolling.mean)),
    )


@dataclass(frozen=True, slots=True)
class _Magnitudes:
    """The magnitudes of a file's values."""

    weights: Weights

    @property
    def layout(self) -> Layout:
        return self.weights.layout

    def __getitem__(self, key: tuple[int, str]) -> Floats:
        return np.abs(self.weights[key])

    def read(self, array: Array) -> Floats:
        return np.abs(self.weights.read(array))

    def blocks(self, array: Array) -> Iterator[Floats]:
        return (np.abs(block) for block in self.weights.blocks(array))


class _InOrder:
    """One array of a file, in the order of a file with other axes."""

    def __init__(self, weights: Weights, array: Array, axes: Axes) -> None:
        shape = array.shape
        stored = shape if axes is None else tuple(shape[axes.index(axis)] for axis in range(len(shape)))
        self._weights, self._source = weights, array
        self.array = array._replace(axes=axes, stored=stored)

    @property
    def layout(self) -> Layout:
        return self._weights.layout

    def __getitem__(self, key: tuple[int, str]) -> Floats:
        return self._weights[key]

    def read(self, array: Array) -> Floats:
        return self._weights.read(array)

    def blocks(self, array: Array) -> Iterator[Floats]:
        return self._weights.blocks_as(self._source, array.axes)
