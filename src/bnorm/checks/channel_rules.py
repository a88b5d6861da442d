"""Findings in the values: one rule per kind, and one finding per part and kind, at its worst channel."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from bnorm.batchnorm.epsilon import DARKNET, RUNTIMES, Vector
from bnorm.checks.findings import Finding, make_finding
from bnorm.checks.variances import misread
from bnorm.darknet.layout import Array, channel_axis
from bnorm.darknet.model import Model
from bnorm.darknet.network import Layer
from bnorm.darknet.weights import Floats
from bnorm.statistics.channel_state import DEAD_BELOW, Mask
from bnorm.statistics.channels import Channels
from bnorm.statistics.quantiles import median
from bnorm.statistics.variance_rule import is_bad, is_residue, is_subtracted

READERS = ("darknet", "pjreddie-cpu", "opencv")  # runtimes that read darknet's files without conversion

SENSITIVE = 0.01  # of the gain

DIVERGED = 1000.0  # |scale| above it has diverged

FAR, LARGE = 100.0, 10.0  # as has one above LARGE that exceeds FAR times the median of its part

NOT_FINITE = (("nan", "NaN", np.isnan), ("infinite", "infinite", np.isinf))


class Hit(NamedTuple):
    """The channels that match a rule, the worst of them, its values as text, and the likely cause."""

    mask: Mask  # (C,)
    worst: int
    detail: str
    cause: str | None = None


Rule = Callable[[Channels], Hit | None]

RULES: dict[str, tuple[str, Rule]] = {}  # by kind of finding: a noun for the channels, and the function


def rule(kind: str, what: str) -> Callable[[Rule], Rule]:
    """Return a decorator that enters a function into `RULES`."""

    def enter(function: Rule) -> Rule:
        RULES[kind] = what, function
        return function

    return enter


def examine(model: Model, layer: Layer, part: str, channels: Channels) -> Iterator[Finding]:
    """Yield the findings on the batch normalisation of one part of a layer."""
    yield from _not_finite(layer, part, channels)
    if _as_initialised(channels):
        message = f"all scales are 1, all means 0 and all variances {channels.variance[0]:g}, as initialised"
        yield make_finding("untrained", message, layer=layer.index, part=part)
        return
    if _never_updated(layer, channels):
        message = "all scales are 1 and all biases 0, as initialised, although the statistics moved"
        yield make_finding("untrained", message, layer=layer.index, part=part, cause=_untouched(model))
    for kind, (what, function) in RULES.items():
        hit = function(channels)
        if hit:
            counts = f"{np.count_nonzero(hit.mask):,} of {channels.scale.size:,}"
            message = f"{what}, {counts}; {hit.detail}"
            yield make_finding(kind, message, layer=layer.index, part=part, channel=hit.worst, cause=hit.cause)


def scan(layer: Layer, array: Array, blocks: Iterable[Floats]) -> Iterator[Finding]:
    """Yield NaN and infinity in an array that is read in blocks, in the order of the file."""
    counts, first, start = [0, 0], [-1, -1], 0  # both by row of NOT_FINITE
    for block in blocks:
        if not np.isfinite(block).all():
            for row, (_, _, test) in enumerate(NOT_FINITE):
                mask = test(block)
                counts[row] += int(np.count_nonzero(mask))
                if first[row] < 0 and mask.any():
                    first[row] = start + int(np.argmax(mask))
        start += block.size
    for (kind, what, _), count, index in zip(NOT_FINITE, counts, first, strict=True):
        if count:
            channel = int(np.unravel_index(index, array.stored)[channel_axis(layer, array)])
            message = f"{array.field} {what}, {count:,} of {array.size:,}"
            yield _first_in(kind, message, layer, array.part, channel)


def _not_finite(layer: Layer, part: str, channels: Channels) -> Iterator[Finding]:
    arrays = (
        ("scales", channels.scale),
        ("biases", channels.bias),
        ("rolling_mean", channels.mean),
        ("rolling_variance", channels.variance),
    )
    for name, values in arrays:
        for kind, what, test in NOT_FINITE:
            where = np.flatnonzero(test(values))
            if where.size:
                special = kind == "infinite" and name == "rolling_variance"
                message = f"{name} {what}, {where.size:,} of {values.size:,}"
                yield _first_in("variance-infinite" if special else kind, message, layer, part, int(where[0]))


def _first_in(kind: str, message: str, layer: Layer, part: str, channel: int) -> Finding:
    message = f"{message}; the first in channel {channel}"
    return make_finding(kind, message, layer=layer.index, part=part, channel=channel)


def _as_initialised(channels: Channels) -> bool:
    """Return whether all channels have scale 1, mean 0 and variance 0 (`make_*_layer`) or 1 (`darknet reset`)."""
    variances = channels.variance
    same = bool((variances == variances[0]).all()) and variances[0] in (0, 1)
    return same and bool((channels.scale == 1).all()) and bool((channels.mean == 0).all())


def _never_updated(layer: Layer, channels: Channels) -> bool:
    """Return whether scales and biases are as initialised; pjreddie's `[batchnorm]` has no biases and no update."""
    learns = layer.type != "batchnorm" or "biases" in layer.section.dialect.batchnorm
    return learns and bool((channels.scale == 1).all()) and bool((channels.bias == 0).all())


def _untouched(model: Model) -> str:
    """Return the cause if no scale was updated, with the facts about training from cfg and header."""
    seen, batch = model.header.seen, model.network.images_per_batch
    batches = f"the header counts {seen // batch:,} batches" if batch and seen >= 0 else ""
    burn_in = model.network.net.integer("burn_in", 0)
    facts = [batches, f"burn_in={burn_in} keeps the learning rate near 0 at first" if burn_in > 0 else ""]
    return "; ".join(filter(None, ["no training step has changed them", *facts]))


# --- the rules, in the order in which a part's findings are reported --------------------------------------------------


@rule("variance-negative", "negative variances")
def _negative(channels: Channels) -> Hit | None:
    mask = is_bad(channels.variance) & (channels.variance < 0)
    if not mask.any():
        return None
    worst = _largest(-channels.variance, mask)
    edges = {0: ", the first", channels.variance.size - 1: ", the last"}
    edge = edges.get(worst, "") if _at_one_edge(mask) else ""
    detail = f"{channels.variance[worst]:.3g} in channel {worst}{edge}"
    return Hit(mask=mask, worst=worst, detail=detail, cause=f"likely {_cause_of_negative(channels.variance, mask)}")


@rule("variance-zero", "variances of 0, so that ε alone sets the gain")
def _zero(channels: Channels) -> Hit | None:
    mask = _passing(channels) & (channels.variance == 0)
    if not mask.any():
        return None
    worst = _largest(np.abs(channels.scale), mask)
    return Hit(mask=mask, worst=worst, detail=_gains(channels, worst))


@rule("variance-tiny", "variances below ε = 1e-5")
def _tiny(channels: Channels) -> Hit | None:
    small = (channels.variance > 0) & (channels.variance < DARKNET.value)
    mask = _passing(channels) & (small | is_residue(channels.variance))
    if not mask.any():
        return None
    worst = _largest(-channels.variance, mask)
    return Hit(mask=mask, worst=worst, detail=_gains(channels, worst))


@rule("epsilon-sensitive", "gains that the choice of ε changes by more than 1 %")
def _sensitive(channels: Channels) -> Hit | None:
    disagreement = _disagreement(channels.variance)
    mask = _passing(channels) & (channels.variance >= DARKNET.value) & (disagreement > SENSITIVE)
    if not mask.any():
        return None
    worst = _largest(disagreement, mask)
    return Hit(mask=mask, worst=worst, detail=_gains(channels, worst))


@rule("scale-diverged", "scales far larger than the rest")
def _diverged(channels: Channels) -> Hit | None:
    sizes = np.abs(channels.scale)
    mask = (sizes > DIVERGED) | ((sizes > LARGE) & (sizes > FAR * median(sizes)))
    if not mask.any():
        return None
    worst = _largest(sizes, mask)
    return Hit(mask=mask, worst=worst, detail=f"{channels.scale[worst]:.3g} in channel {worst}")


@rule("dead-channels", "dead channels")
def _dead(channels: Channels) -> Hit | None:
    mask = channels.dead
    if not mask.any():
        return None
    worst = _largest(-np.abs(channels.scale), mask)
    return Hit(mask=mask, worst=worst, detail=f"scale {channels.scale[worst]:.3g} in channel {worst}")


@rule("near-dead-channels", "channels that hardly vary, or that a relu almost always cuts off")
def _near_dead(channels: Channels) -> Hit | None:
    mask = channels.near_dead
    if not mask.any():
        return None
    worst = _largest(-np.where(channels.rectified, channels.above_zero, channels.spread), mask)
    return Hit(
        mask=mask,
        worst=worst,
        detail=f"scale {channels.scale[worst]:.3g}, bias {channels.bias[worst]:.3g} in channel {worst}",
    )


@rule("constant-channels", "dead channels with a non-zero constant output")
def _constant(channels: Channels) -> Hit | None:
    mask = channels.constant
    if not mask.any():
        return None
    worst = _largest(np.abs(channels.bias), mask)
    return Hit(mask=mask, worst=worst, detail=f"{channels.bias[worst]:.3g} in channel {worst}")


# --- shared by the rules ----------------------------------------------------------------------------------------------


def _largest(badness: Vector, mask: Mask) -> int:
    """Return the channel of the mask where the badness is largest, the first of several."""
    where = np.flatnonzero(mask)
    return int(where[np.argmax(badness[where])])


def _passing(channels: Channels) -> Mask:
    """Return the channels that are not dead, because their scale is not near 0."""
    return np.abs(channels.scale) >= DEAD_BELOW


def _disagreement(variances: Vector) -> Vector:
    """Return how far runtimes that read darknet's files differ in the gain: largest / smallest deviation − 1."""
    deviations = np.stack([RUNTIMES[name].deviation(variances) for name in READERS])  # (reader, C)
    disagreement: Vector = deviations.max(axis=0) / deviations.min(axis=0) - 1
    return disagreement


def _gains(channels: Channels, channel: int) -> str:
    """Return the gain of a channel in every runtime."""
    scale, variance = channels.scale[channel], channels.variance[channel : channel + 1]
    gains = (f"{name} {scale / epsilon.deviation(variance)[0]:.3g}" for name, epsilon in RUNTIMES.items())
    return f"gain of channel {channel}, variance {variance[0]:.2g}: {', '.join(gains)}"


def _at_one_edge(mask: Mask) -> bool:
    """Return whether only the first or only the last channel is in the mask, of a part that has several."""
    return mask.size > 1 and list(np.flatnonzero(mask)) in ([0], [mask.size - 1])


def _cause_of_negative(variances: Vector, negative: Mask) -> str:
    """Return the likely reason for negative variances (YAD2K#131; MobileNet-Caffe#87)."""
    if is_subtracted(variances)[negative].all():
        return "variance - ε, as some converters store it"
    if _at_one_edge(negative):
        return "the header is 4 bytes off"
    if misread(variances):
        return "another array is read here: another cfg, dialect or order"
    return "E[x²] - E[x]² was rounded, or training diverged"
