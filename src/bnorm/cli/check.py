"""`bnorm check`: does this pair fit, is it sound, and if not: why."""

from __future__ import annotations

from pathlib import Path

import click

from bnorm.checks.check import Check, check
from bnorm.checks.findings import KINDS, SEVERITIES, Finding, Kind
from bnorm.cli import options, render, terminal
from bnorm.cli.documents import _document
from bnorm.cli.page import Column, Page, Table

PROBLEMS = 3  # the exit code


@click.command(name="check")
@click.argument("cfg", type=options.FILE, required=False)
@options.optional_weights_argument
@click.option("--strict", is_flag=True, help="Exit with 3 for a warning, too.")
@click.option("--list", "listing", is_flag=True, help="List all that can be found, and its likely cause.")
@options.dialect_option
@options.format_option
@click.pass_context
def command(
    context: click.Context,
    cfg: Path | None,
    weights: Path | None,
    strict: bool,
    listing: bool,
    dialect: str,
    format_: str,
) -> None:
    """Say whether a cfg and a weights file fit and are sound, and if not: where, by how much, and why.

    \b
    bnorm check yolov4.cfg yolov4.weights
    bnorm check yolov4.cfg                        the cfg alone
    bnorm check yolov4.cfg yolov4.weights --strict --format json

    An error means that the network cannot work as the files stand: exit code 3. A warning means that it may compute
    something else than was meant, here or in another program; a note is worth knowing. A pair that does not fit gets
    its one most likely cause.
    """
    if listing:
        render.show(_kinds(lines=format_ == "table"), format_)
        return
    if cfg is None:
        raise click.UsageError("Missing argument 'CFG'.")
    report = check(cfg, weights, dialect)
    if report.model:
        terminal.note(report.model)
    render.show(_page(report), format_)
    if report.count("error") or (strict and report.count("warning")):
        context.exit(PROBLEMS)


def _kinds(lines: bool) -> Page:
    """The table of all kinds; as lines it looks as the findings do, since a terminal is too narrow for it."""
    kinds = list(KINDS.values())
    table = Table([Column(name, right=False) for name in Kind._fields], kinds)
    return Page(
        document=lambda: [kind._asdict() for kind in kinds],
        rows=table._replace(rows=()) if lines else table,
        records=table,
        summary=[f"{kind.severity:8} {kind.meaning}: {kind.cause} [{kind.id}]" for kind in kinds] if lines else (),
    )


def _page(report: Check) -> Page:
    return Page(
        document=lambda: _document(report),
        rows=Table((), ()),
        records=Table([Column(name) for name in Finding._fields], report.findings),
        summary=_summary(report),
        findings=report.findings,
    )


def _summary(report: Check) -> list[str]:
    dialect = f", as {report.model.dialect.name} reads it" if report.model else ""
    lines = [f"cfg      {report.cfg}{dialect}"]
    if report.weights:
        lines.append(f"weights  {report.weights}")
    return [*lines, f"verdict  {_verdict(report)}"]


def _verdict(report: Check) -> str:
    counts = [(report.count(severity), severity) for severity in SEVERITIES]
    found = ", ".join(f"{count} {severity}{'s' * (count != 1)}" for count, severity in counts if count)
    if not report.model or report.model.fits is None:
        return found or "nothing found"
    layout = report.model.layout
    sizes = f"{layout.nbytes:,} bytes = {report.model.header.nbytes} + 4 × {layout.parameters:,} parameters"
    return f"fits: {sizes}; {found or 'nothing found'}" if report.model.fits else f"does not fit; {found}"
