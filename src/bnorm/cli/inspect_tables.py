"""The tables of `bnorm inspect`: columns and rows by layer and by channel, and their order."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import click
import numpy as np

from bnorm.batchnorm.epsilon import Vector
from bnorm.cli import options, render, terminal
from bnorm.cli.page import Cell, Column
from bnorm.darknet.geometry import geometry
from bnorm.darknet.shapes import size_text
from bnorm.reports.inspect import ChannelRow, LayerReport
from bnorm.statistics.channels import Statistics
from bnorm.statistics.filters import Filters
from bnorm.statistics.quantiles import Quantiles

# --- by layer ---------------------------------------------------------------------------------------------------------

LAYER_RECORD = """index type line channels height width outputs batch_normalize parameters scale_min scale_max
    variance_min variance_max gain_min gain_max dead near_dead constant scale_median variance_median
    gain_median kernel stride groups activation weight_max folded_max range_before range""".split()

QUANTITIES = {"scale": "scale_magnitude", "variance": "rolling_variance", "gain": "gain_magnitude"}


def layer_record(report: LayerReport) -> list[Cell]:
    """Return the layer's row of the CSV, one value for each column of `LAYER_RECORD`."""
    layer = report.layer
    values = {
        "index": layer.index,
        "type": layer.type,
        "line": layer.section.line,
        "channels": layer.output.channels,
        "height": layer.output.height,
        "width": layer.output.width,
        "outputs": layer.output.outputs,
        "batch_normalize": int(layer.batch_normalize),
        "parameters": report.parameters,
        **(_spread(report.statistics) if report.statistics else {}),
        **geometry(layer)._asdict(),
        **_widths(report.all_filters),
    }
    return [values.get(name) for name in LAYER_RECORD]


def _spread(statistics: Statistics) -> dict[str, Cell]:
    """Return the columns of a normalised layer."""
    quantiles = {name: statistics.quantiles[quantity] for name, quantity in QUANTITIES.items()}
    return {
        **{f"{name}_min": found.low for name, found in quantiles.items()},
        **{f"{name}_max": found.high for name, found in quantiles.items()},
        **{f"{name}_median": found.q50 for name, found in quantiles.items()},
        "dead": statistics.dead,
        "near_dead": statistics.near_dead,
        "constant": statistics.constant,
    }


def _widths(filters: Filters | None) -> dict[str, Cell]:
    """Return the columns of a layer with weights; the range is empty if it has no usable channel."""
    if filters is None or not filters.largest.size:
        return {}
    before, after = filters.range
    return {
        "weight_max": float(filters.largest.max()),
        "folded_max": float(filters.folded.max()),
        "range_before": None if math.isnan(before) else before,
        "range": None if math.isnan(after) else after,
    }


def _span(span: Quantiles) -> str:
    return f"{render.number(span.low)}..{render.number(span.high)}"


LAYER_TABLE = (
    Column("index", "index"),
    Column("type", "type", right=False),
    Column("output", "output"),
    Column("kernel", "kernel", drop_order=3),
    Column("stride", "stride", drop_order=2),
    Column("groups", "groups", drop_order=1),
    Column("activation", "activation", right=False, drop_order=4),
    Column("parameters", "parameters", render.count, drop_order=6),
    Column("scale", "scale", _span, drop_order=9),
    Column("variance", "variance", _span, drop_order=10),
    Column("gain", "gain", _span, drop_order=11),
    Column("dead", "dead", drop_order=8),
    Column("folded_max", "folded_max", render.number, drop_order=5),
    Column("range", "range", render.number, drop_order=12),
    Column(".01-10", "histogram", right=False, drop_order=7),
)

# Headings that combine several columns of the CSV: the column to sort by in descending and in ascending order.
SPANS = {
    "output": ("outputs", "outputs"),
    **{name: (f"{name}_max", f"{name}_min") for name in QUANTITIES},
}


def layer_rows(report: LayerReport) -> Iterator[dict[str, Any]]:
    """Yield the layer's row, and after it one per part of a recurrent layer."""
    layer = report.layer
    scales = [channels.scale for channels in report.channels.values()]
    yield {
        "index": layer.index,
        "type": layer.type,
        "output": size_text(layer.output),
        "parameters": report.parameters or None,
        **geometry(layer)._asdict(),
        **_numbers(report.statistics, scales),
        **_widths(report.all_filters),
    }
    for name in dict.fromkeys((*report.parts, *report.filters)):
        if name:
            yield _part_row(report, name)


def _part_row(report: LayerReport, name: str) -> dict[str, Any]:
    scales = [report.channels[name].scale] if name in report.channels else []
    return {
        "type": f"  {name}",
        "parameters": sum(array.size for array in report.arrays if array.part == name),
        **_numbers(report.parts.get(name), scales),
        **_widths(report.filters.get(name)),
    }


def _numbers(statistics: Statistics | None, scales: Sequence[Vector]) -> dict[str, Any]:
    if statistics is None:
        return {}
    spans = {name: statistics.quantiles[quantity] for name, quantity in QUANTITIES.items()}
    return spans | {"dead": statistics.dead, "histogram": _histogram(np.abs(np.concatenate(scales)))}


EDGES = (0, 0.0316, 0.1, 0.316, 1, 3.16, math.inf)  # half decades; the outer bins include values beyond the axis


def _histogram(values: Vector) -> str:
    """Return one bar per half decade; the fullest bin has the highest bar."""
    counts = [int(np.count_nonzero((values >= low) & (values < high))) for low, high in pairwise(EDGES)]
    return "".join(terminal.BARS[math.ceil(8 * count / max(*counts, 1))] for count in counts)


# --- by channel -------------------------------------------------------------------------------------------------------

CHANNEL_TABLE = (
    Column("layer", "layer", right=False),
    Column("channel", "channel"),
    Column("scale", "scale", render.number),
    Column("bias", "bias", render.number, drop_order=6),
    Column("mean", "mean", render.number, drop_order=3),
    Column("variance", "variance", render.number),
    Column("gain", "gain", render.number),
    Column("offset", "offset", render.number, drop_order=5),
    Column("weight_norm", "weight_norm", render.number, drop_order=1),
    Column("weight_max", "weight_max", render.number, drop_order=2),
    Column("folded_max", "folded_max", render.number),
    Column("above_zero", "above_zero", lambda share: f"{share:.0%}", drop_order=4),
    Column("state", "state", right=False),
)


def channel_row(row: ChannelRow) -> dict[str, Any]:
    """Return the row of the table, with the part in the layer's column: 3.wf."""
    return row._asdict() | ({"layer": f"{row.layer}.{row.part}"} if row.part else {})


# --- order ------------------------------------------------------------------------------------------------------------


def sorted_rows(columns: Sequence[str], rows: Sequence[Sequence[Any]], sort: options.Sorting | None) -> list[int]:
    """Return the order of the rows: NaN first, empty cells last, equal rows as in the file."""
    if sort is None:
        return list(range(len(rows)))
    spans = {} if columns is ChannelRow._fields else SPANS
    name = spans[sort.column][sort.ascending] if sort.column in spans else sort.column
    if name not in columns:
        hint = "" if columns is ChannelRow._fields else "; with --channels others"
        what = f"{sort.column!r}, expected one of {', '.join((*columns, *spans))}{hint}"
        raise click.BadParameter(what, param_hint="--sort")
    column = columns.index(name)
    values = {number: row[column] for number, row in enumerate(rows) if row[column] not in (None, "")}
    nan = [number for number, value in values.items() if isinstance(value, float) and math.isnan(value)]
    known = sorted(values.keys() - nan, key=lambda number: (values[number], number if sort.ascending else -number))
    return [*nan, *(known if sort.ascending else reversed(known)), *(n for n in range(len(rows)) if n not in values)]
