"""A plain forward pass of one image, in float64: what an exported graph is compared with.

It is computed with NumPy from the weights file as it is, and not from a graph: batch normalisation step by step.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from bnorm.batchnorm.epsilon import Epsilon
from bnorm.darknet.network import Layer
from bnorm.darknet.weights import Weights
from bnorm.exchange.plain.heads import OUTPUTS, Tensor
from bnorm.exchange.plain.rules import RULES
from bnorm.exchange.plain.run import Run


class Computed(NamedTuple):
    """A layer, what it got from the layer before it, and its output."""

    layer: Layer
    incoming: Tensor
    output: Tensor


def forward(
    weights: Weights, epsilon: Epsilon, image: Tensor, dtype: type[np.floating[Any]] = np.float64
) -> Iterator[Computed]:
    """Yield every layer of the model for one image, (C, H, W) or (inputs,); what no later layer reads is freed."""
    run = Run(weights=weights, epsilon=epsilon, dtype=dtype)
    last = {number: layer.index for layer in run.network.layers for number in layer.reads}
    kept: dict[int, Tensor] = {}
    x = image.astype(dtype)
    for layer in run.network.layers:
        with np.errstate(all="ignore"):
            y = _output(run, layer, x, [kept[number] for number in layer.reads])
        yield Computed(layer, x, y)
        if layer.index in last:
            kept[layer.index] = y
        kept = {number: values for number, values in kept.items() if last[number] > layer.index}
        x = y


def _output(run: Run, layer: Layer, x: Tensor, reads: list[Tensor]) -> Tensor:
    if layer.type in OUTPUTS:
        return OUTPUTS[layer.type](run.network, layer, x)
    return RULES[layer.type](run, layer, x, reads)
