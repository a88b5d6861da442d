"""Everything that bnorm prints: tables for people, JSON, CSV and Markdown for programs and pull requests."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from bnorm.checks.findings import ABOUT_THE_FILE, Finding
from bnorm.cli.page import Cell, Column, Page, Table
from bnorm.cli.terminal import _spelled, width
from bnorm.files import replacing
from bnorm.text import printable

READABLE = 10_000  # rows

LABEL = 9  # columns of a label and what parts it from its text

PROGRAMS = ("json", "csv")  # formats whose readers want every character


def show(page: Page, format_: str, output: Path | None = None) -> None:
    """Print the page on stdout, or write it to a file."""
    text = FORMATS[format_](page)
    if output is None:
        click.echo(text if format_ in PROGRAMS else _spelled(text), nl=False)
        return
    with replacing(output) as (file,):
        file.write(click.unstyle(text).encode(errors="replace"))  # a file's name may hold bytes that are no text


def _json(page: Page) -> str:
    """One document; numbers that JSON cannot hold are the strings "nan", "inf" and "-inf".

    It is indented as long as a person may read it: that takes three times as long.
    """
    indent = 1 if len(page.records.rows) <= READABLE else None
    return json.dumps(_jsonable(page.document()), indent=indent, ensure_ascii=False, allow_nan=False) + "\n"


def _jsonable(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    return value


def _table(page: Page) -> str:
    """Lines, an aligned table, lines and findings, and the totals."""
    summary, footer = ([line for text in lines for line in _wrapped(text)] for lines in (page.summary, page.footer))
    lines = [*summary, *_styled(page.rows), *footer]
    lines += [line for text in _few(page.findings) for line in _wrapped(text)]
    return "".join(f"{line}\n" for line in [*lines, *_styled(page.totals)])


def _styled(table: Table) -> list[str]:
    """The aligned table; click drops the style where stdout is no terminal."""
    lines = _aligned(table, width())
    if lines and not os.environ.get("NO_COLOR"):
        lines[0] = click.style(lines[0], bold=True)
    return lines


MOST = 4  # findings of a kind that a table shows


def _few(findings: Sequence[Finding]) -> Iterator[str]:
    """The findings, in their order; of a kind that many layers have, the first and how many more there are."""
    counts = Counter(finding.id for finding in findings)
    seen: Counter[str] = Counter()
    for finding in findings:
        seen[finding.id] += 1
        if seen[finding.id] <= MOST:
            yield f"{finding.severity:8} {finding_text(finding)} [{finding.id}]"
        elif seen[finding.id] == counts[finding.id]:
            yield f"{finding.severity:8} {counts[finding.id] - MOST} more of these in csv and json [{finding.id}]"


def finding_text(finding: Finding) -> str:
    """Return where a finding is, what it is, and its cause; a finding about the whole file names the layer itself."""
    position = f"line {finding.line}: " if finding.line is not None else ""
    if finding.layer is not None and finding.id not in ABOUT_THE_FILE:
        position = f"layer {finding.layer} {finding.part or ''}".rstrip() + ": "
    return f"{position}{finding.message}" + (f"; {finding.cause}" if finding.cause else "")


def _wrapped(text: str) -> list[str]:
    """What stands behind a label of up to eight letters, on lines that fit the terminal, if its words do.

    Control characters, as in a file's name, stand as Python writes them. A path is to be copied: its line stays whole.
    """
    shown = printable(text)
    label = shown[:LABEL]
    if not label.endswith(" ") or len(label.split()) != 1 or label.split()[0] in ("cfg", "weights"):
        return [shown]
    return textwrap.wrap(
        shown[LABEL:],
        max(width(), 40),
        initial_indent=label,
        subsequent_indent=" " * LABEL,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _aligned(table: Table, most: int) -> list[str]:
    """A heading, a rule and the rows, each cell as wide as its column needs; spare columns where they fit `most`."""
    if not table.rows:
        return []
    shown = [[column.name for column in table.columns], *(_shown(table.columns, row) for row in table.rows)]
    widths = [max(map(len, cells)) for cells in zip(*shown, strict=True)]
    empty = [not any(cells) for cells in zip(*shown[1:], strict=True)]
    kept = _fitting([column.spare for column in table.columns], empty, widths, most)
    aligned = [
        " ".join(
            cells[i].rjust(widths[i]) if table.columns[i].right else cells[i].ljust(widths[i]) for i in kept
        ).rstrip()
        for cells in shown
    ]
    return [aligned[0], "-" * (sum(widths[i] for i in kept) + len(kept) - 1), *aligned[1:]]


def _fitting(spare: Sequence[int], empty: Sequence[bool], widths: Sequence[int], most: int) -> list[int]:
    """The columns to show: spare ones go where they are empty, and the most spare first until the rest fits."""
    kept = [i for i in range(len(spare)) if not (spare[i] and empty[i])]
    for i in sorted((i for i in kept if spare[i]), key=lambda i: -spare[i]):
        if sum(widths[k] + 1 for k in kept) > most + 1:
            kept.remove(i)
    return kept


def _csv(page: Page) -> str:
    """Comma-separated records with a heading; what does not apply is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([column.name for column in page.records.columns])
    writer.writerows(page.records.rows)
    return text.getvalue()


def _markdown(page: Page) -> str:
    """The lines as a list, the table, the other lines as a list, and the totals."""
    footer = [*page.footer, *(f"{row.severity}: {finding_text(row)} [{row.id}]" for row in page.findings)]
    above, below = (
        ["* " + " ".join(printable(line).split()) for line in lines if line] for lines in (page.summary, footer)
    )
    parts = [above, _grid(page.rows), below, _grid(page.totals)]
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def _grid(table: Table) -> list[str]:
    if not table.rows:
        return []
    marks = ["---:" if column.right else ":---" for column in table.columns]
    cells = [[column.name for column in table.columns], *(_shown(table.columns, row) for row in table.rows)]
    heading, *rows = ["| " + " | ".join(map(_cell, row)) + " |" for row in cells]
    return [heading, "| " + " | ".join(marks) + " |", *rows]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


FORMATS = {"table": _table, "json": _json, "csv": _csv, "markdown": _markdown}


def _shown(columns: Sequence[Column], row: Sequence[Cell]) -> list[str]:
    return ["" if value is None else column.show(value) for column, value in zip(columns, row, strict=True)]


def number(value: float) -> str:
    """Two significant digits, in as few characters as possible: tables have little room."""
    size = abs(value)
    if size and not 0.01 <= size < 10_000:
        mantissa, _, exponent = f"{value:.1e}".partition("e")
        return f"{mantissa}e{int(exponent)}" if exponent else mantissa
    return f"{value:.0f}" if size >= 99.5 else f"{value:.2g}"


def count(value: int) -> str:
    """An integer with its thousands apart."""
    return f"{value:,}"
