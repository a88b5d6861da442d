"""`bnorm export -o MODEL.onnx`: its work and its report.

The graph is built from the cfg and the folded arrays, checked, streamed into a file beside the target, run where
onnxruntime is installed, and renamed. Nothing is written unless every layer can be expressed.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path

from bnorm.batchnorm.epsilon import DARKNET, Epsilon
from bnorm.batchnorm.formulas import quiet
from bnorm.darknet.model import Model
from bnorm.darknet.weights import Weights, open_weights
from bnorm.errors import OutputError
from bnorm.exchange.onnx import file as onnx_file
from bnorm.exchange.onnx.graph import Graph, Output
from bnorm.exchange.onnx.network import build_graph
from bnorm.exchange.onnx.options import OPSET, OnnxOptions, onnx_options
from bnorm.exchange.onnx.proof import Proof, check_graph, run_file
from bnorm.files import check_outputs, replacing
from bnorm.transforms.fold.folded_model import FoldedModel, FoldOptions, fold_model
from bnorm.transforms.fold.variances import BadVariance
from bnorm.transforms.pair import Meter, Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxReport:
    """The result of an export: what the file takes and gives, and what was proven of it."""

    output: Path
    opset: int
    ir_version: int
    input: tuple[int | None, ...]
    outputs: tuple[Output, ...]
    operators: tuple[str, ...]
    nodes: int
    folded: int
    kept: int
    parameters: int
    nbytes: int
    notes: tuple[str, ...]
    proof: Proof

    def __repr__(self) -> str:
        return f"<OnnxReport: {self.output}, {self.nodes} nodes, {self.nbytes:,} bytes>"


@quiet
def export_onnx(
    model: Model,
    output: Path | str,
    *,
    epsilon: Epsilon | str = DARKNET,
    bad_variance: BadVariance | str = BadVariance.ERROR,
    keep_batchnorm: bool = False,
    opset: int = OPSET,
    head: str = "boxes",
    batch: int | str = 1,
    outputs: str = "last",
    verify: bool = True,
    force: bool = False,
    advance: Progress | None = None,
) -> OnnxReport:
    """Write a model as an ONNX file.

    Batch normalisation is folded with `epsilon`, or with `keep_batchnorm` kept. `head` says what the detection layers
    give: `boxes`, or what they read (`raw`). `batch` is a number of images, or `dynamic`. `outputs="layers"` adds the
    output of every layer, named `layer_<number>`. `bad_variance` is that of `fold`.

    `CfgError` for a layer that cannot be expressed exactly; `WeightsError` for a file that does not fit, or values that
    float32 cannot hold after folding; `OutputError` for an output that must not be written, or would be larger than
    2 GiB; `ProofError` if a check fails; ValueError for an invalid argument. Nothing is written then.
    """
    options = onnx_options(
        epsilon=epsilon,
        bad_variance=bad_variance,
        keep_batchnorm=keep_batchnorm,
        opset=opset,
        head=head,
        batch=batch,
        outputs=outputs,
    )
    target = Path(output)
    with open_weights(model) as weights:
        inputs = (model.network.text.path, weights.path)
        check_outputs((target,), inputs, force=force, cause="--force overwrites it")
        weights.require_fit()
        return _export(weights, target, options, verify, advance)


def _export(
    weights: Weights, target: Path, options: OnnxOptions, verify: bool, advance: Progress | None
) -> OnnxReport:
    layers = frozenset[int]() if options.keep_batchnorm else None
    fold = FoldOptions(layers=layers, epsilon=options.epsilon, bad_variance=options.bad_variance)
    folded = fold_model(weights, fold, {})
    graph = build_graph(folded, options)
    name, metadata = _metadata(folded, options)
    model = onnx_file.model_proto(graph, name, metadata, weights_as_inputs=False)
    ends = onnx_file.pieces(model, graph)
    nbytes = onnx_file.size(graph, ends)
    if nbytes > onnx_file.LIMIT:
        what = f"would be {nbytes:,} bytes, expected at most {onnx_file.LIMIT:,}"
        raise OutputError(target, what, cause="protobuf reads no larger message")
    check_graph(onnx_file.model_proto(graph, name, metadata, weights_as_inputs=True), graph, target)
    parameters = sum(prod(weight.shape) for weight in graph.weights.values())
    with replacing(target) as (file,):
        onnx_file.write(file, graph, ends, Meter(parameters, advance))
        file.flush()
        proof = Proof(shapes=len(graph.shapes), reason="not asked for")
        if verify:
            proof = run_file(Path(file.name), graph, weights, options.epsilon, target)
    return OnnxReport(
        output=target,
        opset=options.opset,
        ir_version=model.ir_version,
        input=(options.batch, *graph.input),
        outputs=tuple(graph.outputs),
        operators=onnx_file.operators(graph),
        nodes=len(graph.nodes),
        folded=len(folded.folds.fates) - len(folded.folds.kept),
        kept=len(folded.folds.kept),
        parameters=parameters,
        nbytes=nbytes,
        notes=_notes(graph),
        proof=proof,
    )


def _metadata(folded: FoldedModel, options: OnnxOptions) -> tuple[str, dict[str, str]]:
    """Return the graph's name and what the file says of its origin; file names only, so that the bytes repeat."""
    cfg = folded.weights.model.network.text.path
    epsilon = f"{options.epsilon.value:g}:{'inside' if options.epsilon.inside else 'outside'}"
    return cfg.stem, {
        "cfg": cfg.name,
        "weights": folded.weights.path.name,
        "dialect": folded.weights.model.dialect.name,
        "batch_normalize": "kept" if options.keep_batchnorm else "folded",
        "epsilon": epsilon,
    }


def _notes(graph: Graph) -> tuple[str, ...]:
    """Return what the reader of the file must know."""
    return tuple(dict.fromkeys(graph.notes))
