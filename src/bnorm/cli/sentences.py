"""Sentences that several commands print, made of the fields of their reports."""

from __future__ import annotations

from bnorm.checks.findings import Finding
from bnorm.darknet.model import Model
from bnorm.errors import WeightsError


def counted(count: int, noun: str) -> str:
    """Return `1 layer`, `2 layers`, `1,024 layers`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def described(finding: Finding) -> str:
    """Return what is wrong, after the line of the cfg or the layer and part that it is in."""
    return finding.message


def fitting(model: Model) -> str:
    """Return that the file has the planned size, and what the size is made of."""
    layout = model.layout
    return f"fits: {layout.nbytes:,} bytes = {model.header.nbytes} + 4 × {layout.parameters:,} parameters"


def not_fitting(misfit: WeightsError) -> list[str]:
    """Return where the file ends or should end, by how much, and both sizes."""
    where, _, sizes = misfit.what.rpartition(", expected ")
    position, _, amount = where.rpartition(", ")
    return [text for text in (position, amount, f"expected {sizes}") if text]
