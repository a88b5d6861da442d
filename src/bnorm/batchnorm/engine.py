"""Batch normalisation of one mini-batch of any size: kernels × threads × a memory budget."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

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
from bnorm.batchnorm.kernels import Operands, Scratch
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
        if channels == slice(0, self.parameters.scales.size):
            return self
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
    passes = _passes(_Tensors(x, delta, outputs), team, memory, kernels, advance)
    return _concatenated(_run_channels(layer.select(part.channels), part) for part in passes)


@formulas.quiet
def batch_moments(x: Tensor, team: Team, memory: int = MEMORY, kernels: Kernels = NUMPY) -> PartialMoments:
    """Return the moments of one mini-batch: bit for bit those that `run_batch` uses in training."""
    passes = _passes(_Tensors(x, None, {}), team, memory, kernels)
    moments = (_summed(part, np.zeros(part.width), moments=True)[2] for part in passes)
    return _joined([partial for partial in moments if partial])


def _passes(
    tensors: _Tensors, team: Team, memory: int, kernels: Kernels, advance: Advance | None = None
) -> Iterator[_Pass]:
    """Yield the channels group by group; NumPy's kernels stand in for ones that do not support a dtype."""
    if any(tensor.dtype.char not in kernels.dtypes for tensor in tensors.all):
        kernels = NUMPY
    if tensors.in_memory and (shared := kernels.shared(team.threads)):
        yield _WholePass(tensors, shared, advance)
    else:
        for spans in tiling.tiles(tensors.x, memory // tensors.bytes_per_value):
            yield _TiledPass(spans, tensors, team, kernels, advance)


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


def _run_channels(layer: Normalisation, part: _Pass) -> BatchResult:
    """Sum, compute the results per channel, and map every value."""
    sums, shift, partial = _summed(part, _starting_shift(layer), moments=layer.train)
    statistics = partial.moments(layer.arithmetic) if partial else layer.rolling
    maps = _forward_maps(layer, statistics, shift, part.outputs)
    gradients = None
    if sums.deltas:
        gradients, maps["dx"] = formulas.backward(
            layer.parameters, statistics, shift, sums.deltas, part.count, layer.arithmetic
        )
    part.apply(maps, shift)
    return BatchResult(partial, gradients)


def _summed(part: _Pass, shift: Vector, *, moments: bool) -> tuple[Sums, Vector, PartialMoments | None]:
    """Return the sums, the shift that they were taken with, and the moments if asked for.

    Channels whose mean dominates their variance are summed again, shifted by the mean.
    """
    sums = part.sums(shift, moments=moments)
    partial = _partial(sums, shift, part.count)
    if partial and (dominated := formulas.mean_dominates(partial.mean, partial.unbiased)).any():
        shift = _shift(dominated, partial.mean)
        sums = part.sums(shift, moments=moments)
        partial = _partial(sums, shift, part.count)
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


def _added(pieces: Doubles) -> Doubles:
    """Return the sums of the last axis, added in its order, beginning with 0."""
    total = np.zeros(pieces.shape[:-1])
    for piece in pieces.transpose(2, 0, 1):
        total += piece
    return total


# --- passes over the values -------------------------------------------------------------------------------------------


class _Pass:
    """The values of some channels, and the passes over them."""

    def __init__(self, channels: slice, tensors: _Tensors, advance: Advance | None) -> None:
        self.channels, self._tensors, self._advance = channels, tensors, advance
        self.width = channels.stop - channels.start
        self.count = tensors.x.length  # N, the number of values of a channel
        self.outputs = tuple(tensors.outputs)

    def sums(self, shift: Vector, *, moments: bool) -> Sums:
        """Return the sums of x − shift for the moments, if asked for, and those of delta, if there is one."""
        if not moments and self._tensors.delta is None:
            return Sums()
        totals = list(_added(self._pieces(shift, moments)))  # 2 or 4 times (C,)
        return Sums(
            values=ValueSums(*totals[:2]) if moments else None,
            deltas=DeltaSums(*totals[2 * moments :]) if self._tensors.delta else None,
        )

    def _empty(self, moments: bool, pieces: int) -> Doubles:
        """Return an array for the sums of so many pieces, (2 or 4, c, pieces); those of a piece are contiguous."""
        return np.empty((pieces, 2 * moments + 2 * bool(self._tensors.delta), self.width)).transpose(1, 2, 0)

    def _pieces(self, shift: Vector, moments: bool) -> Doubles:
        """Return the sums of each piece, shape (2 or 4, c, pieces): those of `kernels.sum_span`."""
        raise NotImplementedError

    def apply(self, maps: Mapping[str, ChannelMap], shift: Vector) -> None:
        """Compute and write all outputs."""
        raise NotImplementedError


class _WholePass(_Pass):
    """All values at once, in memory: the kernels use threads of their own."""

    def __init__(self, tensors: _Tensors, kernels: Kernels, advance: Advance | None) -> None:
        super().__init__(slice(0, tensors.x.channels), tensors, advance)
        self._span = Span(0, self.width, 0, self.count)
        self._kernels, self._scratch = kernels, Scratch()
        self._x, self._delta = self._array(tensors.x), self._array(tensors.delta) if tensors.delta else None

    def _array(self, tensor: Tensor) -> Values:
        return tensor.buffer(self._span).array

    def _pieces(self, shift: Vector, moments: bool) -> Doubles:
        grouping = Grouping(self._tensors.x.places)
        sums = self._empty(moments, grouping.pieces(self._span).stop)
        operands = Operands(self._x, self._delta, shift)
        self._kernels.sum_span(operands, grouping, self._scratch, sums, moments=moments)
        return sums

    def apply(self, maps: Mapping[str, ChannelMap], shift: Vector) -> None:
        outputs = {name: self._array(output) for name, output in self._tensors.outputs.items()}
        self._kernels.map_span(Operands(self._x, self._delta, shift), maps, self._scratch, outputs)
        if self._advance:
            self._advance(self._span.size)


class _TiledPass(_Pass):
    """Tiles, one in memory at a time: each pass reads every tile again, unless there is only one."""

    def __init__(
        self, spans: list[Span], tensors: _Tensors, team: Team, kernels: Kernels, advance: Advance | None
    ) -> None:
        super().__init__(spans[0].channels, tensors, advance)
        self._spans, self._team, self._kernels = spans, team, kernels
        self._tile = _Tile(spans[0], tensors, team.threads)

    def _tiles(self) -> Iterator[_Tile]:
        for span in self._spans:
            if self._tile.span != span:
                self._tile = _Tile(span, self._tensors, self._team.threads)
            if not self._tile.loaded:
                self._team.each(self._tile.read, self._tile.strips)
            yield self._tile
            self._tile.loaded = True  # every block was read in this pass or an earlier one

    def _pieces(self, shift: Vector, moments: bool) -> Doubles:
        grouping = Grouping(self._tensors.x.places)
        return np.concatenate([self._pieces_of(tile, grouping, shift, moments) for tile in self._tiles()], axis=-1)

    def _pieces_of(self, tile: _Tile, grouping: Grouping, shift: Vector, moments: bool) -> Doubles:
        pieces = grouping.pieces(tile.span)
        sums = self._empty(moments, pieces.stop - pieces.start)

        def work(block: Span, scratch: Scratch) -> None:
            part = grouping.pieces(tile.span.part(block))
            out = sums[:, block.channels, part.start - pieces.start : part.stop - pieces.start]
            self._kernels.sum_span(tile.load(block, shift), grouping, scratch, out, moments=moments)

        self._team.each(work, tile.blocks)
        return sums

    def apply(self, maps: Mapping[str, ChannelMap], shift: Vector) -> None:
        for tile in self._tiles():
            self._apply_to(tile, maps, shift)
            if self._advance:
                self._advance(tile.span.size)

    def _apply_to(self, tile: _Tile, maps: Mapping[str, ChannelMap], shift: Vector) -> None:
        def work(block: Span, scratch: Scratch) -> None:
            chosen = {name: maps[name].select(block.channels) for name in self.outputs}
            self._kernels.map_span(tile.load(block, shift), chosen, scratch, tile.outputs(block))
            if not tile.strips:
                tile.write(block, scratch)

        self._team.each(work, tile.blocks)
        self._team.each(tile.write, tile.strips)


class _Tile:
    """A tile of the tensors in memory, which threads work on block by block.

    Each block is read before its first use and written after its last, while the processor has it in its cache. Blocks
    that have only some of the channels of each place are scattered in a file with channels last: such a tile is read
    and written in `strips`, parts with all of its channels.
    """

    def __init__(self, span: Span, tensors: _Tensors, threads: int) -> None:
        self.span, self._tensors = span, tensors
        self._x = tensors.x.buffer(span)
        self._delta = tensors.delta.buffer(span) if tensors.delta else None
        self._outputs = {name: output.buffer(span) for name, output in tensors.outputs.items()}
        self.blocks = tiling.blocks(self._x, Grouping(tensors.x.places), threads)
        self.strips = self._strips()
        self.loaded = False

    def _strips(self) -> list[Span]:
        channels, first = self._x.channels, self.blocks[0]
        if not self._x.channels_last or first.last == channels:
            return []
        return [block._replace(last=channels) for block in self.blocks if block.first == 0]

    def load(self, block: Span, shift: Vector) -> Operands:
        """Return the block's x, delta and shift, after reading them if nothing has."""
        if not self.loaded and not self.strips:
            self.read(block)
        delta = self._delta.part(block) if self._delta else None
        return Operands(self._x.part(block), delta, shift[block.channels])

    def outputs(self, block: Span) -> dict[str, Values]:
        """Return the block's outputs, to fill."""
        return {name: output.part(block) for name, output in self._outputs.items()}

    def read(self, part: Span, _scratch: Scratch | None = None) -> None:
        """Read the part's x and delta."""
        self._tensors.x.read(self.span.part(part), self._x.part(part))
        if self._tensors.delta and self._delta:
            self._tensors.delta.read(self.span.part(part), self._delta.part(part))

    def write(self, part: Span, _scratch: Scratch) -> None:
        """Write the part's outputs."""
        for name, values in self.outputs(part).items():
            self._tensors.outputs[name].write(self.span.part(part), values)
