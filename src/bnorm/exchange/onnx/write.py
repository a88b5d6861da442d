"""The writer of `.onnx` files, and what it reports.

The graph is built, checked, streamed into the open file, and run where onnxruntime is installed. The file gets its name
only after that.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from bnorm.errors import OutputError
from bnorm.exchange.job import Job
from bnorm.exchange.onnx import file as onnx_file
from bnorm.exchange.onnx.network import build_graph
from bnorm.exchange.onnx.options import OnnxOptions
from bnorm.exchange.onnx.proof import check_graph, run_file
from bnorm.exchange.onnx.report import OnnxReport, Proof


def write_onnx(job: Job, files: Sequence[BinaryIO]) -> OnnxReport:
    """Write the network of a job to its one file.

    `CfgError` for a layer that cannot be expressed exactly, `OutputError` for a file of more than 2 GiB, `ProofError`
    if a check fails.
    """
    (file,), (target,), options = files, job.outputs, job.options.graph
    if options is None:
        raise ValueError("expected options of a graph")
    graph = build_graph(job, options)
    name, metadata = _origin(job, options)
    model = onnx_file.model_proto(graph, name, metadata, weights_as_inputs=False)
    ends = onnx_file.pieces(model, graph)
    nbytes = onnx_file.size(graph, ends)
    if nbytes > onnx_file.LIMIT:
        what = f"would be {nbytes:,} bytes, expected at most {onnx_file.LIMIT:,}"
        raise OutputError(target, what, cause="protobuf reads no larger message")
    check_graph(onnx_file.model_proto(graph, name, metadata, weights_as_inputs=True), graph, target)
    onnx_file.write(file, graph, ends)
    file.flush()
    proof = Proof(shapes=len(graph.shapes), reason="not asked for")
    if options.verify:
        proof = run_file(Path(file.name), graph, job.source.weights, options.epsilon, target)
    return OnnxReport(
        opset=options.opset,
        ir_version=model.ir_version,
        input=(options.batch, *graph.input),
        outputs=tuple(graph.outputs),
        operators=onnx_file.operators(graph),
        nodes=len(graph.nodes),
        notes=tuple(dict.fromkeys(graph.notes)),
        proof=proof,
    )


def _origin(job: Job, options: OnnxOptions) -> tuple[str, dict[str, str]]:
    """Return the graph's name and its origin: file names without folders, so that the bytes do not depend on them."""
    cfg = job.source.model.network.text.path
    epsilon = f"{options.epsilon.value:g}:{'inside' if options.epsilon.inside else 'outside'}"
    return cfg.stem, {
        "cfg": cfg.name,
        "weights": job.source.weights.path.name,
        "dialect": job.source.model.dialect.name,
        "batch_normalize": "kept" if options.keep_batchnorm else "folded",
        "epsilon": epsilon,
    }
