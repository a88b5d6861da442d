"""Sentences that several commands print, made of the fields of their reports."""

from __future__ import annotations

from bnorm.checks.findings import ABOUT_THE_FILE, Finding
from bnorm.darknet.header import Header
from bnorm.darknet.model import Model, Rival
from bnorm.darknet.size_mismatch import SizeMismatch, worded


def described(finding: Finding) -> str:
    """Return where a finding is, what it is and its cause; a finding about the whole file names both itself."""
    position = ""
    if finding.layer is not None:
        part = f" {finding.part}" if finding.part else ""
        position = f"layer {finding.layer}{part}: "
    elif finding.line is not None:
        position = f"line {finding.line}: "
    if finding.id in ABOUT_THE_FILE:
        position = ""
    cause = f"; {finding.cause}" if finding.cause else ""
    return f"{position}{finding.message}{cause}"


def fitting(model: Model, trailing_bytes: int = 0) -> str:
    """Return that the file has the planned size, and what the size is made of."""
    layout = model.layout
    rest = f" + {trailing_bytes:,} after the last array" if trailing_bytes else ""
    total = layout.nbytes + trailing_bytes
    return f"fits: {total:,} bytes = {model.header.nbytes} + 4 × {layout.parameters:,} parameters{rest}"


# What another dialect answers differently, see `darknet.rivals.Differs`; a refusal and another size need no more words.
_DIFFERENCES = {
    "header": "reads another header",
    "order": "reads the arrays of {} in another order",
    "arrays": "reads other arrays in {}",
    "shape": "computes another output shape for {}",
    "activation": "knows other activations than that of {}",
}


def rival_text(model: Model, rival: Rival) -> str:
    """Return why a dialect was not chosen, and what it answers differently."""
    layer = "" if rival.layer is None else f"layer {rival.layer} ([{model.network.layers[rival.layer].section.name}])"
    difference = _DIFFERENCES.get(rival.differs, "").format(layer)
    if not rival.why:
        return f"nothing in the files tells it from {rival.dialect}, which {difference or 'answers differently'}"
    return f"{rival.why}, and {difference}" if difference else rival.why


def written_by(header: Header) -> str:
    """Return which forks write this version."""
    return f"as written by {' or '.join(header.writers)}" if header.writers else "which no known fork writes"


def not_fitting(mismatch: SizeMismatch) -> list[str]:
    """Return where the file ends or should end, by how much, and both sizes."""
    words = worded(mismatch)
    return [words.where, words.amount, words.sizes]
