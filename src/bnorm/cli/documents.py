"""The JSON document of `bnorm inspect`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bnorm.checks.check import Check
from bnorm.checks.findings import SEVERITIES
from bnorm.reports.inspect import ChannelRow, Inspection, LayerReport
from bnorm.statistics.channels import Statistics


def document(report: Inspection, layers: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The JSON document of `--format json`."""
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
        "layers": list(layers),
        "findings": [finding._asdict() for finding in report.findings],
    }


def layer_document(report: LayerReport, rows: list[ChannelRow] | None) -> dict[str, Any]:
    """One layer of it, with `rows` of its channels where they were asked for."""
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
        "statistics": _layer_statistics(report),
        "channels": [_channel(row) for row in rows] if rows is not None and report.channels else None,
    }


def _channel(row: ChannelRow) -> dict[str, Any]:
    return {name: value for name, value in row._asdict().items() if name != "layer"}


def _layer_statistics(report: LayerReport) -> dict[str, Any] | None:
    if report.statistics is None:
        return None
    parts = {name: _statistics(part) for name, part in report.parts.items() if name}
    return _statistics(report.statistics) | {"parts": parts or None}


def _statistics(found: Statistics) -> dict[str, Any]:
    return {
        "channels": found.channels,
        **{name: quantiles._asdict() for name, quantiles in found.quantiles.items()},
        "weight_range": found.weight_range._asdict() if found.weight_range else None,
        "dead": found.dead,
        "near_dead": found.near_dead,
        "constant": found.constant,
    }


def _document(report: Check) -> dict[str, Any]:
    model = report.model
    return {
        "cfg": str(report.cfg),
        "weights": str(report.weights) if report.weights else None,
        "dialect": model.dialect.name if model else None,
        "fits": model.fits if model else None,
        "expected_bytes": model.layout.nbytes if model else None,
        "actual_bytes": model.nbytes if model else None,
        **{f"{severity}s": report.count(severity) for severity in SEVERITIES},
        "findings": [finding._asdict() for finding in report.findings],
    }
