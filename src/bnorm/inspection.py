"""What is in a model: its header, whether the pair fits, a row per layer, and what is odd in it."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import ExitStack
from typing import NamedTuple

import numpy as np

from bnorm.batchnorm import ARITHMETICS, Epsilon, Parameters, Rolling, gain_offset
from bnorm.errors import WeightsError
from bnorm.layout import NORMALISATION, Array
from bnorm.model import Model
from bnorm.network import Layer
from bnorm.weights import Floats, Weights, open_weights

DEAD_BELOW = 1e-6


class Span(NamedTuple):
    """Smallest and largest value."""

    low: float
    high: float


class Statistics(NamedTuple):
    """Over all normalised channels of a layer, those of its parts together.

    A channel is dead where the standard deviation that its statistics promise for its output, |gain|·√variance, is
    below `DEAD_BELOW`: whatever comes in, a constant goes out.
    """

    channels: int
    scale: Span  # of |scale|
    variance: Span
    gain: Span  # of |gain|
    dead: int


class LayerReport(NamedTuple):
    """One layer, its stored arrays, and the statistics of its batch normalisation where it has any."""

    layer: Layer
    arrays: tuple[Array, ...]
    statistics: Statistics | None

    @property
    def parameters(self) -> int:
        """Number of stored values, rolling statistics included."""
        return sum(array.size for array in self.arrays)


class Finding(NamedTuple):
    """Something that a person should know, with a stable id."""

    id: str
    severity: str
    layer: int | None
    channel: int | None
    message: str


class Inspection(NamedTuple):
    """All that `bnorm inspect` shows. `misfit` says where and how the file's size departs from the plan."""

    model: Model
    layers: tuple[LayerReport, ...]
    findings: tuple[Finding, ...]
    misfit: WeightsError | None


def inspect(model: Model, selection: Collection[int] | None = None) -> Inspection:
    """Report on the selected layers, by default all; of the weights only the arrays of batch normalisation are read."""
    by_layer = model.layout.by_layer()
    with ExitStack() as stack:
        weights = stack.enter_context(open_weights(model)) if model.weights else None
        reports = tuple(
            LayerReport(layer, arrays, _statistics(weights, arrays, model.dialect.name) if weights else None)
            for layer in model.network.layers
            if selection is None or layer.index in selection
            for arrays in [by_layer.get(layer.index, ())]
        )
        misfit = weights.misfit() if weights else None
    return Inspection(model, reports, _findings(model), misfit)


def _findings(model: Model) -> tuple[Finding, ...]:
    return tuple(
        Finding(remark.id, "note", None, None, f"line {remark.line}: {remark.message}")
        for remark in model.network.remarks
    )


def _statistics(weights: Weights, arrays: tuple[Array, ...], arithmetic: str) -> Statistics | None:
    """None where the layer's file arrays hold no batch normalisation, or the file ends before them."""
    fields: dict[str, list[Floats]] = {field: [] for field in NORMALISATION}
    for array in arrays:
        if array.field in fields:
            if array.end > (weights.model.nbytes or 0):
                return None
            fields[array.field].append(weights.read(array))
    if not fields["scales"]:
        return None
    scales, mean, variance = (np.concatenate(values).astype(np.float64) for values in fields.values())
    return _summary(scales, Rolling(mean, variance), ARITHMETICS[arithmetic].forward)


def _summary(scales: np.ndarray[tuple[int], np.dtype[np.float64]], rolling: Rolling, epsilon: Epsilon) -> Statistics:
    gain, _ = gain_offset(Parameters(scales, np.zeros_like(scales)), rolling, epsilon)
    with np.errstate(invalid="ignore"):
        deviation = np.abs(gain) * np.sqrt(rolling.variance)
    return Statistics(
        channels=scales.size,
        scale=_span(np.abs(scales)),
        variance=_span(rolling.variance),
        gain=_span(np.abs(gain)),
        dead=int(np.count_nonzero(deviation < DEAD_BELOW)),
    )


def _span(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Span:
    return Span(float(values.min()), float(values.max()))
