"""The groups of channels of a mini-batch that are computed together, and the passes over their values.

Tensors in memory are one group, if the kernels use threads of their own. All others are cut into tiles, whose blocks
threads take one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from bnorm.batchnorm import tiling
from bnorm.batchnorm.engines import NUMPY, Kernels
from bnorm.batchnorm.epsilon import Vector
from bnorm.batchnorm.formulas import ChannelMap, DeltaSums, Sums, ValueSums
from bnorm.batchnorm.kernels import Operands, Scratch
from bnorm.batchnorm.threads import Team
from bnorm.batchnorm.tiling import Grouping
from bnorm.tensors.tensor import Doubles, MemoryTensor, Span, Tensor, Values

Advance = Callable[[int], None]  # called with the number of values finished since the last call

Work = Callable[[Span, Scratch], None]  # on one block, counted from the beginning of its tile


class Tensors(NamedTuple):
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


def groups_of(
    tensors: Tensors, team: Team, memory: int, kernels: Kernels, advance: Advance | None = None
) -> Iterator[Group]:
    """Yield the groups, with NumPy's kernels if the given ones do not support a dtype.

    The buffers of a group are valid until the next group is requested.
    """
    if any(tensor.dtype.char not in kernels.dtypes for tensor in tensors.all):
        kernels = NUMPY
    if tensors.in_memory and (shared := kernels.shared(team.threads)):
        yield WholeGroup(tensors, shared, advance)
    else:
        for spans in tiling.tiles(tensors.x, memory // tensors.bytes_per_value):
            yield TiledGroup(spans, tensors, team, kernels, advance)


class Group:
    """The values of some channels, and the passes over them."""

    def __init__(self, channels: slice, tensors: Tensors, kernels: Kernels, advance: Advance | None) -> None:
        self.channels, self._tensors, self._kernels, self._advance = channels, tensors, kernels, advance
        self._grouping = Grouping(tensors.x.places)
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

    def _empty(self, pieces: int, moments: bool) -> Doubles:
        """Return an array for the sums of this many pieces, shape (pieces, 2 or 4, c)."""
        return np.empty((pieces, 2 * moments + 2 * bool(self._tensors.delta), self.width))

    def _pieces(self, shift: Vector, moments: bool) -> Doubles:
        """Return the sums of each piece, shape (pieces, 2 or 4, c): those of `kernels.sum_span`."""
        raise NotImplementedError

    def apply(self, maps: Mapping[str, ChannelMap], shift: Vector) -> None:
        """Compute and write all outputs."""
        raise NotImplementedError


def _added(pieces: Doubles) -> Doubles:
    """Return the sums of the pieces, added in their order, beginning with 0."""
    total = np.zeros(pieces.shape[1:])
    for piece in pieces:
        total += piece
    return total


class WholeGroup(Group):
    """All values at once, in memory: the kernels use threads of their own."""

    def __init__(self, tensors: Tensors, kernels: Kernels, advance: Advance | None) -> None:
        super().__init__(slice(0, tensors.x.channels), tensors, kernels, advance)
        self._span = Span(0, self.width, 0, self.count)
        self._scratch = Scratch()
        self._x = self._array(tensors.x)
        self._delta = self._array(tensors.delta) if tensors.delta else None

    def _array(self, tensor: Tensor) -> Values:
        return tensor.buffer(self._span).array

    def _pieces(self, shift: Vector, moments: bool) -> Doubles:
        sums = self._empty(self._grouping.pieces(self._span).stop, moments)
        operands = Operands(self._x, self._delta, shift)
        self._kernels.sum_span(operands, self._grouping, self._scratch, sums, moments=moments)
        return sums

    def apply(self, maps: Mapping[str, ChannelMap], shift: Vector) -> None:
        outputs = {name: self._array(output) for name, output in self._tensors.outputs.items()}
        self._kernels.map_span(Operands(self._x, self._delta, shift), maps, self._scratch, outputs)
        if self._advance:
            self._advance(self._span.size)


class TiledGroup(Group):
    """Tiles, one in memory at a time: each pass reads every tile again, unless there is only one."""

    def __init__(
        self, spans: list[Span], tensors: Tensors, team: Team, kernels: Kernels, advance: Advance | None
    ) -> None:
        super().__init__(spans[0].channels, tensors, kernels, advance)
        self._spans, self._team = spans, team
        self._tile = _Tile(spans[0], tensors, team)

    def _tiles(self) -> Iterator[_Tile]:
        for span in self._spans:
            if self._tile.span != span:
                self._tile = _Tile(span, self._tensors, self._team)
            yield self._tile

    def _pieces(self, shift: Vector, moments: bool) -> Doubles:
        return np.concatenate([self._pieces_of(tile, shift, moments) for tile in self._tiles()])

    def _pieces_of(self, tile: _Tile, shift: Vector, moments: bool) -> Doubles:
        pieces = self._grouping.pieces(tile.span)
        sums = self._empty(pieces.stop - pieces.start, moments)

        def work(block: Span, scratch: Scratch) -> None:
            part = self._grouping.pieces(tile.span.part(block))
            out = sums[part.start - pieces.start : part.stop - pieces.start, :, block.channels]
            self._kernels.sum_span(tile.operands(block, shift), self._grouping, scratch, out, moments=moments)

        tile.each(work)
        return sums

    def apply(self, maps: Mapping[str, ChannelMap], shift: Vector) -> None:
        for tile in self._tiles():
            self._apply_to(tile, maps, shift)
            if self._advance:
                self._advance(tile.span.size)

    def _apply_to(self, tile: _Tile, maps: Mapping[str, ChannelMap], shift: Vector) -> None:
        def work(block: Span, scratch: Scratch) -> None:
            chosen = {name: maps[name].select(block.channels) for name in self.outputs}
            self._kernels.map_span(tile.operands(block, shift), chosen, scratch, tile.outputs(block))

        tile.fill(work)


class _Tile:
    """A tile of the tensors in memory, which threads work on block by block.

    Each block is read before its first use and written after its last, while the processor has it in its cache. With
    channels last, a block of only some of the tile's channels is scattered in the file. Such a tile is read before its
    first pass and written after its last one in `strips`: parts with all of its channels.
    """

    def __init__(self, span: Span, tensors: Tensors, team: Team) -> None:
        self.span, self._tensors, self._team = span, tensors, team
        self._x = tensors.x.buffer(span)
        self._delta = tensors.delta.buffer(span) if tensors.delta else None
        self._outputs = {name: output.buffer(span) for name, output in tensors.outputs.items()}
        self._blocks = tiling.blocks(self._x, Grouping(tensors.x.places), team.threads)
        self._strips = self._cut_strips()
        self._loaded = False

    def _cut_strips(self) -> list[Span]:
        """Return the strips; none if every block is contiguous enough to be read and written by itself."""
        channels = self._x.channels
        if not self._x.channels_last or self._blocks[0].last == channels:
            return []
        return [block._replace(last=channels) for block in self._blocks if block.first == 0]

    def each(self, work: Work) -> None:
        """Run the work on every block; the first time x and delta are read before it."""
        if not self._loaded:
            self._team.each(self._read, self._strips)
        self._team.each(work, self._blocks)
        self._loaded = True

    def fill(self, work: Work) -> None:
        """Run the work, which fills the outputs of a block, on every block, and write the outputs."""

        def fill_block(block: Span, scratch: Scratch) -> None:
            work(block, scratch)
            if not self._strips:
                self._write(block, scratch)

        self.each(fill_block)
        self._team.each(self._write, self._strips)

    def operands(self, block: Span, shift: Vector) -> Operands:
        """Return the block's x, delta and shift, for the work; the first time they are read, unless strips were."""
        if not self._loaded and not self._strips:
            self._read(block)
        delta = self._delta.part(block) if self._delta else None
        return Operands(self._x.part(block), delta, shift[block.channels])

    def outputs(self, block: Span) -> dict[str, Values]:
        """Return the block's outputs."""
        return {name: output.part(block) for name, output in self._outputs.items()}

    def _read(self, part: Span, _scratch: Scratch | None = None) -> None:
        self._tensors.x.read(self.span.part(part), self._x.part(part))
        if self._tensors.delta and self._delta:
            self._tensors.delta.read(self.span.part(part), self._delta.part(part))

    def _write(self, part: Span, _scratch: Scratch) -> None:
        for name, values in self.outputs(part).items():
            self._tensors.outputs[name].write(self.span.part(part), values)
