"""A graph while it is built: nodes, constants and weights, with names that depend on the cfg alone.

Shapes here never count the batch: a value of shape (16, 8, 8) is [N, 16, 8, 8] in the file. The nodes of a layer are
named after its number in the cfg and the operator: `12.Conv`, `12.Mul`, `12.Mul_2`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bnorm.darknet.weights import Floats

INPUT = "input"

Shape = tuple[int, ...]


class Value(NamedTuple):
    """A tensor in the graph: its name, and its shape without the batch."""

    name: str
    shape: Shape

    @property
    def size(self) -> int:
        """Return the number of values of one image."""
        return prod(self.shape)


class Node(NamedTuple):
    """One operator with one output, which has the node's name."""

    op: str
    name: str
    inputs: tuple[str, ...]
    attributes: dict[str, Any]


class Constant(NamedTuple):
    """A small array of the graph itself: a grid, anchors, a shape."""

    name: str
    values: NDArray[Any]


class Weight(NamedTuple):
    """A float32 array of the model, which is read and written in blocks."""

    name: str
    shape: Shape
    blocks: Callable[[], Iterable[Floats]]


class Output(NamedTuple):
    """An output of the graph, with its whole shape; None stands for a batch of any size."""

    name: str
    shape: tuple[int | None, ...]
    layer: int
    kind: str  # output, boxes or raw
    meaning: str


@dataclass(slots=True, kw_only=True)
class Graph:
    """Nodes in order, with their constants and weights. `batch` is the number of images, None for any number."""

    opset: int
    batch: int | None
    input: Shape
    nodes: list[Node] = field(default_factory=list)
    constants: dict[str, Constant] = field(default_factory=dict)
    weights: dict[str, Weight] = field(default_factory=dict)
    shapes: dict[str, tuple[int | None, ...]] = field(default_factory=dict)  # of all outputs of nodes, as planned
    outputs: list[Output] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    scope: str = ""
    _names: Counter[str] = field(default_factory=Counter)
    _known: dict[tuple[str, Shape, bytes], str] = field(default_factory=dict)

    def enter(self, layer: int) -> None:
        """Name what follows after this layer."""
        self.scope = str(layer)

    def add(
        self, op: str, inputs: Sequence[Value | str], shape: Shape, *, batched: bool = True, **attributes: Any
    ) -> Value:
        """Append a node and return its output, of this shape; it excludes the batch, unless `batched` is false."""
        name = self._name(op)
        names = tuple(value if isinstance(value, str) else value.name for value in inputs)
        self.nodes.append(Node(op=op, name=name, inputs=names, attributes=attributes))
        self.shapes[name] = (self.batch, *shape) if batched else shape
        return Value(name, shape)

    def constant(self, what: str, values: NDArray[Any] | Sequence[int]) -> str:
        """Return the name of a constant; equal constants are stored once."""
        array = np.ascontiguousarray(np.asarray(values, np.int64) if not isinstance(values, np.ndarray) else values)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._known:
            name = self._known[key] = self._name(what)
            self.constants[name] = Constant(name, array)
        return self._known[key]

    def number(self, value: float) -> str:
        """Return the name of a float32 scalar."""
        return self.constant("number", np.asarray(value, np.float32))

    def weight(self, name: str, shape: Shape, blocks: Callable[[], Iterable[Floats]]) -> str:
        """Return the name of an array of the model, which several layers may share."""
        self.weights.setdefault(name, Weight(name, shape, blocks))
        return name

    def output(self, value: Value, name: str, *, layer: int, kind: str, meaning: str, rename: bool = False) -> None:
        """Make a value an output of this name, by a copy; or with `rename`, if nothing else reads it, itself."""
        shape = self.shapes.pop(value.name) if rename else self.shapes.get(value.name, (self.batch, *value.shape))
        if rename:
            position = next(n for n, node in enumerate(self.nodes) if node.name == value.name)
            self.nodes[position] = self.nodes[position]._replace(name=name)
        else:
            self.nodes.append(Node(op="Identity", name=name, inputs=(value.name,), attributes={}))
        self.shapes[name] = shape
        self.outputs.append(Output(name=name, shape=shape, layer=layer, kind=kind, meaning=meaning))

    def _name(self, what: str) -> str:
        """Return `12.Conv`, and the next time `12.Conv_2`."""
        base = f"{self.scope}.{what}" if self.scope else what
        self._names[base] += 1
        return base if self._names[base] == 1 else f"{base}_{self._names[base]}"

    # --- operators that several builders use --------------------------------------------------------------------------

    def reshape(self, value: Value, shape: Shape) -> Value:
        """Return the values in another shape; nothing is added where it has that shape."""
        if value.shape == shape:
            return value
        leading = -1 if self.batch is None else self.batch
        return self.add("Reshape", [value, self.constant("shape", [leading, *shape])], shape)

    def flat(self, value: Value) -> Value:
        """Return the values of each image in one axis."""
        return self.reshape(value, (value.size,))

    def transpose(self, value: Value, axes: Sequence[int]) -> Value:
        """Permute the axes after the batch: `axes` counts them from 0."""
        shape = tuple(value.shape[axis] for axis in axes)
        return self.add("Transpose", [value], shape, perm=[0, *(axis + 1 for axis in axes)])

    def slice(self, value: Value, starts: Shape, ends: Shape, steps: Shape | None = None) -> Value:
        """Cut every axis after the batch; axes that stay whole are left out."""
        steps = steps or (1,) * len(starts)
        cut = [
            axis for axis, size in enumerate(value.shape) if (starts[axis], steps[axis]) != (0, 1) or ends[axis] < size
        ]
        if not cut:
            return value
        shape = tuple(-(-(end - start) // step) for start, end, step in zip(starts, ends, steps, strict=True))
        inputs = [
            self.constant("starts", [starts[axis] for axis in cut]),
            self.constant("ends", [ends[axis] for axis in cut]),
            self.constant("axes", [axis + 1 for axis in cut]),
        ]
        if any(steps[axis] != 1 for axis in cut):
            inputs.append(self.constant("steps", [steps[axis] for axis in cut]))
        return self.add("Slice", [value, *inputs], shape)

    def slice_axis(self, value: Value, axis: int, start: int, end: int) -> Value:
        """Cut one axis after the batch."""
        starts, ends = [0] * len(value.shape), list(value.shape)
        starts[axis], ends[axis] = start, end
        return self.slice(value, tuple(starts), tuple(ends))

    def pad(self, value: Value, before: Shape, after: Shape, fill: float = 0.0) -> Value:
        """Pad every axis after the batch with a constant."""
        if not any(before) and not any(after):
            return value
        shape = tuple(b + size + a for b, size, a in zip(before, value.shape, after, strict=True))
        pads = self.constant("pads", [0, *before, 0, *after])
        return self.add("Pad", [value, pads, self.number(fill)], shape)

    def concat(self, values: Sequence[Value], axis: int = 0) -> Value:
        """Join along an axis after the batch; a single value is returned as it is."""
        if len(values) == 1:
            return values[0]
        shape = list(values[0].shape)
        shape[axis] = sum(value.shape[axis] for value in values)
        return self.add("Concat", values, tuple(shape), axis=axis + 1)

    def unary(self, op: str, value: Value, **attributes: Any) -> Value:
        """Apply an operator that keeps the shape."""
        return self.add(op, [value], value.shape, **attributes)

    def binary(self, op: str, value: Value, other: Value | str | float) -> Value:
        """Combine a value with one that broadcasts with it, or with a number."""
        return self.add(op, [value, self.number(other) if isinstance(other, (int, float)) else other], value.shape)

    def scaled(self, value: Value, factor: float = 1.0, offset: float = 0.0) -> Value:
        """Return factor·x + offset, without the steps that change nothing."""
        value = self.binary("Mul", value, factor) if factor != 1 else value
        return self.binary("Add", value, offset) if offset != 0 else value

    def clip(self, value: Value, least: float, most: float) -> Value:
        """Limit the values to an interval."""
        return self.add("Clip", [value, self.number(least), self.number(most)], value.shape)

    def reduce(self, op: str, value: Value, axis: int) -> Value:
        """Reduce one axis after the batch to length 1. The axes became an input in opset 13 or 18."""
        shape = (*value.shape[:axis], 1, *value.shape[axis + 1 :])
        if self.opset >= (13 if op == "ReduceSum" else 18):
            return self.add(op, [value, self.constant("axes", [axis + 1])], shape, keepdims=1)
        return self.add(op, [value], shape, axes=[axis + 1], keepdims=1)

    def initializers(self) -> Iterator[Constant | Weight]:
        """Yield the constants and the weights, in the order in which they were made."""
        yield from self.constants.values()
        yield from self.weights.values()
