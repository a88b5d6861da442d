"""A network as a graph: one layer after the other."""

from __future__ import annotations

from collections.abc import Sequence

from bnorm.darknet.network import Network
from bnorm.darknet.shapes import passed_on
from bnorm.errors import CfgError, ProofError
from bnorm.exchange.job import Job
from bnorm.exchange.onnx.context import Arrays, Context
from bnorm.exchange.onnx.graph import INPUT, Graph, Value
from bnorm.exchange.onnx.heads import COLUMNS, HEADS, ROWS
from bnorm.exchange.onnx.options import OnnxOptions
from bnorm.exchange.onnx.sections import BUILDERS, REFUSED
from bnorm.statistics.normalisers import normalisers
from bnorm.transforms.fold.folded_model import DEFECT, FoldedModel

IGNORES_BEFORE = frozenset({"route", "implicit"})  # layers that do not read the layer before them


def build_graph(job: Job, options: OnnxOptions) -> Graph:
    """Return the graph of a network; a `CfgError` names the line of the first layer that it cannot express."""
    source = job.source
    network, numbers = source.model.network, source.numbers
    _check_sections(network, numbers)
    entry = network.input
    whole = all(entry[:3]) and entry.outputs == entry.channels * entry.height * entry.width
    graph = Graph(opset=options.opset, batch=options.batch, input=entry[:3] if whole else (entry.outputs,))
    arrays, ends = _arrays(job, options), _ends(source.folded)
    values: list[Value] = []
    before, needed = Value(INPUT, graph.input), _needed(network)
    for layer in network.layers:
        number = numbers[layer.index]
        graph.enter(number)
        context = Context(
            graph=graph,
            network=network,
            layer=layer,
            number=number,
            before=before,
            reads=tuple(values[other] for other in layer.reads),
            arrays=arrays,
            keep_batchnorm=options.keep_batchnorm,
        )
        if layer.type in HEADS:
            _head(context, options)
        idle = layer.type in HEADS and layer.index not in needed and not options.layers
        before = before if idle else _checked(context, BUILDERS[layer.type](context))
        values.append(before)
        if options.layers:
            shown = ends.get(number, number)
            graph.output(before, f"layer_{shown}", layer=shown, kind="output", meaning="the layer's output")
    given = source.weights.model.network
    _last(graph, given, network, values, [ends.get(number, number) for number in numbers])
    return graph


def _check_sections(network: Network, numbers: tuple[int, ...]) -> None:
    """Raise a `CfgError` for the first section that no builder knows."""
    for layer in network.layers:
        if layer.type in REFUSED:
            what = f"(layer {numbers[layer.index]}) {REFUSED[layer.type]}"
            raise layer.section.error(what, finding="onnx")


def _arrays(job: Job, options: OnnxOptions) -> Arrays:
    folded = job.source.folded
    return Arrays(
        items={(item.array.layer, item.array.name): item for item in job.items},
        numbers=job.source.numbers,
        normalisers=folded.normalisers if folded else normalisers(job.source.weights),
        epsilon=options.epsilon,
    )


def _ends(folded: FoldedModel | None) -> dict[int, int]:
    """Return, for each layer with `[batchnorm]` layers folded into it, the number of the last, whose output it has."""
    removed = folded.folds.removed if folded else {}
    return {target: number for number, target in sorted(removed.items()) if target < number}


def _needed(network: Network) -> set[int]:
    """Return the layers whose output another layer reads."""
    by_number = {number for layer in network.layers for number in layer.reads}
    by_next = {layer.index - 1 for layer in network.layers if layer.type not in IGNORES_BEFORE}
    return by_number | by_next


def _checked(context: Context, value: Value) -> Value:
    """Return the layer's value; a `ProofError` unless it has as many values as the plan says."""
    expected = passed_on(context.layer.section, context.layer.output).outputs
    if value.size != expected:
        what = f"layer {context.number} has {value.size} values in the graph, expected {expected}"
        raise ProofError(context.layer.section.path, what, cause=DEFECT)
    return value


def _head(context: Context, options: OnnxOptions) -> None:
    """Make the head's boxes an output, or with `--head raw` its input."""
    name = f"{context.layer.type}_{context.number}"
    if options.head == "raw":
        meaning = f"what [{context.layer.section.name}] reads: {context.layer.type} values, not decoded"
        context.graph.output(context.before, name, layer=context.number, kind="raw", meaning=meaning)
    else:
        boxes = _boxes(context)
        meaning = f"rows: {ROWS}; columns: {COLUMNS}"
        context.graph.output(boxes, name, layer=context.number, kind="boxes", meaning=meaning, rename=True)


def _boxes(context: Context) -> Value:
    """Return the decoded boxes; an error mentions `--head raw`, which exports the head's input."""
    try:
        return HEADS[context.layer.type].boxes(context)
    except CfgError as error:
        error.cause = error.cause or "--head raw leaves the boxes to the reader"
        raise


def _last(graph: Graph, given: Network, network: Network, values: list[Value], numbers: Sequence[int]) -> None:
    """Make the last layer that is not a cost an output, if it is not a head; `numbers` are those in the given cfg."""
    last = next((layer for layer in reversed(network.layers) if layer.type != "cost"), None)
    if last is None or last.type in HEADS:
        return
    number, value = numbers[last.index], values[last.index]
    name, meaning = f"{given.layers[number].type}_{number}", "the network's output"
    own = bool(graph.nodes) and graph.nodes[-1].name == value.name
    graph.output(value, name, layer=number, kind="output", meaning=meaning, rename=own)
