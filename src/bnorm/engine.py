"""Run one layer's batch normalisation on a tensor."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bnorm.batchnorm import Arithmetic, Parameters, Rolling, infer
from bnorm.errors import BnormError, CfgError, TensorError
from bnorm.layout import NORMALISATION
from bnorm.model import Model
from bnorm.tensors import Tensor
from bnorm.weights import open_weights


def layer_parameters(model: Model, layer: int, part: str = "") -> tuple[Parameters, Rolling]:
    """The arrays of a layer's (or its part's) batch normalisation; `CfgError` where it has none."""
    with open_weights(model) as weights:
        weights.require_fit()
        prefix = f"{part}." if part else ""
        try:
            scales, mean, variance = (weights[layer, prefix + field] for field in NORMALISATION)
        except KeyError:
            raise _no_batchnorm(model, layer, part) from None
        try:
            biases = weights[layer, f"{prefix}biases"]
        except KeyError:  # pjreddie's [batchnorm] stores none: they are 0
            biases = np.zeros_like(scales)
    doubles = [values.astype(np.float64) for values in (scales, biases, mean, variance)]
    return Parameters(*doubles[:2]), Rolling(*doubles[2:])


def _no_batchnorm(model: Model, layer: int, part: str) -> BnormError:
    if not 0 <= layer < len(model.network.layers):
        return CfgError(model.network.text.path, f"has no layer {layer}, expected 0 to {len(model.network.layers) - 1}")
    found = model.network.layers[layer]
    names = [part.name for part in found.parts if part.batch_normalize and part.name]
    expected = f"one of its parts: {', '.join(names)}" if names else "a layer with batch normalisation"
    what = f"layer {layer}{'.' + part if part else ''} has none"
    return found.section.error(f"{what}, expected {expected}")


def run(x: Tensor, path: Path, parameters: Parameters, rolling: Rolling, arithmetic: Arithmetic) -> Tensor:
    """The layer's output at inference for `x`, which was read from `path`: the same shape and dtype."""
    batch = x[np.newaxis] if x.ndim == 3 else x
    if batch.shape[1] != len(parameters.scales):
        raise TensorError(path, f"has {batch.shape[1]} channels, expected {len(parameters.scales)}, as the layer has")
    return infer(batch, parameters, rolling, arithmetic).reshape(x.shape)
