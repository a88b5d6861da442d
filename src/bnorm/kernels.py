"""The loops over values: exact sums and affine maps, on blocks that stay in cache.

A tensor of N images, C channels and L places gives each channel M = N·L values, numbered i = n·L + l. It lies in memory
as (N, C, L), channels apart, or as (M, C), channels last. Every value is converted to float64 once, when it enters a
scratch block: of shape (c, m), a row per channel; or (m, c) where L is 1, a tensor that has been called flat here.

The sums do not depend, to the last bit, on how the work is cut, on the number of threads, on the memory budget or on
the order in memory. The values of a channel are cut into pieces by their number i, each piece is summed by one call of
NumPy's, which adds in an order that only the block's shape decides, and then the pieces are. How many values make a
piece is part of what a sum is, and depends on nothing but whether L is 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from bnorm.batchnorm import Line, Vector

Values = NDArray[np.floating]
Doubles = NDArray[np.float64]

PIECE = 4096  # values of a channel that are summed as one
FLAT_PIECE = 512  # the same in a flat tensor, where all channels of so many rows make a block
BLOCK = 1 << 19  # values of a scratch block, 4 MiB: long enough calls that threads rarely wait for the interpreter
LONG = 1 << 14  # values in a row from which on NumPy's loops cost nothing beside their content


class Span(NamedTuple):
    """Some channels, and some of their values by number; `start` is a multiple of the piece."""

    first: int
    last: int
    start: int
    stop: int

    @property
    def channels(self) -> slice:
        """The channels."""
        return slice(self.first, self.last)

    def pieces(self, piece: int) -> slice:
        """The pieces of this size that its values make."""
        return slice(self.start // piece, -(-self.stop // piece))


class Extent(Protocol):
    """How many values a tensor has, and how they lie."""

    @property
    def channels(self) -> int:
        """C."""

    @property
    def length(self) -> int:
        """M, the number of values of a channel."""

    @property
    def channels_last(self) -> bool:
        """Whether the channels of one place lie together."""

    @property
    def flat(self) -> bool:
        """Whether L is 1."""


class View(NamedTuple):
    """An array to work on: (M, C) where channels stand last, else (N, C, L)."""

    array: Values
    channels_last: bool
    flat: bool

    @property
    def channels(self) -> int:
        """C."""
        return int(self.array.shape[1])

    @property
    def length(self) -> int:
        """M, the number of values of a channel."""
        return int(self.array.shape[0] * (1 if self.channels_last else self.array.shape[2]))


def piece_of(extent: Extent) -> int:
    """How many values of a channel are summed as one."""
    return FLAT_PIECE if extent.flat else PIECE


def plan(extent: Extent, most: int) -> list[list[Span]]:
    """Cut a tensor into spans of about `most` values: a list per group of channels.

    A channel is only cut where it is longer than `most`, and then between pieces. Where channels stand last, those of
    one row lie together, so a group is as wide as one piece allows. No group of a flat tensor is one channel alone,
    unless it has no other: NumPy would sum its rows in another order.
    """
    channels, length, piece = extent.channels, extent.length, piece_of(extent)
    width = most // (min(length, piece) if extent.channels_last else length)
    width = min(max(width, 2 if extent.flat else 1), channels)
    rows = length if width * length <= most else max(most // width // piece, 1) * piece
    borders = list(range(0, channels, width))
    if extent.flat and len(borders) > 1 and borders[-1] == channels - 1:
        borders.pop()
    return [
        [Span(first, last, start, min(start + rows, length)) for start in range(0, length, rows)]
        for first, last in zip(borders, [*borders[1:], channels], strict=True)
    ]


class Scratch:
    """One thread's buffers. They remember what span they hold: a block that is read again is not converted again."""

    def __init__(self) -> None:
        self.buffers: dict[str, Doubles] = {}
        self.held: dict[str, Span] = {}

    def forget(self) -> None:
        """What was read is no longer what stands in memory."""
        self.held.clear()

    def block(self, name: str, view: View, span: Span) -> Doubles:
        """The named buffer, shaped for the span: (c, m), or (m, c) for a flat tensor. It holds nothing any more."""
        shape = (span.last - span.first, span.stop - span.start)
        size = shape[0] * shape[1]
        if name not in self.buffers or self.buffers[name].size < size:
            self.buffers[name] = np.empty(max(size, BLOCK))
        self.held.pop(name, None)
        return self.buffers[name][:size].reshape(shape[::-1] if view.flat else shape)

    def load(self, name: str, view: View, span: Span, shift: Vector | None = None) -> Doubles:
        """The span's values as float64, less `shift` (per channel of the view)."""
        held = self.held.get(name) == span
        values = self.block(name, view, span)
        self.held[name] = span
        if held:
            return values
        for part, target in _runs(values, view, span):
            np.copyto(target, part)
        if shift is not None:
            rows, each = spread(values, shift[span.channels], view)
            rows -= each
        return values


def store(values: Doubles, view: View, span: Span) -> None:
    """Round the values of a scratch block to the view's dtype, into their places."""
    for part, source in _runs(values, view, span):
        np.copyto(part, source, casting="same_kind")


def _runs(values: Doubles, view: View, span: Span) -> Iterator[tuple[Values, Doubles]]:
    """The span's parts in the view, three at most, each beside its part of the scratch block."""
    if view.channels_last:
        part = view.array[span.start : span.stop, span.channels]
        yield part, values if view.flat else values.T
        return
    length = view.array.shape[2]
    at = span.start
    while at < span.stop:
        image, place = divmod(at, length)
        images = max((span.stop - at) // length if place == 0 else 0, 1)
        end = min(length, place + span.stop - at)
        part = view.array[image : image + images, span.channels, place:end].transpose(1, 0, 2)
        count = images * (end - place)
        yield part, values[:, at - span.start : at - span.start + count].reshape(part.shape)
        at += count


def spread(values: Doubles, vector: Vector, view: View) -> tuple[Doubles, Vector]:
    """A scratch block and a vector per channel, shaped to broadcast along long rows."""
    if not view.flat:
        return values, vector[:, np.newaxis]
    rows, channels = values.shape
    times = 1
    while rows % (2 * times) == 0 and times * channels < LONG:
        times *= 2
    return values.reshape(rows // times, times * channels), np.tile(vector, times)


def sum_pieces(values: Doubles, view: View, out: Doubles) -> None:
    """Sum each piece of a scratch block: `out` has shape (c, pieces)."""
    piece, length = piece_of(view), values.shape[0 if view.flat else 1]
    whole = length // piece
    end = whole * piece
    if view.flat:
        np.add.reduce(values[:end].reshape(whole, piece, values.shape[1]), axis=1, out=out.T[:whole])
        if end < length:
            np.add.reduce(values[end:], axis=0, out=out.T[whole])
    else:
        np.add.reduce(values[:, :end].reshape(len(values), whole, piece), axis=2, out=out[:, :whole])
        if end < length:
            np.add.reduce(values[:, end:], axis=1, out=out[:, whole])


def total(pieces: Doubles) -> Vector:
    """Sum the pieces of each channel, (c, pieces)."""
    result: Vector = np.add.reduce(np.ascontiguousarray(pieces), axis=1)
    return result


def first_values(view: View, channels: slice) -> Vector:
    """Each channel's first value: one of its own, and so near enough to its mean to be subtracted before squaring."""
    row = view.array[0, channels] if view.channels_last else view.array[0, channels, 0]
    return row.astype(np.float64)


def sum_x(view: View, span: Span, shift: Vector, scratch: Scratch, out: Doubles) -> None:
    """Σ(x − shift) and Σ(x − shift)² of each piece, into `out` of shape (2, c, pieces)."""
    x = scratch.load("x", view, span, shift)
    sum_pieces(x, view, out[0])
    sum_pieces(np.multiply(x, x, out=scratch.block("work", view, span)), view, out[1])


def sum_delta(view: View, delta: View, span: Span, shift: Vector, scratch: Scratch, out: Doubles) -> None:
    """Σ delta and Σ delta·(x − shift) of each piece, into `out` of shape (2, c, pieces)."""
    x, upstream = scratch.load("x", view, span, shift), scratch.load("delta", delta, span)
    sum_pieces(upstream, view, out[0])
    sum_pieces(np.multiply(upstream, x, out=scratch.block("work", view, span)), view, out[1])


def apply(
    line: Line, x: View, delta: View | None, span: Span, shift: Vector | None, scratch: Scratch, out: View
) -> None:
    """Write `line` for every value of the span; what the scratch holds of delta is used up."""
    values, factor = spread(scratch.load("x", x, span, shift), line.x[span.channels], x)
    block = scratch.block("work", x, span)
    work = np.multiply(values, factor, out=block.reshape(values.shape))
    if line.delta is not None and delta is not None:
        upstream, factor = spread(scratch.load("delta", delta, span), line.delta[span.channels], x)
        scratch.held.pop("delta")
        upstream *= factor
        work += upstream
    work += spread(block, line.constant[span.channels], x)[1]
    store(block, out, span)
