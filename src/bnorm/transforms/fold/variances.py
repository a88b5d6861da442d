"""Rolling variances that have no root, and what folding does with them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bnorm.batchnorm.epsilon import Vector
from bnorm.darknet.parts import array_name
from bnorm.errors import WeightsError
from bnorm.statistics.normalisers import Key, Normaliser
from bnorm.transforms.fold.fates import Kept

LARGEST = float(np.finfo(np.float32).max)


class BadVariance(StrEnum):
    """What to do with a rolling variance that is negative, infinite or NaN."""

    ERROR = "error"  # fail
    CLAMP = "clamp"  # take the nearest variance that a float32 can hold; 0 for NaN
    SKIP = "skip"  # leave the layer as it is


POLICIES = tuple(policy.value for policy in BadVariance)


def policy(name: BadVariance | str) -> BadVariance:
    """Return the policy of this name; ValueError for a name that is none."""
    if name not in POLICIES:
        raise ValueError(f"bad_variance {name!r}, expected one of {', '.join(POLICIES)}")
    return BadVariance(name)


class BadChannels(NamedTuple):
    """The channels of a part whose rolling variance has no root, and the value of the first of them."""

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


def judge_variances(normalisers: Mapping[Key, Normaliser], policy: BadVariance) -> Judgement:
    """Apply a policy to every rolling variance. `ERROR` changes nothing: only what is really folded is an error."""
    bad = {key: channels for key, item in normalisers.items() if (channels := bad_channels(item.rolling.variance))}
    if policy is BadVariance.CLAMP:
        normalisers = {key: _clamped(item) if key in bad else item for key, item in normalisers.items()}
    return Judgement(normalisers, _kept(bad) if policy is BadVariance.SKIP else {}, bad)


def bad_channels(variance: Vector) -> BadChannels | None:
    """Return the channels whose variance, shape (C,), is negative, infinite or NaN; None if there are none."""
    bad = np.flatnonzero(~((variance >= 0) & np.isfinite(variance)))
    return BadChannels(tuple(bad.tolist()), float(variance[bad[0]])) if bad.size else None


def _kept(bad: Mapping[Key, BadChannels]) -> dict[int, Kept]:
    """Return each layer with a bad part, and all its bad parts as reasons."""
    kept: dict[int, Kept] = {}
    for (layer, part), channels in bad.items():
        earlier = kept[layer].reasons if layer in kept else ()
        kept[layer] = Kept((*earlier, array_name(part, str(channels))))
    return kept


def _clamped(normaliser: Normaliser) -> Normaliser:
    """Return the normaliser with every variance as the nearest one that a float32 can hold; 0 for NaN."""
    variance = np.clip(np.nan_to_num(normaliser.rolling.variance), 0.0, LARGEST)
    return normaliser._replace(rolling=normaliser.rolling._replace(variance=variance))


def refuse_bad(path: Path, bad: Mapping[Key, BadChannels], kept: Collection[int]) -> None:
    """Raise a `WeightsError` for the first part with bad variances whose layer is not kept as it is."""
    for (layer, part), channels in bad.items():
        if layer not in kept:
            what = f"layer {layer} {array_name(part, str(channels))}, expected finite values ≥ 0"
            cause = "--bad-variance clamp or skip does the rest; bnorm check says more"
            raise WeightsError(path, what, cause=cause)
