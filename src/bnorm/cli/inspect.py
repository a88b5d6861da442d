"""`bnorm inspect`: what a model holds, by layer or by channel."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import click
import numpy as np

from bnorm.batchnorm.epsilon import Epsilon, Vector
from bnorm.cli import options, render, terminal
from bnorm.cli.documents import document, layer_document
from bnorm.cli.page import Cell, Column, Page, Table
from bnorm.darknet.autodetect import read_model
from bnorm.darknet.model import Model
from bnorm.darknet.shapes import size_text
from bnorm.files import check_outputs
from bnorm.reports import plot
from bnorm.reports.inspect import ChannelRow, Inspection, LayerReport, channel_rows, inspect
from bnorm.statistics.channels import Statistics
from bnorm.statistics.quantiles import Quantiles


@click.command(name="inspect")
@options.cfg_argument
@options.optional_weights_argument
@options.layers_option
@click.option("--channels", is_flag=True, help="A row for each normalised channel; reads their weights, too.")
@click.option("--sort", type=options.Order(), help="By this column of the CSV; largest first, or smallest with :asc.")
@click.option("--top", type=click.IntRange(1), help="Only the first TOP rows.")
@options.epsilon_option(None, "the dialect's CPU")
@click.option("--plot", "picture", type=options.FILE, help="Draw scale, variance and gain by layer: .png, .svg, .pdf.")
@click.option("-o", "--output", type=options.FILE, help="Write to this file instead of printing.")
@options.dialect_option
@options.format_option
def command(
    cfg: Path,
    weights: Path | None,
    layers: tuple[range, ...],
    channels: bool,
    sort: options.Sorting | None,
    top: int | None,
    epsilon: Epsilon | None,
    picture: Path | None,
    output: Path | None,
    dialect: str,
    format_: str,
) -> None:
    """Show what a model holds: its header, whether the pair fits, and a row per layer or per channel.

    \b
    bnorm inspect yolov4.cfg yolov4.weights
    bnorm inspect yolov4.cfg                      what the cfg alone says
    bnorm inspect yolov4.cfg yolov4.weights --channels --sort gain --top 20
    bnorm inspect yolov4.cfg yolov4.weights --layer 0-12 --format json -o v4.json
    bnorm inspect yolov4.cfg yolov4.weights --plot v4.png

    |scale|, variance (the rolling one) and |gain| are the smallest and largest of a layer's channels; gain is
    scale / deviation, the factor that the layer applies at inference. A dead channel's output is constant. The last
    column is a histogram of |scale| on a fixed axis, half a decade to a character, from .01 to 10.
    """
    _check_needs(weights, {"--channels": channels, "--epsilon": epsilon, "--plot": picture})
    _check_outputs(cfg, weights, picture, output)
    model = read_model(cfg, weights, dialect)
    report = inspect(model, options.selection(layers, model), epsilon=epsilon, weights=channels)
    page = _by_channel(report, sort, top) if channels else _by_layer(report, sort, top)
    if picture:
        plot.save(report, picture)
    if report.misfit is None:
        terminal.note(model)
    render.show(page, format_, output)
    if report.misfit is not None:
        raise report.misfit


def _check_needs(weights: Path | None, given: dict[str, object]) -> None:
    """What shows the weights' numbers would show nothing without them."""
    for option, value in given.items():
        if value and not weights:
            raise click.UsageError(f"{option} needs WEIGHTS")


def _check_outputs(cfg: Path, weights: Path | None, picture: Path | None, output: Path | None) -> None:
    if picture and picture.suffix.lower() not in plot.SUFFIXES:
        raise click.BadParameter(f"{picture}, expected a name in {', '.join(plot.SUFFIXES)}", param_hint="--plot")
    inputs = [path for path in (cfg, weights) if path]
    check_outputs([path for path in (picture, output) if path], inputs, force=True)


# --- by layer ---------------------------------------------------------------------------------------------------------

LAYER_COLUMNS = """index type line channels height width outputs batch_normalize parameters scale_min scale_max
    variance_min variance_max gain_min gain_max dead near_dead constant scale_median variance_median
    gain_median""".split()


def _by_layer(report: Inspection, sort: options.Sorting | None, top: int | None) -> Page:
    records = [_record(layer) for layer in report.layers]
    order = _order(LAYER_COLUMNS, records, sort)[:top]
    layers = [report.layers[i] for i in order]
    return _page(
        report,
        layers=(layer_document(layer, None) for layer in layers),
        rows=Table(LAYER_TABLE, [row for layer in layers for row in _rows(layer)]),
        records=Table([Column(name) for name in LAYER_COLUMNS], [records[i] for i in order]),
    )


def _record(report: LayerReport) -> tuple[Cell, ...]:
    layer, found = report.layer, report.statistics
    place = (layer.index, layer.type, layer.section.line, *layer.output, int(layer.batch_normalize), report.parameters)
    if found is None:
        return *place, *(None,) * (len(LAYER_COLUMNS) - len(place))
    spans = [found.quantiles[name] for name in ("scale_magnitude", "rolling_variance", "gain_magnitude")]
    ends = chain.from_iterable((span.low, span.high) for span in spans)
    return *place, *ends, found.dead, found.near_dead, found.constant, *(span.q50 for span in spans)


def _span(span: Quantiles) -> str:
    return f"{render.number(span.low)}..{render.number(span.high)}"


LAYER_TABLE = (
    Column("layer"),
    Column("type", right=False),
    Column("output"),
    Column("params", render.count),
    Column("|scale|", _span),
    Column("variance", _span),
    Column("|gain|", _span),
    Column("dead"),
    Column(".01-10", right=False, spare=1),
)


def _rows(report: LayerReport) -> list[tuple[Any, ...]]:
    """The layer's row, and below it those of its parts where they have names."""
    layer = report.layer
    place = (layer.index, layer.type, size_text(layer.output), report.parameters or None)
    rows = [(*place, *_numbers(report.statistics, [channels.scale for channels in report.channels.values()]))]
    for name, part in report.parts.items():
        if name:
            stored = sum(array.size for array in report.arrays if array.part == name)
            rows.append((None, f"  {name}", None, stored, *_numbers(part, [report.channels[name].scale])))
    return rows


def _numbers(found: Statistics | None, scales: list[Vector]) -> tuple[Any, ...]:
    if found is None:
        return (None,) * 5
    spans = (found.quantiles[name] for name in ("scale_magnitude", "rolling_variance", "gain_magnitude"))
    return *spans, found.dead, _histogram(np.abs(np.concatenate(scales)))


EDGES = (0, 0.0316, 0.1, 0.316, 1, 3.16, math.inf)  # half decades; what lies beyond the axis counts at its ends


def _histogram(values: Vector) -> str:
    """A bar per half decade, the highest for the fullest."""
    counts = [int(np.count_nonzero((values >= low) & (values < high))) for low, high in pairwise(EDGES)]
    return "".join(terminal.BARS[math.ceil(8 * count / max(*counts, 1))] for count in counts)


# --- by channel -------------------------------------------------------------------------------------------------------

MOST_CHANNELS = 100_000  # that have a row each; the largest network that any fork ships has some 96,000

CHANNEL_TABLE = (
    Column("layer", right=False),
    Column("channel"),
    Column("scale", render.number),
    Column("bias", render.number),
    Column("mean", render.number, spare=2),
    Column("variance", render.number),
    Column("gain", render.number),
    Column("offset", render.number),
    Column("norm", render.number, spare=3),
    Column("max|w|", render.number, spare=1),
    Column("folded", render.number),
    Column(">0", lambda share: f"{share:.0%}"),
    Column("state", right=False),
)


def _by_channel(report: Inspection, sort: options.Sorting | None, top: int | None) -> Page:
    _check_count(report)
    rows = channel_rows(report.layers)
    rows = [rows[i] for i in _order(ChannelRow._fields, rows, sort)[:top]]
    by_layer: dict[int, list[ChannelRow]] = {layer.layer.index: [] for layer in report.layers}
    for row in rows:
        by_layer[row.layer].append(row)
    shown = [(f"{row.layer}.{row.part}" if row.part else str(row.layer), *row[2:]) for row in rows]
    return _page(
        report,
        layers=(layer_document(layer, by_layer[layer.layer.index]) for layer in report.layers),
        rows=Table(CHANNEL_TABLE, shown),
        records=Table([Column(name) for name in ChannelRow._fields], rows),
    )


def _check_count(report: Inspection) -> None:
    """Rows are for people and spreadsheets: what has more is no network, or may be looked at layer by layer."""
    count = sum(channels.scale.size for layer in report.layers for channels in layer.channels.values())
    if count > MOST_CHANNELS:
        what = f"{count:,} normalised channels, expected at most {MOST_CHANNELS:,}: choose some with --layer"
        raise click.BadParameter(what, param_hint="'--channels'")


def _order(columns: Sequence[str], rows: Sequence[Sequence[Any]], sort: options.Sorting | None) -> list[int]:
    """The rows' numbers in order: NaN first, what does not apply last, equal ones as they stand in the file."""
    if sort is None:
        return list(range(len(rows)))
    if sort.column not in columns:
        hint = "" if columns is ChannelRow._fields else "; with --channels others"
        what = f"{sort.column!r}, expected one of {', '.join(columns)}{hint}"
        raise click.BadParameter(what, param_hint="--sort")
    place = columns.index(sort.column)
    values = {number: value for number, row in enumerate(rows) if (value := row[place]) not in (None, "")}
    nan = [number for number, value in values.items() if isinstance(value, float) and math.isnan(value)]
    known = sorted(values.keys() - nan, key=lambda number: (values[number], number if sort.ascending else -number))
    return [*nan, *(known if sort.ascending else reversed(known)), *(n for n in range(len(rows)) if n not in values)]


# --- what both show ---------------------------------------------------------------------------------------------------


def _page(report: Inspection, *, layers: Iterable[dict[str, Any]], rows: Table, records: Table) -> Page:
    return Page(
        document=lambda: document(report, layers),
        rows=rows,
        records=records,
        summary=_summary(report),
        footer=_footer(report),
        findings=report.findings,
    )


def _summary(report: Inspection) -> list[str]:
    model = report.model
    entry = model.network.input
    normalised = sum(layer.batch_normalize for layer in model.network.layers)
    lines = [
        f"cfg      {model.network.text.path}",
        f"         {len(model.network.layers)} layers, {normalised} batch-normalised; input {size_text(entry)}; "
        f"dialect {model.dialect.name}",
    ]
    if model.weights is None:
        return [*lines, f"weights  none given; the file must have {model.layout.nbytes:,} bytes"]
    return [*lines, f"weights  {model.weights}", *_header(model), *_verdict(report)]


def _header(model: Model) -> tuple[str, str]:
    header, batch = model.header, model.network.images_per_batch
    writer = f"as written by {' or '.join(header.writers)}" if header.writers else "which no known fork writes"
    # batch is 0 where subdivisions > batch
    batches = f" = {header.seen // batch:,} batches of {batch}" if batch and header.seen >= 0 else ""
    return f"         header {header.version}, {writer}", f"         {header.seen:,} images seen{batches}"


def _verdict(report: Inspection) -> tuple[str, ...]:
    layout = report.model.layout
    if report.misfit is None:
        sizes = f"{layout.nbytes:,} bytes = {report.model.header.nbytes} + 4 × {layout.parameters:,} parameters"
        return (f"verdict  fits: {sizes}",)
    where, _, sizes = report.misfit.what.rpartition(", expected ")
    place, _, amount = where.rpartition(", ")
    return "verdict  does not fit:", *(f"         {part}" for part in (place, amount, f"expected {sizes}") if part)


def _footer(report: Inspection) -> list[str]:
    shown = sum(layer.parameters for layer in report.layers)
    found = [layer.statistics for layer in report.layers if layer.statistics]
    total = f"total    {shown:,} parameters in {len(report.layers)} layer{'s' * (len(report.layers) != 1)}"
    if found:
        dead, channels = (sum(getattr(statistics, name) for statistics in found) for name in ("dead", "channels"))
        total += f"; {dead:,} of {channels:,} normalised channels dead"
    elif report.model.fits:
        total += "; no normalised channel"
    return ["", total, *_widest(report)]


def _widest(report: Inspection) -> list[str]:
    """The layer that a quantisation of whole tensors harms most, where weights were read."""
    ranges = [(layer.layer.index, layer.statistics.weight_range) for layer in report.layers if layer.statistics]
    known = [(found.after, found.before, index) for index, found in ranges if found and found.after < math.inf]
    if not known:
        return []
    after, before, index = max(known)
    times = f"{render.number(after)} times the narrowest, {render.number(before)} before folding"
    return [f"range    layer {index}: widest channel {times}"]
