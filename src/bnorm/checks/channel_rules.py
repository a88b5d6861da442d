"""What is wrong in the numbers: rules by channel, one finding per part and kind, its worst channel named."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from bnorm.batchnorm.epsilon import DARKNET, RUNTIMES, Vector
from bnorm.checks.findings import Finding, found
from bnorm.darknet.layout import Array, channel_axis
from bnorm.darknet.network import Layer
from bnorm.darknet.weights import Floats
from bnorm.statistics.channel_state import DEAD_BELOW, Mask
from bnorm.statistics.channels import Channels
from bnorm.statistics.quantiles import median

READERS = ("darknet", "pjreddie-cpu", "opencv")  # runtimes that read darknet's files as they are

SENSITIVE = 0.01  # of the gain

TRICK = -2e-5  # a variance above it and below 0 is a small one from which ε = 1e-5 was taken

LARGEST = 1e20  # of a variance that may be one

DIVERGED, FAR, LARGE = 1000.0, 100.0, 10.0  # |scale|: over the first; or over the second times the median, and the last


class Rule(NamedTuple):
    """Which channels, which of them is the worst (where `badness` is largest), and what to say of it."""

    kind: str
    where: Callable[[Channels], Mask]
    badness: Callable[[Channels], Vector]
    what: str
    detail: Callable[[Channels, int], str]


def examine(layer: Layer, part: str, channels: Channels) -> Iterator[Finding]:
    """What is wrong with the arrays of one part's batch normalisation."""
    place, total = _place(layer.index, part), channels.scale.size
    for name in ("scale", "bias", "mean", "variance"):
        yield from _not_finite(place, ARRAYS[name], layer.index, getattr(channels, name))
    if _as_initialised(channels):
        message = f"{place}: all scales are 1, all means 0 and all variances {channels.variance[0]:g}, as initialised"
        yield found("untrained", message, layer=layer.index)
        return
    for rule in RULES:
        where = np.flatnonzero(rule.where(channels))
        if where.size:
            worst = int(where[np.argmax(rule.badness(channels)[where])])
            message = f"{place}: {rule.what}, {where.size:,} of {total:,}; {rule.detail(channels, worst)}"
            yield found(rule.kind, message, layer=layer.index, channel=worst)


def scan(layer: Layer, array: Array, blocks: Iterable[Floats]) -> Iterator[Finding]:
    """NaN and infinity in an array that is read in blocks, in the order of the file."""
    counts, first, start = [0, 0], [-1, -1], 0
    for block in blocks:
        if not np.isfinite(block).all():
            for row, mask in enumerate((np.isnan(block), np.isinf(block))):
                counts[row] += int(np.count_nonzero(mask))
                if first[row] < 0 and mask.any():
                    first[row] = start + int(np.argmax(mask))
        start += block.size
    place = _place(layer.index, array.part)
    for (kind, what), count, index in zip(NOT_FINITE, counts, first, strict=True):
        if count:
            channel = int(np.unravel_index(index, array.stored)[channel_axis(layer, array)])
            message = _amount(f"{place}: {array.field} {what}", count, array.size, channel)
            yield found(kind, message, layer=layer.index, channel=channel)


ARRAYS = {"scale": "scales", "bias": "biases", "mean": "rolling_mean", "variance": "rolling_variance"}

NOT_FINITE = (("nan", "not a number"), ("infinite", "infinite"))


def _not_finite(place: str, name: str, layer: int, values: Vector) -> Iterator[Finding]:
    for (kind, what), mask in zip(NOT_FINITE, (np.isnan(values), np.isinf(values)), strict=True):
        where = np.flatnonzero(mask)
        if where.size:
            kind = "variance-infinite" if kind == "infinite" and name == "rolling_variance" else kind
            message = _amount(f"{place}: {name} {what}", where.size, values.size, int(where[0]))
            yield found(kind, message, layer=layer, channel=int(where[0]))


def _amount(what: str, count: int, total: int, channel: int) -> str:
    return f"{what}, {count:,} of {total:,}; the first in channel {channel}"


def _place(layer: int, part: str) -> str:
    return f"layer {layer} {part}".rstrip()


def _as_initialised(channels: Channels) -> bool:
    """Every `make_*_layer` sets 1, 0 and 0; `darknet reset` leaves 1, 0 and 1."""
    variances = channels.variance
    return bool(
        (channels.scale == 1).all() and (channels.mean == 0).all() and (np.isin(variances[:1], (0, 1)).all())
    ) and bool((variances == variances[0]).all())


def _counting(channels: Channels) -> Mask:
    """Channels whose scale lets anything through."""
    return np.abs(channels.scale) >= DEAD_BELOW


def _tiny(channels: Channels) -> Mask:
    return _counting(channels) & (channels.variance > 0) & (channels.variance < DARKNET.value)


def _disagreement(channels: Channels) -> Vector:
    """How far the runtimes that read darknet's files differ in a channel's gain: largest over smallest, less 1."""
    deviations = np.stack([RUNTIMES[name].deviation(channels.variance) for name in READERS])
    with np.errstate(all="ignore"):
        disagreement: Vector = deviations.max(axis=0) / deviations.min(axis=0) - 1
        return disagreement


def _sensitive(channels: Channels) -> Mask:
    return _counting(channels) & (channels.variance >= DARKNET.value) & (_disagreement(channels) > SENSITIVE)


def _diverged(channels: Channels) -> Mask:
    sizes = np.abs(channels.scale)
    with np.errstate(all="ignore"):
        diverged: Mask = (sizes > DIVERGED) | ((sizes > LARGE) & (sizes > FAR * median(sizes)))
        return diverged


def _reason(channels: Channels, worst: int) -> str:
    """Why a variance is likely to be negative (YAD2K#131; MobileNet-Caffe#87)."""
    negative = np.flatnonzero(channels.variance < 0)
    smallest = f"{channels.variance[worst]:.3g} in channel {worst}"
    if channels.variance[worst] > TRICK:
        return f"{smallest}; likely variance - ε, as some converters store it"
    if channels.scale.size > 1 and list(negative) in ([0], [channels.scale.size - 1]):
        return f"{smallest}, the {'first' if worst == 0 else 'last'}; likely the header is 4 bytes off"
    if misread(channels.variance):
        return f"{smallest}; likely another array is read here: another cfg, dialect or order"
    return f"{smallest}; likely E[x²] - E[x]² was rounded, or training diverged"


def misread(variances: Vector | Floats) -> bool:
    """Whether over a tenth is negative or huge, as in another array; NaN and infinity say nothing."""
    return 10 * int(np.count_nonzero(impossible(variances))) > variances.size


def impossible(variances: Vector | Floats) -> Mask:
    """Which of them are numbers, and yet no variances."""
    return np.isfinite(variances) & ((variances < TRICK) | (variances > LARGEST))


def _gains(channels: Channels, worst: int) -> str:
    scale, variance = channels.scale[worst], channels.variance[worst : worst + 1]
    gains = (f"{name} {scale / epsilon.deviation(variance)[0]:.3g}" for name, epsilon in RUNTIMES.items())
    return f"gain of channel {worst}, variance {variance[0]:.2g}: {', '.join(gains)}"


def _shown(name: str) -> Callable[[Channels, int], str]:
    return lambda channels, worst: f"{getattr(channels, name)[worst]:.3g} in channel {worst}"


RULES = (
    Rule("variance-negative", lambda c: c.variance < 0, lambda c: -c.variance, "negative variances", _reason),
    Rule(
        "variance-zero",
        lambda c: _counting(c) & (c.variance == 0),
        lambda c: np.abs(c.scale),
        "variances of 0, so that ε alone sets the gain",
        _gains,
    ),
    Rule("variance-tiny", _tiny, lambda c: -c.variance, "variances below ε = 1e-5", _gains),
    Rule("epsilon-sensitive", _sensitive, _disagreement, "gains that ε changes by over 1 %", _gains),
    Rule("scale-diverged", _diverged, lambda c: np.abs(c.scale), "scales far beyond the others", _shown("scale")),
    Rule(
        "dead-channels",
        lambda c: c.dead,
        lambda c: -np.abs(c.scale),
        "dead channels",
        lambda c, worst: f"scale {c.scale[worst]:.3g} in channel {worst}",
    ),
    Rule(
        "near-dead-channels",
        lambda c: c.near_dead,
        lambda c: -np.where(c.rectified, c.above_zero, c.spread),
        "channels that hardly vary, or stay below a relu's 0",
        lambda c, worst: f"scale {c.scale[worst]:.3g}, bias {c.bias[worst]:.3g} in channel {worst}",
    ),
    Rule(
        "constant-channels",
        lambda c: c.constant,
        lambda c: np.abs(c.bias),
        "dead channels that put out a constant other than 0",
        _shown("bias"),
    ),
)
