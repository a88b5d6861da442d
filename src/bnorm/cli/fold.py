"""`bnorm fold`: a model that computes the same without batch normalisation."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from bnorm.cli import options, render
from bnorm.cli.render import Column, Page, Table
from bnorm.folding import FoldReport, fold
from bnorm.model import read_model


@click.command(name="fold")
@options.cfg_argument
@options.weights_argument
@click.option("-o", "--output", type=options.FILE, required=True, help="The folded weights file.")
@click.option("--output-cfg", type=options.FILE, help="The folded cfg.  [default: OUTPUT with the suffix .cfg]")
@click.option("--force", is_flag=True, help="Overwrite outputs that exist; an input never is.")
@options.dialect_option
@options.format_option
def command(
    cfg: Path, weights: Path, output: Path, output_cfg: Path | None, force: bool, dialect: str, format_: str
) -> None:
    """Write a model that computes the same without batch normalisation, for any reader in any dialect.

    \b
    bnorm fold yolov4.cfg yolov4.weights -o folded.weights
    bnorm fold yolov4.cfg yolov4.weights -o f.weights --output-cfg f.cfg --force

    The folded cfg is the old one less its batch_normalize lines; the header is copied. ε is 1e-5 inside the root, as
    in every fork's GPU path and in AlexeyAB's and hank-ai's CPU path. Until other layers can be folded, a network
    with batch normalisation outside [convolutional] is refused.
    """
    model = read_model(cfg, weights, dialect)
    report = fold(model, output, output_cfg or output.parent / f"{output.stem}.cfg", force=force)
    render.note(model)
    render.show(_page(report), format_)


def _page(report: FoldReport) -> Page:
    totals = (
        ("batch-normalised layers", len(report.layers), 0),
        ("parameters", report.parameters_before, report.parameters_after),
        ("bytes", report.bytes_before, report.bytes_after),
    )
    done = f"folded {len(report.layers)} layers into" if report.layers else "nothing to fold; copied to"
    return Page(
        document=lambda: _document(report),
        rows=Table((Column("", right=False), Column("before", render.count), Column("after", render.count)), totals),
        records=Table(
            [Column(name) for name in ("index", "type", "part", "folded", "reason")],
            [(layer.index, layer.type, layer.part, int(layer.folded), layer.reason) for layer in report.layers],
        ),
        summary=(f"{done} {report.output} and {report.output_cfg}", ""),
    )


def _document(report: FoldReport) -> dict[str, object]:
    layers = [asdict(layer) | {"max_abs_error": None, "max_rel_error": None} for layer in report.layers]
    return asdict(report) | {"layers": layers, "output": str(report.output), "output_cfg": str(report.output_cfg)}
