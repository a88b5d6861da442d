"""A plain forward pass of one image, in float64: what an exported graph is compared with.

It is computed with NumPy from the weights file as it is, and not from a graph: batch normalisation step by step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from bnorm.batchnorm.epsilon import Epsilon
from bnorm.darknet.network import Layer, Network
from bnorm.darknet.parts import Part
from bnorm.darknet.vocabulary import ACTIVATIONS
from bnorm.darknet.weights import Weights
from bnorm.exchange.plain.activations import FORMULAS
from bnorm.exchange.plain.heads import OUTPUTS, Tensor
from bnorm.exchange.plain.rules import RULES
from bnorm.statistics.normalisers import normalises, read_normaliser


class Forward:
    """One network and its weights file; `outputs` yields every layer's output for one image."""

    def __init__(self, weights: Weights, epsilon: Epsilon, dtype: type[np.floating[Any]] = np.float64) -> None:
        self.network: Network = weights.model.network
        self._weights, self._epsilon, self._dtype = weights, epsilon, dtype

    def outputs(self, image: Tensor) -> Iterator[tuple[Layer, Tensor, Tensor]]:
        """Yield each layer, its input from the layer before, and its output; what nothing reads is freed."""
        last: dict[int, int] = {}
        for layer in self.network.layers:
            last |= dict.fromkeys(layer.reads, layer.index)
        kept: dict[int, Tensor] = {}
        x = image.astype(self._dtype)
        for layer in self.network.layers:
            with np.errstate(all="ignore"):
                y = self._output(layer, x, [kept[number] for number in layer.reads])
            yield layer, x, y
            if layer.index in last:
                kept[layer.index] = y
            for number in [number for number in kept if last[number] <= layer.index]:
                del kept[number]
            x = y

    def _output(self, layer: Layer, x: Tensor, reads: list[Tensor]) -> Tensor:
        if layer.type in OUTPUTS:
            return OUTPUTS[layer.type](self.network, layer, x)
        return RULES[layer.type](self, layer, x, reads)

    # --- what the rules use -------------------------------------------------------------------------------------------

    def image(self, layer: Layer, x: Tensor) -> Tensor:
        """Return the input as channels, height and width."""
        return x.reshape(layer.incoming[:3])

    def activate(self, layer: Layer, x: Tensor, default: str = "logistic") -> Tensor:
        """Apply the layer's activation; a name that pjreddie or alexeyab do not know is relu."""
        name = layer.section.text("activation", default)
        return FORMULAS[name if name in ACTIVATIONS[self.network.dialect.name] else "relu"](x)

    def arrays(self, layer: Layer) -> tuple[Part, Mapping[str, Tensor]]:
        """Return the part of a layer and its arrays, its own or those that it shares."""
        part, owner = layer.parts[0], layer
        while owner.parts[0].shared is not None:
            owner = self.network.layers[owner.parts[0].shared]
        stored = {
            field: self._weights[owner.index, field].astype(self._dtype)
            for field in ("weights", "biases")
            if (owner.index, field) in self._weights.layout.by_name
        }
        if part.batch_normalize and normalises(owner.parts[0]):
            own = read_normaliser(self._weights, owner.index, owner.parts[0])
            vectors = {
                "scales": own.parameters.scales,
                "biases": own.parameters.biases,
                "mean": own.rolling.mean,
                "deviation": self._epsilon.deviation(own.rolling.variance),
            }
            stored |= {name: values.astype(self._dtype) for name, values in vectors.items()}
        return part, stored

    def finish(self, layer: Layer, part: Part, y: Tensor, arrays: Mapping[str, Tensor]) -> Tensor:
        """Normalise or add biases, and activate."""

        def along(name: str) -> Tensor:
            return arrays[name].reshape(-1, *[1] * (y.ndim - 1))

        if part.batch_normalize:
            y = (y - along("mean")) / along("deviation") * along("scales")
        return self.activate(layer, y + along("biases"))
