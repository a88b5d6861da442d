"""The command `bnorm inspect`: the contents of a model, by layer or by channel."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import click

from bnorm.batchnorm.epsilon import Epsilon
from bnorm.cli import options, render, terminal
from bnorm.cli.documents import Document, inspect_document, layer_document
from bnorm.cli.inspect_header import header_page
from bnorm.cli.inspect_tables import (
    CHANNEL_TABLE,
    LAYER_RECORD,
    LAYER_TABLE,
    channel_row,
    layer_record,
    layer_rows,
    sorted_rows,
)
from bnorm.cli.page import BLANK, Line, Page, Records, Table
from bnorm.cli.sentences import fitting, not_fitting, written_by
from bnorm.darknet.autodetect import read_model
from bnorm.darknet.model import Model
from bnorm.darknet.pairing import Pair, cfg_names
from bnorm.darknet.shapes import size_text
from bnorm.darknet.weights import misfit_error
from bnorm.files import FORCE, check_outputs
from bnorm.reports.header import inspect_header
from bnorm.reports.inspect import ChannelRow, Inspection, channel_rows, inspect
from bnorm.text import plural


@click.command(name="inspect", cls=options.Command)
@options.cfg_argument
@options.weights_argument
@options.layers_option
@click.option("--channels", is_flag=True, help="One row per normalised channel.")
@click.option(
    "--sort",
    type=options.sorting,
    metavar="COLUMN[:asc]",
    help="Sort by a column of the table or the CSV, largest first; with :asc smallest first.",
)
@click.option("--top", type=click.IntRange(1), metavar="N", help="Show only the first N rows.")
@options.epsilon_option(None)
@click.option("--plot", "picture", type=options.FILE, help="Draw scale, variance and gain per layer: .png, .svg, .pdf.")
@click.option("-o", "--output", type=options.FILE, help="Write to this file instead of stdout; - is stdout.")
@options.force_option
@options.trailing_option
@options.dialect_option
@options.report_format_option
@options.quiet_option
@click.pass_context
def command(
    context: click.Context,
    cfg: Path,
    weights: Path | None,
    layers: tuple[range, ...],
    channels: bool,
    sort: options.Sorting | None,
    top: int | None,
    epsilon: Epsilon | None,
    picture: Path | None,
    output: Path | None,
    force: bool,
    trailing: str,
    dialect: str,
    format_: str | None,
) -> None:
    """Show what is in a model: its header, whether the pair fits, and one row per layer or per channel.

    \b
    bnorm inspect yolov4.cfg yolov4.weights
    bnorm inspect yolov4.cfg                      from the cfg only
    bnorm inspect yolov4.weights                  and the cfg of its name, if any
    bnorm inspect yolov4.cfg yolov4.weights --channels --sort gain --top 20
    bnorm inspect yolov4.cfg yolov4.weights --sort range --top 10
    bnorm inspect yolov4.cfg yolov4.weights --layer 0-12,81 -o v4.json
    bnorm inspect yolov4.cfg yolov4.weights --plot v4.png

    scale and gain (magnitudes) and variance (the rolling one) are shown from a layer's smallest channel to its largest;
    gain is scale / deviation, the factor that the layer applies at inference. A dead channel has a constant output.
    folded_max is the largest weight once gains are folded in, range the widest channel's over the narrowest's, which
    INT8 for whole tensors has to cover. The last column is a histogram of the scales on a fixed axis from .01 to 10,
    half a decade per character. Columns that do not fit the terminal are left out.
    """
    output = None if output == options.STDOUT else output
    form = options.report_format(format_, output)
    files = options.given_pair(cfg, weights)
    of_values = {"--channels": channels, "--epsilon": epsilon, "--plot": picture}
    _check_needs(files, of_values, {"--layer": layers, "--sort": sort, "--top": top})
    _check_outputs(files, picture, output, force)
    if files.cfg is None:
        render.show(header_page(inspect_header(cfg, dialect)), form, output)
        return
    model = read_model(files.cfg, files.weights, dialect)
    selection = options.selection(layers, model)
    norms = channels or form == "json"  # the table and the CSV of layers have none
    report = inspect(model, selection, epsilon=epsilon, weights=True, norms=norms, trailing=trailing)
    page = _by_channel(report, sort, top) if channels else _by_layer(report, sort, top)
    if picture:
        from bnorm.reports import plot

        plot.save(report, picture)
    if report.misfit is None:
        terminal.note(model)
    render.show(page, form, output)
    if report.misfit is not None and model.weights:
        terminal.fail(misfit_error(model.weights, report.misfit))  # not raised: stdout already has its JSON document
        context.exit(1)


def _check_needs(files: Pair, of_values: Mapping[str, object], of_layers: Mapping[str, object]) -> None:
    """Refuse options that need weights if there are none, or layers if there is no cfg."""
    for option, value in of_values.items():
        if value and not files.weights:
            raise click.UsageError(f"{option} needs WEIGHTS")
    for option, value in (*of_values.items(), *of_layers.items()):
        if value and files.weights and not files.cfg:
            what = f"{option} needs CFG: no {' or '.join(cfg_names(files.weights))} beside {files.weights} or in ../cfg"
            raise click.UsageError(what)


def _check_outputs(files: Pair, picture: Path | None, output: Path | None, force: bool) -> None:
    if picture:
        from bnorm.reports.plot import SUFFIXES

        if picture.suffix.lower() not in SUFFIXES:
            raise click.BadParameter(f"{picture}, expected a name in {', '.join(SUFFIXES)}", param_hint="--plot")
    inputs = [path for path in files[:2] if path]
    check_outputs([path for path in (picture, output) if path], inputs, force=force, cause=FORCE)


def _by_layer(report: Inspection, sort: options.Sorting | None, top: int | None) -> Page:
    records = [layer_record(layer) for layer in report.layers]
    order = sorted_rows(LAYER_RECORD, records, sort)[:top]
    layers = [report.layers[i] for i in order]
    return _page(
        report,
        layers=(layer_document(layer) for layer in layers),
        table=Table(LAYER_TABLE, [row for layer in layers for row in layer_rows(layer)]),
        records=Records(LAYER_RECORD, [records[i] for i in order]),
    )


MOST_CHANNELS = 100_000  # rows; the largest network shipped with any fork has about 96,000


def _by_channel(report: Inspection, sort: options.Sorting | None, top: int | None) -> Page:
    _check_count(report)
    rows = channel_rows(report.layers)
    rows = [rows[i] for i in sorted_rows(ChannelRow._fields, rows, sort)[:top]]
    by_layer: dict[int, list[ChannelRow]] = {layer.layer.index: [] for layer in report.layers}
    for row in rows:
        by_layer[row.layer].append(row)
    return _page(
        report,
        layers=(layer_document(layer, by_layer[layer.layer.index]) for layer in report.layers),
        table=Table(CHANNEL_TABLE, [channel_row(row) for row in rows]),
        records=Records(ChannelRow._fields, rows),
    )


def _check_count(report: Inspection) -> None:
    """Refuse more rows than people or spreadsheets can use."""
    count = sum(channels.scale.size for layer in report.layers for channels in layer.channels.values())
    if count > MOST_CHANNELS:
        what = f"{count:,} normalised channels, expected at most {MOST_CHANNELS:,}: choose some with --layer"
        raise click.BadParameter(what, param_hint="'--channels'")


def _page(report: Inspection, *, layers: Iterable[Document], table: Table, records: Records) -> Page:
    return Page(
        document=lambda: inspect_document(report, layers),
        records=records,
        summary=list(_summary(report)),
        table=table,
        footer=[BLANK, Line("total", _total(report)), *_widest(report)],
        findings=report.findings,
    )


def _summary(report: Inspection) -> Iterator[Line]:
    model = report.model
    layers = model.network.layers
    normalised = sum(layer.batch_normalize for layer in layers)
    yield Line("cfg", str(model.network.text.path), wrap=False)
    yield Line(
        "",
        f"{plural(len(layers), 'layer')}, {normalised} batch-normalised; input {size_text(model.network.input)}; "
        f"dialect {model.dialect.name}",
    )
    if model.weights is None:
        yield Line("weights", f"none given; the file must have {model.layout.nbytes:,} bytes")
        return
    yield Line("weights", str(model.weights), wrap=False)
    yield from _header(model)
    yield from _verdict(report)


def _header(model: Model) -> Iterator[Line]:
    header, batch = model.header, model.network.images_per_batch
    # batch is 0 where subdivisions > batch
    batches = f" = {header.seen // batch:,} batches of {batch}" if batch and header.seen >= 0 else ""
    yield Line("", f"header {header.version}, {written_by(header)}")
    yield Line("", f"{header.seen:,} images seen{batches}")


def _verdict(report: Inspection) -> Iterator[Line]:
    if report.misfit is None:
        yield Line("verdict", fitting(report.model, report.trailing_bytes))
        return
    yield Line("verdict", "does not fit:")
    yield from (Line("", text) for text in not_fitting(report.misfit))


def _total(report: Inspection) -> str:
    total = f"{report.parameters:,} parameters in {plural(len(report.layers), 'layer')}"
    if report.channels:
        return f"{total}; {report.dead:,} of {report.channels:,} normalised channels dead"
    return f"{total}; no normalised channels" if report.fits else total


def _widest(report: Inspection) -> Iterator[Line]:
    """Yield the layer that per-tensor quantisation harms most, if weights were read."""
    ranges = [(layer.layer.index, layer.all_filters.range) for layer in report.layers if layer.all_filters]
    known = [(found.after, found.before, index) for index, found in ranges if found.after < math.inf]
    if known:
        after, before, index = max(known)
        folding = f", {render.number(before)} before folding" if before != after else ""
        yield Line("range", f"layer {index}: widest channel {render.number(after)} times the narrowest{folding}")
