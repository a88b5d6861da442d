"""Sentences that several commands print, made of the fields of their reports."""

from __future__ import annotations

from bnorm.checks.findings import ABOUT_THE_FILE, Finding
from bnorm.darknet.model import Model
from bnorm.darknet.size_mismatch import SizeMismatch, worded


def described(finding: Finding) -> str:
    """Return where a finding is, what it is and its cause; a finding about the whole file names the layer itself."""
    position = f"line {finding.line}: " if finding.line is not None else ""
    if finding.layer is not None and finding.id not in ABOUT_THE_FILE:
        part = f" {finding.part}" if finding.part else ""
        position = f"layer {finding.layer}{part}: "
    cause = f"; {finding.cause}" if finding.cause else ""
    return f"{position}{finding.message}{cause}"


def fitting(model: Model) -> str:
    """Return that the file has the planned size, and what the size is made of."""
    layout = model.layout
    return f"fits: {layout.nbytes:,} bytes = {model.header.nbytes} + 4 × {layout.parameters:,} parameters"


def not_fitting(mismatch: SizeMismatch) -> list[str]:
    """Return where the file ends or should end, by how much, and both sizes."""
    words = worded(mismatch)
    return [words.where, words.amount, words.sizes]
