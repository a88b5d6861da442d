"""A plain forward pass of one image, in float64: what an exported graph is compared with.

Written from darknet's `forward_*_layer` functions with NumPy, one formula per layer, from the weights file as it is and
not from the graph: batch normalisation is computed step by step. Sums run tap by tap, so that no window is copied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from bnorm.batchnorm.epsilon import Epsilon
from bnorm.darknet.network import Layer, Network
from bnorm.darknet.parts import Part, groups_of
from bnorm.darknet.reals import real
from bnorm.darknet.shapes import kernel, strides
from bnorm.darknet.vocabulary import ACTIVATIONS
from bnorm.darknet.weights import Weights
from bnorm.exchange.onnx.forward_heads import OUTPUTS, Tensor, logistic, softmax
from bnorm.statistics.normalisers import normalises, read_normaliser

LEAST = -np.finfo(np.float32).max


def _selu(x: Tensor) -> Tensor:
    return np.where(x >= 0, 1.0507 * x, 1.0507 * 1.6732 * np.expm1(np.minimum(x, 0)))


def _gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + np.tanh(0.797885 * x + 0.035677 * x**3))


def _hard_mish(x: Tensor) -> Tensor:
    return np.where(x > 0, x, np.where(x > -2, x * x / 2 + x, 0))


def _plse(x: Tensor) -> Tensor:
    return np.where(x < -4, 0.01 * (x + 4), np.where(x > 4, 0.01 * (x - 4) + 1, 0.125 * x + 0.5))


def _lhtan(x: Tensor) -> Tensor:
    return np.where(x < 0, 0.001 * x, np.where(x > 1, 0.001 * (x - 1) + 1, x))


def _stair(x: Tensor) -> Tensor:
    floor = np.floor(x)
    return np.where(floor % 2 == 0, np.floor(x / 2), x - floor + np.floor(x / 2))


def _normalize_channels(x: Tensor) -> Tensor:
    positive = np.maximum(x, 0)
    return np.asarray(positive / (1e-4 + positive.sum(axis=0)))


def _softmax_channels(x: Tensor) -> Tensor:
    return np.asarray(np.exp(x) / (1e-4 + np.exp(x).sum(axis=0)))


def _softmax_channels_maxval(x: Tensor) -> Tensor:
    powers = np.exp(x - x.max(axis=0))
    return np.asarray(powers / (1e-4 + powers.sum(axis=0)))


FORMULAS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda x: x,
    "logistic": logistic,
    "loggy": lambda x: 2 * logistic(x) - 1,
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "leaky": lambda x: np.where(x > 0, x, 0.1 * x),
    "revleaky": lambda x: np.where(x > 0, x, 0.1 * x),
    "relie": lambda x: np.where(x > 0, x, 0.01 * x),
    "ramp": lambda x: x * (x > 0) + 0.1 * x,
    "elu": lambda x: np.where(x >= 0, x, np.expm1(np.minimum(x, 0))),
    "selu": _selu,
    "gelu": _gelu,
    "tanh": np.tanh,
    "swish": lambda x: x * logistic(x),
    "mish": lambda x: x * np.tanh(np.logaddexp(x, 0)),
    "hard_mish": _hard_mish,
    "plse": _plse,
    "lhtan": _lhtan,
    "hardtan": lambda x: np.clip(x, -1, 1),
    "stair": _stair,
    "normalize_channels": _normalize_channels,
    "normalize_channels_softmax": _softmax_channels,
    "normalize_channels_softmax_maxval": _softmax_channels_maxval,
}


def convolve(
    x: Tensor, weights: Tensor, steps: tuple[int, int], pads: tuple[int, int], dilation: int, rows: int, columns: int
) -> Tensor:
    """Return the cross-correlation of (C, H, W) with (n, C/groups, k, k) at rows × columns places."""
    filters, depth, size, _ = weights.shape
    groups = len(x) // depth
    (down, across), reach = steps, dilation * (size - 1)
    high, wide = (rows - 1) * down + reach + 1, (columns - 1) * across + reach + 1
    padded = np.zeros((len(x), max(high, pads[0] + x.shape[1]), max(wide, pads[1] + x.shape[2])), x.dtype)
    padded[:, pads[0] : pads[0] + x.shape[1], pads[1] : pads[1] + x.shape[2]] = x
    y = np.zeros((groups, filters // groups, rows * columns), x.dtype)
    taps = weights.reshape(groups, filters // groups, depth, size, size)
    for row in range(size):
        for column in range(size):
            top, left = row * dilation, column * dilation
            seen = padded[:, top : top + (rows - 1) * down + 1 : down, left : left + (columns - 1) * across + 1 : across]
            y += taps[..., row, column] @ seen.reshape(groups, depth, rows * columns)
    return y.reshape(filters, rows, columns)


def windows(x: Tensor, layer: Layer, fill: float) -> Iterator[Tensor]:
    """Yield each tap of a pool's windows, (C, rows, columns); `fill` outside of the input."""
    section = layer.section
    across, down = (1, 1) if section.flag("antialiasing") else strides(section)
    size = section.positive("size", section.positive("stride"))
    begin = section.natural("padding", size - 1) // 2
    rows, columns = layer.output[1:3]
    high, wide = (rows - 1) * down + size, (columns - 1) * across + size
    padded = np.full((len(x), max(high, begin + x.shape[1]), max(wide, begin + x.shape[2])), fill, x.dtype)
    padded[:, begin : begin + x.shape[1], begin : begin + x.shape[2]] = x
    for row in range(size):
        for column in range(size):
            yield padded[:, row : row + (rows - 1) * down + 1 : down, column : column + (columns - 1) * across + 1 : across]


class Forward:
    """One network and its weights file; `outputs` yields every layer's output for one image."""

    def __init__(self, weights: Weights, epsilon: Epsilon, dtype: type[np.floating[Any]] = np.float64) -> None:
        self.network: Network = weights.model.network
        self._weights, self._epsilon, self._dtype = weights, epsilon, dtype

    def outputs(self, image: Tensor) -> Iterator[tuple[Layer, Tensor, Tensor]]:
        """Yield each layer, what it gets from the layer before, and its output; outputs that nothing reads are freed."""
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


def _convolutional(run: Forward, layer: Layer, x: Tensor, _: list[Tensor]) -> Tensor:
    section, x = layer.section, run.image(layer, x)
    part, arrays = run.arrays(layer)
    weights = arrays["weights"]
    if section.flag("xnor"):
        x = np.where(x > 0, 1, -1).astype(x.dtype)
    if section.flag("binary") or section.flag("xnor"):
        mean = np.abs(weights).mean(axis=(1, 2, 3), keepdims=True)
        weights = np.where(weights > 0, mean, -mean)
    size, padding = kernel(section)
    dilation = 1 if size == 1 else section.positive("dilation")
    across, down = (1, 1) if section.flag("antialiasing") else strides(section)
    assert groups_of(section) == len(x) // weights.shape[1]
    pads = (padding * dilation, padding * dilation)
    y = convolve(x, weights, (down, across), pads, dilation, *layer.output[1:3])
    return _blurred(layer, run.finish(layer, part, y, arrays))


def _blurred(layer: Layer, y: Tensor) -> Tensor:
    section = layer.section
    if not section.flag("antialiasing"):
        return y
    box = section.integer("antialiasing", 0) == 2
    blur = np.full((2, 2), 0.25) if box else np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16
    size, padding = len(blur), 0 if box else 1
    across, down = strides(section)
    rows, columns = ((n + 2 * padding - size) // step + 1 for n, step in zip(y.shape[1:], (down, across), strict=True))
    weights = np.broadcast_to(blur.astype(y.dtype), (len(y), 1, size, size))
    return convolve(y, weights, (down, across), (padding, padding), 1, rows, columns)


def _deconvolutional(run: Forward, layer: Layer, x: Tensor, _: list[Tensor]) -> Tensor:
    x, (size, padding), stride = run.image(layer, x), kernel(layer.section), layer.section.positive("stride")
    part, arrays = run.arrays(layer)
    _, height, width = x.shape
    spread = np.zeros((part.channels, (height - 1) * stride + size, (width - 1) * stride + size), x.dtype)
    for row in range(size):
        for column in range(size):
            place = np.s_[:, row : row + (height - 1) * stride + 1 : stride, column : column + (width - 1) * stride + 1 : stride]
            spread[place] += np.tensordot(arrays["weights"][..., row, column], x, axes=(0, 0))
    return run.finish(layer, part, spread[:, padding : len(spread[0]) - padding, padding : spread.shape[2] - padding], arrays)


def _connected(run: Forward, layer: Layer, x: Tensor, _: list[Tensor]) -> Tensor:
    part, arrays = run.arrays(layer)
    return run.finish(layer, part, (arrays["weights"] @ x.reshape(-1)).reshape(-1, 1, 1), arrays)


def _local(run: Forward, layer: Layer, x: Tensor, _: list[Tensor]) -> Tensor:
    section, x = layer.section, run.image(layer, x)
    _, arrays = run.arrays(layer)
    size, stride, edge = section.positive("size"), section.positive("stride"), int(section.flag("pad"))
    padded = np.pad(x, ((0, 0), (edge, edge), (edge, edge)))
    seen = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(1, 2))[:, ::stride, ::stride]
    places = seen.transpose(1, 2, 0, 3, 4).reshape(len(arrays["weights"]), -1, 1)
    y = (arrays["weights"] @ places)[..., 0].T.reshape(layer.output[:3])
    return run.activate(layer, y + arrays["biases"])


def _batchnorm(run: Forward, layer: Layer, x: Tensor, _: list[Tensor]) -> Tensor:
    _, arrays = run.arrays(layer)
    mean, deviation, scales, biases = (arrays[name][:, None, None] for name in ("mean", "deviation", "scales", "biases"))
    return np.asarray((run.image(layer, x) - mean) / deviation * scales + biases)


def _maxpool(run: Forward, layer: Layer, x: Tensor, _: list[Tensor]) -> Tensor:
    x = run.image(layer, x)
    if layer.section.flag("maxpool_depth"):
        count = layer.output.channels
        empty = np.full(x.shape[1:], LEAST, x.dtype)
        return np.stack([x[k::count].max(axis=0) if k < len(x) else empty for k in range(count)])
    taps = windows(x, layer, LEAST)
    y = next(taps).copy()
    for tap in taps:
        np.maximum(y, tap, out=y)
    return _blurred(layer, y)


def _local_avgpool(run: Forward, layer: Layer, x: Tensor, _: list[Tensor]) -> Tensor:
    x = run.image(layer, x)
    ones = windows(np.ones_like(x[:1]), layer, 0)
    return np.asarray(sum(windows(x, layer, 0)) / sum(ones))


def _avgpool(run: Forward, layer: Layer, x: Tensor, _: list[Tensor]) -> Tensor:
    return np.asarray(run.image(layer, x).mean(axis=(1, 2), keepdims=True))


def _upsample(run: Forward, layer: Layer, x: Tensor, _: list[Tensor]) -> Tensor:
    stride, scale = layer.section.integer("stride", 2), real(layer.section, "scale", 1.0)
    if stride > 0:
        return scale * run.image(layer, x).repeat(stride, axis=1).repeat(stride, axis=2)
    channels, height, width = layer.output[:3]
    seen = x.reshape(-1)[: channels * height * width * stride**2]
    return scale * seen.reshape(channels, height, -stride, width, -stride).sum(axis=(2, 4))


def _reorg(run: Forward, layer: Layer, x: Tensor, _: list[Tensor]) -> Tensor:
    """Copy value by value, with the indices of `reorg_cpu`."""
    section = layer.section
    if section.integer("extra", 0):
        return np.concatenate([x.reshape(-1), np.zeros(layer.output.outputs - x.size, x.dtype)])
    if section.flag("flatten"):
        return run.image(layer, x).transpose(1, 2, 0).reshape(layer.output[:3])
    shape = layer.incoming if layer.type == "reorg" else layer.output
    channels, height, width = shape[:3]
    stride = section.positive("stride")
    k, j, i = np.indices((channels, height, width))
    depth = channels // stride**2
    offset = k // depth
    across, down = i * stride + offset % stride, j * stride + offset // stride
    indices = (across + width * stride * (down + height * stride * (k % depth))).reshape(-1)
    flat = x.reshape(-1)
    y = np.empty_like(flat)
    if section.flag("reverse"):
        y[indices] = flat
    else:
        y = flat[indices]
    return y.reshape(layer.output[:3])


def _route(run: Forward, layer: Layer, x: Tensor, reads: list[Tensor]) -> Tensor:
    section = layer.section
    groups, chosen = section.positive("groups"), section.natural("group_id")
    parts = [part.reshape(-1) for part in reads]
    shares = [part[part.size // groups * chosen : part.size // groups * (chosen + 1)] for part in parts]
    joined = np.concatenate(shares)
    return joined.reshape(layer.output[:3]) if all(layer.output[:3]) else joined


def _shortcut(run: Forward, layer: Layer, x: Tensor, reads: list[Tensor]) -> Tensor:
    x = run.image(layer, x)
    if run.network.dialect.name == "pjreddie":
        return run.activate(layer, _overlapping(layer, x, reads[0]), "linear")
    weights = np.ones((len(reads) + 1, 1, 1, 1))
    if layer.parts:
        weights = run.arrays(layer)[1]["weights"].reshape(len(reads) + 1, -1, 1, 1)
        kind = layer.section.text("weights_normalization", "none")
        if kind != "none":
            weights = np.exp(weights - weights.max(axis=0)) if kind == "softmax" else np.maximum(weights, 0)
            weights = weights / (1e-4 + weights.sum(axis=0))
    y = x * weights[0]
    for factor, other in zip(weights[1:], reads, strict=True):
        count = min(x.size, other.size)
        flat = np.zeros(x.size, x.dtype)
        flat[:count] = other.reshape(-1)[:count]
        y = y + flat.reshape(x.shape) * factor
    return run.activate(layer, y, "linear")


def _overlapping(layer: Layer, x: Tensor, other: Tensor) -> Tensor:
    """alpha·x + beta·other where both have a value, else x (`shortcut_cpu`)."""
    stride, sample = max(other.shape[2] // x.shape[2], 1), max(x.shape[2] // other.shape[2], 1)
    c, h, w = (min(pair) for pair in zip(x.shape, other.shape, strict=True))
    y = x.copy()
    place = np.s_[:c, : (h - 1) * sample + 1 : sample, : (w - 1) * sample + 1 : sample]
    added = other[:c, : (h - 1) * stride + 1 : stride, : (w - 1) * stride + 1 : stride]
    y[place] = real(layer.section, "alpha", 1.0) * y[place] + real(layer.section, "beta", 1.0) * added
    return y


def _times(run: Forward, layer: Layer, x: Tensor, reads: list[Tensor]) -> Tensor:
    return run.activate(layer, reads[0].reshape(layer.output[:3]) * run.image(layer, x), "linear")


def _l2norm(run: Forward, layer: Layer, x: Tensor, _: list[Tensor]) -> Tensor:
    x = run.image(layer, x)
    return np.asarray(x / np.sqrt((x * x).sum(axis=0)))


def _normalization(run: Forward, layer: Layer, x: Tensor, _: list[Tensor]) -> Tensor:
    section, x = layer.section, run.image(layer, x)
    alpha, size = real(section, "alpha", 0.0001), section.integer("size", 5)
    squares = x * x
    norm = real(section, "kappa", 1.0) + alpha * squares[: size // 2].sum(axis=0)
    norms = [norm]
    for k in range(1, len(x)):
        leaves, enters = k - (size - 1) // 2 - 1, k + size // 2
        norm = norm - alpha * squares[leaves] if leaves >= 0 else norm
        norm = norm + alpha * squares[enters] if enters < len(x) else norm
        norms.append(norm)
    return np.asarray(x * np.stack(norms) ** -real(section, "beta", 0.75))


def _softmax(run: Forward, layer: Layer, x: Tensor, _: list[Tensor]) -> Tensor:
    rows = x.reshape(layer.section.positive("groups"), -1) / real(layer.section, "temperature", 1.0)
    return softmax(rows, 1).reshape(-1)


def _crop(run: Forward, layer: Layer, x: Tensor, _: list[Tensor]) -> Tensor:
    x, (_, rows, columns) = run.image(layer, x), layer.output[:3]
    top, left = (x.shape[1] - rows) // 2, (x.shape[2] - columns) // 2
    y = x[:, top : top + rows, left : left + columns]
    return y if layer.section.flag("noadjust") else 2 * y - 1


def _implicit(run: Forward, layer: Layer, x: Tensor, _: list[Tensor]) -> Tensor:
    return run.arrays(layer)[1]["weights"].reshape(layer.output[:3])


def _same(run: Forward, layer: Layer, x: Tensor, _: list[Tensor]) -> Tensor:
    return x


RULES: dict[str, Callable[[Forward, Layer, Tensor, list[Tensor]], Tensor]] = {
    "convolutional": _convolutional,
    "deconvolutional": _deconvolutional,
    "connected": _connected,
    "local": _local,
    "batchnorm": _batchnorm,
    "maxpool": _maxpool,
    "local_avgpool": _local_avgpool,
    "avgpool": _avgpool,
    "upsample": _upsample,
    "reorg": _reorg,
    "reorg3d": _reorg,
    "route": _route,
    "shortcut": _shortcut,
    "scale_channels": _times,
    "sam": _times,
    "activation": lambda run, layer, x, _: run.activate(layer, x, "linear"),
    "logistic": lambda run, layer, x, _: logistic(x),
    "l2norm": _l2norm,
    "normalization": _normalization,
    "softmax": _softmax,
    "crop": _crop,
    "implicit": _implicit,
    **dict.fromkeys(("dropout", "cost", "empty"), _same),
}
