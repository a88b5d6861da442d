"""The parameters and rolling statistics of every part of a model that normalises."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from bnorm.batchnorm.epsilon import Vector
from bnorm.batchnorm.formulas import Parameters, Rolling
from bnorm.darknet.layout import Array
from bnorm.darknet.network import Network
from bnorm.darknet.parts import Part, array_name
from bnorm.darknet.weights import Weights

# What darknet's arrays hold where the file has none (`make_*_layer`).
INITIAL = {"scales": 1.0, "biases": 0.0, "rolling_mean": 0.0, "rolling_variance": 0.0}

LARGEST = float(np.finfo(np.float32).max)

Key = tuple[int, str]  # a layer and its part

Statistics = Mapping[Key, tuple[Parameters, Rolling]]


def statistics(weights: Weights) -> dict[Key, tuple[Parameters, Rolling]]:
    """The learned parameters and the rolling statistics of every part that normalises with arrays of its own."""
    stored = weights.layout.by_name
    found = {}
    for layer, part in normalised_parts(weights.model.network):
        vectors = {
            field: _vector(weights, stored.get((layer, array_name(part.name, field))), part, initial)
            for field, initial in INITIAL.items()
        }
        parameters = Parameters(vectors["scales"], vectors["biases"])
        found[layer, part.name] = parameters, Rolling(vectors["rolling_mean"], vectors["rolling_variance"])
    return found


def normalised_parts(network: Network) -> Iterator[tuple[int, Part]]:
    """Every part that normalises and uses no other layer's arrays, with its layer's number."""
    for layer in network.layers:
        for part in layer.parts:
            if part.batch_normalize and part.shared is None:
                yield layer.index, part


def _vector(weights: Weights, array: Array | None, part: Part, initial: float) -> Vector:
    return np.full(part.channels, initial) if array is None else weights.read(array).astype(np.float64)


def bad_variances(variance: Vector) -> str:
    """What is wrong with rolling variances that are negative, infinite or no number; empty where none is."""
    bad = np.flatnonzero(~((variance >= 0) & np.isfinite(variance)))
    if not bad.size:
        return ""
    more = f" and {bad.size - 1} more" if bad.size > 1 else ""
    return f"rolling_variance is {variance[bad[0]]:g} in channel {bad[0]}{more}"


def clamped(variance: Vector) -> Vector:
    """Each variance as the nearest one that a float32 can hold; 0, darknet's initial value, for what is no number."""
    return np.clip(np.nan_to_num(variance), 0.0, LARGEST)
