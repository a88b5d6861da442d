"""The JSON documents of all commands: a contract with programs, in which keys may be added and never removed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnorm.checks.findings import SEVERITIES, Finding, Kind

if TYPE_CHECKING:  # a command need not wait for the modules of the others
    from bnorm.checks.check import Check
    from bnorm.darknet.model import Model
    from bnorm.exchange.export import ExportReport
    from bnorm.exchange.importing import ImportReport
    from bnorm.replay.job import ResultRow, RunReport
    from bnorm.reports.inspect import ChannelRow, Inspection, LayerReport
    from bnorm.statistics.channels import Statistics
    from bnorm.transforms.fold.fold import FoldReport

Document = dict[str, Any]


def _path(path: Path | None) -> str | None:
    return str(path) if path else None


def _findings(findings: Sequence[Finding]) -> list[Document]:
    return [finding._asdict() for finding in findings]


# --- inspect ----------------------------------------------------------------------------------------------------------


def inspect_document(report: Inspection, layers: Iterable[Document]) -> Document:
    """Return the document of `bnorm inspect`, with layers as `layer_document` makes them."""
    model = report.model
    entry = model.network.input
    return {
        "cfg": str(model.network.text.path),
        "weights": _path(model.weights),
        "dialect": model.dialect.name,
        "header": _header(model),
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
        "findings": _findings(report.findings),
    }


def _header(model: Model) -> Document:
    header = model.header
    return {
        "major": header.major,
        "minor": header.minor,
        "revision": header.revision,
        "seen": header.seen,
        "bytes": header.nbytes,
    }


def layer_document(report: LayerReport, channels: Sequence[ChannelRow] | None = None) -> Document:
    """Return one layer of it; `channels` are None where they were not asked for."""
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
        "channels": [_channel(row) for row in channels] if channels is not None and report.channels else None,
    }


def _channel(row: ChannelRow) -> Document:
    return {name: value for name, value in row._asdict().items() if name != "layer"}


def _layer_statistics(report: LayerReport) -> Document | None:
    if report.statistics is None:
        return None
    parts = {name: _statistics(part) for name, part in report.parts.items() if name}
    return _statistics(report.statistics) | {"parts": parts or None}


def _statistics(statistics: Statistics) -> Document:
    return {
        "channels": statistics.channels,
        **{name: quantiles._asdict() for name, quantiles in statistics.quantiles.items()},
        "weight_range": statistics.weight_range._asdict() if statistics.weight_range else None,
        "dead": statistics.dead,
        "near_dead": statistics.near_dead,
        "constant": statistics.constant,
    }


# --- check ------------------------------------------------------------------------------------------------------------


def check_document(report: Check) -> Document:
    """Return the document of `bnorm check`."""
    model = report.model
    return {
        "cfg": str(report.cfg),
        "weights": _path(report.weights),
        "dialect": model.dialect.name if model else None,
        "fits": model.fits if model else None,
        "expected_bytes": model.layout.nbytes if model else None,
        "actual_bytes": model.nbytes if model else None,
        **{f"{severity}s": report.count(severity) for severity in SEVERITIES},
        "findings": _findings(report.findings),
    }


def kinds_document(kinds: Sequence[Kind]) -> list[Document]:
    """Return the document of `bnorm check --list`."""
    return [kind._asdict() for kind in kinds]


# --- fold -------------------------------------------------------------------------------------------------------------


def fold_document(report: FoldReport) -> Document:
    """Return the document of `bnorm fold`."""
    return asdict(report) | {"output": _path(report.output), "output_cfg": _path(report.output_cfg)}


# --- run --------------------------------------------------------------------------------------------------------------


def run_document(report: RunReport, results: Sequence[Document]) -> Document:
    """Return the document of `bnorm run`, with results as `run_result` makes them."""
    request, source = report.request, report.model_layer
    return {
        "cfg": str(source.model.network.text.path) if source else None,
        "weights": _path(source.model.weights) if source else None,
        "dialect": source.model.dialect.name if source else None,
        "layer": source.layer if source else None,
        "part": source.part if source else None,
        "arithmetic": report.arithmetic,
        "train": request.train,
        "output": _path(request.output),
        "results": list(results),
    }


def run_result(row: ResultRow) -> Document:
    """Return one entry of `results`; min, max and not_finite are None for a tensor that was written, and not read."""
    return {
        "input": row.input,
        "result": row.name,
        "dtype": row.dtype,
        "shape": list(row.shape),
        "min": row.range.low if row.range else None,
        "max": row.range.high if row.range else None,
        "not_finite": row.range.not_finite if row.range else None,
        "path": row.path,
    }


# --- export -----------------------------------------------------------------------------------------------------------


def export_document(report: ExportReport) -> Document:
    """Return the document of `bnorm export`."""
    return {
        "output": str(report.output),
        "outputs": [str(path) for path in report.outputs],
        "names": report.names,
        "dtype": report.dtype,
        "epsilon": report.epsilon._asdict() if report.epsilon else None,
        "removed": list(report.removed),
        "bytes": report.nbytes,
        "arrays": [row._asdict() for row in report.arrays],
        "roundings": [row._asdict() for row in report.roundings],
        "onnx": None,
    }


# --- import -----------------------------------------------------------------------------------------------------------


def import_document(report: ImportReport) -> Document:
    """Return the document of `bnorm import`."""
    return {
        "arrays_path": str(report.arrays_path),
        "output": str(report.output),
        "names": report.names,
        "epsilon": report.epsilon._asdict() if report.epsilon else None,
        "family_epsilon": report.family_epsilon,
        "heads": list(report.heads),
        "header": report.header._asdict() | {"bytes": report.header.nbytes},
        "bytes": report.nbytes,
        "arrays": [row._asdict() for row in report.arrays],
        "ignored": list(report.ignored),
    }
