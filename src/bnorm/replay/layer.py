"""The layer to run: read from a model or from a .npz archive, and its new statistics written back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bnorm.batchnorm.epsilon import Epsilon, Vector
from bnorm.batchnorm.formulas import Parameters, Rolling
from bnorm.darknet.layout import NORMALISATION, Array
from bnorm.darknet.model import Model
from bnorm.darknet.weights import Trailing, open_weights
from bnorm.errors import BnormError, CfgError, TensorError
from bnorm.statistics.bad_variance import BadChannels, BadVariance, bad_channels, clamped
from bnorm.statistics.normalisers import read_normaliser
from bnorm.tensors.npz import read_vectors
from bnorm.tensors.tensor import FileTensor, Tensor

OWN_OUTPUT = "x is what the layer computes before bias, normalisation and activation, not its input"


class Size(NamedTuple):
    """Height and width of one channel."""

    height: int
    width: int


class OtherSize(NamedTuple):
    """An input whose height and width differ from the layer's output in the cfg."""

    input: str
    size: Size
    expected: Size


class StoredLayer(NamedTuple):
    """A layer's parameters and statistics as float64; `connected` chooses between the two `keep` of an arithmetic."""

    parameters: Parameters
    rolling: Rolling
    connected: bool
    size: Size | None = None  # of its output in the cfg, if known


def layer_from_model(
    model: Model, layer: int, part: str = "", trailing: Trailing | str = Trailing.ERROR
) -> StoredLayer:
    """Return the batch normalisation of a layer, or of its part; raises `CfgError` if it has none."""
    normalisation_arrays(model, layer, part)
    with open_weights(model, trailing) as weights:
        item = next(item for item in model.network.layers[layer].parts if item.name == part)
        normaliser = read_normaliser(weights, layer, item)
    connected = normaliser.kind == "connected"
    output = model.network.layers[layer].output
    size = Size(height=1, width=1) if connected else Size(height=output.height, width=output.width)
    return StoredLayer(
        parameters=normaliser.parameters,
        rolling=normaliser.rolling,
        connected=connected,
        size=size if min(size) > 0 else None,  # darknet reports no size for some recurrent layers
    )


def judged(stored: StoredLayer, policy: BadVariance, guards: Sequence[Epsilon]) -> StoredLayer | BadChannels:
    """Return the layer to run, with bad variances clamped or unchanged, or the bad channels if the policy is an error.

    `guards` are the ε that the variances are used with.
    """
    variance = stored.rolling.variance
    bad = bad_channels(variance, *guards) if policy is not BadVariance.SKIP else None
    if bad is None or policy is BadVariance.ERROR:
        return bad or stored
    return stored._replace(rolling=stored.rolling._replace(variance=clamped(variance, bad)))


def normalisation_arrays(model: Model, layer: int, part: str) -> dict[str, Array]:
    """Return the stored arrays of a batch normalisation by field; raises `CfgError` if there is none."""
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


def check_tensors(x: FileTensor, delta: FileTensor | None, channels: int, train: bool) -> None:
    """Raise `TensorError` for an input that does not fit the layer, and for a delta that does not fit its input."""
    if x.channels != channels:
        what = f"has {x.channels} channels in {x.shape}, expected {channels}, as in the layer's own output"
        cause = f"{OWN_OUTPUT}; or is --layout wrong?" if len(x.shape) > 2 else OWN_OUTPUT
        raise TensorError(x.path, what, cause=cause)
    if train and x.length == 1:
        raise TensorError(x.path, "has one value per channel, expected more: one value has no variance")
    if delta and delta.shape != x.shape:
        raise TensorError(delta.path, f"has the shape {delta.shape}, expected its input's, {x.shape}")


def other_sizes(names: Sequence[str], inputs: Sequence[Tensor], expected: Size | None) -> tuple[OtherSize, ...]:
    """Return the inputs whose height and width are not as expected: perhaps they are not the layer's output."""
    if expected is None:
        return ()
    sizes = zip(names, map(_size, inputs), strict=True)
    return tuple(OtherSize(input=name, size=size, expected=expected) for name, size in sizes if size != expected)


def _size(x: Tensor) -> Size:
    """Return height and width of a tensor: 1 and 1 for shape (N, C)."""
    if len(x.shape) == 2:
        return Size(height=1, width=1)
    return Size(*(x.shape[-3:-1] if x.layout == "nhwc" else x.shape[-2:]))


def rolling_arrays(model: Model, layer: int, part: str, rolling: Rolling) -> dict[tuple[int, str], Vector]:
    """Return the rolling statistics of one layer or part by the names that its weights file stores them under."""
    arrays = normalisation_arrays(model, layer, part)
    new = {"rolling_mean": rolling.mean, "rolling_variance": rolling.variance}
    return {(layer, arrays[field].name): values for field, values in new.items()}
