"""Batch normalisation of one mini-batch of any size: kernels × threads × a memory budget."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from bnorm.batchnorm import formulas, tiling
from bnorm.batchnorm.arithmetic import Arithmetic
from bnorm.batchnorm.engines import NUMPY, Kernels
from bnorm.batchnorm.epsilon import Vector
from bnorm.batchnorm.formulas import (
    ChannelMap,
    DeltaSums,
    Gradients,
    Moments,
    Parameters,
    PartialMoments,
    Rolling,
    Sums,
    ValueSums,
)
from bnorm.batchnorm.kernels import Scratch
from bnorm.batchnorm.threads import Team
from bnorm.batchnorm.tiling import Grouping
from bnorm.tensors.tensor import Doubles, MemoryTensor, Span, Tensor, Values

MEMORY = 256 << 20  # bytes of tensors that are in memory at once

LEAST_MEMORY = 16 << 20  # with less, scattered channels are read in small pieces, again and again

Advance = Callable[[int], None]  # called with the number of values finished since the last call


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
        return self._replace(
            parameters=Parameters(*(vector[channels] for vector in self.parameters)),
            rolling=Rolling(*(vector[channels] for vector in self.rolling)),
        )


class BatchResult(NamedTuple):
    """One mini-batch's results per channel: `moments` in training, `gradients` with a delta."""

    moments: PartialMoments | None
    gradients: Gradients | None


class _Tensors(NamedTuple):
    """The tensors of a mini-batch; `outputs` by name."""

    x: Tensor
    delta: Tensor | None
    outputs: Mapping[str, Tensor]

    @property
    def all(self) -> list[Tensor]:
        """Return every tensor."""
        return [self.x, *([self.delta] if self.delta else []), *self.outputs.values()]

    @property
    def bytes_per_value(self) -> int:
        """Return the bytes of one value of every tensor together."""
        return sum(tensor.dtype.itemsize for tensor in self.all)

    @property
    def in_memory(self) -> bool:
        """Return whether no tensor is read from a file, or written to one."""
        return all(isinstance(tensor, MemoryTensor) for tensor in self.all)


class _Workers(NamedTuple):
    """The threads of a team, each with its own block, or `shared` kernels that use threads of their own."""

    team: Team
    kernels: Kernels
    shared: bool


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
    tensors = _Tensors(x, delta, outputs)
    workers = _workers(tensors, team, kernels)
    return _concatenated(
        _run_channels(layer.select(spans[0].channels), _Pass(spans, tensors, workers, advance))
        for spans in _tiles(tensors, workers, memory)
    )


@formulas.quiet
def batch_moments(x: Tensor, team: Team, memory: int = MEMORY, kernels: Kernels = NUMPY) -> PartialMoments:
    """Return the moments of one mini-batch: bit for bit those that `run_batch` uses in training."""
    tensors = _Tensors(x, None, {})
    workers = _workers(tensors, team, kernels)
    groups = (_Pass(spans, tensors, workers, None) for spans in _tiles(tensors, workers, memory))
    moments = (_summed(group, np.zeros(group.channels), moments=True)[2] for group in groups)
    return _joined([partial for partial in moments if partial])


def _workers(tensors: _Tensors, team: Team, kernels: Kernels) -> _Workers:
    """Return the workers for these tensors, with NumPy's kernels if the given ones do not support a dtype."""
    if any(tensor.dtype.char not in kernels.dtypes for tensor in tensors.all):
        kernels = NUMPY
    shared = kernels.shared(team.threads) if tensors.in_memory else None
    return _Workers(team, shared or kernels, shared is not None)


def _tiles(tensors: _Tensors, workers: _Workers, memory: int) -> list[list[Span]]:
    """Return the tiles for this much memory; a single one for `shared` kernels, whose tensors are in memory already."""
    return tiling.tiles(tensors.x, (sys.maxsize if workers.shared else memory) // tensors.bytes_per_value)


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


# --- the flow ---------------------------------------------------------------------------------------------------------


def _run_channels(layer: Normalisation, channels: _Pass) -> BatchResult:
    """Sum, compute the results per channel, and map every value."""
    sums, shift, partial = _summed(channels, _starting_shift(layer), moments=layer.train)
    statistics = partial.moments(layer.arithmetic) if partial else layer.rolling
    maps = _forward_maps(layer, statistics, shift, channels.outputs)
    gradients = None
    if sums.deltas:
        gradients, maps["dx"] = formulas.backward(
            layer.parameters, statistics, shift, sums.deltas, channels.count, layer.arithmetic
        )
    channels.apply(maps, shift)
    return BatchResult(partial, gradients)


def _summed(channels: _Pass, shift: Vector, *, moments: bool) -> tuple[Sums, Vector, PartialMoments | None]:
    """Return the sums, the shift that they were taken with, and the moments if asked for.

    Channels whose mean dominates their variance are summed again, shifted by the mean.
    """
    sums = channels.sums(shift, moments=moments)
    partial = _partial(sums, shift, channels.count)
    if partial and (dominated := formulas.mean_dominates(partial.mean, partial.unbiased)).any():
        shift = np.where(dominated, partial.mean, 0)
        sums = channels.sums(shift, moments=moments)
        partial = _partial(sums, shift, channels.count)
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
    return np.where(formulas.mean_dominates(mean, variance), mean, 0)


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


def _added(pieces: Doubles) -> Doubles:
    """Return the sums of the last axis, added in its order, beginning with 0."""
    total = np.zeros(pieces.shape[:-1])
    for piece in pieces.transpose(2, 0, 1):
        total += piece
    return total


# --- passes over the values -------------------------------------------------------------------------------------------


class _Pass:
    """The tiles of some channels, and the passes over them: each reads every tile again, unless there is only one."""

    def __init__(self, spans: list[Span], tensors: _Tensors, workers: _Workers, advance: Advance | None) -> None:
        self._spans, self._tensors, self._workers, self._advance = spans, tensors, workers, advance
        self._tile = _Tile(spans[0], tensors, workers)
        self.channels = spans[0].last - spans[0].first
        self.count = tensors.x.length  # N, the number of values of a channel
        self.outputs = tuple(tensors.outputs)

    def _tiles(self) -> Iterable[_Tile]:
        for span in self._spans:
            if self._tile.span != span:
                self._tile = _Tile(span, self._tensors, self._workers)
            yield self._tile

    def sums(self, shift: Vector, *, moments: bool) -> Sums:
        """Return the sums of x − shift for the moments, if asked for, and those of delta, if there is one."""
        if not moments and self._tensors.delta is None:
            return Sums()
        pieces = [tile.sums(shift, moments) for tile in self._tiles()]
        totals = list(_added(np.concatenate(pieces, axis=-1)))  # 2 or 4 times (C,)
        return Sums(
            values=ValueSums(*totals[:2]) if moments else None,
            deltas=DeltaSums(*totals[2 * moments :]) if self._tensors.delta else None,
        )

    def apply(self, maps: Mapping[str, ChannelMap], shift: Vector) -> None:
        """Compute and write all outputs."""
        for tile in self._tiles():
            tile.apply(maps, shift)
            if self._advance:
                self._advance(tile.span.size)


class _Tile:
    """A tile of the tensors in memory, which threads work on block by block."""

    def __init__(self, span: Span, tensors: _Tensors, workers: _Workers) -> None:
        self.span, self._tensors, self._workers = span, tensors, workers
        self._x = tensors.x.buffer(span)
        self._delta = tensors.delta.buffer(span) if tensors.delta else None
        self._outputs = {name: output.buffer(span) for name, output in tensors.outputs.items()}
        self._grouping = Grouping(tensors.x.places)
        if workers.shared:
            self._blocks = [Span(0, self._x.channels, 0, self._x.images * self._x.places)]
        else:
            self._blocks = tiling.blocks(self._x, self._grouping, workers.team.threads)
        self._loaded = False

    def sums(self, shift: Vector, moments: bool) -> Doubles:
        """Return the sums of each piece, shape (2 or 4, c, pieces): those of `kernels.sum_span`."""
        pieces = self._grouping.pieces(self.span)
        sums = np.empty((2 * moments + 2 * bool(self._delta), self._x.channels, pieces.stop - pieces.start))

        def work(block: Span, scratch: Scratch) -> None:
            x, delta = self._load(block)
            part = self._grouping.pieces(self.span.part(block))
            out = sums[:, block.channels, part.start - pieces.start : part.stop - pieces.start]
            self._workers.kernels.sum_span(
                x, delta, shift[block.channels], scratch, out, moments=moments, grouping=self._grouping
            )

        self._each_block(work)
        return sums

    def apply(self, maps: Mapping[str, ChannelMap], shift: Vector) -> None:
        """Compute and write all outputs."""

        def work(block: Span, scratch: Scratch) -> None:
            x, delta = self._load(block)
            chosen = {name: maps[name].select(block.channels) for name in self._outputs}
            outputs = {name: output.part(block) for name, output in self._outputs.items()}
            self._workers.kernels.map_span(chosen, x, delta, shift[block.channels], scratch, outputs)
            for name, values in outputs.items():
                self._tensors.outputs[name].write(self.span.part(block), values)

        self._each_block(work)

    def _each_block(self, work: Callable[[Span, Scratch], None]) -> None:
        if self._workers.shared:
            work(self._blocks[0], Scratch())
        else:
            self._workers.team.each(work, self._blocks)
        self._loaded = True  # every block was read in this pass or an earlier one

    def _load(self, block: Span) -> tuple[Values, Values | None]:
        """Return the block's x and delta, each (n, c, l); the first pass over the tile reads them from the file."""
        x, delta = self._x.part(block), self._delta.part(block) if self._delta else None
        if not self._loaded:
            self._tensors.x.read(self.span.part(block), x)
            if self._tensors.delta and delta is not None:
                self._tensors.delta.read(self.span.part(block), delta)
        return x, delta
