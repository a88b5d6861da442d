"""The fate of a layer that normalises: one of three values."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class OwnLayer:
    """The layer's batch normalisation is folded into the layer itself."""


@dataclass(frozen=True, slots=True)
class Into:
    """A stand-alone `[batchnorm]` is folded into the layer with this number, and its section is removed."""

    target: int


@dataclass(frozen=True, slots=True)
class Kept:
    """The layer keeps its batch normalisation, for these reasons."""

    reasons: tuple[str, ...]


Fate = OwnLayer | Into | Kept

NOT_SELECTED = Kept(("not selected",))
