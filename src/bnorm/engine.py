"""One layer's batch normalisation on tensors of any size: kernels × threads × a memory budget."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from typing import NamedTuple, TypeVar

import numpy as np

from bnorm import batchnorm, kernels
from bnorm.batchnorm import Arithmetic, Gradients, Line, Moments, Parameters, Rolling, Vector
from bnorm.files import Closing
from bnorm.kernels import BLOCK, Doubles, Scratch, Span
from bnorm.tensors import Tensor

BUFFER = 256  # values that NumPy converts or gathers at a time: rows from this length on are never copied together
MEMORY = 256 << 20  # bytes of tensors that are in memory at a time
Advance = Callable[[int], None] | None  # told of every few values that are done
Item = TypeVar("Item")


class Team(Closing):
    """Threads, each with its scratch buffers; NumPy works outside the interpreter's lock. A context manager.

    The caller's thread is one of them. Each takes the next item when it is done with one: handing every item to a
    pool would wake the caller as often, and cost more than the work.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads)
        self._scratch = [Scratch() for _ in range(threads)]

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(cancel_futures=True)

    def each(self, task: Callable[[Item, Scratch], None], items: Sequence[Item]) -> None:
        """Run the task on every item; the first error is raised, and nothing more is begun after it."""
        queue = iter(items)  # a list's iterator, which hands out each item once, whichever thread asks

        def drain(scratch: Scratch) -> None:
            with np.errstate(all="ignore"):  # NaN and infinity are values like others here
                np.setbufsize(BUFFER)
                for item in queue:
                    task(item, scratch)

        others = self._scratch[1 : len(items)]
        futures = [self._pool.submit(drain, scratch) for scratch in others]
        try:
            drain(self._scratch[0])
        finally:
            for _ in queue:
                pass
            wait(futures)
        for future in futures:
            future.result()


def processors() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Layer(NamedTuple):
    """What a layer brings to a mini-batch. In training the mini-batch's own moments normalise, else `rolling` does."""

    parameters: Parameters
    rolling: Rolling
    arithmetic: Arithmetic
    train: bool

    def of(self, channels: slice) -> Layer:
        """The same for some of the channels."""
        return self._replace(
            parameters=Parameters(*(vector[channels] for vector in self.parameters)),
            rolling=Rolling(*(vector[channels] for vector in self.rolling)),
        )


class BatchResult(NamedTuple):
    """One mini-batch's results per channel: `moments` in training, `gradients` with a delta."""

    moments: Moments | None
    gradients: Gradients | None


def run_batch(
    layer: Layer,
    x: Tensor,
    delta: Tensor | None,
    outputs: Mapping[str, Tensor],
    team: Team,
    memory: int = MEMORY,
    advance: Advance = None,
) -> BatchResult:
    """Run one mini-batch; `outputs` receive `y`, `x_norm` and `dx`, as far as they are there.

    Tensors in files are taken by tiles that fit into `memory` bytes together. `advance` is told how many values are
    done. Neither threads nor memory change a bit of the results.
    """
    tensors = [x, *([delta] if delta else []), *outputs.values()]
    nbytes = sum(tensor.dtype.itemsize for tensor in tensors if not tensor.resident)
    most = max(memory // nbytes, 1) if nbytes else x.channels * x.length
    with np.errstate(all="ignore"):  # NaN and infinity are values like others here
        return _joined(
            result
            for spans in kernels.plan(x, most)
            for result in _run_tiles(layer.of(spans[0].channels), spans, _Tiles(x, delta, outputs), team, advance)
        )


def _joined(results: Iterable[BatchResult]) -> BatchResult:
    """The results of some channels after the others."""
    moments, gradients = zip(*results, strict=True)
    return BatchResult(
        Moments(*map(np.concatenate, zip(*moments, strict=True))) if moments[0] else None,
        Gradients(*map(np.concatenate, zip(*gradients, strict=True))) if gradients[0] else None,
    )


class _Settled(NamedTuple):
    """What follows from the sums of some channels: their results, and the factors of every output."""

    result: BatchResult
    shift: Vector | None
    lines: Mapping[str, Line]

    def of(self, channels: slice) -> _Settled:
        """The same for some of the channels, but for the results."""
        shift = None if self.shift is None else self.shift[channels]
        return self._replace(shift=shift, lines={name: line.of(channels) for name, line in self.lines.items()})


class _Tile:
    """A tile of the tensors in memory."""

    def __init__(self, span: Span, x: Tensor, delta: Tensor | None, outputs: Mapping[str, Tensor]) -> None:
        self.span = span
        self.x = x.read(span)
        self.delta = delta.read(span) if delta else None
        self.outputs = {name: output.blank(span) for name, output in outputs.items()}
        self.piece, self.places = kernels.piece_at(span.start, x.places), x.places
        self.groups = kernels.plan(self.x, BLOCK)
        self.blocks = [block for group in self.groups for block in group]

    def load(self, span: Span, shift: Vector | None, scratch: Scratch) -> Blocks:
        """The span's x, less the shift, and delta."""
        x = scratch.load("x", self.x.part(span), shift)
        return x, scratch.load("delta", self.delta.part(span)) if self.delta else None

    def loaded(self, span: Span, scratch: Scratch) -> Blocks:
        """What `load` has left in the scratch buffers."""
        shape = self.x.part(span).shape
        return scratch.block("x", shape), scratch.block("delta", shape) if self.delta else None

    def sum(self, span: Span, blocks: Blocks, train: bool, sums: Doubles) -> None:
        """Put the sums of the span's pieces where they belong in `sums` of shape (4, c, pieces)."""
        first, last = (self.piece + kernels.piece_at(value, self.places) for value in (span.start, span.stop - 1))
        kernels.sum_block(*blocks, train, kernels.together(self.places), sums[:, :, first : last + 1])

    def apply(self, span: Span, blocks: Blocks, lines: Mapping[str, Line], scratch: Scratch) -> None:
        """Compute all outputs of a span; the blocks are used up."""
        x, delta = blocks
        for number, (name, out) in enumerate(self.outputs.items(), 1):
            work = x if number == len(self.outputs) else scratch.block("work", x.shape)
            kernels.apply(lines[name], x, delta if name == "dx" else None, work, out.part(span))


Blocks = tuple[Doubles, Doubles | None]  # x and delta


class _Tiles:
    """The tensors of a mini-batch, of which one tile is in memory."""

    def __init__(self, x: Tensor, delta: Tensor | None, outputs: Mapping[str, Tensor]) -> None:
        self.x, self.delta, self.outputs = x, delta, outputs
        self._tile: _Tile | None = None

    def read(self, span: Span) -> _Tile:
        """The tile, which is not read again if it still is in memory."""
        if self._tile is None or self._tile.span != span:
            self._tile = _Tile(span, self.x, self.delta, self.outputs)
        return self._tile

    def write(self, tile: _Tile, advance: Advance) -> None:
        """Keep the outputs of the tile."""
        span = tile.span
        for name, output in self.outputs.items():
            output.write(span, tile.outputs[name])
        if advance:
            advance((span.last - span.first) * (span.stop - span.start))


def _run_tiles(layer: Layer, spans: list[Span], tiles: _Tiles, team: Team, advance: Advance) -> Iterable[BatchResult]:
    """Each channel of the tiles lies in one tile, which then is read once; or is cut into all, each read twice."""
    summed = layer.train or tiles.delta is not None
    tile = tiles.read(spans[0])
    if summed and len(spans) == 1 and all(len(group) == 1 for group in tile.groups):
        results = _run_whole(layer, tile, tiles, team)
        tiles.write(tile, advance)
        return results
    return [_run_cut(layer, spans, tiles, team, advance)]


def _run_whole(layer: Layer, tile: _Tile, tiles: _Tiles, team: Team) -> Iterable[BatchResult]:
    """Where every channel fits into a block, it is converted once, and all is done while it is in cache."""
    results: dict[Span, BatchResult] = {}
    pieces, first = kernels.pieces(tiles.x), kernels.first_values(tile.x)

    def work(span: Span, scratch: Scratch) -> None:
        sums = np.zeros((4, span.last - span.first, pieces))

        def sum_less(shift: Vector | None) -> Doubles:
            tile.sum(span, tile.load(span, shift, scratch), layer.train, sums)
            return kernels.totals(sums)

        settled = _settle(layer.of(span.channels), tiles, sum_less, first[span.channels])
        results[span] = settled.result
        tile.apply(span, tile.loaded(span, scratch), settled.lines, scratch)

    team.each(work, tile.blocks)
    return [results[span] for span in tile.blocks]


def _run_cut(layer: Layer, spans: list[Span], tiles: _Tiles, team: Team, advance: Advance) -> BatchResult:
    """Where channels are cut into blocks, first all are summed."""
    first = kernels.first_values(tiles.read(spans[0]).x)
    summed = layer.train or tiles.delta is not None
    sums = np.zeros((4, len(first), kernels.pieces(tiles.x) if summed else 0))

    def sum_block(tile: _Tile, shift: Vector | None, block: Span, scratch: Scratch) -> None:
        blocks = tile.load(block, None if shift is None else shift[block.channels], scratch)
        tile.sum(block, blocks, layer.train, sums[:, block.channels])

    def sum_less(shift: Vector | None) -> Doubles:
        for span in spans:
            tile = tiles.read(span)
            team.each(partial(sum_block, tile, shift), tile.blocks)
        return kernels.totals(sums)

    def apply(tile: _Tile, block: Span, scratch: Scratch) -> None:
        part = settled.of(block.channels)
        tile.apply(block, tile.load(block, part.shift, scratch), part.lines, scratch)

    settled = _settle(layer, tiles, sum_less, first)
    for span in spans:
        tile = tiles.read(span)
        team.each(partial(apply, tile), tile.blocks)
        tiles.write(tile, advance)
    return settled.result


def _settle(layer: Layer, tiles: _Tiles, sum_less: Callable[[Vector | None], Doubles], first: Vector) -> _Settled:
    """All that follows from the sums of x less a shift.

    Nothing is subtracted, unless the variance turns out to be small beside the mean; then each such channel's first
    value is, and all is summed again.
    """
    parameters, rolling, arithmetic, train = layer
    statistics: Rolling | Moments = rolling
    about, shift, moments, gradients = np.zeros_like(first), None, None, None
    lines: dict[str, Line] = {}
    length, outputs = tiles.x.length, tiles.outputs
    sums = sum_less(None) if train or tiles.delta else np.empty((4, 0))
    if train:
        statistics = moments = batchnorm.moments(sums[0], sums[1], about, length, arithmetic)
        far = batchnorm.far(moments)
        if far.any():
            shift = about = np.where(far, first, 0)
            sums = sum_less(shift)
            statistics = moments = batchnorm.moments(sums[0], sums[1], about, length, arithmetic)
    if tiles.delta:
        gradients, lines["dx"] = batchnorm.backward(
            parameters, statistics, about, (sums[2], sums[3]), length, arithmetic
        )
    if "y" in outputs:
        lines["y"] = batchnorm.forward(parameters, statistics, about, arithmetic)
    if "x_norm" in outputs:
        lines["x_norm"] = batchnorm.normalise(statistics, about, arithmetic)
    return _Settled(BatchResult(moments, gradients), shift, lines)
