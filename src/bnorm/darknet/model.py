"""A model: a cfg, its weights if given, and the dialect that reads them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from bnorm.darknet.dialects import Dialect
from bnorm.darknet.header import Header
from bnorm.darknet.layout import Layout
from bnorm.darknet.network import Network


class Rival(NamedTuple):
    """A dialect that gives a different answer from the chosen one.

    `why` says why it was not chosen, `differs` is a `rivals.Differs`, and `layer` is the first layer that differs, None
    if the difference is not in a layer.
    """

    dialect: str
    why: str
    differs: str
    layer: int | None


class Model(NamedTuple):
    """A cfg as one dialect reads it, with the plan of its file.

    If bnorm chose the dialect, `reason` says why, and `rivals` are the dialects that give a different answer.
    """

    network: Network
    header: Header
    layout: Layout
    nbytes: int | None  # the size of the given weights file
    weights: Path | None
    reason: str
    rivals: tuple[Rival, ...] = ()

    @property
    def dialect(self) -> Dialect:
        """Return the dialect whose rules apply."""
        return self.network.dialect

    @property
    def fits(self) -> bool | None:
        """Return whether the file has the planned size; None without a file."""
        return None if self.nbytes is None else self.nbytes == self.layout.nbytes

    def __repr__(self) -> str:
        weights = f", {self.weights}: {self.nbytes:,} bytes" if self.weights else ""
        return f"<Model: {self.network!r}{weights}>"
