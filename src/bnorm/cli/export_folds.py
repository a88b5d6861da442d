"""The lines about the layers that `bnorm export` folded."""

from __future__ import annotations

from collections.abc import Iterator

from bnorm.cli import render
from bnorm.cli.page import Line
from bnorm.exchange.export import ExportReport
from bnorm.transforms.fold.fold import worst_of


def fold_lines(report: ExportReport) -> Iterator[Line]:
    """Yield what was folded, how far it is from what it was, and what was not folded."""
    if report.epsilon is None:
        return
    side = "inside" if report.epsilon.inside else "outside"
    text, worst = f"with ε {report.epsilon.value:g} {side} the root", worst_of(report.folds)
    if worst and worst.max_rel_error is not None:
        most = f"{render.number(worst.max_rel_error)} of an output, in layer {worst.index}"
        text += f"; compared before and after: at most {most}"
    yield Line("folded", text)
    for row in report.folds:
        if not row.folded:
            yield Line("kept", f"layer {row.index} {row.part}".rstrip() + f": {row.reason}")
