"""What is in a model: its header, whether the pair fits, a row per layer or per channel, and what is odd in it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import numpy as np

from bnorm.batchnorm.arithmetic import ARITHMETICS
from bnorm.batchnorm.epsilon import Epsilon
from bnorm.checks.cfg_rules import remarked
from bnorm.checks.channel_rules import examine
from bnorm.checks.findings import Finding, worst_first
from bnorm.darknet.layout import Array
from bnorm.darknet.model import Model
from bnorm.darknet.network import Layer
from bnorm.darknet.weights import Weights, open_weights
from bnorm.errors import WeightsError
from bnorm.statistics.channels import Channels, Statistics, channels_of, summary


class LayerReport(NamedTuple):
    """One layer, its stored arrays, and what its batch normalisation does.

    `channels` and `parts` are by the names of the parts that normalise, empty for a layer that is its only part. They
    are empty, and `statistics` is None, without weights, where nothing normalises, and where the file ends before.
    """

    layer: Layer
    arrays: tuple[Array, ...]
    channels: dict[str, Channels]
    statistics: Statistics | None  # of the channels of all parts together
    parts: dict[str, Statistics]

    @property
    def parameters(self) -> int:
        """Number of stored values, rolling statistics included."""
        return sum(array.size for array in self.arrays)


class ChannelRow(NamedTuple):
    """One normalised channel; the columns of `statistics.Channels`, and what they make of it."""

    layer: int
    part: str
    channel: int
    scale: float
    bias: float
    mean: float
    variance: float
    gain: float
    offset: float
    weight_norm: float | None
    weight_max: float | None
    folded_max: float | None
    above_zero: float
    state: str


class Inspection(NamedTuple):
    """All that `bnorm inspect` shows. `misfit` says where and how the file's size departs from the plan."""

    model: Model
    epsilon: Epsilon
    layers: tuple[LayerReport, ...]
    findings: tuple[Finding, ...]
    misfit: WeightsError | None


@np.errstate(all="ignore")  # a file may hold any number, signalling NaN too: no news to the user
def inspect(
    model: Model, selection: Collection[int] | None = None, *, epsilon: Epsilon | None = None, weights: bool = False
) -> Inspection:
    """Report on the selected layers, by default all. Gains are those of `epsilon`, by default the dialect's CPU's.

    Only the arrays of batch normalisation are read; with `weights` also the weights of the normalised layers, which
    norms and ranges need.
    """
    epsilon = epsilon or ARITHMETICS[model.dialect.name].forward
    by_layer = model.layout.by_layer()
    with ExitStack() as stack:
        file = stack.enter_context(open_weights(model)) if model.weights else None
        reports = tuple(
            _report(layer, arrays, _channels(file, layer, arrays, epsilon, weights) if file else {})
            for layer in model.network.layers
            if selection is None or layer.index in selection
            for arrays in [by_layer.get(layer.index, ())]
        )
        misfit = file.misfit() if file else None
    findings = remarked(model) if misfit else (*numbers(reports), *remarked(model))
    return Inspection(model, epsilon, reports, worst_first(findings), misfit)


def numbers(reports: Sequence[LayerReport]) -> Iterator[Finding]:
    """What is wrong with the statistics of these layers."""
    for report in reports:
        for part, channels in report.channels.items():
            yield from examine(report.layer, part, channels)


def channel_rows(reports: Sequence[LayerReport]) -> list[ChannelRow]:
    """A row for every normalised channel, in the order of the file."""
    return [
        ChannelRow(report.layer.index, name, *row)
        for report in reports
        for name, channels in report.channels.items()
        for row in _rows(channels)
    ]


def _rows(channels: Channels) -> Iterator[tuple[Any, ...]]:
    states = np.where(channels.near_dead, "near-dead", "")
    states = np.where(channels.constant, "constant", np.where(channels.dead, "dead", states))
    columns = [
        *(channels.scale, channels.bias, channels.mean, channels.variance, channels.gain, channels.offset),
        *(channels.weight_norm, channels.weight_max, channels.folded_max, channels.above_zero, states),
    ]
    values = ([None] * channels.scale.size if column is None else column.tolist() for column in columns)
    return zip(range(channels.scale.size), *values, strict=True)


def _report(layer: Layer, arrays: tuple[Array, ...], channels: dict[str, Channels]) -> LayerReport:
    parts = {name: summary(part) for name, part in channels.items()}
    statistics = parts[""] if "" in parts else summary(Channels.concatenate(channels.values())) if parts else None
    return LayerReport(layer, arrays, channels, statistics, parts)


def _channels(
    weights: Weights, layer: Layer, arrays: tuple[Array, ...], epsilon: Epsilon, measure: bool
) -> dict[str, Channels]:
    """The channels of a layer; of a cut file only those of a layer that it holds as far as it is needed."""
    needed = [array for array in arrays if measure or array.field != "weights"]
    if any(array.end > (weights.model.nbytes or 0) for array in needed):
        return {}
    return channels_of(weights, layer, epsilon, measure=measure)
