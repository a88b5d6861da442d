"""What batch normalisation does to each channel, by part and by layer.

For one channel, with `deviation` as in `batchnorm.Epsilon`:

    gain = scale / deviation(variance)       offset = bias − mean · gain       output = gain · input + offset
    weight_norm = √Σw²  and  weight_max = max |w|  over the weights that make the channel
    folded_max = weight_max · |gain|, the largest magnitude once the gain is folded into the weights
    above_zero = P(scale · z + bias > 0) for a unit Gaussian z

A channel is *dead* where whatever comes in, the same goes out: the deviation that its statistics promise for its
output, spread = |gain| · √variance, is below `DEAD_BELOW`. It is *constant* where it is dead and what goes out is not
0, so that it acts as a bias of the next layer. It is *near-dead* where it is not dead, and its spread is below
`NEAR_DEAD` of the median of its part's living channels, or a relu follows and less than `SELDOM` of its outputs are
above zero. A spread that is small for want of variance alone, below ε, says nothing: with another input the channel
lives.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bnorm.batchnorm.epsilon import DARKNET, Epsilon, Vector
from bnorm.batchnorm.formulas import Parameters, Rolling, gain_offset
from bnorm.darknet.layout import Array, channel_axis
from bnorm.darknet.network import Layer
from bnorm.darknet.vocabulary import ACTIVATIONS
from bnorm.darknet.weights import Floats, Weights

DEAD_BELOW = 1e-6

NEAR_DEAD = 0.01

SELDOM = 1e-3

RECTIFIERS = frozenset({"relu", "relu6"})  # activations that are 0 below 0

Mask = NDArray[np.bool_]  # one per channel, shape (C,)


class Magnitudes(NamedTuple):
    """The Euclidean norm and the largest magnitude of the weights of each channel, shape (C,), float64."""

    norm: Vector
    largest: Vector


class Channels(NamedTuple):
    """The normalised channels of one part: vectors of shape (C,). The weights' are None where they were not read."""

    scale: Vector
    bias: Vector
    mean: Vector
    variance: Vector
    gain: Vector
    offset: Vector
    spread: Vector
    above_zero: Vector
    weight_norm: Vector | None
    weight_max: Vector | None
    folded_max: Vector | None
    rectified: Mask  # whether nothing but a relu stands behind it
    dead: Mask
    near_dead: Mask
    constant: Mask


class Quantiles(NamedTuple):
    """Each a value of one channel: the lower one where the quantile falls between two. NaN where any is NaN."""

    low: float
    q10: float
    q25: float
    q50: float
    q75: float
    q90: float
    high: float


LEVELS = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)


class Range(NamedTuple):
    """How many times wider the widest channel's weights are than the narrowest's, dead ones and empty ones left out.

    What a quantisation of the whole tensor loses in its narrowest channel: INT8 has 127 steps.
    """

    before: float
    after: float  # once gains are folded in


class Statistics(NamedTuple):
    """Over normalised channels: quantiles by quantity, and how many are dead, near-dead and constant."""

    channels: int
    quantiles: dict[str, Quantiles]
    weight_range: Range | None
    dead: int
    near_dead: int
    constant: int


def channels_of(
    layer: Layer,
    arrays: Sequence[Array],
    epsilon: Epsilon,
    read: Callable[[Array], Floats],
    measure: Callable[[Array], Magnitudes] | None = None,
) -> dict[str, Channels]:
    """The normalised parts by name among a layer's arrays, read with `read`; `measure` looks at their weights.

    The name is empty where the layer is its only part. `arrays` may lack weights, but must hold the others.
    """
    found = {}
    for name, group in groupby(arrays, lambda array: array.part):
        stored = {array.field: array for array in group}
        if "rolling_variance" in stored:
            magnitudes = measure(stored["weights"]) if measure and "weights" in stored else None
            vectors = {field: read(array).astype(np.float64) for field, array in stored.items() if field != "weights"}
            found[name] = _channels(vectors, epsilon, magnitudes, _rectified(layer, name))
    return found


def pooled(parts: Collection[Channels]) -> Channels:
    """The channels of all parts as one."""
    columns: Iterable[tuple[Any, ...]] = zip(*parts, strict=True)
    merged: list[Any] = [None if column[0] is None else np.concatenate(column) for column in columns]
    return Channels(*merged)


def summary(channels: Channels) -> Statistics:
    """Quantiles and counts; what JSON and tables show of a layer or of a part."""
    columns = {
        "scale_magnitude": np.abs(channels.scale),
        "bias": channels.bias,
        "rolling_mean": channels.mean,
        "rolling_variance": channels.variance,
        "gain_magnitude": np.abs(channels.gain),
        "offset": channels.offset,
        "above_zero": channels.above_zero,
        "weight_norm": channels.weight_norm,
        "weight_max": channels.weight_max,
        "folded_max": channels.folded_max,
    }
    known = {name: values for name, values in columns.items() if values is not None}
    ordered = np.sort(np.stack(list(known.values())), axis=1)
    ordered[np.isnan(ordered[:, -1])] = np.nan  # which sorts behind all numbers
    levels = ordered[:, [int(level * (channels.scale.size - 1)) for level in LEVELS]].tolist()
    quantiles = {name: Quantiles(*row) for name, row in zip(known, levels, strict=True)}
    counts = (int(np.count_nonzero(mask)) for mask in (channels.dead, channels.near_dead, channels.constant))
    return Statistics(channels.scale.size, quantiles, _range(channels), *counts)


def magnitudes(weights: Weights, layer: Layer, array: Array) -> Magnitudes:
    """Norm and largest magnitude of the weights of each channel, block by block; sums are float64."""
    axis = channel_axis(layer, array)
    squares = np.zeros(array.stored[axis])
    largest = np.zeros(array.stored[axis])
    start = 0
    for block in weights.blocks(array):
        rows = np.moveaxis(block, axis, 0).reshape(block.shape[axis], -1)
        here = slice(start, start + len(rows)) if axis == 0 else slice(None)
        with np.errstate(all="ignore"):
            squares[here] += np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
            largest[here] = np.maximum(
                largest[here], np.maximum(rows.max(axis=1, initial=0), -rows.min(axis=1, initial=0))
            )
        start += len(rows)
    return Magnitudes(np.sqrt(squares), largest)


def above_zero(scale: Vector, bias: Vector) -> Vector:
    """P(scale · z + bias > 0) for a unit Gaussian z: ½ erfc(−bias / (√2 · |scale|))."""
    with np.errstate(all="ignore"):
        reach = bias / (np.abs(scale) * math.sqrt(2))
    reach[(scale == 0) & (bias == 0)] = -math.inf  # 0 is not above 0
    return np.array([0.5 * math.erfc(-value) for value in reach.tolist()])


def median(values: Vector) -> float:
    """The middle value, the upper of two; NaN of nothing."""
    # np.median would import numpy.ma, which takes longer than all the rest.
    return float(np.sort(values)[values.size // 2]) if values.size else math.nan


def _channels(vectors: dict[str, Vector], epsilon: Epsilon, magnitudes: Magnitudes | None, rectified: bool) -> Channels:
    scale, mean, variance = (vectors[field] for field in ("scales", "rolling_mean", "rolling_variance"))
    bias = vectors.get("biases", np.zeros_like(scale))  # pjreddie's [batchnorm] stores none: they are 0
    gain, offset = gain_offset(Parameters(scale, bias), Rolling(mean, variance), epsilon)
    share = above_zero(scale, bias)
    norm, largest = magnitudes or (None, None)
    with np.errstate(all="ignore"):
        spread = np.abs(gain) * np.sqrt(variance)
        folded = None if largest is None else largest * np.abs(gain)
        steady = (np.abs(scale) < DEAD_BELOW) | (variance >= DARKNET.value)
        dead = steady & (spread < DEAD_BELOW)
        faint = steady & (spread < NEAR_DEAD * median(spread[(spread >= DEAD_BELOW) & np.isfinite(spread)]))
        near = ~dead & (faint | (rectified & (share < SELDOM)))
        constant = dead & ((bias if rectified else np.abs(bias)) >= DEAD_BELOW)
    behind = np.full(scale.size, rectified)
    sizes = norm, largest, folded
    return Channels(scale, bias, mean, variance, gain, offset, spread, share, *sizes, behind, dead, near, constant)


def _rectified(layer: Layer, part: str) -> bool:
    """Whether nothing but a relu stands between these channels and the next layer."""
    activation = layer.section.text("activation", "logistic")
    relu = activation in RECTIFIERS or activation not in ACTIVATIONS[layer.section.dialect.name]
    return not part and layer.type != "batchnorm" and relu


def _range(channels: Channels) -> Range | None:
    if channels.weight_max is None or channels.folded_max is None:
        return None
    living = ~channels.dead & (channels.weight_max != 0)
    return Range(*(_ratio(values[living]) for values in (channels.weight_max, channels.folded_max)))


def _ratio(values: Vector) -> float:
    """Largest over smallest; NaN of nothing, infinite where the smallest is 0."""
    with np.errstate(all="ignore"):
        return float(np.divide(values.max(), values.min())) if values.size else math.nan
