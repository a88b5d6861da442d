"""The policies of `--bad-variance` for bad rolling variances (see `variance_rule`)."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

import numpy as np

from bnorm.batchnorm.epsilon import Epsilon, Vector
from bnorm.statistics.variance_rule import is_bad

LARGEST = float(np.finfo(np.float32).max)


class BadVariance(StrEnum):
    """The policy for a rolling variance that is bad for the ε in use."""

    ERROR = "error"  # fail
    CLAMP = "clamp"  # take the nearest variance that a float32 can hold; 0 for NaN
    SKIP = "skip"  # leave the layer unchanged: not folded, or run with the variance in the file


POLICIES = tuple(policy.value for policy in BadVariance)


def policy_by_name(name: BadVariance | str) -> BadVariance:
    """Return the policy of this name; ValueError for an unknown name."""
    if name not in POLICIES:
        raise ValueError(f"bad_variance {name!r}, expected one of {', '.join(POLICIES)}")
    return BadVariance(name)


class BadChannels(NamedTuple):
    """The channels of a part whose rolling variance is bad, and the value of the first of them."""

    channels: tuple[int, ...]
    first: float

    def __str__(self) -> str:
        """Return the clause that reports print."""
        more = f" and {len(self.channels) - 1} more" if len(self.channels) > 1 else ""
        return f"rolling_variance is {self.first:g} in channel {self.channels[0]}{more}"


def bad_channels(variance: Vector, *guards: Epsilon) -> BadChannels | None:
    """Return the channels whose variance, shape (C,), is bad for one of these ε; None if there are none."""
    bad = np.flatnonzero(np.any([is_bad(variance, epsilon) for epsilon in guards], axis=0))
    return BadChannels(tuple(bad.tolist()), float(variance[bad[0]])) if bad.size else None


def clamped(variance: Vector, bad: BadChannels) -> Vector:
    """Return the variances, shape (C,), each bad value replaced by the nearest that a float32 can hold; 0 for NaN."""
    variance, channels = variance.copy(), list(bad.channels)
    variance[channels] = np.clip(np.nan_to_num(variance[channels]), 0.0, LARGEST)
    return variance
