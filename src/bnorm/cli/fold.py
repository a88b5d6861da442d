"""`bnorm fold`: a model that computes the same without batch normalisation."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from bnorm.batchnorm.epsilon import RUNTIMES, Epsilon
from bnorm.cli import options, page, render, terminal
from bnorm.cli.page import Column, Page, Table
from bnorm.darknet.autodetect import read_model
from bnorm.transforms.fold.fold import POLICIES, FoldedLayer, FoldReport, fold


@click.command(name="fold")
@options.cfg_argument
@options.weights_argument
@click.option("-o", "--output", type=options.FILE, help="The folded weights file.  [required without --dry-run]")
@click.option("--output-cfg", type=options.FILE, help="The folded cfg.  [default: OUTPUT with the suffix .cfg]")
@options.epsilon_option("darknet")
@options.layers_option
@click.option(
    "--bad-variance",
    type=click.Choice(POLICIES),
    default="error",
    show_default=True,
    help="A variance that is negative, infinite or no number: fail, take the nearest one (0 for no number), or leave "
    "its layer as it is.",
)
@click.option("--dry-run", is_flag=True, help="Fold and verify, and write nothing.")
@click.option("--no-verify", is_flag=True, help="Do not compare each folded layer with what it was.")
@click.option("--force", is_flag=True, help="Overwrite outputs that exist; an input never is.")
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
    """Write a model that computes the same without batch normalisation, for any reader in any dialect.

    \b
    bnorm fold yolov4.cfg yolov4.weights -o folded.weights
    bnorm fold yolov4.cfg yolov4.weights -o for_opencv.weights --epsilon opencv
    bnorm fold yolov4.cfg yolov4.weights --dry-run --format markdown

    The folded cfg is the old one less its batch_normalize lines and the [batchnorm] sections that went into the layer
    beside them; the header is copied. Every folded layer is compared with what it was. What cannot be folded exactly
    stays, and the output says why.
    """
    if output is None and not dry_run:
        raise click.UsageError("Missing option '-o': the folded weights file, or --dry-run.")
    model = read_model(cfg, weights, dialect)
    selection = options.selection(layers, model)
    with terminal.progress("folding") as advance:
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
    done = [layer for layer in report.layers if layer.folded]
    remarks = [_remark(layer) for layer in report.layers if layer.reason]
    return Page(
        document=lambda: _document(report),
        rows=_rows(done, others),
        records=_records(report),
        summary=(_headline(report), ""),
        footer=[*_guard(done, epsilon, others), *remarks, *([""] if remarks else ())],
        totals=_totals(report),
    )


def _headline(report: FoldReport) -> str:
    count = len({layer.index for layer in report.layers if layer.folded})
    layers = f"{count} layer{'s' * (count != 1)}"
    if report.output is None:
        return f"would fold {layers}; a dry run writes nothing" if count else "nothing to fold"
    names = f"{report.output} and {report.output_cfg}"
    return f"folded {layers} into {names}" if count else f"nothing to fold; the same in {names}"


def _rows(done: list[FoldedLayer], others: list[str]) -> Table:
    columns = [Column("layer"), Column("type", right=False), Column("max abs", render.number)]
    columns += [Column("max rel", render.number)]
    columns += [Column(name, _percent, spare=number) for number, name in enumerate(others, 1)]
    return Table(columns, [_row(layer, others) for layer in done])


def _row(layer: FoldedLayer, others: list[str]) -> tuple[page.Cell, ...]:
    changes = (layer.gain_change[name] for name in others)
    return layer.index, _name(layer), layer.max_abs_error, layer.max_rel_error, *changes


def _name(layer: FoldedLayer) -> str:
    return f"{layer.type} {layer.part}".rstrip()


def _percent(change: float) -> str:
    return "<0.01%" if change < 1e-4 else f"{render.number(100 * change)}%"


def _guard(done: list[FoldedLayer], epsilon: Epsilon, others: list[str]) -> list[str]:
    """What the columns mean: errors of the outputs, and gains that other runtimes would have computed."""
    if not done:
        return []
    most = ", ".join(f"{name} {_percent(max(layer.gain_change[name] for layer in done))}" for name in others)
    place = "inside" if epsilon.inside else "outside"
    return [
        "",
        f"ε        {epsilon.value:g} {place} the root. Programs with another ε computed other gains before; the last "
        f"columns say by how much at most, over all layers: {most}",
        "",
    ]


def _remark(layer: FoldedLayer) -> str:
    return f"{'folded' if layer.folded else 'kept':8} layer {layer.index} {_name(layer)}: {layer.reason}"


def _totals(report: FoldReport) -> Table:
    normalised = len({layer.index for layer in report.layers})
    kept = len({layer.index for layer in report.layers if not layer.folded})
    rows = (
        ("batch-normalised layers", normalised, kept),
        ("parameters", report.parameters_before, report.parameters_after),
        ("bytes", report.bytes_before, report.bytes_after),
    )
    return Table((Column("", right=False), Column("before", render.count), Column("after", render.count)), rows)


def _records(report: FoldReport) -> Table:
    names = ("index", "type", "part", "folded", "reason", "max_abs_error", "max_rel_error")
    rows = [
        (
            *(layer.index, layer.type, layer.part, int(layer.folded), layer.reason),
            *(layer.max_abs_error, layer.max_rel_error),
            *(layer.gain_change.get(name) for name in RUNTIMES),
        )
        for layer in report.layers
    ]
    return Table([Column(name) for name in (*names, *(f"gain_change_{name}" for name in RUNTIMES))], rows)


def _document(report: FoldReport) -> dict[str, object]:
    paths = (str(path) if path else None for path in (report.output, report.output_cfg))
    return asdict(report) | dict(zip(("output", "output_cfg"), paths, strict=True))
