"""The request for a conversion, checked before anything is read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from bnorm.batchnorm.epsilon import DARKNET, Epsilon, as_epsilon
from bnorm.darknet.dialects import AUTO, DIALECTS, Dialect, candidates
from bnorm.darknet.header import SIZES
from bnorm.darknet.model import Model
from bnorm.statistics.bad_variance import BadVariance, policy_by_name
from bnorm.transforms.fold.fold import known_layers

MOST_SEEN = 2**64 - 1


class EpsilonChange(NamedTuple):
    """The ε of the program that the old file was made for, and of the program that will read the new file."""

    old: Epsilon
    new: Epsilon


class Request(NamedTuple):
    """The requested changes: a field is None or False if its change was not requested.

    `guard` is the ε for which the variances of `unfold` give a gain of exactly 1; `layers` are those it may change.
    """

    dialect: Dialect | None
    epsilons: EpsilonChange | None
    header: int | None
    seen: int | None
    unfold: bool
    guard: Epsilon
    layers: frozenset[int] | None
    bad_variance: BadVariance


def request(
    model: Model,
    *,
    to: str | None,
    epsilon_from: Epsilon | str | None,
    epsilon_to: Epsilon | str | None,
    header: int | None,
    seen: int | None,
    unfold: bool,
    layers: Iterable[int] | None,
    bad_variance: BadVariance | str,
) -> Request:
    """Check the arguments of a conversion; ValueError for an invalid argument, or one that needs another."""
    if to is not None:
        candidates(to)
        if to == AUTO:
            raise ValueError(f"dialect {to!r}, expected one of {', '.join(DIALECTS)}")
    old, new = (None if value is None else as_epsilon(value) for value in (epsilon_from, epsilon_to))
    if old and not new:
        raise ValueError("epsilon_from alone, expected epsilon_to as well")
    if new and not old and not unfold:
        raise ValueError("epsilon_to alone, expected epsilon_from or unfold as well")
    if header not in (None, *SIZES):
        raise ValueError(f"header {header!r}, expected {' or '.join(map(str, SIZES))}")
    if seen is not None and not 0 <= seen <= MOST_SEEN:
        raise ValueError(f"seen {seen}, expected 0 to {MOST_SEEN}")
    if layers is not None and not unfold:
        raise ValueError("layers without unfold, expected both: layers selects the convolutions to unfold")
    if (to, old, header, seen, unfold) == (None, None, None, None, False):
        raise ValueError("nothing to convert, expected to, epsilon_from and epsilon_to, header, seen or unfold")
    guard = new or DARKNET
    if unfold and guard.value >= 1:
        raise ValueError(f"ε of {guard.value:g}, expected less than 1: no variance makes a gain of 1 with it")
    return Request(
        dialect=DIALECTS[to] if to else None,
        epsilons=EpsilonChange(old, new) if old and new else None,
        header=header,
        seen=seen,
        unfold=unfold,
        guard=guard,
        layers=known_layers(model, layers),
        bad_variance=policy_by_name(bad_variance),
    )
