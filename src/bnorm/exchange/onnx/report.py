"""What is said of a written ONNX file. Nothing here imports onnx."""

from __future__ import annotations

from dataclasses import dataclass

from bnorm.exchange.onnx.graph import Output

BOUND = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What was proven: the number of shapes, and how far the outputs of a run were from the plain forward pass.

    `worst` is relative to the largest value of the output, and None where nothing was run; `reason` says why not.
    """

    shapes: int
    worst: float | None = None
    output: str = ""
    bound: float = BOUND
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxReport:
    """What an ONNX file takes and gives, and what was proven of it; None in a shape is a batch of any size."""

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
