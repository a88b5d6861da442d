"""The output of bnorm: tables for people, Markdown for pull requests, JSON and CSV for programs.

Tables are aligned here and not by rich: importing rich.table takes about 40 ms, while all of `inspect` takes 150 ms,
and a table in a pipe must have the same bytes with any version of rich.
"""

from __future__ import annotations

import csv
import io
import json
import math
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from bnorm.checks.findings import Finding
from bnorm.cli.page import Column, Line, Page, Table
from bnorm.cli.sentences import described
from bnorm.cli.terminal import spelled, styled, width
from bnorm.files import replacing
from bnorm.text import printable

READABLE = 10_000  # records: a longer document is not indented, which would take three times as long

LABEL = 9  # columns of a label and the space after it

MIN_WIDTH = 40  # columns: in a narrower terminal lines are cut by the terminal

MAX_ALIKE = 4  # findings of a kind that a table shows

COLOURS = {"error": "red", "warning": "yellow", "note": "cyan"}

PROGRAMS = ("json", "csv")  # formats for programs, which need every character


def show(page: Page, format_: str, output: Path | None = None) -> None:
    """Print the page on stdout; or write it to a file, without colours and without a limit on its width."""
    text = FORMATS[format_](page, width() if output is None else None)
    if output is None:
        click.echo(text if format_ in PROGRAMS else spelled(text), nl=False)
        return
    with replacing(output) as (file,):
        file.write(click.unstyle(text).encode(errors="replace"))  # a file name may contain bytes that are not text


# --- for programs -----------------------------------------------------------------------------------------------------


def _json(page: Page, _width: int | None) -> str:
    return json_text(page.document(), indent=len(page.records.rows) <= READABLE)


def json_text(document: object, *, indent: bool = True) -> str:
    """Return one document; numbers that JSON cannot hold become the strings "nan", "inf" and "-inf"."""
    spaces = 1 if indent else None
    return json.dumps(_jsonable(document), indent=spaces, ensure_ascii=False, allow_nan=False) + "\n"


def _jsonable(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    return value


def _csv(page: Page, _width: int | None) -> str:
    """Return a heading and the records; None becomes an empty field."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(page.records.names)
    writer.writerows(page.records.rows)
    return text.getvalue()


# --- for people -------------------------------------------------------------------------------------------------------


def _table(page: Page, room: int | None) -> str:
    """Return the page as text for a terminal of this width; None means any width."""
    lines = [
        *_wrapped(page.summary, room),
        *_aligned(page.table, room),
        *_wrapped(page.footer, room),
        *_wrapped(_few(page.findings), room),
        *([""] if page.findings and page.totals.rows else []),
        *_aligned(page.totals, room),
    ]
    return "".join(f"{line}\n" for line in lines)


def _wrapped(lines: Sequence[Line], room: int | None) -> Iterator[str]:
    """Yield the lines, wrapped to the terminal's width; control characters are escaped."""
    for line in lines:
        if line.label is None:
            yield printable(line.text)
            continue
        first, *others = _filled(line, room)
        label = styled(f"{line.label:{LABEL}}", line.colour) if line.colour else f"{line.label:{LABEL}}"
        yield f"{label}{first}".rstrip()
        yield from (" " * LABEL + other for other in others)


def _filled(line: Line, room: int | None) -> list[str]:
    text = printable(line.text)
    if room is None or not line.wrap:
        return [text]
    return textwrap.wrap(text, max(room, MIN_WIDTH) - LABEL, break_long_words=False, break_on_hyphens=False) or [""]


def _few(findings: Sequence[Finding]) -> list[Line]:
    """Return a line per finding, in order; for a kind with many findings, only the first and the number of the rest."""
    counts = Counter(finding.id for finding in findings)
    seen: Counter[str] = Counter()
    lines = []
    for finding in findings:
        seen[finding.id] += 1
        if seen[finding.id] <= MAX_ALIKE:
            lines.append(_finding_line(finding))
        elif seen[finding.id] == counts[finding.id]:
            more = f"{counts[finding.id] - MAX_ALIKE} more of these in csv and json [{finding.id}]"
            lines.append(Line(finding.severity, more, colour=COLOURS[finding.severity]))
    return lines


def _finding_line(finding: Finding) -> Line:
    return Line(finding.severity, f"{described(finding)} [{finding.id}]", colour=COLOURS[finding.severity])


def _aligned(table: Table, room: int | None) -> list[str]:
    """Return a heading, a rule and the rows, each column as wide as its widest cell; empty without rows."""
    if not table.rows:
        return []
    shown = [(column, _cells(column, table.rows)) for column in table.columns]
    padded = [_padded(column, cells) for column, cells in _fitting(shown, room)]
    heading, *rows = [" ".join(cells) for cells in zip(*padded, strict=True)]
    return [styled(heading.rstrip(), bold=True), "-" * len(heading), *(row.rstrip() for row in rows)]


Shown = tuple[Column, list[str]]  # a column, its heading and cells


def _fitting(shown: Sequence[Shown], room: int | None) -> list[Shown]:
    """Return the columns that fit: droppable columns are left out if they are empty, or if there is no room."""
    kept = [pair for pair in shown if pair[0].drop_order is None or any(pair[1][1:])]
    droppable = [pair for pair in kept if pair[0].drop_order is not None]
    for pair in sorted(droppable, key=lambda pair: pair[0].drop_order or 0):
        if room is not None and sum(max(map(len, cells)) + 1 for _, cells in kept) > room + 1:
            kept.remove(pair)
    return kept


def _cells(column: Column, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    values = (row.get(column.field) for row in rows)
    return [column.name, *("" if value is None else column.show(value) for value in values)]


def _padded(column: Column, cells: Sequence[str]) -> list[str]:
    size = max(map(len, cells))
    return [cell.rjust(size) if column.right else cell.ljust(size) for cell in cells]


def _markdown(page: Page, _width: int | None) -> str:
    """Return the lines as a list, the table, the footer lines as a list, and the totals."""
    findings = [Line(f"{finding.severity}:", f"{described(finding)} [{finding.id}]") for finding in page.findings]
    parts = [_items(page.summary), _grid(page.table), _items([*page.footer, *findings]), _grid(page.totals)]
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def _items(lines: Sequence[Line]) -> list[str]:
    texts = [" ".join(printable(f"{line.label or ''} {line.text}").split()) for line in lines]
    return [f"* {text}" for text in texts if text]


def _grid(table: Table) -> list[str]:
    if not table.rows:
        return []
    columns = [[cell.replace("|", "\\|") for cell in _cells(column, table.rows)] for column in table.columns]
    heading, *rows = ["| " + " | ".join(cells) + " |" for cells in zip(*columns, strict=True)]
    marks = ["---:" if column.right else ":---" for column in table.columns]
    return [heading, "| " + " | ".join(marks) + " |", *rows]


FORMATS = {"table": _table, "json": _json, "csv": _csv, "markdown": _markdown}


def number(value: float) -> str:
    """Return two significant digits in as few characters as possible: tables have little room."""
    size = abs(value)
    if size and not 0.01 <= size < 10_000:
        mantissa, _, exponent = f"{value:.1e}".partition("e")
        return f"{mantissa}e{int(exponent)}" if exponent else mantissa
    return f"{value:.0f}" if size >= 99.5 else f"{value:.2g}"


def count(value: int) -> str:
    """Return an integer with a comma between thousands."""
    return f"{value:,}"
