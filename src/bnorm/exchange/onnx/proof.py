"""Proof of an export: onnx's checker, every shape that it infers, and a run of the written file.

The run compares each output for a random image with a plain forward pass in float64 from the weights file, see
`plain.forward`. The bound is `BOUND` of the output's largest value, which is what float32 loses from the image to any
layer. A network that amplifies roundings may lose more: then the same pass in float32 shows how much it does.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from bnorm.batchnorm.epsilon import Epsilon
from bnorm.darknet.weights import Weights
from bnorm.errors import ProofError
from bnorm.exchange.onnx.graph import INPUT, Graph, Output
from bnorm.exchange.onnx.report import BOUND, Proof
from bnorm.exchange.plain.forward import forward
from bnorm.exchange.plain.heads import BOXES, Tensor
from bnorm.transforms.fold.folded_model import DEFECT

AMPLIFIED = 16  # times what the plain pass loses in float32

IMAGES = 2  # of a batch of any size


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


def run_file(path: Path, graph: Graph, weights: Weights, epsilon: Epsilon, target: Path) -> Proof:
    """Run the written file, and compare its outputs with the plain pass; a `ProofError` beyond the bound."""
    proof = Proof(shapes=len(graph.shapes))
    if importlib.util.find_spec("onnxruntime") is None:
        return Proof(shapes=proof.shapes, reason="onnxruntime is not installed")
    if jumps := _jumps(weights):
        return Proof(shapes=proof.shapes, reason=f"{jumps}, where float32 may fall on either side of a step")
    images = _images(graph)
    try:
        results = _run(path, images)
    except Exception as error:
        raise ProofError(target, f"is refused by onnxruntime: {str(error).strip()}", cause=DEFECT) from error
    chosen = sorted({0, len(images) - 1})
    worst = ("", 0.0)
    for number in chosen:
        got = {output.name: _of_image(output, results[output.name], number, graph) for output in graph.outputs}
        expected = plain_outputs(graph.outputs, weights, epsilon, images[number])
        if not all(np.isfinite(values).all() for values in expected.values()):
            return Proof(shapes=proof.shapes, reason="the network gives no finite values for a random image")
        gaps = {name: _gap(got[name], values) for name, values in expected.items()}
        name = max(gaps, key=lambda key: gaps[key])
        if not gaps[name] <= BOUND:
            single = plain_outputs(graph.outputs, weights, epsilon, images[number], np.float32)
            allowed = AMPLIFIED * max(_gap(single[key], values) for key, values in expected.items())
            if not gaps[name] <= allowed:
                what = f"{name} differs by {gaps[name]:.1e} of its largest value, expected at most {BOUND:g}"
                raise ProofError(target, what, cause=DEFECT)
        worst = max(worst, (name, gaps[name]), key=lambda pair: pair[1])
    return Proof(shapes=proof.shapes, worst=worst[1], output=worst[0], bound=BOUND)


def _jumps(weights: Weights) -> str:
    """Return the first layer whose output jumps where its input does not; an empty text without one."""
    for layer in weights.model.network.layers:
        if layer.section.text("activation") == "stair" or layer.section.flag("xnor"):
            return f"layer {layer.index} has {'xnor=1' if layer.section.flag('xnor') else 'activation=stair'}"
    return ""


def _images(graph: Graph) -> Tensor:
    """Return random images in 0..1, float32, as many as the graph takes."""
    count = IMAGES if graph.batch is None else graph.batch
    return np.random.default_rng(0).random((count, *graph.input), np.float32)


def _run(path: Path, images: Tensor) -> dict[str, Tensor]:
    """Return the outputs by name."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors alone
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {INPUT: images}), strict=True))


def _of_image(output: Output, values: Tensor, number: int, graph: Graph) -> Tensor:
    """Return the values of one image; boxes of a single image have no axis for it."""
    return values if output.kind == "boxes" and graph.batch == 1 else values[number]


def _gap(got: Tensor, expected: Tensor) -> float:
    """Return the largest difference in relation to the largest value."""
    largest = float(np.abs(expected).max(initial=0)) or 1.0
    gap = np.abs(got.reshape(-1).astype(np.float64) - expected.reshape(-1)).max(initial=0)
    return float(np.nan_to_num(gap / largest, nan=np.inf))


def plain_outputs(
    outputs: list[Output],
    weights: Weights,
    epsilon: Epsilon,
    image: Tensor,
    dtype: type[np.floating[Any]] = np.float64,
) -> Mapping[str, Tensor]:
    """Return what the plain forward pass gives for each output."""
    wanted: dict[int, list[Output]] = {}
    for output in outputs:
        wanted.setdefault(output.layer, []).append(output)
    network, results = weights.model.network, {}
    for layer, x, y in forward(weights, epsilon, image, dtype):
        for output in wanted.get(layer.index, ()):
            with np.errstate(all="ignore"):
                if output.kind == "raw":
                    results[output.name] = x
                else:
                    results[output.name] = BOXES[layer.type](network, layer, x) if output.kind == "boxes" else y
    return results
