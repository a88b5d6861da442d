"""The context of a builder: one layer, its inputs in the graph, and its arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from bnorm.batchnorm.epsilon import Epsilon
from bnorm.darknet.network import Layer, Network
from bnorm.darknet.weights import Floats
from bnorm.errors import CfgError
from bnorm.exchange.job import Item
from bnorm.exchange.onnx.graph import Graph, Shape, Value
from bnorm.statistics.normalisers import Key, Normaliser

MOST_CONSTANT = 1 << 24  # values of a computed array

Filter = Callable[[Floats], Floats]  # what becomes of a block of whole filters


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrays:
    """The arrays of the network that is exported, by the layer's number there and the array's name."""

    items: Mapping[tuple[int, str], Item]
    numbers: tuple[int, ...]  # for each layer its number in the given cfg
    normalisers: Mapping[Key, Normaliser]  # by the number in the given cfg
    epsilon: Epsilon

    def normaliser(self, layer: int) -> Normaliser:
        """Return the batch normalisation that a layer has kept."""
        return self.normalisers[self.numbers[layer], ""]


def root(network: Network, layer: Layer) -> Layer:
    """Return the layer whose arrays this one uses: itself, or the one that `share_index` leads to."""
    while layer.parts[0].shared is not None:
        layer = network.layers[layer.parts[0].shared]
    return layer


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """One layer to build. `number` is its number in the cfg, `reads` the outputs of the layers that it names."""

    graph: Graph
    network: Network
    layer: Layer
    number: int
    before: Value
    reads: tuple[Value, ...]
    arrays: Arrays
    keep_batchnorm: bool

    @property
    def dialect(self) -> str:
        """Return the name of the fork whose rules apply."""
        return self.network.dialect.name

    def refusal(self, what: str, key: str = "", cause: str = "") -> CfgError:
        """Return the error for a layer that a graph cannot express."""
        return self.layer.section.error(f"(layer {self.number}) {what}", key, cause=cause, finding="onnx")

    def image(self) -> Value:
        """Return the output of the layer before as channels, height and width."""
        return self.viewed(self.before, self.layer.incoming[:3])

    def flat(self) -> Value:
        """Return the output of the layer before as one axis."""
        return self.graph.flat(self.before)

    def viewed(self, value: Value, shape: Shape) -> Value:
        """Return a value in another shape with the same number of values."""
        if value.size != prod(shape):
            sizes = f"{value.size:,} values as {'x'.join(map(str, shape))}"
            raise self.refusal(f"reads {sizes}, expected as many values as the layer takes")
        return self.graph.reshape(value, tuple(shape))

    def numbered(self, position: int) -> Value:
        """Return the output of a layer that it names, in the shape that the fork reports."""
        value, layer = self.reads[position], self.network.layers[self.layer.reads[position]]
        if value.size != layer.output.outputs:
            what = f"reads layer {self.arrays.numbers[layer.index]}, expected one without antialiasing"
            raise self.refusal(what, cause="the fork writes the blurred output over a part of the layer's own")
        return self.viewed(value, layer.output[:3]) if all(layer.output[:3]) else value

    def weight(self, field: str, shape: Shape, change: Filter | None = None) -> str:
        """Return the name of one of the layer's arrays in the graph; `change` is applied to blocks of filters."""
        item = self._item(field)
        if item.size != prod(shape):
            raise self.refusal(f"has {field} that are not in the file, expected all of them", "numload")

        def blocks() -> Iterable[Floats]:
            return map(change, item.blocks()) if change else item.blocks()

        return self.graph.weight(item.name, shape, blocks)

    def read(self, field: str) -> Floats:
        """Return one of the layer's small arrays, as a whole."""
        return np.concatenate(list(self._item(field).blocks()))

    def normaliser(self) -> Normaliser:
        """Return the batch normalisation that the layer has kept."""
        return self.arrays.normaliser(root(self.network, self.layer).index)

    def _item(self, field: str) -> Item:
        """Return one of the layer's arrays; a refusal if the file does not hold it."""
        key = (root(self.network, self.layer).index, field)
        if key not in self.arrays.items:
            raise self.refusal(f"has {field} that are not in the file, expected all of them", "dontload")
        return self.arrays.items[key]

    def afford(self, count: int, what: str) -> None:
        """Refuse a constant that is far larger than that of any network; a small cfg may ask for gigabytes."""
        if count > MOST_CONSTANT:
            raise self.refusal(f"needs {count:,} values for {what}, expected at most {MOST_CONSTANT:,}")

    def vector(self, field: str, values: NDArray[np.floating], shape: Shape) -> str:
        """Return the name of a computed array, rounded once; `afford` it where its size is not that of stored ones."""
        rounded = np.asarray(values, np.float32).reshape(shape)
        return self.graph.weight(f"{self.number}.{field}", shape, lambda: [rounded])
