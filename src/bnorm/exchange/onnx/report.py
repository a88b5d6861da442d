"""The report on a written ONNX file. Nothing here imports onnx."""

from __future__ import annotations

from dataclasses import dataclass

from bnorm.exchange.onnx.graph import Output

BOUND = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """The proof of a file: the number of shapes compared, and the error of a run against the plain forward pass.

    `worst` is relative to the largest value of the output, and None where nothing was run; `reason` says why not.
    """

    shapes: int
    worst: float | None = None
    output: str = ""
    bound: float = BOUND
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxReport:
    """The inputs, outputs and proof of an ONNX file; None in a shape is a batch of any size."""

    opset: int
    ir_version: int
    input: tuple[int | None, ...]
    outputs: tuple[Output, ...]
    operators: tuple[str, ...]
    nodes: int
    notes: tuple[str, ...]
    proof: Proof

    def __repr__(self) -> str:
        return f"<OnnxReport: {self.nodes} nodes, {', '.join(output.name for output in self.outputs)}>"
