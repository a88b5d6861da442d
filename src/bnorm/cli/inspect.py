"""`bnorm inspect`: what a model holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bnorm.cli import options, render
from bnorm.cli.render import Column, Page, Table
from bnorm.inspection import Inspection, LayerReport, Span, Statistics, inspect
from bnorm.model import Model, read_model
from bnorm.shapes import size_text


@click.command(name="inspect")
@options.cfg_argument
@click.argument("weights", type=options.FILE, required=False)
@options.layers_option
@options.dialect_option
@options.format_option
def command(cfg: Path, weights: Path | None, layers: tuple[range, ...], dialect: str, format_: str) -> None:
    """Show what a model holds: its header, whether the pair fits, and a row per layer.

    \b
    bnorm inspect yolov4.cfg yolov4.weights
    bnorm inspect yolov4.cfg                      what the cfg alone says
    bnorm inspect yolov4.cfg yolov4.weights --layer 0-12 --format json

    |scale|, variance (the rolling one) and |gain| are the smallest and largest of a layer's channels; gain is
    scale / deviation, the factor that the layer applies at inference. A dead channel's output is constant.
    """
    model = read_model(cfg, weights, dialect)
    report = inspect(model, options.selection(layers, model))
    if report.misfit is None:
        render.note(model)
    render.show(_page(report), format_)
    if report.misfit is not None:
        raise report.misfit


def _page(report: Inspection) -> Page:
    return Page(
        document=lambda: document(report),
        rows=_rows(report),
        records=_records(report),
        summary=_summary(report),
        footer=_footer(report),
    )


def document(report: Inspection) -> dict[str, Any]:
    """The report as the JSON document of `--format json`."""
    model = report.model
    header = model.header
    entry = model.network.input
    return {
        "cfg": str(model.network.text.path),
        "weights": str(model.weights) if model.weights else None,
        "dialect": model.dialect.name,
        "header": {
            "major": header.major,
            "minor": header.minor,
            "revision": header.revision,
            "seen": header.seen,
            "bytes": header.nbytes,
        },
        "input": {
            "channels": entry.channels,
            "height": entry.height,
            "width": entry.width,
            "inputs": entry.outputs,
        },
        "expected_bytes": model.layout.nbytes,
        "actual_bytes": model.nbytes,
        "parameters": model.layout.parameters,
        "layers": [_layer(layer) for layer in report.layers],
        "findings": [finding._asdict() for finding in report.findings],
    }


def _layer(report: LayerReport) -> dict[str, Any]:
    layer = report.layer
    return {
        "index": layer.index,
        "type": layer.type,
        "line": layer.section.line,
        "output": {
            "channels": layer.output.channels,
            "height": layer.output.height,
            "width": layer.output.width,
        },
        "outputs": layer.output.outputs,
        "batch_normalize": layer.batch_normalize,
        "parameters": report.parameters,
        "arrays": [{"name": array.name, "shape": array.shape, "offset": array.offset} for array in report.arrays],
        "statistics": _statistics(report.statistics) if report.statistics else None,
        "channels": None,
    }


def _statistics(statistics: Statistics) -> dict[str, Any]:
    return {
        "channels": statistics.channels,
        "scale_magnitude": statistics.scale._asdict(),
        "rolling_variance": statistics.variance._asdict(),
        "gain_magnitude": statistics.gain._asdict(),
        "dead": statistics.dead,
    }


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
    writer = f"as {header.writer} writes it" if header.writer else "which no known fork writes"
    return (
        f"         header {header.version}, {writer}",
        f"         {header.seen:,} images seen = {header.seen // batch:,} batches of {batch}",
    )


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
    dead = sum(layer.statistics.dead for layer in report.layers if layer.statistics)
    channels = sum(layer.statistics.channels for layer in report.layers if layer.statistics)
    total = f"total    {shown:,} parameters in {len(report.layers)} layer{'s' * (len(report.layers) != 1)}"
    if channels:
        total += f"; {dead:,} of {channels:,} normalised channels dead"
    return ["", total, *(f"{finding.severity:8} {finding.message} [{finding.id}]" for finding in report.findings)]


def _span(span: Span) -> str:
    return f"{render.number(span.low)}..{render.number(span.high)}"


def _rows(report: Inspection) -> Table:
    columns = (
        Column("layer"),
        Column("type", right=False),
        Column("output"),
        Column("params", render.count),
        Column("|scale|", _span),
        Column("variance", _span),
        Column("|gain|", _span),
        Column("dead"),
    )
    return Table(columns, [_row(layer) for layer in report.layers])


def _row(report: LayerReport) -> tuple[Any, ...]:
    layer, found = report.layer, report.statistics
    statistics = (found.scale, found.variance, found.gain, found.dead) if found else (None,) * 4
    return layer.index, layer.type, size_text(layer.output), report.parameters or None, *statistics


RECORD_COLUMNS = """index type line channels height width outputs batch_normalize parameters scale_min scale_max
    variance_min variance_max gain_min gain_max dead"""


def _records(report: Inspection) -> Table:
    rows = []
    for layer in report.layers:
        section, found = layer.layer, layer.statistics
        spans = (*found.scale, *found.variance, *found.gain, found.dead) if found else (None,) * 7
        place = (section.index, section.type, section.section.line, *section.output)
        rows.append((*place, int(section.batch_normalize), layer.parameters, *spans))
    return Table([Column(name) for name in RECORD_COLUMNS.split()], rows)
