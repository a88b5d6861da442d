"""Everything that bnorm prints: tables for people, JSON, CSV and Markdown for programs and pull requests."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import click

from bnorm.model import Model

Cell = str | int | float | None


class Column(NamedTuple):
    """A column's heading, how its values look to a person, and whether they stand at the right."""

    name: str
    show: Callable[[Any], str] = str
    right: bool = True


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
    totals: Table = Table((), ())


def show(page: Page, format_: str) -> None:
    """Print the page on stdout."""
    FORMATS[format_](page)


def note(model: Model) -> None:
    """Say which dialect `--dialect auto` chose, and why."""
    if model.reason:
        click.echo(f"note: dialect {model.dialect.name}: {model.reason}", err=True)


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None] | None]:
    """A bar on stderr for work past a second, where that is a terminal."""
    if not (sys.stderr and sys.stderr.isatty()):
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    begun = time.monotonic()
    with Progress(console=Console(stderr=True), transient=True, auto_refresh=False) as bar:
        task = bar.add_task(what, visible=False)

        def advance(done: int, total: int) -> None:
            if time.monotonic() - begun > 1:
                bar.update(task, completed=done, total=total, visible=True, refresh=True)

        yield advance


def _json(page: Page) -> None:
    """One document; numbers that JSON cannot hold are the strings "nan", "inf" and "-inf"."""
    click.echo(json.dumps(_jsonable(page.document()), indent=1, ensure_ascii=False, allow_nan=False))


def _jsonable(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    return value


def _table(page: Page) -> None:
    """Lines, an aligned table, and lines; click drops the style where stdout is no terminal."""
    for line in page.summary:
        click.echo(line)
    _echo_table(page.rows)
    for line in page.footer:
        click.echo(line)
    _echo_table(page.totals)


def _echo_table(table: Table) -> None:
    for number, line in enumerate(_aligned(table)):
        click.echo(click.style(line, bold=True) if number == 0 and not os.environ.get("NO_COLOR") else line)


def _aligned(table: Table) -> list[str]:
    """A heading, a rule and the rows, each cell as wide as its column needs."""
    if not table.rows:
        return []
    shown = [[column.name for column in table.columns], *(_shown(table.columns, row) for row in table.rows)]
    widths = [max(map(len, cells)) for cells in zip(*shown, strict=True)]
    aligned = [
        " ".join(
            cell.rjust(width) if column.right else cell.ljust(width)
            for column, cell, width in zip(table.columns, cells, widths, strict=True)
        ).rstrip()
        for cells in shown
    ]
    return [aligned[0], "-" * (sum(widths) + len(widths) - 1), *aligned[1:]]


def _csv(page: Page) -> None:
    """Comma-separated records with a heading; what does not apply is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([column.name for column in page.records.columns])
    writer.writerows(page.records.rows)
    click.echo(text.getvalue(), nl=False)


def _markdown(page: Page) -> None:
    """The lines as a list, the table, the other lines as a list, and the totals."""
    above, below = (["* " + " ".join(line.split()) for line in lines if line] for lines in (page.summary, page.footer))
    parts = [above, _grid(page.rows), below, _grid(page.totals)]
    click.echo("\n\n".join("\n".join(part) for part in parts if part))


def _grid(table: Table) -> list[str]:
    if not table.rows:
        return []
    heads = [column.name.replace("|", "\\|") for column in table.columns]
    marks = ["---:" if column.right else ":---" for column in table.columns]
    return [
        "| " + " | ".join(row) + " |" for row in [heads, marks, *(_shown(table.columns, row) for row in table.rows)]
    ]


FORMATS = {"table": _table, "json": _json, "csv": _csv, "markdown": _markdown}


def _shown(columns: Sequence[Column], row: Sequence[Cell]) -> list[str]:
    return ["" if value is None else column.show(value) for column, value in zip(columns, row, strict=True)]


def number(value: float) -> str:
    """Two significant digits, in as few characters as possible: tables have little room."""
    size = abs(value)
    if size and not 0.01 <= size < 10_000:
        mantissa, _, exponent = f"{value:.1e}".partition("e")
        return f"{mantissa}e{int(exponent)}" if exponent else mantissa
    return f"{value:.0f}" if size >= 100 else f"{value:.2g}"


def count(value: int) -> str:
    """An integer with its thousands apart."""
    return f"{value:,}"
