"""A command's result before formatting: lines and tables for people, records and a document for programs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from bnorm.checks.findings import Finding

Cell = str | int | float | None


class Line(NamedTuple):
    """A line of text after a label, or without one (None); the empty label continues the line above.

    The text is wrapped to the terminal's width unless `wrap` is false: a path must stay whole to be copied.
    """

    label: str | None
    text: str
    wrap: bool = True
    colour: str | None = None  # of the label, a name that click knows


BLANK = Line(None, "")


class Column(NamedTuple):
    """A column of a table for people: heading, the key of its values in a row, and how they are shown."""

    name: str
    field: str
    show: Callable[[Any], str] = str
    right: bool = True  # aligned
    drop_order: int | None = None  # if the table is wider than the terminal, 1 is dropped first, None never


class Table(NamedTuple):
    """Columns, and rows that map the columns' fields to values; None is shown as an empty cell."""

    columns: Sequence[Column] = ()
    rows: Sequence[Mapping[str, Any]] = ()


class Records(NamedTuple):
    """Rows of plain values for CSV, with the names of their columns."""

    names: Sequence[str]
    rows: Sequence[Sequence[Cell]]


class Page(NamedTuple):
    """A command's result for all formats: `records` is for CSV, `document` for JSON, the rest for people.

    People see, from top to bottom: `summary`, `table`, `footer`, `findings`, `totals`.
    """

    document: Callable[[], object]
    records: Records
    summary: Sequence[Line] = ()
    table: Table = Table()
    footer: Sequence[Line] = ()
    findings: Sequence[Finding] = ()
    totals: Table = Table()
