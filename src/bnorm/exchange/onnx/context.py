"""What a builder sees: one layer, its inputs in the graph, and its arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bnorm.darknet.layout import Array
from bnorm.darknet.network import Layer, Network
from bnorm.darknet.parts import Part
from bnorm.darknet.weights import Floats
from bnorm.errors import CfgError, WeightsError
from bnorm.exchange.onnx.graph import Graph, Shape, Value
from bnorm.statistics.normalisers import Normaliser
from bnorm.transforms.fold.folded_model import FoldedModel

Filter = Callable[[Floats], Floats]  # what becomes of a block of whole filters


@dataclass(frozen=True, slots=True)
class Arrays:
    """The arrays of a model after folding, by the layer's number in the folded network."""

    folded: FoldedModel
    survivors: tuple[int, ...]  # for each layer of the folded network its number in the cfg

    def find(self, layer: int, field: str) -> Array | None:
        """Return an array of the new file, None if it has none of this name."""
        return self.folded.after.layout.by_name.get((layer, field))

    def blocks(self, layer: int, field: str) -> Iterable[Floats]:
        """Yield the array in blocks of whole rows; one that the file stores in another order comes as a whole."""
        array = self.folded.after.layout.by_name[layer, field]
        blocks = self._finite(self.folded.weights.layout.by_name[self.survivors[layer], field])
        if array.axes is None:
            return blocks
        stored = np.concatenate(list(blocks))
        return [np.ascontiguousarray(stored.reshape(array.stored).transpose(array.axes))]

    def _finite(self, array: Array) -> Iterator[Floats]:
        """Yield an array as the new file holds it; a `WeightsError` where folding has made it infinite."""
        for values, overflowing in self.folded.pieces(array):
            if overflowing:
                what = f"layer {array.layer} {array.name} exceeds float32 after folding, expected smaller gains"
                raise WeightsError(self.folded.weights.path, what, cause="keep the batch normalisation: --keep-batchnorm")
            yield values

    def normaliser(self, layer: int) -> Normaliser:
        """Return the batch normalisation that a layer has kept."""
        return self.folded.normalisers[self.survivors[layer], ""]

    def root(self, layer: int, part: Part) -> int:
        """Return the layer whose arrays this part uses: its own, or the one that `share_index` leads to."""
        network = self.folded.after.network
        while part.shared is not None:
            layer, part = part.shared, network.layers[part.shared].parts[0]
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
        """Return the error of a layer that a graph cannot express."""
        return self.layer.section.error(f"(layer {self.number}) {what}", key, cause=cause, finding="onnx")

    def image(self) -> Value:
        """Return the output of the layer before as channels, height and width."""
        return self.viewed(self.before, self.layer.incoming[:3])

    def flat(self) -> Value:
        """Return the output of the layer before as one axis."""
        return self.graph.flat(self.before)

    def viewed(self, value: Value, shape: Shape) -> Value:
        """Return a value in another shape with the same number of values."""
        if value.size != int(np.prod(shape, dtype=np.int64)):
            sizes = f"{value.size:,} values as {'x'.join(map(str, shape))}"
            raise self.refusal(f"reads {sizes}, expected a layer that gives as many as it takes")
        return self.graph.reshape(value, tuple(shape))

    def numbered(self, position: int) -> Value:
        """Return the output of a layer that it names, in the shape that the fork reports."""
        value, layer = self.reads[position], self.network.layers[self.layer.reads[position]]
        if value.size != layer.output.outputs:
            what = f"reads layer {self.arrays.survivors[layer.index]}, expected one without antialiasing"
            raise self.refusal(what, cause="the fork writes the blurred output over a part of the layer's own")
        return self.viewed(value, layer.output[:3]) if all(layer.output[:3]) else value

    def weight(self, field: str, shape: Shape, change: Filter | None = None, *, name: str = "") -> str:
        """Return the name of one of the layer's arrays in the graph; `change` is applied to blocks of filters."""
        part = self.layer.parts[0]
        layer = self.arrays.root(self.layer.index, part)
        array = self.arrays.find(layer, field)
        if array is None or array.size != int(np.prod(shape, dtype=np.int64)):
            key = "dontload" if array is None else "numload"
            raise self.refusal(f"has {field} that are not in the file, expected all of them", key)

        def blocks() -> Iterable[Floats]:
            return map(change, self.arrays.blocks(layer, field)) if change else self.arrays.blocks(layer, field)

        return self.graph.weight(name or f"{self.arrays.survivors[layer]}.{field}", shape, blocks)

    def read(self, field: str) -> Floats:
        """Return one of the layer's small arrays, as a whole."""
        part = self.layer.parts[0]
        layer = self.arrays.root(self.layer.index, part)
        if self.arrays.find(layer, field) is None:
            raise self.refusal(f"has {field} that are not in the file, expected all of them", "dontload")
        return np.concatenate(list(self.arrays.blocks(layer, field)))

    def vector(self, field: str, values: NDArray[np.floating], shape: Shape) -> str:
        """Return the name of a computed array, rounded once."""
        rounded = np.asarray(values, np.float32).reshape(shape)
        return self.graph.weight(f"{self.number}.{field}", shape, lambda: [rounded])
