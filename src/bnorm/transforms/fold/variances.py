"""The treatment of bad rolling variances in `fold` and `convert`, see `statistics.variance_rule`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from bnorm.batchnorm.epsilon import Epsilon
from bnorm.darknet.parts import array_name
from bnorm.errors import WeightsError
from bnorm.folding.fates import Kept
from bnorm.statistics.bad_variance import BadChannels, BadVariance, bad_channels, clamped
from bnorm.statistics.normalisers import Key, Normaliser


class Judgement(NamedTuple):
    """The normalisers to use, the layers that stay unchanged, and the bad channels by part."""

    normalisers: Mapping[Key, Normaliser]
    kept: Mapping[int, Kept]
    bad: Mapping[Key, BadChannels]


def judge_variances(normalisers: Mapping[Key, Normaliser], policy: BadVariance, *guards: Epsilon) -> Judgement:
    """Apply a policy to every rolling variance that is bad for one of these ε.

    `ERROR` changes nothing: it is an error only if the part is really folded, see `refuse_bad`.
    """
    bad = {
        key: channels for key, item in normalisers.items() if (channels := bad_channels(item.rolling.variance, *guards))
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


def refuse_bad(path: Path, bad: Mapping[Key, BadChannels], kept: Collection[int], *guards: Epsilon) -> None:
    """Raise `WeightsError` for the first part with bad variances whose layer does not stay unchanged."""
    for (layer, part), channels in bad.items():
        if layer not in kept:
            what = f"layer {layer} {array_name(part, str(channels))}, expected finite values ≥ 0"
            nan = channels.first < 0 and not all(epsilon.inside for epsilon in guards)
            outside = "with ε outside the root it gives NaN; " if nan else ""
            cause = f"{outside}--bad-variance clamp or skip continues anyway; bnorm check says more"
            raise WeightsError(path, what, cause=cause)
