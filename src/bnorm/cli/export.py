"""`bnorm export`: arrays of a model in files of other programs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import click

from bnorm.batchnorm.epsilon import Epsilon
from bnorm.cli import options, render, terminal
from bnorm.cli.documents import export_document
from bnorm.cli.export_folds import fold_lines
from bnorm.cli.export_onnx import onnx_page
from bnorm.cli.page import BLANK, Column, Line, Page, Records, Table
from bnorm.cli.progress import progress
from bnorm.darknet.autodetect import read_model
from bnorm.darknet.model import Model
from bnorm.exchange.encoding import DTYPES, SCALE_PER, Rounding
from bnorm.exchange.export import FORMATS, ExportedArray, ExportReport, check_choices, export, format_of
from bnorm.exchange.names import NAMES
from bnorm.exchange.onnx.options import HEAD_FORMS, NEWEST, OLDEST, OPSET, GraphChoices, onnx_options
from bnorm.exchange.onnx.report import OnnxReport
from bnorm.text import plural


@click.command(name="export", cls=options.Command)
@options.cfg_argument
@options.weights_argument
@click.option(
    "-o",
    "--output",
    type=options.FILE,
    required=True,
    help=f"Output. The suffix decides: {', '.join(filter(None, FORMATS))}, or none for a folder of .bin files.",
)
@click.option("--fold", is_flag=True, help="Fold batch normalisation first, as `bnorm fold` does.")
@click.option("--keep-batchnorm", is_flag=True, help="Do not fold for a format that is folded by default.")
@options.epsilon_option("darknet")
@options.bad_variance_option
@options.layers_option
@click.option(
    "--names",
    type=click.Choice(NAMES),
    default="bnorm",
    show_default=True,
    help="Names of the arrays: those of bnorm, or of a family of PyTorch ports (.npz, .safetensors, .wts).",
)
@click.option(
    "--dtype",
    type=click.Choice(DTYPES),
    default="float32",
    show_default=True,
    help="Type of the values (.npz, .h, folder). int8 and int16 are for weights, with their scales beside them.",
)
@click.option(
    "--scale-per",
    type=click.Choice(SCALE_PER),
    default="channel",
    show_default=True,
    help="What has a scale of its own with int8 and int16. The table shows the errors of both.",
)
@click.option(
    "--opset", type=int, metavar="N", help=f"Version of the ONNX operators, {OLDEST} to {NEWEST}.  [default: {OPSET}]"
)
@click.option(
    "--head",
    type=click.Choice(HEAD_FORMS),
    help="Output of the detection layers of an ONNX graph: decoded boxes, or their raw input.  [default: boxes]",
)
@click.option("--batch", metavar="N|dynamic", help="Number of images that an ONNX graph takes.  [default: 1]")
@click.option("--no-verify", is_flag=True, help="Do not compare folded layers, or what an ONNX graph outputs.")
@options.force_option
@options.dialect_option
@options.format_option
@options.quiet_option
def command(
    cfg: Path,
    weights: Path | None,
    output: Path,
    fold: bool,
    keep_batchnorm: bool,
    epsilon: Epsilon,
    bad_variance: str,
    layers: tuple[range, ...],
    names: str,
    dtype: str,
    scale_per: str,
    opset: int | None,
    head: str | None,
    batch: str | None,
    no_verify: bool,
    force: bool,
    dialect: str,
    format_: str,
) -> None:
    """Write a model for NumPy, PyTorch, TensorRT or C, or as an ONNX graph.

    \b
    bnorm export yolov4.cfg yolov4.weights -o yolov4.npz
    bnorm export yolov4.cfg yolov4.weights -o net.safetensors --names ultralytics
    bnorm export yolov4.cfg yolov4.weights -o folded --fold --dtype int8
    bnorm export tiny.cfg tiny.weights -o tiny.h --layer 0-3
    bnorm export yolov4.cfg yolov4.weights -o yolov4.onnx

    The suffix of the output chooses the format; .h is written with a .c beside it, a folder holds .bin files and
    layout.json. Weights keep darknet's order: (filters, channels, height, width), and (outputs, inputs).
    """
    files = options.full_pair(cfg, weights)
    model = read_model(*files, dialect)
    selection = options.selection(layers, model)
    try:
        choices = GraphChoices(opset=opset, head=head, batch=batch)
        check_choices(output, names=names, dtype=dtype, graph=choices)
        if format_of(output).graph:
            onnx_options(epsilon, keep_batchnorm=keep_batchnorm, verify=not no_verify, choices=choices)
            if selection is not None:
                raise ValueError("--layer, expected none: an ONNX file holds the whole network")
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    with progress("exporting") as advance:
        report = export(
            model,
            output,
            fold=fold,
            keep_batchnorm=keep_batchnorm,
            epsilon=epsilon,
            bad_variance=bad_variance,
            layers=selection,
            names=names,
            dtype=dtype,
            scale_per=scale_per,
            opset=opset,
            head=head,
            batch=batch,
            verify=not no_verify,
            force=force,
            advance=advance,
        )
    terminal.note(model)
    graph = report.details
    render.show(onnx_page(report, model, graph) if isinstance(graph, OnnxReport) else _page(report, model), format_)


def _page(report: ExportReport, model: Model) -> Page:
    return Page(
        document=lambda: export_document(report, model),
        records=_records(report),
        summary=(Line(None, _headline(report)), BLANK),
        table=Table(ROUNDING_COLUMNS, _rounding_rows(report.roundings)) if report.roundings else _array_table(report),
        footer=tuple(_remarks(report)),
    )


def _headline(report: ExportReport) -> str:
    names = " and ".join(map(str, report.outputs)) if len(report.outputs) == 2 else str(report.output)
    return f"wrote {plural(len(report.arrays), 'array')} in {plural(report.nbytes, 'byte')} to {names}"


def _array_table(report: ExportReport) -> Table:
    return Table(ARRAY_COLUMNS, [row._asdict() for row in report.arrays])


def _shape(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))


ARRAY_COLUMNS = (
    Column("layer", "layer"),
    Column("name", "name", right=False),
    Column("shape", "shape", _shape, right=False),
)

ROUNDING_COLUMNS = (
    Column("name", "name", right=False),
    Column("scale from", "scale_min", render.number, drop_order=3),
    Column("to", "scale_max", render.number, drop_order=4),
    Column("max error", "max_abs", render.number),
    Column("rms error", "rms", render.number),
    Column("dB", "snr", lambda snr: f"{snr:.1f}"),
    Column("tensor: max", "tensor_max_abs", render.number, drop_order=2),
    Column("rms", "tensor_rms", render.number, drop_order=1),
    Column("dB", "tensor_snr", lambda snr: f"{snr:.1f}"),
)


def _rounding_rows(roundings: Sequence[Rounding]) -> list[Mapping[str, object]]:
    """Return a row per array: its errors with scales per channel, and those with one scale per tensor."""
    tensor = {
        row.name: {f"tensor_{field}": getattr(row, field) for field in ("max_abs", "rms", "snr")}
        for row in roundings
        if row.scale_per == "tensor"
    }
    return [row._asdict() | tensor.get(row.name, {}) for row in roundings if row.scale_per != "tensor"]


def _remarks(report: ExportReport) -> Iterator[Line]:
    """Yield the remarks below the table."""
    if any(row.scale_per for row in report.roundings):
        yield BLANK
        yield Line(
            "errors",
            "with one scale per channel, and (tensor) with one for all weights of a layer; dB: signal to noise. "
            "Nothing here runs the network: how accurate it stays is not known.",
        )
    if report.epsilon:
        yield BLANK
        yield from fold_lines(report)
    if report.removed:
        gone = ", ".join(map(str, report.removed))
        yield Line("layers", f"are numbered as in the folded cfg: {gone} of the original cfg were folded into others")
    if report.output.suffix == ".h" and report.nbytes > LARGE_SOURCE:
        yield Line(
            "large", "for a compiler; a folder of .bin files can be linked with .incbin or `ld -r -b binary` instead"
        )


LARGE_SOURCE = 16 << 20  # bytes of C


def _records(report: ExportReport) -> Records:
    if report.roundings:
        return Records(Rounding._fields, report.roundings)
    rows = [(*row[:4], "x".join(map(str, row.shape)), row.dtype) for row in report.arrays]
    return Records(ExportedArray._fields, rows)
