"""One layer's batch normalisation on tensors of any size: kernels × threads × a memory budget."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np

from bnorm.batchnorm import formulas, kernels, tiling
from bnorm.batchnorm.arithmetic import Arithmetic
from bnorm.batchnorm.epsilon import Vector
from bnorm.batchnorm.formulas import Gradients, Line, Moments, Parameters, Rolling
from bnorm.batchnorm.kernels import Scratch
from bnorm.batchnorm.threads import Team
from bnorm.tensors.tensor import Doubles, Span, Tensor

MEMORY = 256 << 20  # bytes of tensors that are in memory at a time

Advance = Callable[[int], None] | None  # told of every few values that are done


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

    Tensors are taken by tiles that fit into `memory` bytes together. `advance` is told how many values are done.
    Neither threads nor memory change a bit of the results.
    """
    most = memory // sum(tensor.dtype.itemsize for tensor in (x, delta, *outputs.values()) if tensor is not None)
    tensors = _Tensors(x, delta, outputs)
    with np.errstate(all="ignore"):  # NaN and infinity are values like others here
        return _joined(
            _run_tiles(layer.of(spans[0].channels), spans, tensors, team, advance) for spans in tiling.tiles(x, most)
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


class _Tensors(NamedTuple):
    """The tensors of a mini-batch."""

    x: Tensor
    delta: Tensor | None
    outputs: Mapping[str, Tensor]


class _Tile:
    """A tile of the tensors, worked on in blocks: each is read when it is first needed, and written when it is done."""

    def __init__(self, span: Span, tensors: _Tensors, team: Team) -> None:
        self.span, self.tensors, self.team = span, tensors, team
        x, delta, outputs = tensors
        self.x, self.delta = x.room(span), delta.room(span) if delta else None
        self.outputs = {name: output.room(span) for name, output in outputs.items()}
        self.images = tiling.together(x.places)
        self.blocks = tiling.blocks(self.x, self.images, team.threads)
        self.unread = set(self.blocks)

    def sums(self, train: bool, shift: Vector | None) -> Doubles:
        """The sums of each piece, of shape (2 or 4, c, pieces): see `kernels.sum_block`."""
        count = tiling.rows(self.x, self.images)
        rows = np.zeros((2 * train + 2 * bool(self.delta), self.x.channels, count))

        def work(block: Span, scratch: Scratch) -> None:
            first = tiling.row_at(block.start, self.x.places)
            last = tiling.row_at(block.stop - 1, self.x.places) + 1
            x, delta = self._load(block, None if shift is None else shift[block.channels], scratch)
            kernels.sum_block(x, delta, train, self.images, rows[:, block.channels, first:last])

        self.team.each(work, self.blocks)
        return np.add.reduceat(rows, tiling.piece_starts(count, self.x.places, self.images), axis=-1)

    def apply(self, settled: _Settled) -> None:
        """Compute and write all outputs."""
        last = next(reversed(self.outputs), "")

        def work(block: Span, scratch: Scratch) -> None:
            part = settled.of(block.channels)
            x, delta = self._load(block, part.shift, scratch)
            for name, view in self.outputs.items():
                out = view.part(block)
                kernels.apply(part.lines[name], x, delta, scratch, out, last=name == last)
                self.tensors.outputs[name].write(self.span.part(block), out)

        self.team.each(work, self.blocks)

    def _load(self, block: Span, shift: Vector | None, scratch: Scratch) -> tuple[Doubles, Doubles | None]:
        """The block's x, less the shift, and delta."""
        x, delta = self.x.part(block), self.delta.part(block) if self.delta else None
        if block in self.unread:
            self.tensors.x.read(self.span.part(block), x)
            if self.tensors.delta and delta is not None:
                self.tensors.delta.read(self.span.part(block), delta)
            self.unread.remove(block)
        return scratch.load("x", x, shift), None if delta is None else scratch.load("delta", delta)


def _run_tiles(layer: Layer, spans: list[Span], tensors: _Tensors, team: Team, advance: Advance) -> BatchResult:
    """All tiles of some channels: first they are summed, then each is read again, unless it is the only one."""
    tile = _Tile(spans[0], tensors, team)

    def at(span: Span) -> _Tile:
        nonlocal tile
        if tile.span != span:
            tile = _Tile(span, tensors, team)
        return tile

    def sum_less(shift: Vector | None) -> Doubles:
        sums = [at(span).sums(layer.train, shift) for span in spans]
        pieces = np.ascontiguousarray(np.concatenate(sums, axis=-1))  # whose order in memory decides that of adding
        return np.asarray(np.add.reduce(pieces, axis=-1))

    settled = _settle(layer, tensors, sum_less)
    for span in spans:
        at(span).apply(settled)
        if advance:
            advance((span.last - span.first) * (span.stop - span.start))
    return settled.result


def _settle(layer: Layer, tensors: _Tensors, sum_less: Callable[[Vector | None], Doubles]) -> _Settled:
    """All that follows from the sums of x less a shift.

    At inference the rolling mean of each channel is subtracted whose rolling variance is small beside it. In training
    nothing is, unless the variance turns out to be small beside the mean; then each such channel's mean is, and all is
    summed again.
    """
    parameters, rolling, arithmetic, train = layer
    delta, outputs, length = tensors.delta, tensors.outputs, tensors.x.length
    statistics: Rolling | Moments = rolling
    moments, gradients = None, None
    lines: dict[str, Line] = {}
    about = np.zeros_like(rolling.mean) if train else np.where(formulas.far(*rolling), rolling.mean, 0)
    shift = about if about.any() else None
    sums = sum_less(shift) if train or delta else np.empty((2, 0))
    if train:
        statistics = moments = formulas.moments(sums[0], sums[1], about, length, arithmetic)
        far = formulas.far(moments.mean, moments.unbiased)
        if far.any():
            shift = about = np.where(far, moments.mean, 0)
            sums = sum_less(shift)
            statistics = moments = formulas.moments(sums[0], sums[1], about, length, arithmetic)
    if delta:
        gradients, lines["dx"] = formulas.backward(
            parameters, statistics, about, (sums[-2], sums[-1]), length, arithmetic
        )
    if "y" in outputs:
        lines["y"] = formulas.forward(parameters, statistics, about, arithmetic)
    if "x_norm" in outputs:
        lines["x_norm"] = formulas.normalise(statistics, about, arithmetic)
    return _Settled(BatchResult(moments, gradients), shift, lines)
