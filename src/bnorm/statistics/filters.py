"""The range that quantisation has to cover: the weights of each filter, as stored and with the gain folded in.

norm = √Σw²  and  largest = max |w|  over the weights of the filter
folded = largest · |gain|, the largest magnitude with the gain folded into the weights
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np

from bnorm.batchnorm.epsilon import Vector
from bnorm.batchnorm.formulas import quiet
from bnorm.darknet.layout import FORMS, Array, channel_axis
from bnorm.darknet.network import Layer
from bnorm.darknet.parts import array_name
from bnorm.darknet.weights import Weights
from bnorm.statistics.channel_state import Mask


class Magnitudes(NamedTuple):
    """The Euclidean norm, if it was asked for, and the largest magnitude of each channel's weights: (C,), float64."""

    norm: Vector | None
    largest: Vector


class Range(NamedTuple):
    """The ratio of the widest channel's weights to the narrowest's, without dead and empty channels.

    A single scale for the whole tensor has to cover this ratio: INT8 has 127 steps.
    """

    before: float
    after: float  # with gains folded in


class Filters(NamedTuple):
    """The filters of a part: vectors of shape (C,), `norm` as in `Magnitudes`.

    Without batch normalisation `folded` is `largest`.
    """

    norm: Vector | None
    largest: Vector
    folded: Vector
    dead: Mask

    @property
    def range(self) -> Range:
        """Return the range over channels that are not dead and have weights."""
        counted = ~self.dead & (self.largest != 0)
        return Range(before=_ratio(self.largest[counted]), after=_ratio(self.folded[counted]))

    @classmethod
    def bare(cls, sizes: Magnitudes) -> Filters:
        """Return the filters of a part without batch normalisation."""
        return cls(
            norm=sizes.norm, largest=sizes.largest, folded=sizes.largest, dead=np.zeros(sizes.largest.shape, bool)
        )

    @classmethod
    def concatenate(cls, parts: Collection[Filters]) -> Filters:
        """Return the filters of all parts together."""
        return cls(*map(joined, zip(*parts, strict=True)))


def joined(vectors: Collection[Any]) -> Any:
    """Return the vectors one after the other; None if one of them is None."""
    return None if any(vector is None for vector in vectors) else np.concatenate(tuple(vectors))


def measured(weights: Weights, layer: Layer, *, norms: bool) -> dict[str, Magnitudes]:
    """Return the magnitudes of each part whose weights are all in the file, by the part's name.

    `norms` asks for norms as well, which take three times as long as the rest.
    """
    sizes = {}
    for part in layer.parts:
        array = weights.layout.by_name.get((layer.index, array_name(part.name, "weights")))
        if array and part.kind in FORMS and array.end <= weights.nbytes:  # a cut file may end before the weights
            sizes[part.name] = _magnitudes(weights, layer, array, norms)
    return sizes


@quiet
def _magnitudes(weights: Weights, layer: Layer, array: Array, norms: bool) -> Magnitudes:
    """Return the magnitudes of each channel, read block by block; sums are float64."""
    axis = channel_axis(layer, array)
    squares = np.zeros(array.stored[axis])
    largest = np.zeros(array.stored[axis])
    start = 0
    for block in weights.blocks(array):
        rows = np.moveaxis(block, axis, 0).reshape(block.shape[axis], -1)  # (channels, weights per channel)
        here = slice(start, start + len(rows)) if axis == 0 else slice(None)
        largest[here] = np.maximum(largest[here], np.maximum(rows.max(axis=1, initial=0), -rows.min(axis=1, initial=0)))
        if norms:
            doubles = rows.astype(np.float64)  # a third faster than a product that converts, and no BLAS: the same bits
            squares[here] += np.add.reduce(np.multiply(doubles, doubles, out=doubles), axis=1)
        start += len(rows)
    return Magnitudes(norm=np.sqrt(squares) if norms else None, largest=largest)


def _ratio(values: Vector) -> float:
    """Return largest / smallest value; NaN if there are no values, infinity if the smallest is 0."""
    with np.errstate(all="ignore"):
        return float(np.divide(values.max(), values.min())) if values.size else math.nan
