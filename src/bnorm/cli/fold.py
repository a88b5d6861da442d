"""`bnorm fold`: a model that computes the same without batch normalisation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from bnorm.batchnorm.epsilon import RUNTIMES, Epsilon
from bnorm.cli import options, page, render, terminal
from bnorm.cli.documents import fold_document
from bnorm.cli.page import BLANK, Column, Line, Page, Records, Table
from bnorm.cli.progress import progress
from bnorm.darknet.autodetect import read_model
from bnorm.darknet.model import Model
from bnorm.text import plural
from bnorm.transforms.fold.fold import FoldedLayer, FoldReport, fold


@click.command(name="fold", cls=options.Command)
@options.cfg_argument
@options.weights_argument
@click.option("-o", "--output", type=options.FILE, help="Folded weights file; required without --dry-run.")
@click.option("--output-cfg", type=options.FILE, help="Folded cfg. By default OUTPUT with the suffix .cfg.")
@options.epsilon_option("darknet")
@options.layers_option
@options.bad_variance_option
@click.option("--dry-run", is_flag=True, help="Fold and verify, but write nothing.")
@click.option("--no-verify", is_flag=True, help="Skip the numerical proof.")
@click.option("--runtimes", is_flag=True, help="Also show by how much the gains of other runtimes differ, by their ε.")
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
    epsilon: Epsilon,
    layers: tuple[range, ...],
    bad_variance: str,
    dry_run: bool,
    no_verify: bool,
    runtimes: bool,
    force: bool,
    trailing: str,
    dialect: str,
    format_: str,
) -> None:
    """Write a model that computes the same without batch normalisation, for every fork and importer.

    \b
    bnorm fold yolov4.cfg yolov4.weights -o folded.weights
    bnorm fold yolov4.cfg yolov4.weights -o for_opencv.weights --epsilon opencv
    bnorm fold yolov4.cfg yolov4.weights --dry-run --format markdown
    bnorm fold yolov4_last.weights -o folded.weights    the cfg of its name

    The folded cfg is a copy without batch_normalize lines and without the [batchnorm] sections that were folded into
    another layer; the header is copied. Each folded layer is computed before and after, and the difference is shown.
    A layer that cannot be folded exactly is kept, with the reason.
    """
    files = options.full_pair(cfg, weights)
    if output is None and not dry_run:
        raise click.UsageError("Missing option '-o'; only --dry-run works without it.")
    model = read_model(*files, dialect)
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
            trailing=trailing,
            advance=advance,
        )
    terminal.note(model)
    render.show(_page(report, model, runtimes=runtimes), format_)


def _page(report: FoldReport, model: Model, *, runtimes: bool) -> Page:
    others = [name for name in RUNTIMES if runtimes and RUNTIMES[name] != report.epsilon]
    folded = [layer for layer in report.layers if layer.folded]
    findings = [finding for finding in report.findings if finding.severity != "note"]
    remarks = [*_remarks(report.layers)]
    return Page(
        document=lambda: fold_document(report, model),
        records=_records(report),
        summary=(Line(None, _headline(report)), *_verdict(report), BLANK),
        table=Table(_columns(others), [_row(layer) for layer in folded]),
        footer=[
            *([BLANK] if folded else ()),
            *_change_lines(folded, others),
            *remarks,
            *([BLANK] if remarks else ()),
            *([Line("check", "of the folded cfg, with its own line numbers:")] if findings else ()),
        ],
        findings=findings,
        totals=_totals(report),
    )


def _headline(report: FoldReport) -> str:
    count = len({layer.index for layer in report.layers if layer.folded})
    layers = plural(count, "layer")
    if report.output is None:
        return f"would fold {layers}; a dry run writes nothing" if count else "nothing to fold"
    names = f"{report.output} and {report.output_cfg}"
    return f"folded {layers} into {names}" if count else f"nothing to fold; the same in {names}"


def _verdict(report: FoldReport) -> Iterator[Line]:
    """Yield whether the folded layers were proven to compute the same, and which ε they were folded with."""
    folded = [layer for layer in report.layers if layer.folded]
    if not folded:
        return
    worst = report.worst
    if report.verified and worst and worst.max_rel_error is not None:
        silent = sum(layer.silent_channels for layer in folded)
        unseen = f", except in {plural(silent, 'channel')} without a finite output" if silent else ""
        largest = f"the largest relative difference is {render.number(worst.max_rel_error)}, in layer {worst.index}"
        yield Line("verdict", f"proven: the same except for rounding{unseen}; {largest}", colour="green")
    else:
        yield Line("verdict", "not verified", colour="yellow")
    yield Line("ε", _epsilon_text(report.epsilon))


# The programs that compute with each ε of `RUNTIMES`.
_WHOSE = {
    "darknet": "the one that the weights were trained with, unless by pjreddie's darknet on a CPU",
    "pjreddie-cpu": "the one of pjreddie's darknet on a CPU",
    "opencv": "the one of OpenCV's darknet importer",
    "ultralytics": "the one of ultralytics' early darknet models",
    "keras": "the default of Keras",
}


def _epsilon_text(epsilon: Epsilon) -> str:
    side = "inside" if epsilon.inside else "outside"
    text = f"{epsilon.value:g} {side} the root"
    names = [name for name in RUNTIMES if RUNTIMES[name] == epsilon]
    return f"{text}: {_WHOSE[names[0]]}" if names else text


def _columns(runtimes: Sequence[str]) -> list[Column]:
    """Return the columns of a folded layer; columns of runtimes are dropped from last to first."""
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


def _nan_last(change: float) -> tuple[bool, float]:
    """Return a key that sorts NaN after every number."""
    return math.isnan(change), change


def _percent(change: float) -> str:
    if math.isnan(change):
        return "NaN"
    return "<0.01%" if change < 1e-4 else f"{render.number(100 * change)}%"


def _change_lines(folded: Sequence[FoldedLayer], runtimes: Sequence[str]) -> Iterator[Line]:
    """Yield an explanation of the runtimes' columns, and the largest change over all layers."""
    if not folded or not runtimes:
        return
    changes = {name: [layer.gain_change[name] for layer in folded] for name in runtimes}
    most = ", ".join(f"{name} {_percent(max(values, key=_nan_last))}" for name, values in changes.items())
    yield Line(
        "runtimes",
        "those with another ε computed other gains before folding; their columns show the largest change in each "
        f"layer. Over all layers: {most}",
    )
    yield BLANK


def _remarks(layers: Sequence[FoldedLayer]) -> Iterator[Line]:
    """Yield a line for each layer with a remark, and the number of layers that were not selected."""
    for layer in layers:
        if layer.reason and layer.selected:
            text = f"layer {layer.index} {_name(layer)}: {layer.reason}"
            yield Line("folded" if layer.folded else "kept", text)
    count = len({layer.index for layer in layers if not layer.selected})
    if count:
        yield Line("kept", f"{plural(count, 'layer')} that {'was' if count == 1 else 'were'} not selected")


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
