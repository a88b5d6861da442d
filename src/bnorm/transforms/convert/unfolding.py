"""Identity batch normalisation for convolutions without any: the selection of convolutions, and the arrays.

The gain is `scale / deviation(variance)`, so scales of 1 and a mean of 0 keep the function if the
deviation is 1: a variance of 1 − ε inside the root, of (1 − ε)² outside. darknet's own `normalize` writes a variance of
0, which means a gain of 316; OpenCV's outputs are then NaN.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from bnorm.batchnorm.epsilon import Epsilon
from bnorm.darknet.edit import Value, apply, with_values
from bnorm.darknet.network import Layer, Network, build
from bnorm.darknet.section_types import TYPES
from bnorm.darknet.weights import Floats
from bnorm.folding.obstacles import shares_arrays, unread


def bare_convolutions(network: Network, layers: Collection[int] | None) -> dict[int, str]:
    """Return every convolution without batch normalisation and the reason why it stays bare; empty if it gets one.

    A convolution before a head gets one only if it is in `layers`; None selects all except those before a head.
    """
    return {
        layer.index: _obstacle(network, layer, layers)
        for layer in network.layers
        if layer.type == "convolutional" and not layer.batch_normalize and (layers is None or layer.index in layers)
    }


def _obstacle(network: Network, layer: Layer, layers: Collection[int] | None) -> str:
    """Return why a bare convolution stays bare; empty if it does not."""
    if shares_arrays(layer):
        return "shares its weights"
    if layer.section.flag("dontloadscales"):
        return "dontloadscales: the file holds no scales"
    if reason := unread(layer):
        return reason
    following = network.layers[layer.index + 1 : layer.index + 2]
    if layers is None and following and TYPES[following[0].type].is_head:
        return f"before layer {layer.index + 1} ([{following[0].section.name}])"
    return ""


def with_normalisation(network: Network, layers: Collection[int]) -> Network:
    """Return the network with `batch_normalize=1` in these layers."""
    switches = (Value(network.layers[layer].section, "batch_normalize", 1) for layer in sorted(layers))
    return build(apply(network.text, with_values(network.text, switches)), network.dialect)


def identity(channels: int, guard: Epsilon) -> Mapping[str, Floats]:
    """Return the arrays of a batch normalisation that changes nothing with this ε, (channels,) each."""
    variance = 1 - guard.value if guard.inside else (1 - guard.value) ** 2
    values = {"scales": 1.0, "rolling_mean": 0.0, "rolling_variance": variance}
    return {field: np.full(channels, value, np.float32) for field, value in values.items()}
