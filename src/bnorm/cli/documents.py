"""The JSON documents of all commands: a contract with programs, in which keys may be added and never removed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnorm.batchnorm.arithmetic import ARITHMETICS
from bnorm.checks.findings import SEVERITIES, Finding, Kind
from bnorm.cli.sentences import difference
from bnorm.darknet.weights import misfit_error
from bnorm.errors import BnormError
from bnorm.statistics.quantiles import quantiles

if TYPE_CHECKING:  # a command need not import the modules of other commands
    from bnorm.batchnorm.epsilon import Epsilon
    from bnorm.checks.check import Check
    from bnorm.darknet.header import Header
    from bnorm.darknet.model import Model
    from bnorm.exchange.export import ExportReport
    from bnorm.exchange.importing import ImportReport
    from bnorm.replay.estimate import EstimateReport
    from bnorm.replay.job import RankedArithmetic, ResultRow, RunReport
    from bnorm.replay.request import Request
    from bnorm.reports.diff.comparison import ArrayDifference
    from bnorm.reports.diff.diff import DiffReport
    from bnorm.reports.header import HeaderReport
    from bnorm.reports.inspect import ChannelRow, Inspection, LayerReport
    from bnorm.statistics.channels import Statistics
    from bnorm.statistics.filters import Filters
    from bnorm.transforms.convert.convert import ConvertedLayer, ConvertReport
    from bnorm.transforms.fold.fold import FoldedLayer, FoldReport

Document = dict[str, Any]


def _path(path: Path | None) -> str | None:
    return str(path) if path else None


def _common(
    *,
    fits: bool | None = None,
    header: Document | None = None,
    verified: bool | None = None,
    worst: Document | None = None,
    epsilon: Epsilon | None = None,
    findings: Sequence[Finding] = (),
) -> Document:
    """Return the keys that the documents of all commands have, null where they do not apply."""
    return {
        "fits": fits,
        "header": header,
        "verified": verified,
        "worst": worst,
        "epsilon": _epsilon(epsilon),
        "findings": [finding._asdict() for finding in findings],
    }


def _epsilon(epsilon: Epsilon | None) -> Document | None:
    return epsilon._asdict() if epsilon else None


def error_document(error: BnormError | OSError) -> Document:
    """Return the document of a command that could not do its work."""
    return {"error": _error(error)}


def _error(error: BnormError | OSError) -> Document:
    if isinstance(error, OSError):
        what = (error.strerror or str(error)).lower()
        return {"path": str(error.filename), "line": None, "what": what, "cause": None}
    return {"path": str(error.args[0]), "line": error.line, "what": error.what, "cause": error.cause or None}


# --- inspect ----------------------------------------------------------------------------------------------------------


def inspect_document(report: Inspection, layers: Iterable[Document]) -> Document:
    """Return the document of `bnorm inspect`, with layers as `layer_document` makes them.

    It has an `error` if the pair does not fit; the other keys describe what the file still holds.
    """
    model = report.model
    entry = model.network.input
    return {
        "cfg": str(model.network.text.path),
        "weights": _path(model.weights),
        "dialect": model.dialect.name,
        **_common(
            fits=report.fits,
            header=_model_header(model),
            epsilon=report.epsilon if model.weights else None,
            findings=report.findings,
        ),
        "written_by": list(model.header.writers) if model.weights else None,
        "input": {
            "channels": entry.channels,
            "height": entry.height,
            "width": entry.width,
            "inputs": entry.outputs,
        },
        "expected_bytes": model.layout.nbytes,
        "actual_bytes": model.nbytes,
        "trailing_bytes": report.trailing_bytes,
        "parameters": model.layout.parameters,
        "layers": list(layers),
        **({"error": _error(misfit_error(model.weights, report.misfit))} if model.weights and report.misfit else {}),
    }


def header_only_document(report: HeaderReport) -> Document:
    """Return the document of `bnorm inspect` for weights without a cfg."""
    return {
        "cfg": None,
        "weights": str(report.weights),
        "dialect": None,
        **_common(header=_header(report.header), findings=report.findings),
        "written_by": list(report.header.writers),
        "input": None,
        "expected_bytes": None,
        "actual_bytes": report.nbytes,
        "floats": report.floats,
        "rest_bytes": report.rest,
        "parameters": None,
        "layers": [],
    }


def _model_header(model: Model | None) -> Document | None:
    """Return the header of the model's weights file, None without a file."""
    return _header(model.header) if model and model.weights else None


def _header(header: Header) -> Document:
    return {
        "major": header.major,
        "minor": header.minor,
        "revision": header.revision,
        "seen": header.seen,
        "bytes": header.nbytes,
    }


def layer_document(report: LayerReport, channels: Sequence[ChannelRow] | None = None) -> Document:
    """Return one layer of that document; `channels` is None if channels were not requested."""
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
        "weights": _layer_weights(report),
        "channels": [_channel(row) for row in channels] if channels is not None and report.channels else None,
    }


def _channel(row: ChannelRow) -> Document:
    return {name: value for name, value in row._asdict().items() if name != "layer"}


def _layer_statistics(report: LayerReport) -> Document | None:
    if report.statistics is None:
        return None
    parts = {name: _statistics(part) for name, part in report.parts.items() if name}
    return _statistics(report.statistics) | {"parts": parts or None}


def _layer_weights(report: LayerReport) -> Document | None:
    """Return the ranges for quantisation of a layer with weights, normalised or not."""
    whole = report.all_filters
    if whole is None:
        return None
    parts = {name: _weights(filters) for name, filters in report.filters.items() if name}
    return _weights(whole) | {"parts": parts or None}


def _weights(filters: Filters) -> Document:
    columns = {"weight_norm": filters.norm, "weight_max": filters.largest, "folded_max": filters.folded}
    return {
        "channels": filters.largest.size,
        **{name: spread._asdict() for name, spread in quantiles(columns).items()},
        "range": filters.range._asdict(),
    }


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
        **_common(fits=model.fits if model else None, header=_model_header(model), findings=report.findings),
        "expected_bytes": model.layout.nbytes if model else None,
        "actual_bytes": model.nbytes if model else None,
        **{f"{severity}s": report.count(severity) for severity in SEVERITIES},
    }


def kinds_document(kinds: Sequence[Kind]) -> list[Document]:
    """Return the document of `bnorm check --list`."""
    return [kind._asdict() for kind in kinds]


# --- fold -------------------------------------------------------------------------------------------------------------


def fold_document(report: FoldReport, model: Model) -> Document:
    """Return the document of `bnorm fold`."""
    return {
        **_source(model),
        **asdict(report),
        "output": _path(report.output),
        "output_cfg": _path(report.output_cfg),
        **_common(
            fits=True,  # a file that does not fit is refused
            header=_model_header(model),
            verified=report.verified,
            worst=_worst(report.worst),
            epsilon=report.epsilon,
            findings=report.findings,
        ),
    }


def _source(model: Model) -> Document:
    """Return the keys that name the files that were read."""
    return {
        "cfg": str(model.network.text.path),
        "weights": _path(model.weights),
        "dialect": model.dialect.name,
    }


def _worst(layer: FoldedLayer | ConvertedLayer | None) -> Document | None:
    """Return the largest relative error and its layer."""
    return {"layer": layer.index, "part": layer.part, "max_rel_error": layer.max_rel_error} if layer else None


# --- convert ----------------------------------------------------------------------------------------------------------


def convert_document(report: ConvertReport, model: Model) -> Document:
    """Return the document of `bnorm convert`; `epsilon` is that of the program that will read the new file."""
    return {
        "cfg": str(model.network.text.path),
        "weights": _path(model.weights),
        "dialect": report.dialect_before,
        "to": report.dialect_after,
        **_common(
            fits=model.fits,  # a file that does not fit is accepted only for a header of the other length
            header=_header(report.header_before),
            verified=report.verified,
            worst=_worst(report.worst),
            epsilon=report.epsilons.new if report.epsilons else None,
            findings=report.findings,
        ),
        "header_after": _header(report.header_after),
        "epsilon_from": _epsilon(report.epsilons.old if report.epsilons else None),
        "ambiguous_gates": report.ambiguous_gates,
        "cfg_changes": [change._asdict() for change in report.cfg_changes],
        "layers": [asdict(layer) for layer in report.layers],
        "parameters_before": report.parameters_before,
        "parameters_after": report.parameters_after,
        "bytes_before": report.bytes_before,
        "bytes_after": report.bytes_after,
        "output": _path(report.output),
        "output_cfg": _path(report.output_cfg),
    }


# --- diff -------------------------------------------------------------------------------------------------------------


def diff_document(report: DiffReport, rows: Sequence[ArrayDifference]) -> Document:
    """Return the document of `bnorm diff`, with these rows; keys about B end in `_b`."""
    epsilon, epsilon_b = report.epsilons if report.function else (None, None)
    trailing, trailing_b = report.left_over
    return {
        **_common(),
        **_compared(report.a, epsilon, trailing),
        **{f"{key}_b": value for key, value in _compared(report.b, epsilon_b, trailing_b).items()},
        "function": report.function,
        "verdict": report.verdict.value,
        "sentence": difference(report),
        "same_until": report.same_until,
        "arrays": [asdict(row) for row in rows],
    }


def _compared(model: Model, epsilon: Epsilon | None, trailing_bytes: int) -> Document:
    """Return one of the two models of `bnorm diff`."""
    return {
        "cfg": str(model.network.text.path),
        "weights": _path(model.weights),
        "dialect": model.dialect.name,
        "fits": model.fits,
        "header": _model_header(model),
        "epsilon": _epsilon(epsilon),
        "trailing_bytes": trailing_bytes,
    }


# --- run --------------------------------------------------------------------------------------------------------------


def run_document(report: RunReport, results: Sequence[Document]) -> Document:
    """Return the document of `bnorm run`, with results as `run_result` makes them."""
    request = report.request
    return {
        **_run_request(request, report.arithmetic),
        "against": _path(request.against),
        "ranking": [ranked_arithmetic(ranked) for ranked in report.ranking] or None,
        "other_sizes": [
            {"input": other.input, "size": other.size._asdict(), "expected": other.expected._asdict()}
            for other in report.other_sizes
        ],
        "results": list(results),
    }


def estimate_document(report: EstimateReport, results: Sequence[Document]) -> Document:
    """Return the document of `bnorm run` where only rolling statistics are estimated."""
    return {
        **_run_request(report.request, report.arithmetic),
        "rolling": report.request.training.rolling,
        "batches": report.batches,
        "values": report.values,
        "moments": _path(report.save_moments),
        "from_moments": [str(path) for path in report.moments],
        "results": list(results),
    }


def _run_request(request: Request, arithmetic: str) -> Document:
    """Return the keys about the layer and the request that both documents of `bnorm run` share."""
    source = request.model_layer
    return {
        "cfg": str(source.model.network.text.path) if source else None,
        "weights": _path(source.model.weights) if source else None,
        "dialect": source.model.dialect.name if source else None,
        "layer": source.layer if source else None,
        "part": source.part if source else None,
        **_common(
            fits=True if source else None,  # a file that does not fit is refused
            header=_model_header(source.model if source else None),
            epsilon=request.epsilon or ARITHMETICS[arithmetic].forward,
        ),
        "arithmetic": arithmetic,
        "train": request.train,
        "output": _path(request.output),
    }


def ranked_arithmetic(ranked: RankedArithmetic) -> Document:
    """Return one entry of `ranking`: an arithmetic, and its result that is furthest from the reference."""
    worst = run_result(ranked.worst)
    keys = ("input", "result", "max_abs", "max_rel", "channel")
    return {"arithmetic": ranked.arithmetic, **{key: worst[key] for key in keys}}


def run_result(row: ResultRow) -> Document:
    """Return one entry of `results`; max_abs, max_rel and channel are None if it was not compared."""
    difference = row.difference
    return {
        "input": row.input,
        "result": row.name,
        "dtype": row.dtype,
        "shape": list(row.shape),
        "min": row.range.low,
        "max": row.range.high,
        "not_finite": row.range.not_finite,
        "path": row.path,
        "max_abs": difference.max_abs if difference else None,
        "max_rel": difference.max_rel if difference else None,
        "channel": difference.channel if difference else None,
    }


# --- export -----------------------------------------------------------------------------------------------------------


def export_document(report: ExportReport, model: Model) -> Document:
    """Return the document of `bnorm export`; `verified` is about the folded layers, None without folding."""
    return {
        **_source(model),
        **_common(
            fits=True,  # a file that does not fit is refused
            header=_model_header(model),
            verified=report.worst is not None if report.folds else None,
            worst=_worst(report.worst),
            epsilon=report.epsilon,
        ),
        "output": str(report.output),
        "outputs": [str(path) for path in report.outputs],
        "names": report.names,
        "dtype": report.dtype,
        "removed": list(report.removed),
        "folds": [asdict(row) for row in report.folds],
        "bytes": report.nbytes,
        "arrays": [row._asdict() for row in report.arrays],
        "roundings": [row._asdict() for row in report.roundings],
        "onnx": None,
    }


# --- import -----------------------------------------------------------------------------------------------------------


def import_document(report: ImportReport, model: Model) -> Document:
    """Return the document of `bnorm import`; `header` is the one that was written."""
    return {
        **_source(model),
        **_common(header=_header(report.header), epsilon=report.epsilon),
        "arrays_path": str(report.arrays_path),
        "output": str(report.output),
        "names": report.names,
        "family_epsilon": report.family_epsilon,
        "heads": list(report.heads),
        "bytes": report.nbytes,
        "ends_after": report.ends_after,
        "arrays": [row._asdict() for row in report.arrays],
        "ignored": list(report.ignored),
    }
