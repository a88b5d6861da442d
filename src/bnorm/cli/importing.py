"""The command `bnorm import`: a weights file from the arrays of another program."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from bnorm.batchnorm.epsilon import Epsilon
from bnorm.cli import options, render, terminal
from bnorm.cli.documents import import_document
from bnorm.cli.page import BLANK, Column, Line, Page, Records, Table
from bnorm.cli.progress import progress
from bnorm.darknet.autodetect import read_model
from bnorm.darknet.model import Model
from bnorm.exchange.importing import MOST_SEEN, WAYS, ImportedArray, ImportReport, import_arrays
from bnorm.exchange.matching import ORDER
from bnorm.text import plural


@click.command(name="import", cls=options.Command)
@options.cfg_argument
@click.argument("arrays", type=options.FILE)
@click.option("-o", "--output", type=options.FILE, required=True, help="Weights file to write.")
@click.option(
    "--names",
    type=click.Choice(WAYS),
    default="auto",
    show_default=True,
    help="Names of the arrays: a family, or order to match them by order and shape. auto recognises the families.",
)
@click.option(
    "--epsilon",
    type=options.epsilon,
    metavar="NAME|VALUE[:SIDE]",
    help="ε of the program that the arrays come from: scales are rewritten so that darknet computes the same.",
)
@click.option(
    "--seen",
    type=click.IntRange(0, MOST_SEEN),
    default=0,
    metavar="N",
    help="Number of training images for the header; 0 by default.",
)
@click.option("--partial", is_flag=True, help="The arrays may be those of only the first layers.")
@options.force_option
@options.dialect_option
@options.format_option
@options.quiet_option
def command(
    cfg: Path,
    arrays: Path,
    output: Path,
    names: str,
    epsilon: Epsilon | None,
    seen: int,
    partial: bool,
    force: bool,
    dialect: str,
    format_: str,
) -> None:
    """Write a weights file of the arrays in a .npz, a .safetensors, or a folder of .npy files.

    \b
    bnorm import yolov4.cfg yolov4.npz -o yolov4.weights
    bnorm import yolov4.cfg net.safetensors -o yolov4.weights --epsilon 1e-4
    bnorm import tiny.cfg arrays -o tiny.weights --names order

    Every array is used exactly once, and rounded once to float32. Pickles (.pt, .pth) and .h5 files are never read: the
    error says how to make a .safetensors of them.
    """
    model = read_model(cfg, None, dialect)
    with progress("importing") as advance:
        report = import_arrays(
            model,
            arrays,
            output,
            names=names,
            epsilon=epsilon,
            seen=seen,
            partial=partial,
            force=force,
            advance=advance,
        )
    terminal.note(model)
    render.show(_page(report, model), format_)


def _page(report: ImportReport, model: Model) -> Page:
    rows = [row._asdict() for row in report.arrays if _is_telling(row)]
    remarks = tuple(_remarks(report))
    return Page(
        document=lambda: import_document(report, model),
        records=_records(report),
        summary=(Line(None, _headline(report)), *([BLANK] if rows or remarks else [])),
        table=Table(COLUMNS, rows),
        footer=(BLANK, *remarks) if rows and remarks else remarks,
    )


def _headline(report: ImportReport) -> str:
    return f"wrote {plural(len(report.arrays), 'array')} in {plural(report.nbytes, 'byte')} to {report.output}"


def _is_telling(row: ImportedArray) -> bool:
    """Return whether the table shows the array, which it does unless both name and values are unchanged."""
    own = f"{row.layer}.{row.array}" == row.source and row.dtype == "float32"
    return not own or row.rescaled is not None


def _change(value: float) -> str:
    return render.number(value) if value else ""


COLUMNS = (
    Column("layer", "layer"),
    Column("array", "array", right=False),
    Column("from", "source", right=False),
    Column("type", "dtype", right=False),
    Column("rounding", "rounding", _change, drop_order=2),
    Column("rescaled", "rescaled", render.number, drop_order=1),
)


def _remarks(report: ImportReport) -> Iterator[Line]:
    """Yield the remarks below the table."""
    if report.ends_after is not None:
        last = report.ends_after
        yield Line("partial", f"the file ends after layer {last}, as NAME.conv.{last + 1} of darknet partial does")
    if report.ignored:
        yield Line("ignored", ", ".join(report.ignored))
    rounded = [row for row in report.arrays if row.rounding]
    if rounded:
        worst = max(rounded, key=lambda row: row.rounding)
        most = f"{render.number(worst.rounding)} of a value, in layer {worst.layer} {worst.array}"
        yield Line("rounded", f"{plural(len(rounded), 'array')} to float32: at most {most}")
    odd = [row for row in report.arrays if row.not_finite]
    if odd:
        count = sum(row.not_finite for row in odd)
        first = f"layer {odd[0].layer} {odd[0].array}"
        yield Line("warning", f"{plural(count, 'value')} NaN or infinite, first in {first}; bnorm check says more")
    yield from _epsilon_lines(report)
    if report.heads:
        yield Line("note", _head_sentence(report))


def _epsilon_lines(report: ImportReport) -> Iterator[Line]:
    if report.epsilon:
        side = "inside" if report.epsilon.inside else "outside"
        text = f"{report.epsilon.value:g} {side} the root: the scales are rewritten for darknet's 1e-05"
        yield Line("ε", text)
    elif report.family_epsilon:
        text = f"programs with names of {report.names} add {report.family_epsilon:g} to the variance, darknet 1e-05: "
        yield Line("note", f"{text}if yours does as well, give --epsilon {report.family_epsilon:g}")
    elif report.names == ORDER:
        text = "the arrays are used unchanged. If the batch normalisation of the source has an ε other than 1e-05"
        yield Line("note", f"{text} (yolov5, yolov7 and Keras: 0.001), give --epsilon")


def _head_sentence(report: ImportReport) -> str:
    layers = ", ".join(map(str, report.heads))
    programs = "yolor, ScaledYOLOv4 and later versions of the others decode boxes as (2*sigmoid)²"
    keys = "new_coords=1 and scale_x_y=2.0 in each of them, and activation=logistic in the convolution before it"
    return f"{programs}. If yours does, the [yolo] layers {layers} of the cfg need {keys}"


def _records(report: ImportReport) -> Records:
    plain = (row._asdict() | {"shape": "x".join(map(str, row.shape))} for row in report.arrays)
    return Records(ImportedArray._fields, [tuple(row.values()) for row in plain])
