"""Fold batch normalisation into the layer before it: a network that computes the same, for any reader.

With `gain = scale / deviation(rolling_variance)` per filter, `weights·gain` and `biases − rolling_mean·gain` give what
the normalised layer gave. Computed in float64, rounded once (AB `network.c: fuse_conv_batchnorm`). The cfg loses its
`batch_normalize` lines and nothing else: several readers test for the key alone, and hank refuses unknown ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bnorm import cfg
from bnorm.batchnorm import DARKNET, Epsilon, Parameters, Rolling, Vector, gain_offset
from bnorm.errors import WeightsError
from bnorm.files import check_outputs, replacing
from bnorm.layout import NORMALISATION, Array, Layout, plan
from bnorm.model import Model
from bnorm.network import Layer, Network, build
from bnorm.weights import Floats, Weights, open_weights, write_block

SWITCHES = frozenset({"batch_normalize", "cbn"})  # the keys that turn batch normalisation on
ASYMMETRIC = ("dontload", "dontloadscales", "flipped", "numload")  # what is read is not what was saved


@dataclass(frozen=True, slots=True)
class FoldedLayer:
    """What became of one normalised layer."""

    index: int
    type: str
    part: str
    folded: bool
    reason: str


@dataclass(frozen=True, slots=True)
class FoldReport:
    """What `fold` did, and the totals before and after."""

    layers: tuple[FoldedLayer, ...]
    parameters_before: int
    parameters_after: int
    bytes_before: int
    bytes_after: int
    output: Path
    output_cfg: Path


def fold(
    model: Model, output: Path | str, output_cfg: Path | str, *, epsilon: Epsilon = DARKNET, force: bool = False
) -> FoldReport:
    """Write the folded weights and cfg. Both are there in the end, or neither.

    `CfgError` for a network with batch normalisation that bnorm cannot fold yet, `WeightsError` for a file that does
    not fit or whose statistics have no root, `OutputError` for an output that must not be written.
    """
    with open_weights(model) as weights:
        output, output_cfg, inputs = Path(output), Path(output_cfg), (model.network.text.path, weights.path)
        check_outputs((output, output_cfg), inputs, force=force, cause="--force overwrites it")
        weights.require_fit()
        layers = [layer for layer in model.network.layers if layer.batch_normalize]
        for layer in model.network.layers:
            _require_foldable(layer, model.network)
        gains = {layer.index: _gain_offset(weights, layer.index, epsilon) for layer in layers}
        text = folded_cfg(model)
        layout = _folded_layout(model, text)
        with replacing(output, output_cfg) as (weights_file, cfg_file):
            weights_file.write(weights.head())
            for block in _stream(weights, layout, gains):
                write_block(weights_file, block)
            cfg_file.write(text)
    return FoldReport(
        tuple(FoldedLayer(layer.index, layer.type, "", True, "") for layer in layers),
        parameters_before=model.layout.parameters,
        parameters_after=layout.parameters,
        bytes_before=model.layout.nbytes,
        bytes_after=layout.nbytes,
        output=output,
        output_cfg=output_cfg,
    )


def folded_cfg(model: Model) -> bytes:
    """The cfg, byte for byte, less each line that turns batch normalisation on or off."""
    sections = [layer.section for layer in model.network.layers]
    lines = {option.line for section in sections for option in section.options if option.key in SWITCHES}
    return model.network.text.without(lines)


def _require_foldable(layer: Layer, network: Network) -> None:
    shared = layer.parts[0].shared if layer.parts else None
    if shared is not None and (layer.batch_normalize or network.layers[shared].batch_normalize):
        raise layer.section.error("shares its weights with a normalised layer, expected a plain layer", "share_index")
    if not layer.batch_normalize:
        return
    if layer.type != "convolutional":
        raise layer.section.error("has batch normalisation, expected it in [convolutional] layers alone")
    for key in ASYMMETRIC:
        if layer.section.flag(key):
            raise layer.section.error(f"{key} beside batch_normalize, expected a plain layer", key)


def _folded_layout(model: Model, text: bytes) -> Layout:
    network = build(cfg.parse(model.network.text.path, text), model.dialect)
    return plan(network, model.header.nbytes, transposed=model.header.transposed)


def _gain_offset(weights: Weights, layer: int, epsilon: Epsilon) -> tuple[Vector, Vector]:
    scales, mean, variance = (weights[layer, field].astype(np.float64) for field in NORMALISATION)
    biases = weights[layer, "biases"].astype(np.float64)
    bad = np.flatnonzero(~((variance >= 0) & np.isfinite(variance)))
    if bad.size:
        found = f"{variance[bad[0]]:g} in channel {bad[0]}" + f" and {bad.size - 1} more" * (bad.size > 1)
        raise WeightsError(
            weights.path, f"layer {layer} rolling_variance is {found}, expected finite numbers from 0 on"
        )
    return gain_offset(Parameters(scales, biases), Rolling(mean, variance), epsilon)


def _stream(weights: Weights, layout: Layout, gains: dict[int, tuple[Vector, Vector]]) -> Iterator[Floats]:
    """The folded file's values, in blocks: arrays of layers in `gains` folded, the others as they are."""
    old = {(array.layer, array.name): array for array in weights.layout.arrays}
    for new in layout.arrays:
        array = old[new.layer, new.name]
        gain, offset = gains.get(new.layer, (None, None))
        if gain is None or offset is None:
            yield from weights.blocks(array)
        elif array.field == "biases":
            yield _rounded(offset, weights, array)
        else:
            yield from _scaled(weights, array, gain)


def _scaled(weights: Weights, array: Array, gain: Vector) -> Iterator[Floats]:
    """The weights times their filter's gain, in float64 and rounded once; blocks are whole filters."""
    start = 0
    for block in weights.blocks(array):
        rows = gain[start : start + len(block)].reshape(-1, *(1,) * (block.ndim - 1))
        with np.errstate(over="ignore"):
            folded = np.multiply(block, rows, out=np.empty_like(block), dtype=np.float64, casting="same_kind")
        yield _finite(folded, block, weights, array)
        start += len(block)


def _rounded(values: Vector, weights: Weights, array: Array) -> Floats:
    with np.errstate(over="ignore"):
        return _finite(values.astype(np.float32), values, weights, array)


def _finite(folded: Floats, before: NDArray[np.floating], weights: Weights, array: Array) -> Floats:
    """The folded values; a `WeightsError` where a finite number has become an infinite one."""
    if np.isinf(folded).any() and np.isfinite(before[np.isinf(folded)]).any():
        place = f"layer {array.layer} {array.name}"
        raise WeightsError(weights.path, f"{place} times its gain is beyond float32, expected smaller numbers")
    return folded
