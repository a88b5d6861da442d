"""Run a layer of a model on consecutive mini-batches: parameters, rolling statistics, and where results go."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from bnorm.batchnorm import Arithmetic, Gradients, Moments, Parameters, Rolling, roll
from bnorm.engine import MEMORY, Layer, Team, run_batch
from bnorm.errors import BnormError, CfgError, TensorError
from bnorm.files import replacing
from bnorm.layout import NORMALISATION, Array
from bnorm.model import Model
from bnorm.npy import read_vectors
from bnorm.tensors import FileTensor, Tensor
from bnorm.weights import open_weights, write_block

RollingRule = Callable[[Rolling, Moments, int], Rolling]  # (rolling so far, this mini-batch, its number) -> rolling


def exponential(keep: float, arithmetic: Arithmetic) -> RollingRule:
    """darknet's: rolling = keep · rolling + (1 − keep) · moment."""

    def rule(rolling: Rolling, moments: Moments, _number: int) -> Rolling:
        return roll(rolling, moments, keep, arithmetic)

    return rule


def average(rolling: Rolling, moments: Moments, number: int) -> Rolling:
    """The paper's, algorithm 2: the mean of the mini-batches' means, and of their unbiased variances."""
    if number == 0:
        return Rolling(moments.mean, moments.unbiased)
    with np.errstate(all="ignore"):
        mean = rolling.mean + (moments.mean - rolling.mean) / (number + 1)
        return Rolling(mean, rolling.variance + (moments.unbiased - rolling.variance) / (number + 1))


class Source(NamedTuple):
    """A layer's normalisation: its parameters and statistics, and whether it is a connected layer's."""

    parameters: Parameters
    rolling: Rolling
    connected: bool


def from_model(model: Model, layer: int, part: str = "") -> Source:
    """The arrays of a layer's, or its part's, batch normalisation; a `CfgError` where it has none."""
    arrays = normalisation(model, layer, part)
    with open_weights(model) as weights:
        weights.require_fit()
        scales, mean, variance = (weights.read(arrays[field]).astype(np.float64) for field in NORMALISATION)
        # pjreddie's [batchnorm] stores no biases: in its program they stay 0.
        biases = weights.read(arrays["biases"]).astype(np.float64) if "biases" in arrays else np.zeros_like(scales)
    kind = next(item.kind for item in model.network.layers[layer].parts if item.name == part)
    return Source(Parameters(scales, biases), Rolling(mean, variance), kind == "connected")


def normalisation(model: Model, layer: int, part: str) -> dict[str, Array]:
    """The stored arrays of a layer's or a part's batch normalisation, by field."""
    path, layers = model.network.text.path, model.network.layers
    if layer >= len(layers):
        raise CfgError(path, f"has no layer {layer}, expected 0 to {len(layers) - 1}")
    arrays = {array.field: array for array in model.layout.arrays if (array.layer, array.part) == (layer, part)}
    if not set(NORMALISATION) <= set(arrays):
        raise _not_normalised(model, layer, part)
    return arrays


def _not_normalised(model: Model, layer: int, part: str) -> BnormError:
    found = model.network.layers[layer]
    names = [item.name for item in found.parts if item.batch_normalize and item.name]
    place = f"is layer {layer}, and {part!r} is none of its parts" if part else f"is layer {layer}"
    expected = f"one of its parts {', '.join(names)}" if names else "a layer whose batch normalisation is in the file"
    return found.section.error(f"{place}, expected {expected}")


def from_params(path: Path) -> Source:
    """The arrays `scales`, `biases`, `rolling_mean` and `rolling_variance` of a .npz archive."""
    scales, biases, mean, variance = read_vectors(path, ("scales", "biases", "rolling_mean", "rolling_variance"))
    return Source(Parameters(scales, biases), Rolling(mean, variance), False)


class Batch(NamedTuple):
    """One mini-batch's results per channel, as far as they apply."""

    moments: Moments | None
    gradients: Gradients | None
    rolling: Rolling

    def vectors(self) -> dict[str, NDArray[np.float64]]:
        """The results by name, without those that do not apply."""
        found: dict[str, NDArray[np.float64]] = {}
        if self.moments:
            found |= {"mean": self.moments.mean, "variance": self.moments.variance}
            found |= {"rolling_mean": self.rolling.mean, "rolling_variance": self.rolling.variance}
        return found | (self.gradients._asdict() if self.gradients else {})


class Wanted(NamedTuple):
    """Which results there are to write, by name: tensors of x's shape and type, and vectors of `dtype` per channel."""

    tensors: tuple[str, ...]
    vectors: tuple[str, ...]
    dtype: str

    @classmethod
    def of(cls, arithmetic: Arithmetic, *, train: bool, backward: bool, stages: bool) -> Wanted:
        """All that applies; `stages` adds the intermediate values."""
        tensors = ("y", *(["x_norm"] if stages else []), *(["dx"] if backward else []))
        vectors = (
            *(["mean", "variance", "rolling_mean", "rolling_variance"] if train else []),
            *(["scale_updates", "bias_updates"] if backward else []),
            *(["mean_delta", "variance_delta"] if backward and stages else []),
        )
        return cls(tensors, vectors, arithmetic.vectors)

    def select(self, batch: Batch) -> dict[str, NDArray[np.floating]]:
        """The vectors as they are written."""
        found = batch.vectors()
        with np.errstate(over="ignore"):
            return {name: found[name].astype(self.dtype) for name in self.vectors}


def check_tensors(inputs: Sequence[FileTensor], deltas: Sequence[FileTensor], channels: int, train: bool) -> None:
    """A `TensorError` for a tensor that does not fit the layer, or a delta that does not fit its input."""
    for x in inputs:
        if x.channels != channels:
            what = f"has {x.channels} channels in {x.shape}, expected {channels}, as the layer has"
            raise TensorError(x.path, what, cause="is --layout right?" if len(x.shape) > 2 else "")
        if train and x.length == 1:
            raise TensorError(x.path, "has one value per channel, expected more: one value has no variance")
    for delta, x in zip(deltas, inputs, strict=True) if deltas else ():
        if delta.shape != x.shape:
            raise TensorError(delta.path, f"has the shape {delta.shape}, expected its input's, {x.shape}")


class Sink(Protocol):
    """Where one mini-batch's results go."""

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """Tensors to fill, by name."""

    def finish(self, batch: Batch) -> None:
        """Take the results per channel."""


Progress = Callable[[int, int], None] | None  # told how many values are done, and of how many
Sinks = Callable[[int, Tensor], AbstractContextManager[Sink]]  # (number, input) -> where its results go


def run(
    layer: Layer,
    inputs: Sequence[Tensor],
    deltas: Sequence[Tensor],
    rule: RollingRule,
    sinks: Sinks,
    team: Team,
    memory: int = MEMORY,
    progress: Progress = None,
) -> list[Batch]:
    """Run consecutive mini-batches; in training each one moves the rolling statistics for the next."""
    batches: list[Batch] = []
    advance = _counter(progress, sum(x.channels * x.length for x in inputs)) if progress else None
    for number, x in enumerate(inputs):
        with sinks(number, x) as sink:
            result = run_batch(layer, x, deltas[number] if deltas else None, sink.tensors, team, memory, advance)
            if result.moments:
                layer = layer._replace(rolling=rule(layer.rolling, result.moments, number))
            batches.append(Batch(result.moments, result.gradients, layer.rolling))
            sink.finish(batches[-1])
    return batches


def _counter(progress: Callable[[int, int], None], total: int) -> Callable[[int], None]:
    done = 0

    def advance(values: int) -> None:
        nonlocal done
        done += values
        progress(done, total)

    return advance


def update_weights(model: Model, layer: int, part: str, rolling: Rolling, output: Path) -> None:
    """Write a copy of the model's weights with the rolling statistics of one layer or part replaced."""
    arrays = normalisation(model, layer, part)
    new = {arrays["rolling_mean"]: rolling.mean, arrays["rolling_variance"]: rolling.variance}
    with open_weights(model) as weights, replacing(output) as (file,):
        file.write(weights.head())
        for array in model.layout.arrays:
            _copy(file, weights.blocks(array), new.get(array))


def _copy(file: BinaryIO, blocks: Iterator[NDArray[np.float32]], replacement: NDArray[np.float64] | None) -> None:
    for block in blocks if replacement is None else [replacement.astype(np.float32)]:
        write_block(file, block)
