"""Bad rolling variances, see `statistics.variance_rule`, and what folding does with them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

import numpy as np

from bnorm.batchnorm.epsilon import Epsilon, Vector
from bnorm.darknet.parts import array_name
from bnorm.folding.fates import Kept
from bnorm.statistics.normalisers import Key, Normaliser
from bnorm.statistics.variance_rule import is_bad

LARGEST = float(np.finfo(np.float32).max)


class BadVariance(StrEnum):
    """What to do with a rolling variance that is bad for the ε that is folded."""

    ERROR = "error"  # fail
    CLAMP = "clamp"  # take the nearest variance that a float32 can hold; 0 for NaN
    SKIP = "skip"  # leave the layer as it is


class BadChannels(NamedTuple):
    """The channels of a part whose rolling variance is bad, and the value of the first of them."""

    channels: tuple[int, ...]
    first: float

    def __str__(self) -> str:
        """Return the sentence that reports use."""
        more = f" and {len(self.channels) - 1} more" if len(self.channels) > 1 else ""
        return f"rolling_variance is {self.first:g} in channel {self.channels[0]}{more}"


class Judgement(NamedTuple):
    """The normalisers to fold with, the layers that stay, and the bad channels by part."""

    normalisers: Mapping[Key, Normaliser]
    kept: Mapping[int, Kept]
    bad: Mapping[Key, BadChannels]


def judge_variances(normalisers: Mapping[Key, Normaliser], policy: BadVariance, epsilon: Epsilon) -> Judgement:
    """Apply a policy to every rolling variance. `ERROR` changes nothing: only what is really folded is an error."""
    bad = {
        key: channels for key, item in normalisers.items() if (channels := bad_channels(item.rolling.variance, epsilon))
    }
    if policy is BadVariance.CLAMP:
        normalisers = {key: _clamped(item, bad[key]) if key in bad else item for key, item in normalisers.items()}
    return Judgement(normalisers, _kept(bad) if policy is BadVariance.SKIP else {}, bad)


def bad_channels(variance: Vector, epsilon: Epsilon) -> BadChannels | None:
    """Return the channels whose variance, shape (C,), is bad for this ε; None if there are none."""
    bad = np.flatnonzero(is_bad(variance, epsilon))
    return BadChannels(tuple(bad.tolist()), float(variance[bad[0]])) if bad.size else None


def _kept(bad: Mapping[Key, BadChannels]) -> dict[int, Kept]:
    """Return each layer with a bad part, and all its bad parts as reasons."""
    kept: dict[int, Kept] = {}
    for (layer, part), channels in bad.items():
        earlier = kept[layer].reasons if layer in kept else ()
        kept[layer] = Kept((*earlier, array_name(part, str(channels))))
    return kept


def _clamped(normaliser: Normaliser, bad: BadChannels) -> Normaliser:
    """Return the normaliser with every bad variance as the nearest one that a float32 can hold; 0 for NaN."""
    variance, channels = normaliser.rolling.variance.copy(), list(bad.channels)
    variance[channels] = np.clip(np.nan_to_num(variance[channels]), 0.0, LARGEST)
    return normaliser._replace(rolling=normaliser.rolling._replace(variance=variance))
