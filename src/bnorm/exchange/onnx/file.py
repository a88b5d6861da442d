"""The bytes of an ONNX file, streamed: the graph first, then the weights in blocks, so that no model is in memory.

A protobuf message is the concatenation of its fields, so the file is made of pieces: what precedes the graph, the nodes
and constants, each weight as a tensor whose bytes follow its head, the inputs and outputs, and what follows the graph.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import BinaryIO

import numpy as np
import onnx
from onnx import helper, numpy_helper

from bnorm.darknet.weights import write_block
from bnorm.exchange.onnx.graph import INPUT, Constant, Graph, Weight

LIMIT = 2**31 - 1  # bytes of a protobuf message

GRAPH, INITIALIZER, RAW_DATA = 7, 5, 9  # numbers of fields: of ModelProto, GraphProto, TensorProto

FLOAT = 4


def model_proto(graph: Graph, name: str, metadata: Mapping[str, str], *, weights_as_inputs: bool) -> onnx.ModelProto:
    """Return the model without its weights; with `weights_as_inputs` they are inputs, so that it can be checked."""
    proto = helper.make_graph(
        nodes=[_node(graph, number) for number in range(len(graph.nodes))],
        name=name,
        inputs=[_declared(INPUT, (graph.batch, *graph.input))],
        outputs=[_declared(output.name, output.shape) for output in graph.outputs],
        initializer=[_tensor(constant) for constant in graph.constants.values()],
    )
    if weights_as_inputs:
        proto.input.extend(_declared(weight.name, weight.shape) for weight in graph.weights.values())
    opset = helper.make_opsetid("", graph.opset)
    model = helper.make_model(
        proto,
        producer_name="bnorm",
        opset_imports=[opset],
        ir_version=helper.find_min_ir_version_for([opset]),
    )
    helper.set_model_props(model, dict(metadata))
    return model


def _node(graph: Graph, number: int) -> onnx.NodeProto:
    node = graph.nodes[number]
    return helper.make_node(node.op, list(node.inputs), [node.name], name=node.name, **node.attributes)


def _declared(name: str, shape: tuple[int | None, ...]) -> onnx.ValueInfoProto:
    sizes = ["batch" if size is None else size for size in shape]
    return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, sizes)


def _tensor(constant: Constant) -> onnx.TensorProto:
    return numpy_helper.from_array(constant.values, constant.name)


def pieces(model: onnx.ModelProto, graph: Graph) -> tuple[bytes, bytes]:
    """Return the bytes before the weights in the file, and those after them."""
    head, tail = onnx.GraphProto(), onnx.GraphProto()
    head.name = model.graph.name
    head.node.extend(model.graph.node)
    head.initializer.extend(model.graph.initializer)
    tail.input.extend(model.graph.input)
    tail.output.extend(model.graph.output)
    before, after = onnx.ModelProto(), onnx.ModelProto()
    before.ir_version, before.producer_name = model.ir_version, model.producer_name
    after.opset_import.extend(model.opset_import)
    after.metadata_props.extend(model.metadata_props)
    start, end = _bytes(head), _bytes(tail)
    length = len(start) + sum(map(_weight_size, graph.weights.values())) + len(end)
    return _bytes(before) + _key(GRAPH, length) + start, end + _bytes(after)


def write(file: BinaryIO, graph: Graph, ends: tuple[bytes, bytes]) -> None:
    """Write the whole file."""
    head, tail = ends
    file.write(head)
    for weight in graph.weights.values():
        file.write(_weight_head(weight))
        for block in weight.blocks():
            write_block(file, block)
    file.write(tail)


def size(graph: Graph, ends: tuple[bytes, bytes]) -> int:
    """Return the number of bytes of the file."""
    return sum(map(len, ends)) + sum(map(_weight_size, graph.weights.values()))


def operators(graph: Graph) -> tuple[str, ...]:
    """Return the operators in use, sorted."""
    return tuple(sorted({node.op for node in graph.nodes}))


def _values(weight: Weight) -> int:
    return int(np.prod(weight.shape, dtype=np.int64))


def _weight_head(weight: Weight) -> bytes:
    """Return the field `initializer` up to the tensor's bytes."""
    tensor = _tensor_head(weight)
    return _key(INITIALIZER, len(tensor) + FLOAT * _values(weight)) + tensor


def _tensor_head(weight: Weight) -> bytes:
    described = onnx.TensorProto(name=weight.name, dims=weight.shape, data_type=onnx.TensorProto.FLOAT)
    return _bytes(described) + _key(RAW_DATA, FLOAT * _values(weight))


def _weight_size(weight: Weight) -> int:
    return len(_weight_head(weight)) + FLOAT * _values(weight)


def _key(number: int, length: int) -> bytes:
    """Return the key of a field of bytes, and their number (protobuf's wire format: a varint each)."""
    return bytes(_varint(number << 3 | 2)) + bytes(_varint(length))


def _varint(value: int) -> Iterator[int]:
    while value > 0x7F:
        yield value & 0x7F | 0x80
        value >>= 7
    yield value


def _bytes(message: onnx.GraphProto | onnx.ModelProto | onnx.TensorProto) -> bytes:
    data: bytes = message.SerializeToString(deterministic=True)
    return data
