"""One layer's batch normalisation on tensors of any size: kernels × threads × a memory budget."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import NamedTuple, TypeVar

import numpy as np

from bnorm import batchnorm, kernels
from bnorm.batchnorm import Arithmetic, Gradients, Line, Moments, Parameters, Rolling, Vector
from bnorm.files import Closing
from bnorm.kernels import BLOCK, Scratch, Span
from bnorm.tensors import Tensor

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
            scratch.forget()
            with np.errstate(all="ignore"):  # NaN and infinity are values like others here
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
    states = []
    for tiles in kernels.plan(x, most):
        state = _State(layer.of(tiles[0].channels), x, delta is not None, outputs)
        _run_tiles(state, tiles, (x, delta, outputs), team, advance)
        states.append(state)
    moments = [np.concatenate(vectors) for vectors in zip(*(state.moments for state in states), strict=True)]
    gradients = [np.concatenate(vectors) for vectors in zip(*(state.gradients for state in states), strict=True)]
    return BatchResult(Moments(*moments) if layer.train else None, Gradients(*gradients) if delta else None)


class _State:
    """What is known of some channels in one mini-batch: first their sums, then, once settled, all that follows."""

    def __init__(self, layer: Layer, x: Tensor, backward: bool, outputs: Iterable[str]) -> None:
        channels = len(layer.parameters.scales)
        self.layer, self.length, self.backward = layer, x.length, backward
        self.sums = np.zeros((4, channels, kernels.pieces(x))) if layer.train or backward else None
        self.shift = np.zeros(channels) if layer.train else None
        self.moments = Moments(*np.empty((3, channels)))
        self.gradients = Gradients(*np.empty((4, channels)))
        self.lines = {name: _empty_line(channels) for name in outputs}

    def settle(self, channels: slice) -> None:
        """From the sums of these channels to their moments, gradients, and the factors of every output."""
        parameters, rolling, arithmetic, train = self.layer.of(channels)
        shift = np.zeros_like(parameters.scales) if self.shift is None else self.shift[channels]
        sums = kernels.totals(self.sums[:, channels]) if self.sums is not None else np.empty((4, 0))
        statistics: Rolling | Moments = rolling
        if train:
            statistics = batchnorm.moments(sums[0], sums[1], shift, self.length, arithmetic)
            _keep(self.moments, channels, statistics)
        if self.backward:
            along = (sums[2], sums[3])
            gradients, line = batchnorm.backward(parameters, statistics, shift, along, self.length, arithmetic)
            _keep(self.gradients, channels, gradients)
            self._set("dx", channels, line)
        self._set("y", channels, batchnorm.forward(parameters, statistics, shift, arithmetic))
        self._set("x_norm", channels, batchnorm.normalise(statistics, shift, arithmetic))

    def _set(self, name: str, channels: slice, line: Line) -> None:
        if name in self.lines:
            _keep(self.lines[name], channels, line)


def _empty_line(channels: int) -> Line:
    x, delta, constant = np.empty((3, channels))
    return Line(x, delta, constant)


def _keep(into: Iterable[Vector | None], channels: slice, values: Iterable[Vector | None]) -> None:
    for target, value in zip(into, values, strict=True):
        if target is not None and value is not None:
            target[channels] = value


class _Tile:
    """A tile in memory, with its views of x, delta and the outputs, and the piece that it begins with."""

    def __init__(self, state: _State, tile: Span, tensors: Tensors) -> None:
        x, delta, outputs = tensors
        self.state, self.span = state, tile
        self.x = x.read(tile)
        self.delta = delta.read(tile) if delta else None
        self.outputs = {name: output.blank(tile) for name, output in outputs.items()}
        self.piece, self.places = kernels.piece_at(tile.start, x.places), x.places
        self.groups = kernels.plan(self.x, BLOCK)
        self.spans = [span for group in self.groups for span in group]

    def shift(self, channels: slice) -> None:
        if self.state.layer.train and self.state.shift is not None:
            self.state.shift[channels] = kernels.first_values(self.x, channels)

    def sum(self, span: Span, scratch: Scratch) -> None:
        assert self.state.sums is not None  # it is there where anything is summed
        first = self.piece + kernels.piece_at(span.start, self.places)
        last = self.piece + kernels.piece_at(span.stop - 1, self.places)
        out = self.state.sums[:, span.channels, first : last + 1]
        if self.state.layer.train and self.state.shift is not None:
            kernels.sum_x(self.x, span, self.state.shift, scratch, out[:2])
        if self.delta:
            kernels.sum_delta(self.x, self.delta, span, self.state.shift, scratch, out[2:])

    def apply(self, span: Span, scratch: Scratch) -> None:
        for number, (name, view) in enumerate(self.outputs.items(), 1):
            line, delta = self.state.lines[name], self.delta if name == "dx" else None
            final = number == len(self.outputs)
            kernels.apply(line, self.x, delta, span, self.state.shift, scratch, view, final=final)

    def whole(self, group: list[Span], scratch: Scratch) -> None:
        """All that a group of channels needs, while it is in cache."""
        self.shift(group[0].channels)
        for span in group:
            self.sum(span, scratch)
        self.state.settle(group[0].channels)
        for span in group:
            self.apply(span, scratch)


Tensors = tuple[Tensor, Tensor | None, Mapping[str, Tensor]]  # x, delta, outputs


def _run_tiles(state: _State, tiles: list[Span], tensors: Tensors, team: Team, advance: Advance) -> None:
    """Each channel of the tiles lies in one tile, which then is read once; or is cut into all, each read twice."""
    everything = slice(0, tiles[0].last - tiles[0].first)
    tile = _Tile(state, tiles[0], tensors)
    if state.sums is not None and len(tiles) == 1 and _fills(team, tile.groups):
        team.each(tile.whole, tile.groups)
        _finish(tile, tensors, advance)
        return
    if state.sums is not None:
        tile.shift(everything)
        for span in tiles:
            tile = tile if tile.span == span else _Tile(state, span, tensors)
            team.each(tile.sum, tile.spans)
    state.settle(everything)
    for span in tiles:
        tile = tile if tile.span == span else _Tile(state, span, tensors)
        team.each(tile.apply, tile.spans)
        _finish(tile, tensors, advance)


def _fills(team: Team, groups: list[list[Span]]) -> bool:
    """Whether whole groups of channels keep all threads busy, so that a group can stay with one thread."""
    return len(groups) >= 2 * team.threads or all(len(group) == 1 for group in groups)


def _finish(tile: _Tile, tensors: Tensors, advance: Advance) -> None:
    span = tile.span
    for name, output in tensors[2].items():
        output.write(span, tile.outputs[name])
    if advance:
        advance((span.last - span.first) * (span.stop - span.start))
