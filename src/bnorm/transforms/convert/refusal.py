"""The refusal of an inexact conversion: one error that names the first layer and lists further reasons."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from bnorm.darknet.translation import Obstacle
from bnorm.errors import BnormError

MOST = 5  # further reasons that the error lists


def refuse(kind: type[BnormError], path: Path, what: str, obstacles: Sequence[Obstacle]) -> NoReturn:
    """Raise an error of this kind: `what` cannot be done exactly, for these reasons."""
    first, *others = map(_worded, obstacles)
    more = f"; and {len(others) - MOST} more" if len(others) > MOST else ""
    cause = f"also {'; '.join(others[:MOST])}{more}" if others else ""
    raise kind(path, f"{what} exactly: {first}", line=obstacles[0].line, cause=cause)


def _worded(obstacle: Obstacle) -> str:
    position = f"layer {obstacle.layer}: " if obstacle.layer is not None else ""
    return f"{position}{obstacle.reason}"
