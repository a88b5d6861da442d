"""The page of `bnorm run`: the results of one layer or several, or all arithmetics ranked against a reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import TypeVar, overload

from bnorm.cli import render
from bnorm.cli.documents import Document, estimate_document, ranked_arithmetic, run_document, run_result
from bnorm.cli.page import BLANK, Cell, Column, Line, Page, Records, Table
from bnorm.replay.estimate import EstimateReport
from bnorm.replay.job import RunReport
from bnorm.replay.layer import OWN_OUTPUT, OtherSize
from bnorm.text import plural

T = TypeVar("T")

R = TypeVar("R")


def _shape_text(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


DIFFERENCE = (
    Column("max_rel", "max_rel", render.number, drop_order=9),  # dropped if it is empty
    Column("max_abs", "max_abs", render.number, drop_order=8),
    Column("channel", "channel", drop_order=7),
)

COLUMNS = (
    Column("result", "result", right=False),
    Column("dtype", "dtype", right=False, drop_order=1),
    Column("shape", "shape", _shape_text, drop_order=2),
    Column("min", "min", render.number),
    Column("max", "max", render.number),
    Column("not_finite", "not_finite"),
    *DIFFERENCE,
)

SEEN = (
    Column("batches", "batches", lambda count: f"{count:,}", drop_order=4),
    Column("values", "values", lambda count: f"{count:,}", drop_order=3),  # per channel, of all mini-batches
)

RANKING = (Column("arithmetic", "arithmetic", right=False), *DIFFERENCE[:2], Column("result", "result", right=False))

MOST_ROWS = 40  # of a table for people


class Mapped(Sequence[R]):
    """A sequence that computes each item on access, because a table shows only some of thousands of results."""

    def __init__(self, function: Callable[[T], R], items: Sequence[T]) -> None:
        self._function, self._items = function, items

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, index: int) -> R: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[R]: ...
    def __getitem__(self, index: int | slice) -> R | Sequence[R]:
        if isinstance(index, slice):
            return Mapped(self._function, self._items[index])
        return self._function(self._items[index])


def run_page(report: RunReport) -> Page:
    """Return the page of the results of one layer, or of the arithmetics ranked against a reference."""
    results = Mapped(run_result, report.results)
    ranking = [ranked_arithmetic(ranked) for ranked in report.ranking]
    return Page(
        document=lambda: run_document(report, results),
        records=_records(ranking or results),
        summary=(Line(None, _headline(report)), BLANK),
        table=_ranking_table(report, ranking) if ranking else _results_table(report, results),
        footer=_footer(report, hidden=0 if ranking else len(report.request.inputs) - _inputs_shown(report)),
    )


def estimate_page(report: EstimateReport) -> Page:
    """Return the page of rolling statistics alone."""
    results = [run_result(row) for row in report.results]
    rule, seen = report.request.training.rolling, {"batches": report.batches, "values": report.values}
    written = [path for path in (report.request.output, report.save_moments, report.request.update_weights) if path]
    return Page(
        document=lambda: estimate_document(report, results),
        records=_records(results),
        summary=(Line(None, f"rolling statistics ({rule}) in the arithmetic of {report.arithmetic}"), BLANK),
        table=Table([*COLUMNS, *SEEN], [result | seen for result in results]),
        footer=[Line(None, f"written to {path}") for path in written],
    )


def _headline(report: RunReport) -> str:
    request = report.request
    mode = "training" if request.train else "inference"
    against = f", compared with {request.against}" if request.against else ""
    return f"{mode} in {'each arithmetic' if report.ranking else f'the arithmetic of {report.arithmetic}'}{against}"


def _inputs_shown(report: RunReport) -> int:
    """Return how many inputs fit into a table, at least one."""
    inputs = len(report.request.inputs)
    return min(inputs, max(1, MOST_ROWS * inputs // len(report.results)))


def _results_table(report: RunReport, results: Sequence[Document]) -> Table:
    inputs = len(report.request.inputs)
    shown = len(results) // inputs * _inputs_shown(report)
    return Table([*_input_column(report), *COLUMNS], results[-shown:])


def _ranking_table(report: RunReport, ranking: Sequence[Document]) -> Table:
    return Table([*RANKING, *_input_column(report), DIFFERENCE[2]], ranking)


def _input_column(report: RunReport) -> list[Column]:
    several = len(report.request.inputs) > 1
    return [Column("input", "input", lambda name: Path(name).name, right=False)] if several else []


def _footer(report: RunReport, *, hidden: int) -> list[Line]:
    request = report.request
    return [
        *([Line(None, f"{plural(hidden, 'input')} before these: see --format json or csv")] if hidden else []),
        *([Line(None, f"written to {request.output}")] if request.output else []),
    ]


def sizes_text(others: Sequence[OtherSize]) -> str:
    """Return the note about inputs whose height and width are not those in the cfg."""
    first, more = others[0], f" and {plural(len(others) - 1, 'more input')}" if len(others) > 1 else ""
    sizes = f"{first.size.height}x{first.size.width}, in the cfg {first.expected.height}x{first.expected.width}"
    return f"{first.input}{more}: height x width {sizes}; {OWN_OUTPUT}"


def _records(results: Sequence[Document]) -> Records:
    return Records(list(results[0]), Mapped(_record, results))


def _record(result: Document) -> list[Cell]:
    return list((result | {"shape": _shape_text(result["shape"])} if "shape" in result else result).values())


def layers_page(names: Sequence[str], pages: Sequence[Page], updated: Path | None) -> Page:
    """Return the pages of several layers as one, with a column that names the layer.

    `updated` is the weights file that has the statistics of all of them.
    """
    columns = max((page.table.columns for page in pages), key=len)
    rows = [{"in_layer": name, **row} for name, page in zip(names, pages, strict=True) for row in page.table.rows]
    records = [[name, *row] for name, page in zip(names, pages, strict=True) for row in page.records.rows]
    return Page(
        document=lambda: {"runs": [page.document() for page in pages]},
        records=Records(["layer", *pages[0].records.names], records),
        summary=pages[0].summary,
        table=Table([Column("layer", "in_layer", right=False), *columns], rows),
        footer=[
            *chain.from_iterable(page.footer for page in pages),
            *([Line(None, f"written to {updated}")] if updated else []),
        ],
    )
