"""Sentences that several commands print, made from the fields of their reports."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from bnorm.checks.findings import ABOUT_THE_FILE, Finding
from bnorm.darknet.header import Header
from bnorm.darknet.model import Model, Rival
from bnorm.darknet.size_mismatch import SizeMismatch, worded

if TYPE_CHECKING:  # a command need not import the modules of other commands
    from bnorm.reports.diff.diff import DiffReport


def described(finding: Finding) -> str:
    """Return the place, the message and the cause of a finding; a message about the whole file includes the place."""
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
    """Return the sentence that the file has the planned size, with the terms of its size."""
    layout = model.layout
    rest = f" + {trailing_bytes:,} after the last array" if trailing_bytes else ""
    total = layout.nbytes + trailing_bytes
    return f"fits: {total:,} bytes = {model.header.nbytes} + 4 × {layout.parameters:,} parameters{rest}"


# The difference in another dialect, see `darknet.rivals.Differs`; a refusal and another size have no row.
_DIFFERENCES = {
    "header": "reads another header",
    "order": "reads the arrays of {} in another order",
    "arrays": "reads other arrays in {}",
    "shape": "computes another output shape for {}",
    "activation": "knows other activations than that of {}",
}


def rival_text(model: Model, rival: Rival) -> str:
    """Return why a dialect was not chosen, and what would be different with it."""
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


def difference(report: DiffReport) -> str:
    """Return the difference between two files as one sentence."""
    return DIFFERENCES[report.verdict.value](report)


def _identical(report: DiffReport) -> str:
    return "identical in function, up to rounding" if report.function else "identical"


def _header_alone(_report: DiffReport) -> str:
    return "identical but for the header"


def _rolling_alone(report: DiffReport) -> str:
    return f"only rolling statistics differ, in {_layers(report.differing)}"


def _prefix(report: DiffReport) -> str:
    """Return the last common layer, and whether a file ends there or all later layers differ."""
    later = [row.reason for row in report.arrays if not row.is_same]
    ends = next(
        (f"where {name} ends" for name in "AB" if all(reason.startswith(f"{name} ends") for reason in later)), ""
    )
    return f"identical up to layer {report.same_until}, {ends or f'all layers after it {_verb(report)}'}"


def _some_layers(report: DiffReport) -> str:
    single = len(report.differing) == 1
    return f"only {_layers(report.differing)} {_verb(report, single)}"


def _different(report: DiffReport) -> str:
    """Return how many of the layers with arrays differ."""
    storing = len({row.layer for row in report.arrays})
    count = len(report.differing)
    return f"{'all layers' if count == storing else f'{count} of {storing} layers'} {_verb(report)}"


DIFFERENCES: dict[str, Callable[[DiffReport], str]] = {
    "identical": _identical,
    "header": _header_alone,
    "rolling": _rolling_alone,
    "prefix": _prefix,
    "layers": _some_layers,
    "different": _different,
}


def _verb(report: DiffReport, single: bool = False) -> str:
    verb, rest = ("compute", " something else") if report.function else ("differ", "")
    return f"{verb}{'s' * single}{rest}"


def _layers(numbers: Sequence[int]) -> str:
    """Return `layer 3`, `layers 3, 5 and 6`, or a range for more layers: `layers 3 to 8`."""
    if len(numbers) == 1:
        return f"layer {numbers[0]}"
    if len(numbers) <= 3:
        return f"layers {', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"
    return f"layers {numbers[0]} to {numbers[-1]}"
