"""One formula for each section type, as darknet's `forward_*_layer` functions compute it without training.

A convolution copies the windows of a few rows at a time, so that its memory does not grow with the image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from bnorm.darknet.network import Layer
from bnorm.darknet.reals import real
from bnorm.darknet.shapes import kernel, strides
from bnorm.exchange.plain.heads import Tensor, logistic, softmax
from bnorm.exchange.plain.run import Run

BLOCK = 1 << 20  # values of a block of windows

LEAST = -float(np.finfo(np.float32).max)


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
    matrix = weights.reshape(groups, filters // groups, depth * size * size)
    y = np.empty((groups, filters // groups, rows, columns), x.dtype)
    step = max(1, BLOCK // max(len(x) * size * size * columns, 1))
    for first in range(0, rows, step):
        count = min(step, rows - first)
        seen = np.empty((groups, depth, size, size, count, columns), x.dtype)
        for row in range(size):
            for column in range(size):
                top, left = first * down + row * dilation, column * dilation
                part = padded[
                    :, top : top + (count - 1) * down + 1 : down, left : left + (columns - 1) * across + 1 : across
                ]
                seen[:, :, row, column] = part.reshape(groups, depth, count, columns)
        block = matrix @ seen.reshape(groups, depth * size * size, count * columns)
        y[:, :, first : first + count] = block.reshape(groups, filters // groups, count, columns)
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
            yield padded[
                :, row : row + (rows - 1) * down + 1 : down, column : column + (columns - 1) * across + 1 : across
            ]


def _convolutional(run: Run, layer: Layer, x: Tensor, _reads: list[Tensor]) -> Tensor:
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


def _deconvolutional(run: Run, layer: Layer, x: Tensor, _reads: list[Tensor]) -> Tensor:
    x, (size, padding), stride = run.image(layer, x), kernel(layer.section), layer.section.positive("stride")
    part, arrays = run.arrays(layer)
    _, height, width = x.shape
    spread = np.zeros((part.channels, (height - 1) * stride + size, (width - 1) * stride + size), x.dtype)
    for row in range(size):
        for column in range(size):
            place = np.s_[
                :, row : row + (height - 1) * stride + 1 : stride, column : column + (width - 1) * stride + 1 : stride
            ]
            spread[place] += np.tensordot(arrays["weights"][..., row, column], x, axes=(0, 0))
    return run.finish(
        layer, part, spread[:, padding : len(spread[0]) - padding, padding : spread.shape[2] - padding], arrays
    )


def _connected(run: Run, layer: Layer, x: Tensor, _reads: list[Tensor]) -> Tensor:
    part, arrays = run.arrays(layer)
    return run.finish(layer, part, (arrays["weights"] @ x.reshape(-1)).reshape(-1, 1, 1), arrays)


def _local(run: Run, layer: Layer, x: Tensor, _reads: list[Tensor]) -> Tensor:
    section, x = layer.section, run.image(layer, x)
    _, arrays = run.arrays(layer)
    size, stride, edge = section.positive("size"), section.positive("stride"), int(section.flag("pad"))
    padded = np.pad(x, ((0, 0), (edge, edge), (edge, edge)))
    seen = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(1, 2))[:, ::stride, ::stride]
    places = seen.transpose(1, 2, 0, 3, 4).reshape(len(arrays["weights"]), -1, 1)
    y = (arrays["weights"] @ places)[..., 0].T.reshape(layer.output[:3])
    return run.activate(layer, y + arrays["biases"])


def _batchnorm(run: Run, layer: Layer, x: Tensor, _reads: list[Tensor]) -> Tensor:
    _, arrays = run.arrays(layer)
    mean, deviation, scales, biases = (
        arrays[name][:, None, None] for name in ("mean", "deviation", "scales", "biases")
    )
    return np.asarray((run.image(layer, x) - mean) / deviation * scales + biases)


def _maxpool(run: Run, layer: Layer, x: Tensor, _reads: list[Tensor]) -> Tensor:
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


def _local_avgpool(run: Run, layer: Layer, x: Tensor, _reads: list[Tensor]) -> Tensor:
    x = run.image(layer, x)
    ones = windows(np.ones_like(x[:1]), layer, 0)
    return np.asarray(sum(windows(x, layer, 0)) / sum(ones))


def _avgpool(run: Run, layer: Layer, x: Tensor, _reads: list[Tensor]) -> Tensor:
    return np.asarray(run.image(layer, x).mean(axis=(1, 2), keepdims=True))


def _upsample(run: Run, layer: Layer, x: Tensor, _reads: list[Tensor]) -> Tensor:
    stride, scale = layer.section.integer("stride", 2), real(layer.section, "scale", 1.0)
    if stride > 0:
        return scale * run.image(layer, x).repeat(stride, axis=1).repeat(stride, axis=2)
    channels, height, width = layer.output[:3]
    seen = x.reshape(-1)[: channels * height * width * stride**2]
    return np.asarray(scale * seen.reshape(channels, height, -stride, width, -stride).sum(axis=(2, 4)))


def _reorg(run: Run, layer: Layer, x: Tensor, _reads: list[Tensor]) -> Tensor:
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


def _route(_run: Run, layer: Layer, _x: Tensor, reads: list[Tensor]) -> Tensor:
    section = layer.section
    groups, chosen = section.positive("groups"), section.natural("group_id")
    parts = [part.reshape(-1) for part in reads]
    shares = [part[part.size // groups * chosen : part.size // groups * (chosen + 1)] for part in parts]
    joined = np.concatenate(shares)
    return joined.reshape(layer.output[:3]) if all(layer.output[:3]) else joined


def _shortcut(run: Run, layer: Layer, x: Tensor, reads: list[Tensor]) -> Tensor:
    x = run.image(layer, x)
    if run.network.dialect.name == "pjreddie":
        other, image = reads[0], run.network.layers[layer.reads[0]].output[:3]
        other = other.reshape(image) if all(image) else other  # that of a head has more axes
        return run.activate(layer, _overlapping(layer, x, other), "linear")
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


def _times(run: Run, layer: Layer, x: Tensor, reads: list[Tensor]) -> Tensor:
    return run.activate(layer, reads[0].reshape(layer.output[:3]) * run.image(layer, x), "linear")


def _l2norm(run: Run, layer: Layer, x: Tensor, _reads: list[Tensor]) -> Tensor:
    x = run.image(layer, x)
    return np.asarray(x / np.sqrt((x * x).sum(axis=0)))


def _normalization(run: Run, layer: Layer, x: Tensor, _reads: list[Tensor]) -> Tensor:
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


def _softmax(_run: Run, layer: Layer, x: Tensor, _reads: list[Tensor]) -> Tensor:
    rows = x.reshape(layer.section.positive("groups"), -1) / real(layer.section, "temperature", 1.0)
    return softmax(rows, 1).reshape(-1)


def _crop(run: Run, layer: Layer, x: Tensor, _reads: list[Tensor]) -> Tensor:
    x, (rows, columns) = run.image(layer, x), layer.output[1:3]
    top, left = (x.shape[1] - rows) // 2, (x.shape[2] - columns) // 2
    y = x[:, top : top + rows, left : left + columns]
    return y if layer.section.flag("noadjust") else 2 * y - 1


def _implicit(run: Run, layer: Layer, _x: Tensor, _reads: list[Tensor]) -> Tensor:
    return run.arrays(layer)[1]["weights"].reshape(layer.output[:3])


def _same(_run: Run, _layer: Layer, x: Tensor, _reads: list[Tensor]) -> Tensor:
    return x


RULES: dict[str, Callable[[Run, Layer, Tensor, list[Tensor]], Tensor]] = {
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
    "activation": lambda run, layer, x, _reads: run.activate(layer, x, "linear"),
    "logistic": lambda _run, _layer, x, _reads: logistic(x),
    "l2norm": _l2norm,
    "normalization": _normalization,
    "softmax": _softmax,
    "crop": _crop,
    "implicit": _implicit,
    **dict.fromkeys(("dropout", "cost", "empty"), _same),
}
