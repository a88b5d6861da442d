"""Bad rolling variances, see `statistics.variance_rule`, and what folding does with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from bnorm.batchnorm.epsilon import Epsilon
from bnorm.darknet.parts import array_name
from bnorm.folding.fates import Kept
from bnorm.statistics.bad_variance import BadChannels, BadVariance, bad_channels, clamped
from bnorm.statistics.normalisers import Key, Normaliser


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


def _kept(bad: Mapping[Key, BadChannels]) -> dict[int, Kept]:
    """Return each layer with a bad part, and all its bad parts as reasons."""
    kept: dict[int, Kept] = {}
    for (layer, part), channels in bad.items():
        earlier = kept[layer].reasons if layer in kept else ()
        kept[layer] = Kept((*earlier, array_name(part, str(channels))))
    return kept


def _clamped(normaliser: Normaliser, bad: BadChannels) -> Normaliser:
    """Return the normaliser with every bad variance clamped."""
    variance = clamped(normaliser.rolling.variance, bad)
    return normaliser._replace(rolling=normaliser.rolling._replace(variance=variance))
