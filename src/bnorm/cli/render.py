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
    """A command's result in every format: lines and `rows` for people, `records` (CSV) and `document` for programs."""

    document: Callable[[], object]
    rows: Table
    records: Table
    summary: Sequence[str] = ()
    footer: Sequence[str] = ()


def show(page: Page, format_: str) -> None:
    """Print the page on stdout."""
    FORMATS[format_](page)


def note(model: Model) -> None:
    """Say which dialect `--dialect auto` chose, and why."""
    if model.reason:
        click.echo(f"note: dialect {model.dialect.name}: {model.reason}", err=True)


@contextmanager
def progress() -> Iterator[Callable[[int, int], None] | None]:
    """A bar on stderr for work past a second, where that is a terminal."""
    if not (sys.stderr and sys.stderr.isatty()):
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    begun = time.monotonic()
    with Progress(console=Console(stderr=True), transient=True, auto_refresh=False) as bar:
        task = bar.add_task("running", visible=False)

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
    for number, line in enumerate(_aligned(page.rows)):
        click.echo(click.style(line, bold=True) if number == 0 and not os.environ.get("NO_COLOR") else line)
    for line in page.footer:
        click.echo(line)


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
    """The lines as a list, the table, and the other lines as a list."""
    marks = ["---:" if column.right else ":---" for column in page.rows.columns]
    head = [[column.name.replace("|", "\\|") for column in page.rows.columns], marks]
    rows = [_shown(page.rows.columns, row) for row in page.rows.rows]
    grid = ["| " + " | ".join(row) + " |" for row in [*head, *rows]] if rows else []
    above, below = (["* " + " ".join(line.split()) for line in lines if line] for lines in (page.summary, page.footer))
    click.echo("\n".join([*above, "", *grid, "", *below]).strip("\n"))


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
