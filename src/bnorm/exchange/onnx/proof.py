"""Proof of an export: onnx's checker, every shape that it infers, and a run of the written file.

The run compares each output for a random image with a plain forward pass in float64 from the weights file, see
`plain.forward`. The bound is `BOUND` of the output's largest value, which is what float32 loses from the image to any
layer. A network that amplifies roundings may lose more: then the same pass in float32 shows how much it does.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx

from bnorm.batchnorm.epsilon import Epsilon
from bnorm.darknet.network import Layer, Network
from bnorm.darknet.parts import Part
from bnorm.darknet.weights import Weights
from bnorm.errors import ProofError
from bnorm.exchange.onnx.graph import INPUT, Graph, Output
from bnorm.exchange.onnx.report import BOUND, Proof
from bnorm.exchange.plain.forward import forward
from bnorm.exchange.plain.heads import BOXES, Tensor
from bnorm.transforms.fold.folded_model import DEFECT

AMPLIFIED = 16  # times what the plain pass loses in float32

JUMPS = (("activation", "stair"), ("xnor", "1"))

MOST_PRODUCTS = 10**12  # of a pass: some minutes; a large detector of 1280 x 1280 takes a third of that

MOST_VALUES = 1 << 28  # that the plain pass holds at once, 8 bytes each

LOST = 0.5  # of the largest value: nothing can be compared

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
    shapes, network = len(graph.shapes), weights.model.network
    if importlib.util.find_spec("onnxruntime") is None:
        return Proof(shapes=shapes, reason="onnxruntime is not installed")
    if reason := _too_large(network, graph.batch or IMAGES) or _jumps(network):
        return Proof(shapes=shapes, reason=reason)
    images = _images(graph)
    results = _run(path, images, graph, target)
    worst = _Gap("", 0.0)
    for number in sorted({0, len(images) - 1}):
        expected = plain_outputs(graph.outputs, weights, epsilon, images[number])
        if not all(np.isfinite(values).all() for values in expected.values()):
            return Proof(shapes=shapes, reason="the network gives no finite values for a random image")
        got = {output.name: _of_image(output, results[output.name], number, graph) for output in graph.outputs}
        gap = _largest_gap(got, expected)
        if not gap.relative <= BOUND:
            single = plain_outputs(graph.outputs, weights, epsilon, images[number], np.float32)
            allowed = AMPLIFIED * _largest_gap(single, expected).relative
            if allowed > LOST:
                return Proof(shapes=shapes, reason="float32 does not hold the outputs for a random image")
            if not gap.relative <= allowed:
                what = f"{gap.output} differs by {gap.relative:.1e} of its largest value, expected at most {BOUND:g}"
                raise ProofError(target, what, cause=DEFECT)
        worst = max(worst, gap, key=lambda gap: gap.relative)
    return Proof(shapes=shapes, worst=worst.relative, output=worst.output)


class _Gap(NamedTuple):
    """The difference between an output and the plain pass, relative to the largest value of the output."""

    output: str
    relative: float


def _largest_gap(got: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> _Gap:
    gaps = [_Gap(name, _gap(got[name], values)) for name, values in expected.items()]
    return max(gaps, key=lambda gap: gap.relative)


def _too_large(network: Network, images: int) -> str:
    """Return why a run would take too long, or too much memory; an empty text if it would not."""
    parts = [(layer, part) for layer in network.layers for part in layer.parts]
    products = images * sum(prod(part.weights) * _places(layer, part) for layer, part in parts)
    if products > MOST_PRODUCTS:
        return f"it would take {products:.0e} products, more than {MOST_PRODUCTS:.0e}"
    values = images * _most_values(network)
    return f"it would hold {values:,} values at once, more than {MOST_VALUES:,}" if values > MOST_VALUES else ""


def _places(layer: Layer, part: Part) -> int:
    """Return the number of times that a part's weights are used in an image."""
    slides = part.kind in ("convolutional", "deconvolutional")
    return max(layer.incoming.height * layer.incoming.width, 1) if slides else 1


def _most_values(network: Network) -> int:
    """Return the number of values that the plain pass holds at once: outputs still to be read, and those in use."""
    last = {number: layer.index for layer in network.layers for number in layer.reads}
    most, kept = 0, dict[int, int]()
    for layer in network.layers:
        most = max(most, sum(kept.values()) + layer.incoming.outputs + layer.output.outputs)
        kept |= {layer.index: layer.output.outputs} if layer.index in last else {}
        kept = {number: size for number, size in kept.items() if last[number] > layer.index}
    return most


def _jumps(network: Network) -> str:
    """Return the sentence that names a layer whose output is not continuous in its input; empty if there is none."""
    for layer in network.layers:
        jump = next((f"{key}={value}" for key, value in JUMPS if layer.section.text(key) == value), "")
        if jump:
            return f"layer {layer.index} has {jump}, where float32 may fall on either side of a step"
    return ""


def _images(graph: Graph) -> Tensor:
    """Return random images in 0..1, float32, as many as the graph takes."""
    count = IMAGES if graph.batch is None else graph.batch
    return np.random.default_rng(0).random((count, *graph.input), np.float32)


def _run(path: Path, images: Tensor, graph: Graph, target: Path) -> dict[str, Tensor]:
    """Return the outputs by name; a `ProofError` if onnxruntime does not take the file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors alone
    # On Windows onnxruntime opens no file that another handle may still write to.
    source = path.read_bytes() if os.name == "nt" else path
    names = [output.name for output in graph.outputs]
    try:
        session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        return dict(zip(names, session.run(names, {INPUT: images}), strict=True))
    except Exception as error:
        what = f"is refused by onnxruntime: {str(error).strip()}"
        cause = f"an old onnxruntime may not know opset {graph.opset}: a lower --opset, or --no-verify, helps then"
        raise ProofError(target, what, cause=cause) from error


def _of_image(output: Output, values: Tensor, number: int, graph: Graph) -> Tensor:
    """Return the values of one image; boxes of a single image have no axis for it."""
    return values if output.kind == "boxes" and graph.batch == 1 else values[number]


def _gap(got: Tensor, expected: Tensor) -> float:
    """Return the largest difference in relation to the largest value."""
    largest = float(np.abs(expected).max(initial=0)) or 1.0
    gap = np.abs(got.reshape(-1).astype(np.float64) - expected.reshape(-1)).max(initial=0)
    return float(np.nan_to_num(gap / largest, nan=np.inf, posinf=np.inf))


def plain_outputs(
    outputs: list[Output],
    weights: Weights,
    epsilon: Epsilon,
    image: Tensor,
    dtype: type[np.floating[Any]] = np.float64,
) -> Mapping[str, Tensor]:
    """Return the values of the plain forward pass for each output."""
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
