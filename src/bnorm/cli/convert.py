"""`bnorm convert`: the same model for another fork, another ε, another header, or with batch normalisation again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from bnorm.batchnorm.epsilon import RUNTIMES, Epsilon
from bnorm.cli import options, page, render, terminal
from bnorm.cli.documents import convert_document
from bnorm.cli.page import BLANK, Column, Line, Page, Records, Table
from bnorm.cli.progress import progress
from bnorm.darknet.autodetect import read_model
from bnorm.darknet.dialects import DIALECTS
from bnorm.darknet.header import SIZES, Header
from bnorm.darknet.model import Model
from bnorm.darknet.translation import CfgChange
from bnorm.text import plural, short
from bnorm.transforms.convert.convert import ConvertedLayer, ConvertReport, convert
from bnorm.transforms.convert.request import MOST_SEEN

MOST_LINES = 12  # changed lines of a cfg that a table shows


@click.command(name="convert", cls=options.Command)
@options.cfg_argument
@options.weights_argument
@click.option("-o", "--output", type=options.FILE, help="Converted weights file; required without --dry-run.")
@click.option("--output-cfg", type=options.FILE, help="Converted cfg. By default OUTPUT with the suffix .cfg.")
@click.option(
    "--to",
    type=click.Choice(sorted(DIALECTS)),
    help="The fork that will read it: sets the order of the arrays, and adapts the cfg.",
)
@click.option(
    "--epsilon-from",
    type=options.epsilon,
    metavar="NAME|VALUE[:SIDE]",
    help=f"The ε that the weights are for: a runtime ({', '.join(RUNTIMES)}), or a number, optionally followed by "
    ":inside or :outside (the square root).",
)
@click.option(
    "--epsilon-to",
    type=options.epsilon,
    metavar="NAME|VALUE[:SIDE]",
    help="The ε of the program that will read them: scales are rewritten so that it computes the same.",
)
@click.option("--header", type=click.Choice([str(size) for size in SIZES]), help="Bytes of the new header.")
@click.option("--seen", type=int, metavar="N", help="Images seen; 0 restarts training.")
@click.option(
    "--unfold", is_flag=True, help="Put identity batch normalisation into bare convolutions, except before a head."
)
@options.layers_option
@options.bad_variance_option
@click.option("--dry-run", is_flag=True, help="Convert and verify, but write nothing.")
@click.option("--no-verify", is_flag=True, help="Skip the proof.")
@options.force_option
@options.trailing_option
@options.dialect_option
@options.format_option
@options.quiet_option
def command(
    cfg: Path,
    weights: Path | None,
    output: Path | None,
    output_cfg: Path | None,
    to: str | None,
    epsilon_from: Epsilon | None,
    epsilon_to: Epsilon | None,
    header: str | None,
    seen: int | None,
    unfold: bool,
    layers: tuple[range, ...],
    bad_variance: str,
    dry_run: bool,
    no_verify: bool,
    force: bool,
    trailing: str,
    dialect: str,
    format_: str,
) -> None:
    """Write the same model in another shape: nothing that it computes changes.

    \b
    bnorm convert a.weights -o b.weights --epsilon-from keras --epsilon-to darknet
    bnorm convert net.cfg net.weights -o old.weights --header 16
    bnorm convert lstm.cfg lstm.weights -o hank.weights --to hank
    bnorm convert folded.cfg folded.weights -o net.weights --unfold --seen 0

    Several of these are done in one pass. What cannot be done exactly is refused, with the layer and what would be
    lost. Every array of the new file is compared with the old one.
    """
    files = options.full_pair(cfg, weights)
    _check_options(output, dry_run, to, epsilon_from, epsilon_to, header, seen, unfold, layers)
    model = read_model(*files, dialect)
    selection = options.selection(layers, model)
    with progress("converting") as advance:
        report = convert(
            model,
            output,
            output_cfg,
            to=to,
            epsilon_from=epsilon_from,
            epsilon_to=epsilon_to,
            header=int(header) if header else None,
            seen=seen,
            unfold=unfold,
            layers=selection,
            bad_variance=bad_variance,
            verify=not no_verify,
            dry_run=dry_run,
            force=force,
            trailing=trailing,
            advance=advance,
        )
    terminal.note(model)
    render.show(_page(report, model), format_)


def _check_options(
    output: Path | None,
    dry_run: bool,
    to: str | None,
    epsilon_from: Epsilon | None,
    epsilon_to: Epsilon | None,
    header: str | None,
    seen: int | None,
    unfold: bool,
    layers: tuple[range, ...],
) -> None:
    """Reject contradictory or incomplete combinations of options."""
    tasks = (to, epsilon_from, epsilon_to, header, seen, unfold or None)
    refusals = (
        (output is None and not dry_run, "Missing option '-o'; only --dry-run works without it."),
        (
            not any(task is not None for task in tasks),
            "nothing to convert: give --to, --epsilon-from, --header, ...",
        ),
        (epsilon_from is not None and epsilon_to is None, "--epsilon-from needs --epsilon-to"),
        (epsilon_to is not None and epsilon_from is None and not unfold, "--epsilon-to needs --epsilon-from"),
        (bool(layers) and not unfold, "--layer needs --unfold: it selects the layers to unfold"),
        (unfold and epsilon_to is not None and epsilon_to.value >= 1, "--unfold needs an ε below 1"),
        (seen is not None and not 0 <= seen <= MOST_SEEN, "--seen needs a number ≥ 0 that fits 64 bits"),
    )
    for refused, message in refusals:
        if refused:
            raise click.UsageError(message)


def _page(report: ConvertReport, model: Model) -> Page:
    findings = [finding for finding in report.findings if finding.severity != "note"]
    changed = [layer for layer in report.layers if layer.kinds]
    kept = [
        Line("kept", f"layer {layer.index} {_name(layer)}: {layer.reason}")
        for layer in report.layers
        if not layer.kinds
    ]
    notes = [Line("note", f"layer {layer.index} {_name(layer)}: {layer.reason}") for layer in changed if layer.reason]
    lines = [_cfg_line(change) for change in report.cfg_changes[:MOST_LINES]]
    if len(report.cfg_changes) > MOST_LINES:
        lines.append(Line("cfg", f"{len(report.cfg_changes) - MOST_LINES} more changed lines: see --format json"))
    return Page(
        document=lambda: convert_document(report, model),
        records=_records(report),
        summary=(Line(None, _headline(report)), *_header_lines(report), BLANK),
        table=Table(COLUMNS, [_row(layer) for layer in changed]),
        footer=[
            *([BLANK] if changed else ()),
            *lines,
            *kept,
            *notes,
            *([BLANK] if lines or kept or notes else ()),
            *([Line("check", "of the converted cfg, with its own line numbers:")] if findings else ()),
        ],
        findings=findings,
        totals=_totals(report),
    )


def _headline(report: ConvertReport) -> str:
    count = len({layer.index for layer in report.layers if layer.kinds})
    changed = plural(count, "changed layer") if count else "all layers unchanged"
    proof = "" if report.verified else ", not verified"
    if report.output is None:
        return f"would convert, {changed}{proof}; a dry run writes nothing"
    return f"converted into {report.output} and {report.output_cfg}, {changed}{proof}"


def _header_lines(report: ConvertReport) -> Iterator[Line]:
    """Yield the dialect and the header before and after, if they differ."""
    if report.dialect_before != report.dialect_after:
        yield Line("dialect", f"{report.dialect_before} → {report.dialect_after}")
    if report.header_before != report.header_after:
        yield Line("header", f"{_header(report.header_before)} → {_header(report.header_after)}")
    if report.ambiguous_gates:
        what = f"the gates are in the order of {report.dialect_after}, which does not write version"
        yield Line("note", f"{what} {report.header_after.version}: read it with --dialect {report.dialect_after}")


def _header(header: Header) -> str:
    return f"{header.version}, {header.nbytes} bytes, {header.seen:,} images seen"


def _cfg_line(change: CfgChange) -> Line:
    after = f"now {'; '.join(map(short, change.after.splitlines()))}" if change.after else "removed"
    return Line("cfg", f"line {change.line}: {short(change.before)} {after}: {change.reason}")


COLUMNS = (
    Column("layer", "index"),
    Column("type", "type", right=False),
    Column("change", "change", right=False),
    Column("scales", "scale_change", lambda change: f"{render.number(100 * change)}%"),
    Column("max abs", "max_abs_error", render.number),
    Column("max rel", "max_rel_error", render.number),
)


def _row(layer: ConvertedLayer) -> dict[str, page.Cell]:
    return {
        "index": layer.index,
        "type": _name(layer),
        "change": ", ".join(layer.kinds),
        "scale_change": layer.scale_change,
        "max_abs_error": layer.max_abs_error,
        "max_rel_error": layer.max_rel_error,
    }


def _name(layer: ConvertedLayer) -> str:
    return f"{layer.type} {layer.part}".rstrip()


def _totals(report: ConvertReport) -> Table:
    rows = (
        ("parameters", report.parameters_before, report.parameters_after),
        ("bytes", report.bytes_before, report.bytes_after),
    )
    names = ("", "before", "after")
    columns = (Column("", "", right=False), *(Column(name, name, render.count) for name in names[1:]))
    return Table(columns, [dict(zip(names, row, strict=True)) for row in rows])


FIELDS = ("index", "type", "part", "change", "reason", "scale_change", "max_abs_error", "max_rel_error")


def _records(report: ConvertReport) -> Records:
    rows = [_row(layer) | {"type": layer.type, "part": layer.part, "reason": layer.reason} for layer in report.layers]
    return Records(FIELDS, [tuple(row[name] for name in FIELDS) for row in rows])
