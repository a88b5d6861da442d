"""Proof of an export: the checker, every inferred shape, and a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx

from bnorm.errors import ProofError
from bnorm.exchange.onnx.graph import Graph
from bnorm.transforms.fold.folded_model import DEFECT, FoldedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What was proven of a file."""

    ran: str
    shapes: int = 0
    worst: float | None = None
    layer: int | None = None


def check_graph(model: onnx.ModelProto, graph: Graph, target: Path) -> None:
    """Run the checker, and compare every shape that it infers with the planned one; a `ProofError` otherwise."""
    try:
        onnx.checker.check_model(model, full_check=True)
        inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except Exception as error:
        raise ProofError(target, f"is refused by onnx's checker: {str(error).strip()}", cause=DEFECT) from error
    shapes = {info.name: _shape(info) for info in (*inferred.graph.value_info, *inferred.graph.output)}
    for name, planned in graph.shapes.items():
        if shapes.get(name) != planned:
            what = f"{name} has the shape {shapes.get(name)} in the graph, expected {planned}"
            raise ProofError(target, what, cause=DEFECT)


def _shape(info: onnx.ValueInfoProto) -> tuple[int | None, ...]:
    sizes = info.type.tensor_type.shape.dim
    return tuple(size.dim_value if size.HasField("dim_value") else None for size in sizes)


def run_file(path: Path, graph: Graph, folded: FoldedModel, target: Path) -> Proof:
    return Proof(ran="not yet", shapes=len(graph.shapes))
