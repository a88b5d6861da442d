"""A model in a plain forward pass: its arrays as numbers of one type, and what every rule needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bnorm.batchnorm.epsilon import Epsilon
from bnorm.darknet.network import Layer, Network
from bnorm.darknet.parts import Part
from bnorm.darknet.vocabulary import ACTIVATIONS
from bnorm.darknet.weights import Weights
from bnorm.exchange.plain.activations import FORMULAS
from bnorm.exchange.plain.heads import Tensor
from bnorm.statistics.normalisers import normalises, read_normaliser


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One network and its weights file, to be computed with this ε in this type."""

    weights: Weights
    epsilon: Epsilon
    dtype: type[np.floating[Any]]

    @property
    def network(self) -> Network:
        """Return the network of the weights."""
        return self.weights.model.network

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
            field: self.weights[owner.index, field].astype(self.dtype)
            for field in ("weights", "biases")
            if (owner.index, field) in self.weights.layout.by_name
        }
        if part.batch_normalize and normalises(owner.parts[0]):
            own = read_normaliser(self.weights, owner.index, owner.parts[0])
            vectors = {
                "scales": own.parameters.scales,
                "biases": own.parameters.biases,
                "mean": own.rolling.mean,
                "deviation": self.epsilon.deviation(own.rolling.variance),
            }
            stored |= {name: values.astype(self.dtype) for name, values in vectors.items()}
        return part, stored

    def finish(self, layer: Layer, part: Part, y: Tensor, arrays: Mapping[str, Tensor]) -> Tensor:
        """Normalise or add biases, and activate."""

        def along(name: str) -> Tensor:
            return arrays[name].reshape(-1, *[1] * (y.ndim - 1))

        if part.batch_normalize:
            y = (y - along("mean")) / along("deviation") * along("scales")
        return self.activate(layer, y + along("biases"))
