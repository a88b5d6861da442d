"""The report on a model: its header, whether the pair fits, a row per layer or per channel, and the findings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from bnorm.batchnorm.arithmetic import default_epsilon
from bnorm.batchnorm.epsilon import Epsilon, Vector, as_epsilon
from bnorm.batchnorm.formulas import quiet
from bnorm.checks.cfg_rules import cfg_findings
from bnorm.checks.channel_rules import examine
from bnorm.checks.findings import Finding, worst_first
from bnorm.checks.weights_file import file_findings
from bnorm.darknet.layout import Array
from bnorm.darknet.model import Model
from bnorm.darknet.model_or_paths import model_or_paths
from bnorm.darknet.network import Layer
from bnorm.darknet.size_mismatch import SizeMismatch
from bnorm.darknet.weights import Trailing, Weights, open_weights, trailing_by_name
from bnorm.statistics.channels import ByPart, Channels, Statistics, channels_of, filters_of, summary
from bnorm.statistics.filters import Filters, Magnitudes, measured


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerReport:
    """One layer, its stored arrays, and the statistics of its batch normalisation.

    The keys of `channels` and `parts` are the names of the parts that normalise, "" for a layer that is its only part.
    Both are empty and `statistics` is None without weights, in a layer without batch normalisation, and in a layer
    whose batch normalisation the file does not hold. `filters` are those of every part with weights, whether it
    normalises or not; it is empty if weights were not read.
    """

    layer: Layer
    arrays: tuple[Array, ...]
    channels: dict[str, Channels]
    statistics: Statistics | None  # of the channels of all parts together
    parts: dict[str, Statistics]
    filters: dict[str, Filters]

    @property
    def all_filters(self) -> Filters | None:
        """Return the filters of all parts together; None if there are none."""
        return Filters.concatenate(self.filters.values()) if self.filters else None

    @property
    def parameters(self) -> int:
        """Return the number of stored values, rolling statistics included."""
        return sum(array.size for array in self.arrays)

    def __repr__(self) -> str:
        return f"<LayerReport: {self.layer.index} {self.layer.type}, {self.parameters:,} parameters>"


class ChannelRow(NamedTuple):
    """One normalised channel; its values are from `statistics.channels.Channels`, its state is a word or empty."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """Everything that `bnorm inspect` shows. `misfit` is the difference of the file's size from the plan, or None.

    It is also None if the difference is `trailing_bytes` that were accepted.
    """

    model: Model
    epsilon: Epsilon
    layers: tuple[LayerReport, ...]
    findings: tuple[Finding, ...]
    misfit: SizeMismatch | None
    trailing_bytes: int = 0

    @property
    def fits(self) -> bool | None:
        """Return whether the file has the planned size, apart from accepted trailing bytes; None without a file."""
        return None if self.model.weights is None else self.misfit is None

    @property
    def parameters(self) -> int:
        """Return the number of stored values of the layers shown."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def statistics(self) -> tuple[Statistics, ...]:
        """Return the statistics of each layer shown that has any."""
        return tuple(layer.statistics for layer in self.layers if layer.statistics)

    @property
    def channels(self) -> int:
        """Return the number of normalised channels of the layers shown."""
        return sum(statistics.channels for statistics in self.statistics)

    @property
    def dead(self) -> int:
        """Return the number of dead channels of the layers shown."""
        return sum(statistics.dead for statistics in self.statistics)

    def __repr__(self) -> str:
        return f"<Inspection: {self.model!r}, layers={len(self.layers)}, findings={len(self.findings)}>"


@model_or_paths
@quiet
def inspect(
    model: Model,
    selection: Iterable[int] | None = None,
    *,
    epsilon: Epsilon | str | None = None,
    weights: bool = False,
    norms: bool = True,
    trailing: Trailing | str = Trailing.ERROR,
) -> Inspection:
    """Report on the selected layers, by default all. `epsilon` sets the gains; its default is the dialect's CPU path.

    The paths of a cfg and its weights, or of a cfg alone, can replace the model: `inspect("net.cfg", "net.weights")`.
    The findings are on the cfg and on the channels shown; for a file that does not fit, they include the likeliest
    cause. Only the arrays of batch normalisation are read; with `weights` also the weights of all layers, for their
    ranges and norms. `norms=False` leaves out the norms, which take most of that time. With `trailing` keep or drop,
    bytes after the last array are accepted. ValueError for layers that the network lacks, and for an unknown `epsilon`
    or `trailing`; TypeError if `weights` is not a bool.
    """
    if weights not in (True, False):
        raise TypeError(f"weights={weights!r}, expected True or False; the path of a file is the second argument")
    chosen = _chosen(model, selection)
    trailing_by_name(trailing)
    guard = default_epsilon(model.dialect.name) if epsilon is None else as_epsilon(epsilon)
    by_layer = model.layout.by_layer()
    with ExitStack() as stack:
        file = stack.enter_context(open_weights(model, trailing, allow_misfit=True)) if model.weights else None
        reports = []
        for layer in chosen:
            sizes = measured(file, layer, norms=norms) if file and weights else {}
            reports.append(_report(file, layer, by_layer.get(layer.index, ()), guard, sizes))
        misfit = file.misfit() if file else None
        findings = file_findings(file) if file and misfit else tuple(channel_findings(model, reports))
    return Inspection(
        model=model,
        epsilon=guard,
        layers=tuple(reports),
        findings=worst_first((*findings, *cfg_findings(model.network))),
        misfit=misfit,
        trailing_bytes=0 if misfit else max(0, (model.nbytes or 0) - model.layout.nbytes),
    )


def _chosen(model: Model, selection: Iterable[int] | None) -> list[Layer]:
    layers = model.network.layers
    if selection is None:
        return list(layers)
    chosen = set(selection)  # once: an iterator is empty afterwards
    lacking = sorted(chosen - set(range(len(layers))))
    if lacking:
        raise ValueError(f"no layer {', '.join(map(str, lacking))}, expected 0 to {len(layers) - 1}")
    return [layer for layer in layers if layer.index in chosen]


def channel_findings(model: Model, reports: Sequence[LayerReport]) -> Iterator[Finding]:
    """Yield the findings on the statistics of these layers of the model."""
    for report in reports:
        for part, channels in report.channels.items():
            yield from examine(model, report.layer, part, channels)


def channel_rows(reports: Sequence[LayerReport]) -> list[ChannelRow]:
    """Return a row for every normalised channel, in the order of the file."""
    return [
        row
        for report in reports
        for part, channels in report.channels.items()
        for row in _rows(report.layer.index, part, channels)
    ]


def _rows(layer: int, part: str, channels: Channels) -> Iterator[ChannelRow]:
    count = channels.scale.size
    columns = {
        "layer": [layer] * count,
        "part": [part] * count,
        "channel": range(count),
        "scale": channels.scale.tolist(),
        "bias": channels.bias.tolist(),
        "mean": channels.mean.tolist(),
        "variance": channels.variance.tolist(),
        "gain": channels.gain.tolist(),
        "offset": channels.offset.tolist(),
        "weight_norm": _listed(channels.weight_norm, count),
        "weight_max": _listed(channels.weight_max, count),
        "folded_max": _listed(channels.folded_max, count),
        "above_zero": channels.above_zero.tolist(),
        "state": _states(channels),
    }
    return map(ChannelRow._make, zip(*(columns[name] for name in ChannelRow._fields), strict=True))


def _listed(values: Vector | None, count: int) -> list[float | None]:
    return [None] * count if values is None else values.tolist()


def _states(channels: Channels) -> list[str]:
    """Return a word for each channel, empty for a healthy one; a constant channel is dead as well."""
    masks = [channels.constant, channels.dead, channels.near_dead]
    states: list[str] = np.select(masks, ["constant", "dead", "near-dead"], default="").tolist()
    return states


@quiet
def _report(
    weights: Weights | None, layer: Layer, arrays: tuple[Array, ...], epsilon: Epsilon, sizes: Mapping[str, Magnitudes]
) -> LayerReport:
    channels = _channels(weights, layer, arrays, epsilon, sizes) if weights else {}
    filters = ByPart(filters_of(layer, channels, sizes))
    parts = ByPart({name: summary(part) for name, part in channels.items()})
    whole = parts.get("") or (summary(Channels.concatenate(channels.values())) if parts else None)
    return LayerReport(
        layer=layer, arrays=arrays, channels=ByPart(channels), statistics=whole, parts=parts, filters=filters
    )


def _channels(
    weights: Weights, layer: Layer, arrays: tuple[Array, ...], epsilon: Epsilon, sizes: Mapping[str, Magnitudes]
) -> dict[str, Channels]:
    """Return the channels of a layer by part; none if a cut file lacks one of the arrays needed."""
    if any(array.end > weights.nbytes for array in arrays if array.field != "weights"):
        return {}
    return channels_of(weights, layer, epsilon, sizes)
