"""The page of `bnorm export` for an ONNX file."""

from __future__ import annotations

from collections.abc import Iterator

from bnorm.cli import render
from bnorm.cli.documents import Document, export_document
from bnorm.cli.export_folds import fold_lines
from bnorm.cli.page import BLANK, Column, Line, Page, Records, Table
from bnorm.darknet.model import Model
from bnorm.exchange.export import ExportReport
from bnorm.exchange.onnx.graph import INPUT
from bnorm.exchange.onnx.report import OnnxReport
from bnorm.text import plural

COLUMNS = (
    Column("output", "name", right=False),
    Column("shape", "shape", right=False),
    Column("layer", "layer"),
    Column("values", "meaning", right=False, drop_order=1),
)

FIELDS = ("name", "shape", "layer", "kind", "meaning")


def onnx_page(report: ExportReport, model: Model, graph: OnnxReport) -> Page:
    """Return the inputs and outputs of the file, and the result of its checks."""
    rows = [output._asdict() | {"shape": shape_text(output.shape)} for output in graph.outputs]
    return Page(
        document=lambda: export_document(report, model) | {"onnx": graph_document(graph)},
        records=Records(FIELDS, [tuple(row[field] for field in FIELDS) for row in rows]),
        summary=(
            Line(None, f"wrote {plural(graph.nodes, 'node')} in {plural(report.nbytes, 'byte')} to {report.output}"),
            BLANK,
            Line("input", f"{shape_text(graph.input)}, float32: RGB from 0 to 1, channel by channel"),
            Line("opset", f"{graph.opset}: {', '.join(graph.operators)}"),
            BLANK,
        ),
        table=Table(COLUMNS, rows),
        footer=(BLANK, *_remarks(report, graph)),
    )


def _remarks(report: ExportReport, graph: OnnxReport) -> Iterator[Line]:
    """Yield the steps that are left to the user, and the result of the checks."""
    if any(output.kind == "boxes" for output in graph.outputs):
        yield Line("left out", "thresholds and non-maximum suppression: every cell and anchor has a row")
    yield from fold_lines(report)
    for note in graph.notes:
        yield Line("note", note)
    proof = graph.proof
    yield Line("checked", f"by onnx's checker; {plural(proof.shapes, 'shape')} as planned")
    if proof.worst is None:
        yield Line("not run", proof.reason)
    else:
        where = f", in {proof.output}" if proof.output else ""
        yield Line(
            "run",
            f"by onnxruntime on a random image: outputs differ by at most {render.number(proof.worst)} of their "
            f"largest value from a plain forward pass in float64{where}",
        )


def graph_document(graph: OnnxReport) -> Document:
    """Return the inputs and outputs of an ONNX file; a size of null is a batch of any size."""
    proof = graph.proof
    return {
        "opset": graph.opset,
        "ir_version": graph.ir_version,
        "input": {"name": INPUT, "shape": list(graph.input)},
        "outputs": [output._asdict() | {"shape": list(output.shape)} for output in graph.outputs],
        "operators": list(graph.operators),
        "nodes": graph.nodes,
        "notes": list(graph.notes),
        "verified": proof.worst is not None,
        "worst": None if proof.worst is None else {"relative": proof.worst, "output": proof.output},
        "shapes": proof.shapes,
        "not_run": proof.reason or None,
    }


def shape_text(shape: tuple[int | None, ...]) -> str:
    """Return the sizes as `1 × 3 × 416 × 416`; a batch of any size is N."""
    return " × ".join("N" if size is None else str(size) for size in shape)
