"""Batch normalisation of one mini-batch of any size: kernels × threads × a memory budget."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bnorm.batchnorm import formulas
from bnorm.batchnorm.arithmetic import Arithmetic
from bnorm.batchnorm.engines import NUMPY, Kernels
from bnorm.batchnorm.epsilon import Vector
from bnorm.batchnorm.formulas import ChannelMap, Gradients, Moments, Parameters, PartialMoments, Rolling, Sums
from bnorm.batchnorm.groups import Advance, Group, Tensors, groups_of
from bnorm.batchnorm.threads import Team
from bnorm.tensors.tensor import Tensor

MEMORY = 256 << 20  # bytes of tensors that are in memory at once

LEAST_MEMORY = 16 << 20  # with less, scattered channels are read in small pieces, again and again


class Normalisation(NamedTuple):
    """A layer's parameters, statistics and arithmetic for one mini-batch.

    Training normalises by the mini-batch's own moments, inference by `rolling`.
    """

    parameters: Parameters
    rolling: Rolling
    arithmetic: Arithmetic
    train: bool

    def select(self, channels: slice) -> Normalisation:
        """Return the normalisation of some of the channels."""
        if channels == slice(0, self.parameters.scales.size):
            return self  # the slices would be a tenth of a call with a small tensor
        return self._replace(
            parameters=Parameters(*(vector[channels] for vector in self.parameters)),
            rolling=Rolling(*(vector[channels] for vector in self.rolling)),
        )


class BatchResult(NamedTuple):
    """One mini-batch's results per channel: `moments` in training, `gradients` with a delta."""

    moments: PartialMoments | None
    gradients: Gradients | None


@formulas.quiet
def run_batch(
    layer: Normalisation,
    x: Tensor,
    delta: Tensor | None,
    outputs: Mapping[str, Tensor],
    team: Team,
    memory: int = MEMORY,
    advance: Advance | None = None,
    kernels: Kernels = NUMPY,
) -> BatchResult:
    """Run one mini-batch: fill the `outputs`, some of `y`, `x_norm` and `dx`, and return the results per channel.

    All tensors have the shape of `x`; `dx` needs `delta`, ∂loss/∂y. The tiles of all tensors together fit into `memory`
    bytes. Neither threads nor memory nor kernels change a bit of the results.
    """
    groups = groups_of(Tensors(x, delta, outputs), team, memory, kernels, advance)
    return _concatenated(_run_group(layer.select(group.channels), group) for group in groups)


@formulas.quiet
def batch_moments(x: Tensor, team: Team, memory: int = MEMORY, kernels: Kernels = NUMPY) -> PartialMoments:
    """Return the moments of one mini-batch: bit for bit those that `run_batch` uses in training."""
    groups = groups_of(Tensors(x, None, {}), team, memory, kernels)
    moments = (_summed(group, np.zeros(group.width), moments=True)[2] for group in groups)
    return _joined([partial for partial in moments if partial])


def _concatenated(results: Iterable[BatchResult]) -> BatchResult:
    """Return the results of consecutive groups of channels as one."""
    first, *others = results
    if not others:
        return first
    moments, gradients = zip(first, *others, strict=True)
    return BatchResult(
        _joined(moments) if moments[0] else None,
        Gradients(*map(np.concatenate, zip(*gradients, strict=True))) if gradients[0] else None,
    )


def _joined(groups: Sequence[PartialMoments]) -> PartialMoments:
    """Return the moments of consecutive groups of channels as one."""
    return PartialMoments(
        count=groups[0].count,
        mean=np.concatenate([group.mean for group in groups]),
        m2=np.concatenate([group.m2 for group in groups]),
    )


# --- one group of channels --------------------------------------------------------------------------------------------


def _run_group(layer: Normalisation, group: Group) -> BatchResult:
    """Sum, compute the results per channel, and map every value."""
    sums, shift, partial = _summed(group, _starting_shift(layer), moments=layer.train)
    statistics = partial.moments(layer.arithmetic) if partial else layer.rolling
    maps = _forward_maps(layer, statistics, shift, group.outputs)
    gradients = None
    if sums.deltas:
        gradients, maps["dx"] = formulas.backward(
            layer.parameters, statistics, shift, sums.deltas, group.count, layer.arithmetic
        )
    group.apply(maps, shift)
    return BatchResult(partial, gradients)


def _summed(group: Group, shift: Vector, *, moments: bool) -> tuple[Sums, Vector, PartialMoments | None]:
    """Return the sums, the shift that they were taken with, and the moments if asked for.

    Channels whose mean dominates their variance are summed again, shifted by the mean.
    """
    sums = group.sums(shift, moments=moments)
    partial = _partial(sums, shift, group.count)
    if partial and (dominated := formulas.mean_dominates(partial.mean, partial.unbiased)).any():
        shift = _shift(dominated, partial.mean)
        sums = group.sums(shift, moments=moments)
        partial = _partial(sums, shift, group.count)
    return sums, shift, partial


def _partial(sums: Sums, shift: Vector, count: int) -> PartialMoments | None:
    return formulas.partial_moments(sums.values, shift, count) if sums.values else None


def _starting_shift(layer: Normalisation) -> Vector:
    """Return the number to subtract from each channel, (C,), before any value of x is known.

    At inference that is the rolling mean where it dominates the rolling variance; in training it is 0.
    """
    mean, variance = layer.rolling
    if layer.train:
        return np.zeros_like(mean)
    return _shift(formulas.mean_dominates(mean, variance), mean)


def _shift(dominated: NDArray[np.bool_], mean: Vector) -> Vector:
    """Return the mean where it dominates, else 0: never −0, because x − 0 is x for every x, but −0 − (−0) is 0.

    The kernels may then leave out the subtraction of a shift of 0.
    """
    return np.where(dominated, mean, 0) + 0.0


def _forward_maps(
    layer: Normalisation, statistics: Rolling | Moments, shift: Vector, outputs: tuple[str, ...]
) -> dict[str, ChannelMap]:
    """Return the maps of `y` and `x_norm`, without those that are not among the outputs."""
    maps: dict[str, ChannelMap] = {}
    if "y" in outputs:
        maps["y"] = formulas.forward(layer.parameters, statistics, shift, layer.arithmetic)
    if "x_norm" in outputs:
        maps["x_norm"] = formulas.normalise(statistics, shift, layer.arithmetic)
    return maps
