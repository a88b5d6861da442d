"""Measures of the normalised channels, by part and by layer.

For one channel, with `deviation` as in `batchnorm.epsilon.Epsilon`:

    gain = scale / deviation(variance)       offset = bias − mean · gain       output = gain · input + offset
    spread = |gain| · √variance, the standard deviation of the output that the statistics predict
    above_zero = P(scale · z + bias > 0) for a unit Gaussian z
    weight_norm, weight_max and folded_max as in `filters`
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import NamedTuple, NoReturn, TypeVar

import numpy as np

from bnorm.batchnorm.epsilon import Epsilon, Vector
from bnorm.darknet.network import Layer
from bnorm.darknet.weights import Weights
from bnorm.statistics.channel_state import ChannelState, Mask, States, channel_states, is_rectified
from bnorm.statistics.filters import Filters, Magnitudes, Range, joined
from bnorm.statistics.normalisers import Normaliser, normalises, read_normaliser
from bnorm.statistics.quantiles import Quantiles, quantiles
from bnorm.statistics.variance_rule import root

T = TypeVar("T")


class ByPart(dict[str, T]):
    """Values by the name of a part, "" for a layer that is its only part; a KeyError lists the parts."""

    def __missing__(self, name: str) -> NoReturn:
        raise KeyError(f"no part {name!r}, expected {', '.join(map(repr, self)) or 'none: nothing was read'}")


@dataclass(frozen=True, slots=True, eq=False, kw_only=True, repr=False)
class Channels:
    """The normalised channels of one part: vectors of shape (C,). Measures of weights are None if not read."""

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
    rectified: Mask  # only a relu comes between the channel and the next layer
    state: States

    def __repr__(self) -> str:
        return f"<Channels: {self.scale.size:,}, {np.count_nonzero(self.dead):,} dead>"

    @property
    def dead(self) -> Mask:
        """Return the channels whose output does not depend on their input; constant channels are among them."""
        return np.greater_equal(self.state, ChannelState.DEAD)

    @property
    def near_dead(self) -> Mask:
        """Return the channels whose output hardly varies."""
        return np.equal(self.state, ChannelState.NEAR_DEAD)

    @property
    def constant(self) -> Mask:
        """Return the dead channels whose output is not 0."""
        return np.equal(self.state, ChannelState.CONSTANT)

    @classmethod
    def concatenate(cls, parts: Collection[Channels]) -> Channels:
        """Return the channels of all parts together; a vector that any part lacks is None."""
        columns = {field.name: [getattr(part, field.name) for part in parts] for field in fields(cls)}
        return cls(**{name: joined(vectors) for name, vectors in columns.items()})


class Statistics(NamedTuple):
    """Statistics of channels: quantiles by quantity, and the numbers of dead, near-dead and constant channels."""

    channels: int
    quantiles: dict[str, Quantiles]
    weight_range: Range | None
    dead: int
    near_dead: int
    constant: int


def channels_of(
    weights: Weights, layer: Layer, epsilon: Epsilon, sizes: Mapping[str, Magnitudes]
) -> dict[str, Channels]:
    """Return the channels of each part of a layer whose batch normalisation is in the file, by the part's name.

    The name is empty if the layer is its only part. `sizes` are the magnitudes of the weights of each part, as far as
    they were measured.
    """
    channels = {}
    for part in layer.parts:
        if normalises(part) and (normaliser := read_normaliser(weights, layer.index, part)).stored:
            rectified = is_rectified(layer, part.name)
            channels[part.name] = _channels(normaliser, epsilon, sizes.get(part.name), rectified)
    return channels


def _channels(normaliser: Normaliser, epsilon: Epsilon, sizes: Magnitudes | None, rectified: bool) -> Channels:
    """Compute the columns by the formulas of the module's docstring."""
    (scale, bias), (mean, variance) = normaliser.parameters, normaliser.rolling
    gain, offset = normaliser.gain_offset(epsilon)
    share = above_zero(scale, bias)
    with np.errstate(all="ignore"):
        spread = np.abs(gain) * root(variance)
        folded_max = sizes.largest * np.abs(gain) if sizes else None
    return Channels(
        scale=scale,
        bias=bias,
        mean=mean,
        variance=variance,
        gain=gain,
        offset=offset,
        spread=spread,
        above_zero=share,
        weight_norm=sizes.norm if sizes else None,
        weight_max=sizes.largest if sizes else None,
        folded_max=folded_max,
        rectified=np.full(scale.shape, rectified),
        state=channel_states(
            scale=scale, bias=bias, variance=variance, spread=spread, above_zero=share, rectified=rectified
        ),
    )


def summary(channels: Channels) -> Statistics:
    """Return the quantiles and counts that JSON and tables show for a layer or a part."""
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
    filters = _filters(channels)
    return Statistics(
        channels=channels.scale.size,
        quantiles=quantiles(columns),
        weight_range=filters.range if filters else None,
        dead=int(np.count_nonzero(channels.dead)),
        near_dead=int(np.count_nonzero(channels.near_dead)),
        constant=int(np.count_nonzero(channels.constant)),
    )


def above_zero(scale: Vector, bias: Vector) -> Vector:
    """Return P(scale · z + bias > 0) for a unit Gaussian z: ½ erfc(−bias / (√2 · |scale|)), shape (C,)."""
    with np.errstate(all="ignore"):
        reach = bias / (np.abs(scale) * math.sqrt(2))
    reach[(scale == 0) & (bias == 0)] = -math.inf  # 0 is not above 0
    return np.array([0.5 * math.erfc(-value) for value in reach.tolist()])


def _filters(channels: Channels) -> Filters | None:
    """Return the filters of the channels; None if their weights were not read."""
    if channels.weight_max is None or channels.folded_max is None:
        return None
    return Filters(
        norm=channels.weight_norm, largest=channels.weight_max, folded=channels.folded_max, dead=channels.dead
    )


def filters_of(layer: Layer, channels: Mapping[str, Channels], sizes: Mapping[str, Magnitudes]) -> dict[str, Filters]:
    """Return the filters of each part whose weights were measured, by the part's name.

    `channels` and `sizes` are as in `channels_of`. Weights of a part whose batch normalisation the file lacks are left
    out.
    """
    filters = {}
    for part in layer.parts:
        if part.name not in sizes:
            continue
        normalised = _filters(channels[part.name]) if part.name in channels else None
        if normalised:
            filters[part.name] = normalised
        elif not part.batch_normalize:
            filters[part.name] = Filters.bare(sizes[part.name])
    return filters
