"""`bnorm export`: arrays of a model in files of other programs."""

from __future__ import annotations

from pathlib import Path

import click

from bnorm.batchnorm.epsilon import Epsilon
from bnorm.cli import options, render, terminal
from bnorm.cli.documents import export_document
from bnorm.cli.page import BLANK, Column, Line, Page, Records, Table
from bnorm.cli.progress import progress
from bnorm.darknet.autodetect import read_model
from bnorm.exchange.export import DTYPES, FORMATS, ExportReport, export, format_of
from bnorm.exchange.names import NAMES
from bnorm.text import plural


@click.command(name="export")
@options.cfg_argument
@options.weights_argument
@click.option(
    "-o", "--output", type=options.FILE, required=True, help=f"Output; its suffix decides: {', '.join(FORMATS)}."
)
@click.option("--fold", is_flag=True, help="Fold batch normalisation first.")
@click.option("--keep-batchnorm", is_flag=True, help="Do not fold in a format that folds by default.")
@options.epsilon_option("darknet")
@options.layers_option
@click.option("--names", type=click.Choice(NAMES), default="bnorm", show_default=True, help="Names of the arrays.")
@click.option("--dtype", type=click.Choice(DTYPES), default="float32", show_default=True, help="Type of the values.")
@click.option("--opset", type=int, metavar="N", help="Version of the ONNX operators.")
@click.option("--head", type=click.Choice(["boxes", "raw"]), help="Outputs of an ONNX graph.")
@click.option("--force", is_flag=True, help="Overwrite existing outputs, but never an input.")
@options.dialect_option
@options.format_option
def command(
    cfg: Path,
    weights: Path,
    output: Path,
    fold: bool,
    keep_batchnorm: bool,
    epsilon: Epsilon,
    layers: tuple[range, ...],
    names: str,
    dtype: str,
    opset: int | None,
    head: str | None,
    force: bool,
    dialect: str,
    format_: str,
) -> None:
    """Write arrays of a model to a file of another program.

    \b
    bnorm export yolov4.cfg yolov4.weights -o yolov4.npz
    """
    model = read_model(cfg, weights, dialect)
    selection = options.selection(layers, model)
    try:
        format_of(output)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    with progress("exporting") as advance:
        report = export(
            model,
            output,
            fold=fold,
            keep_batchnorm=keep_batchnorm,
            epsilon=epsilon,
            layers=selection,
            names=names,
            dtype=dtype,
            opset=opset,
            head=head,
            force=force,
            advance=advance,
        )
    terminal.note(model)
    render.show(_page(report), format_)


def _page(report: ExportReport) -> Page:
    return Page(
        document=lambda: export_document(report),
        records=_records(report),
        summary=(Line(None, f"wrote {plural(len(report.arrays), 'array')} to {report.output}"), BLANK),
        table=Table(COLUMNS, [row._asdict() for row in report.arrays]),
    )


COLUMNS = (
    Column("layer", "layer"),
    Column("name", "name", right=False),
    Column("shape", "shape", lambda shape: "x".join(map(str, shape)), right=False),
    Column("type", "dtype", right=False),
)


def _records(report: ExportReport) -> Records:
    rows = [(*row[:4], "x".join(map(str, row.shape)), row.dtype) for row in report.arrays]
    return Records(("layer", "part", "array", "name", "shape", "dtype"), rows)
