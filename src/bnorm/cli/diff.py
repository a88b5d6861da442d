"""The command `bnorm diff`: the differences between two weights files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from bnorm.batchnorm.epsilon import Epsilon
from bnorm.cli import options, page, render, terminal
from bnorm.cli.documents import diff_document
from bnorm.cli.page import BLANK, Column, Line, Page, Records, Table
from bnorm.cli.progress import progress
from bnorm.cli.sentences import difference
from bnorm.darknet.autodetect import read_model
from bnorm.darknet.dialects import AUTO, DIALECTS
from bnorm.darknet.model import Model
from bnorm.darknet.pairing import pair
from bnorm.darknet.size_mismatch import size_mismatch, worded
from bnorm.reports.diff.comparison import ArrayDifference
from bnorm.reports.diff.diff import DiffReport, diff

DIFFERENT = 3  # the exit code

Files = tuple[Path, Path]  # a cfg and its weights


@click.command(name="diff", cls=options.Command)
@options.cfg_argument
@click.argument("a", type=options.FILE)
@click.argument("b", type=options.FILE, required=False)
@click.option("--cfg-b", type=options.FILE, help="The cfg of B, if it is not that of A.")
@click.option("--all", "everything", is_flag=True, help="List arrays that are the same as well.")
@click.option(
    "--function", is_flag=True, help="Compare what the layers compute (gain times weights, offset), up to rounding."
)
@options.epsilon_option("darknet")
@click.option(
    "--epsilon-b",
    type=options.epsilon,
    metavar="NAME|VALUE[:SIDE]",
    help="The ε of B with --function, if it differs from A's.",
)
@options.dialect_option
@click.option(
    "--dialect-b", type=click.Choice([AUTO, *sorted(DIALECTS)]), help="The fork of B, if it differs from A's."
)
@options.format_option
@options.quiet_option
@click.pass_context
def command(
    context: click.Context,
    cfg: Path,
    a: Path,
    b: Path | None,
    cfg_b: Path | None,
    everything: bool,
    function: bool,
    epsilon: Epsilon,
    epsilon_b: Epsilon | None,
    dialect: str,
    dialect_b: str | None,
    format_: str,
) -> None:
    """Say what is different between two weights files, in one sentence and array by array.

    \b
    bnorm diff net.cfg before.weights after.weights
    bnorm diff net_1000.weights net_2000.weights    the cfg of their name
    bnorm diff net.cfg net.weights folded.weights --cfg-b folded.cfg --function
    bnorm diff net.cfg net.weights opencv.weights --function --epsilon-b opencv

    Values are compared exactly. The files may have other headers, dialects and numbers of classes, and may end early:
    arrays in both files are compared, all others are listed. Exit code 3 if anything is different.
    """
    if epsilon_b is not None and not function:
        raise click.UsageError("--epsilon-b needs --function")
    files_a, files_b = _pairs(cfg, a, b, cfg_b)
    model_a = read_model(*files_a, dialect)
    model_b = read_model(*files_b, dialect_b or dialect)
    with progress("comparing") as advance:
        report = diff(
            model_a, model_b, function=function, epsilon=epsilon, epsilon_b=epsilon_b or epsilon, advance=advance
        )
    _note(model_a, model_b)
    rows = [row for row in report.arrays if everything or not row.is_same]
    render.show(_page(report, rows), format_)
    if not report.is_same:
        context.exit(DIFFERENT)


def _pairs(first: Path, second: Path, third: Path | None, cfg_b: Path | None) -> tuple[Files, Files]:
    """Return cfg and weights of A and of B; two arguments are weights, whose cfgs are found by name."""
    if third is None and pair(first).weights is None:
        raise click.UsageError("Missing argument 'B'.")
    a = options.full_pair(first, None if third is None else second)
    if cfg_b is not None:
        return a, options.full_pair(cfg_b, third or second)
    return a, options.full_pair(second, None) if third is None else options.full_pair(a[0], third)


def _note(a: Model, b: Model) -> None:
    """Print which dialects were chosen, only once if dialect and reason are the same."""
    terminal.note(a)
    if (a.dialect, a.reason) != (b.dialect, b.reason):
        terminal.note(b)


def _page(report: DiffReport, rows: Sequence[ArrayDifference]) -> Page:
    compared = [row for row in rows if row.compared]
    others = [Line("only", f"layer {row.layer} {row.name}: {row.reason}") for row in rows if not row.compared]
    return Page(
        document=lambda: diff_document(report, rows),
        records=_records(rows),
        summary=(Line(None, difference(report)), *_headers(report), *([BLANK] if rows else ())),
        table=Table(COLUMNS, [_row(row) for row in compared]),
        footer=[*([BLANK] if compared and others else ()), *others],
    )


# What to ask of a file that does not fit its cfg.
QUESTIONS = {"A": "is it the right cfg?", "B": "is it the right cfg? --cfg-b names one for B"}


def _headers(report: DiffReport) -> Iterator[Line]:
    """Yield both headers if they differ, and a note on unexpected bytes after the last array."""
    if report.a.header != report.b.header:
        for name, model in (("A", report.a), ("B", report.b)):
            header = model.header
            yield Line("header", f"{name} {header.version}, {header.nbytes} bytes, {header.seen:,} images seen")
    for name, count in zip("AB", report.left_over, strict=True):
        if count:
            yield Line("note", f"{name} has {count:,} bytes after its last array: {QUESTIONS[name]}")
    for name, model in (("A", report.a), ("B", report.b)):
        mismatch = size_mismatch(model.layout, model.nbytes or 0)
        if mismatch and mismatch.missing > 0 and not mismatch.between_layers:
            words = worded(mismatch)
            yield Line("note", f"{name} {words.where}, {words.amount}: {QUESTIONS[name]}")


COLUMNS = (
    Column("layer", "layer"),
    Column("array", "name", right=False),
    Column("values", "count", render.count),
    Column("changed", "changed", render.count),
    Column("max abs", "max_abs", render.number),
    Column("max rel", "max_rel", render.number),
    Column("channel", "index"),
    Column("", "remark", right=False),
)


def _row(row: ArrayDifference) -> dict[str, page.Cell]:
    return {
        "layer": row.layer,
        "name": row.name,
        "count": row.count,
        "changed": row.changed,
        "max_abs": row.max_abs,
        "max_rel": row.max_rel,
        "index": row.index,
        "remark": "equal in value" if row.changed and not row.changed_value else None,
    }


FIELDS = ("layer", "part", "name", "count", "changed", "changed_value", "max_abs", "max_rel", "index", "compared")


def _records(rows: Sequence[ArrayDifference]) -> Records:
    values = [[getattr(row, name) for name in FIELDS] for row in rows]
    plain = [tuple(int(value) if isinstance(value, bool) else value for value in row) for row in values]
    return Records((*FIELDS, "reason"), [(*row, item.reason) for row, item in zip(plain, rows, strict=True)])
