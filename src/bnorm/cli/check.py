"""`bnorm check`: whether a pair fits and is sound, and if not, why."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from bnorm.checks.check import Check, check
from bnorm.checks.findings import KINDS, SEVERITIES, Finding, Kind
from bnorm.cli import options, render, terminal
from bnorm.cli.documents import check_document, kinds_document
from bnorm.cli.page import Column, Line, Page, Records, Table
from bnorm.cli.sentences import fitting
from bnorm.text import plural

PROBLEMS = 3  # the exit code


@click.command(name="check", cls=options.Command)
@click.argument("cfg", type=options.FILE, required=False)
@options.weights_argument
@click.option("--strict", is_flag=True, help="Exit with 3 on warnings as well.")
@click.option("--list", "listing", is_flag=True, help="List every finding and its likely cause.")
@options.dialect_option
@options.format_option
@options.quiet_option
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
    """Check whether a cfg and a weights file fit and are sound, and if not: where, by how much, and why.

    \b
    bnorm check yolov4.cfg yolov4.weights
    bnorm check yolov4.cfg                        the cfg alone
    bnorm check yolov4_last.weights               the cfg of its name
    bnorm check yolov4.cfg yolov4.weights --strict --format json

    An error means that the network cannot work with these files: exit code 3. A warning means that it may compute
    something other than intended, here or in another program. A note is worth knowing. For a pair that does not fit,
    the most likely cause is named.
    """
    if listing:
        render.show(_listing(for_people=format_ == "table"), format_)
        return
    if cfg is None:
        raise click.UsageError("Missing argument 'CFG'.")
    files = options.given_pair(cfg, weights)
    if files.cfg is None:
        raise options.cfg_missing(cfg)
    report = check(files.cfg, files.weights, dialect)
    if report.model:
        terminal.note(report.model)
    render.show(_page(report), format_)
    if report.count("error") or (strict and report.count("warning")):
        context.exit(PROBLEMS)


def _listing(for_people: bool) -> Page:
    """Return the table of all kinds; for people as lines like findings, because a table is too wide for a terminal."""
    kinds = list(KINDS.values())
    columns = [Column(name, name, right=False) for name in Kind._fields]
    lines = [
        Line(kind.severity, f"{kind.meaning}: {kind.cause} [{kind.id}]", colour=render.COLOURS[kind.severity])
        for kind in kinds
    ]
    return Page(
        document=lambda: kinds_document(kinds),
        records=Records(Kind._fields, kinds),
        summary=lines if for_people else (),
        table=Table() if for_people else Table(columns, [kind._asdict() for kind in kinds]),
    )


def _page(report: Check) -> Page:
    return Page(
        document=lambda: check_document(report),
        records=Records(Finding._fields, report.findings),
        summary=list(_summary(report)),
        findings=report.findings,
    )


def _summary(report: Check) -> Iterator[Line]:
    reader = f", as {report.model.dialect.name} reads it" if report.model else ""
    yield Line("cfg", f"{report.cfg}{reader}", wrap=False)
    if report.weights:
        yield Line("weights", str(report.weights), wrap=False)
    yield Line("verdict", _verdict(report))


def _verdict(report: Check) -> str:
    counts = [(report.count(severity), severity) for severity in SEVERITIES]
    findings = ", ".join(plural(count, severity) for count, severity in counts if count) or "nothing found"
    if not report.model or report.model.fits is None:
        return findings
    return f"{fitting(report.model) if report.model.fits else 'does not fit'}; {findings}"
