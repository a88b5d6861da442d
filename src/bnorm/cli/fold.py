"""`bnorm fold`: a model that computes the same without batch normalisation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from bnorm.batchnorm.epsilon import RUNTIMES, Epsilon
from bnorm.cli import options, page, render, terminal
from bnorm.cli.documents import fold_document
from bnorm.cli.page import BLANK, Column, Line, Page, Records, Table
from bnorm.cli.progress import progress
from bnorm.darknet.autodetect import read_model
from bnorm.text import plural
from bnorm.transforms.fold.fold import FoldedLayer, FoldReport, fold
from bnorm.transforms.fold.variances import POLICIES


@click.command(name="fold")
@options.cfg_argument
@options.weights_argument
@click.option("-o", "--output", type=options.FILE, help="Folded weights file; required without --dry-run.")
@click.option("--output-cfg", type=options.FILE, help="Folded cfg. By default OUTPUT with the suffix .cfg.")
@options.epsilon_option("darknet")
@options.layers_option
@click.option(
    "--bad-variance",
    type=click.Choice(POLICIES),
    default="error",
    show_default=True,
    help="What to do about a variance that is negative, infinite or NaN: fail, use the nearest valid variance (NaN "
    "becomes 0), or leave the layer as it is.",
)
@click.option("--dry-run", is_flag=True, help="Fold and verify, but write nothing.")
@click.option("--no-verify", is_flag=True, help="Skip the numerical proof.")
@click.option("--force", is_flag=True, help="Overwrite existing outputs, but never an input.")
@options.dialect_option
@options.format_option
def command(
    cfg: Path,
    weights: Path,
    output: Path | None,
    output_cfg: Path | None,
    epsilon: Epsilon,
    layers: tuple[range, ...],
    bad_variance: str,
    dry_run: bool,
    no_verify: bool,
    force: bool,
    dialect: str,
    format_: str,
) -> None:
    """Write a model that computes the same without batch normalisation, for every fork and importer.

    \b
    bnorm fold yolov4.cfg yolov4.weights -o folded.weights
    bnorm fold yolov4.cfg yolov4.weights -o for_opencv.weights --epsilon opencv
    bnorm fold yolov4.cfg yolov4.weights --dry-run --format markdown

    The folded cfg is a copy without batch_normalize lines and without the [batchnorm] sections that were folded into
    another layer; the header is copied. Each folded layer is computed before and after, and the difference is shown.
    A layer that cannot be folded exactly is kept, with the reason.
    """
    if output is None and not dry_run:
        raise click.UsageError("Missing option '-o'; only --dry-run does without it.")
    model = read_model(cfg, weights, dialect)
    selection = options.selection(layers, model)
    with progress("folding") as advance:
        report = fold(
            model,
            output,
            output_cfg,
            layers=selection,
            epsilon=epsilon,
            bad_variance=bad_variance,
            verify=not no_verify,
            dry_run=dry_run,
            force=force,
            advance=advance,
        )
    terminal.note(model)
    render.show(_page(report, epsilon), format_)


def _page(report: FoldReport, epsilon: Epsilon) -> Page:
    others = [name for name in RUNTIMES if RUNTIMES[name] != epsilon]
    folded = [layer for layer in report.layers if layer.folded]
    remarks = [_remark(layer) for layer in report.layers if layer.reason]
    return Page(
        document=lambda: fold_document(report),
        records=_records(report),
        summary=(Line(None, _headline(report)), BLANK),
        table=Table(_columns(others), [_row(layer) for layer in folded]),
        footer=[*_epsilon_lines(folded, epsilon, others), *remarks, *([BLANK] if remarks else ())],
        totals=_totals(report),
    )


def _headline(report: FoldReport) -> str:
    count = len({layer.index for layer in report.layers if layer.folded})
    layers = plural(count, "layer")
    if report.output is None:
        return f"would fold {layers}; a dry run writes nothing" if count else "nothing to fold"
    names = f"{report.output} and {report.output_cfg}"
    return f"folded {layers} into {names}" if count else f"nothing to fold; the same in {names}"


def _columns(runtimes: Sequence[str]) -> list[Column]:
    """Return the columns of a folded layer; those of the runtimes are dropped from the last one on."""
    return [
        Column("layer", "index"),
        Column("type", "type", right=False),
        Column("max abs", "max_abs_error", render.number),
        Column("max rel", "max_rel_error", render.number),
        *(Column(name, name, _percent, drop_order=len(runtimes) - i) for i, name in enumerate(runtimes)),
    ]


def _row(layer: FoldedLayer) -> dict[str, page.Cell]:
    return {
        "index": layer.index,
        "type": _name(layer),
        "max_abs_error": layer.max_abs_error,
        "max_rel_error": layer.max_rel_error,
        **layer.gain_change,
    }


def _name(layer: FoldedLayer) -> str:
    return f"{layer.type} {layer.part}".rstrip()


def _percent(change: float) -> str:
    return "<0.01%" if change < 1e-4 else f"{render.number(100 * change)}%"


def _epsilon_lines(folded: Sequence[FoldedLayer], epsilon: Epsilon, runtimes: Sequence[str]) -> Iterator[Line]:
    """Yield which ε was folded, and what the columns of the other runtimes mean."""
    if not folded:
        return
    side = "inside" if epsilon.inside else "outside"
    most = ", ".join(f"{name} {_percent(max(layer.gain_change[name] for layer in folded))}" for name in runtimes)
    yield BLANK
    yield Line(
        "ε",
        f"{epsilon.value:g} {side} the root. Runtimes with another ε computed other gains before folding; their "
        f"columns show the largest change in each layer. Over all layers: {most}",
    )
    yield BLANK


def _remark(layer: FoldedLayer) -> Line:
    return Line("folded" if layer.folded else "kept", f"layer {layer.index} {_name(layer)}: {layer.reason}")


def _totals(report: FoldReport) -> Table:
    normalised = len({layer.index for layer in report.layers})
    kept = len({layer.index for layer in report.layers if not layer.folded})
    rows = (
        ("batch-normalised layers", normalised, kept),
        ("parameters", report.parameters_before, report.parameters_after),
        ("bytes", report.bytes_before, report.bytes_after),
    )
    names = ("", "before", "after")
    columns = (Column("", "", right=False), *(Column(name, name, render.count) for name in names[1:]))
    return Table(columns, [dict(zip(names, row, strict=True)) for row in rows])


FIELDS = ("index", "type", "part", "folded", "reason", "max_abs_error", "max_rel_error")


def _records(report: FoldReport) -> Records:
    return Records((*FIELDS, *(f"gain_change_{name}" for name in RUNTIMES)), [_record(row) for row in report.layers])


def _record(layer: FoldedLayer) -> tuple[page.Cell, ...]:
    values = (getattr(layer, name) for name in FIELDS)
    plain = (int(value) if isinstance(value, bool) else value for value in values)
    return *plain, *(layer.gain_change.get(name) for name in RUNTIMES)
