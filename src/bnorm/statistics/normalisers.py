"""The learned parameters and rolling statistics of every part that normalises, read here only.

One rule holds for every array that the file lacks: its value is the one that darknet's `make_*_layer` puts
there, see `INITIAL`. Three things leave arrays out:

    pjreddie's [batchnorm]   stores no biases
    dontloadscales           stores only biases
    dontload                 stores nothing

With `numload` the file and the vectors have fewer channels than the layer. A part that uses another layer's
arrays (`share_index`) has none of its own, and therefore no normaliser.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from bnorm.batchnorm.epsilon import Epsilon, Vector
from bnorm.batchnorm.formulas import Parameters, Rolling, gain_offset
from bnorm.darknet.layout import NORMALISATION
from bnorm.darknet.network import Network
from bnorm.darknet.parts import Part, array_name
from bnorm.darknet.weights import Arrays, Weights

INITIAL = {"scales": 1.0, "biases": 0.0, "rolling_mean": 0.0, "rolling_variance": 0.0}

Key = tuple[int, str]  # the number of a layer, and the name of its part


class Normaliser(NamedTuple):
    """The batch normalisation of one part: vectors of shape (C,), float64.

    `kind` is the kind of the part, a row of `layout.ORDER`. `stored` says whether scales and rolling statistics are in
    the file; otherwise they have their initial values.
    """

    layer: int
    part: str
    kind: str
    parameters: Parameters
    rolling: Rolling
    stored: bool

    def gain_offset(self, epsilon: Epsilon) -> tuple[Vector, Vector]:
        """Return gain and offset of `y = gain·x + offset`, the part's batch normalisation at inference."""
        return gain_offset(self.parameters, self.rolling, epsilon)


def normalisers(weights: Weights) -> dict[Key, Normaliser]:
    """Read the normaliser of every part that has one, in the order of the file."""
    parts = normalised_parts(weights.model.network)
    return {(layer, part.name): read_normaliser(weights, layer, part) for layer, part in parts}


def normalised_parts(network: Network) -> Iterator[tuple[int, Part]]:
    """Yield the layer number and the part, for every part that normalises with arrays of its own."""
    for layer in network.layers:
        for part in layer.parts:
            if normalises(part):
                yield layer.index, part


def normalises(part: Part) -> bool:
    """Return whether the part normalises with arrays of its own."""
    return part.batch_normalize and part.shared is None


def read_normaliser(weights: Arrays, layer: int, part: Part) -> Normaliser:
    """Read the normaliser of one part of a layer, for which `normalises` must hold."""
    arrays = weights.layout.by_name
    stored = {field: arrays.get((layer, array_name(part.name, field))) for field in INITIAL}
    vectors = {
        field: np.full(part.channels, INITIAL[field]) if array is None else weights.read(array).astype(np.float64)
        for field, array in stored.items()
    }
    return Normaliser(
        layer=layer,
        part=part.name,
        kind=part.kind,
        parameters=Parameters(scales=vectors["scales"], biases=vectors["biases"]),
        rolling=Rolling(mean=vectors["rolling_mean"], variance=vectors["rolling_variance"]),
        stored=all(stored[field] is not None for field in NORMALISATION),
    )
