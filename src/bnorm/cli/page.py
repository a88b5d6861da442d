"""A command's result before it has a format: lines, tables, records and a document."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from bnorm.checks.findings import Finding

Cell = str | int | float | None


class Column(NamedTuple):
    """A column's heading, how its values look to a person, and whether they stand at the right."""

    name: str
    show: Callable[[Any], str] = str
    right: bool = True
    spare: int = 0  # over 0: left out of a table that is wider than the terminal, the highest first


class Table(NamedTuple):
    """Rows of plain values; machine formats print them as they are."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]


class Page(NamedTuple):
    """A command's result in every format: lines and tables for people, `records` (CSV) and `document` for programs.

    The lines of `summary` stand above the table `rows`, those of `footer` and the table `totals` below.
    """

    document: Callable[[], object]
    rows: Table
    records: Table
    summary: Sequence[str] = ()
    footer: Sequence[str] = ()
    findings: Sequence[Finding] = ()
    totals: Table = Table((), ())
