"""The layer to run: read from a model or from a .npz archive, and its new statistics written back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bnorm.batchnorm.formulas import Parameters, Rolling
from bnorm.darknet.layout import NORMALISATION, Array
from bnorm.darknet.model import Model
from bnorm.darknet.weights import Trailing, copy, open_weights
from bnorm.errors import BnormError, CfgError, TensorError
from bnorm.statistics.normalisers import read_normaliser
from bnorm.tensors.npz import read_vectors
from bnorm.tensors.tensor import FileTensor


class StoredLayer(NamedTuple):
    """A layer's parameters and statistics as float64; `connected` chooses between the two `keep` of an arithmetic."""

    parameters: Parameters
    rolling: Rolling
    connected: bool


def layer_from_model(
    model: Model, layer: int, part: str = "", trailing: Trailing | str = Trailing.ERROR
) -> StoredLayer:
    """Return the batch normalisation of a layer, or of its part; raises `CfgError` where it has none."""
    normalisation_arrays(model, layer, part)
    with open_weights(model, trailing) as weights:
        item = next(item for item in model.network.layers[layer].parts if item.name == part)
        normaliser = read_normaliser(weights, layer, item)
    return StoredLayer(
        parameters=normaliser.parameters, rolling=normaliser.rolling, connected=normaliser.kind == "connected"
    )


def normalisation_arrays(model: Model, layer: int, part: str) -> dict[str, Array]:
    """Return the stored arrays of a batch normalisation by field; raises `CfgError` where there is none."""
    path, layers = model.network.text.path, model.network.layers
    if not 0 <= layer < len(layers):
        raise CfgError(path, f"has no layer {layer}, expected 0 to {len(layers) - 1}")
    arrays = {array.field: array for array in model.layout.arrays if (array.layer, array.part) == (layer, part)}
    if not set(NORMALISATION) <= set(arrays):
        raise _not_normalised(model, layer, part)
    return arrays


def _not_normalised(model: Model, layer: int, part: str) -> BnormError:
    chosen = model.network.layers[layer]
    names = [item.name for item in chosen.parts if item.batch_normalize and item.name]
    what = f"is layer {layer}, which has no part {part!r}" if part else f"is layer {layer}"
    expected = f"one of its parts {', '.join(names)}" if names else "a layer whose batch normalisation is in the file"
    return chosen.section.error(f"{what}, expected {expected}")


def layer_from_params(path: Path) -> StoredLayer:
    """Return the arrays `scales`, `biases`, `rolling_mean` and `rolling_variance` of a .npz archive."""
    scales, biases, mean, variance = read_vectors(path, ("scales", "biases", "rolling_mean", "rolling_variance"))
    return StoredLayer(
        parameters=Parameters(scales=scales, biases=biases),
        rolling=Rolling(mean=mean, variance=variance),
        connected=False,
    )


def check_tensors(inputs: Sequence[FileTensor], deltas: Sequence[FileTensor], channels: int, train: bool) -> None:
    """Raise `TensorError` for an input that does not fit the layer, and for a delta that does not fit its input."""
    for x in inputs:
        if x.channels != channels:
            what = f"has {x.channels} channels in {x.shape}, expected {channels}, as in the layer"
            raise TensorError(x.path, what, cause="the wrong --layout?" if len(x.shape) > 2 else "")
        if train and x.length == 1:
            raise TensorError(x.path, "has one value per channel, expected more: one value has no variance")
    for delta, x in zip(deltas, inputs, strict=True) if deltas else ():
        if delta.shape != x.shape:
            raise TensorError(delta.path, f"has the shape {delta.shape}, expected its input's, {x.shape}")


def update_weights(
    model: Model, layer: int, part: str, rolling: Rolling, output: Path, trailing: Trailing | str = Trailing.ERROR
) -> None:
    """Write a copy of the model's weights with the rolling statistics of one layer or part replaced."""
    arrays = normalisation_arrays(model, layer, part)
    new = {"rolling_mean": rolling.mean, "rolling_variance": rolling.variance}
    copy(model, output, {(layer, arrays[field].name): values for field, values in new.items()}, trailing)
