"""The loops over values: exact sums and affine maps, on blocks that stay in cache.

A tensor of N images, C channels and L places gives each channel M = N·L values, numbered i = n·L + l. It lies in memory
as (N, C, L), channels apart, or as (N, L, C), channels last. Blocks are cut so that their values lie together in
memory. Every value is converted to float64 when it enters a scratch block of shape (n, c, l).

The sums do not depend, to the last bit, on how the work is cut, on the number of threads, on the memory budget or on
the order in memory. The values of a channel make rows, by their number alone: a plane is cut into runs of `RUN` places,
each a dot product; where planes are small, some images make a row, added place by place and then along the places.
Rows of about `PIECE` values of a plane, or of some images, make a piece. Blocks are cut between rows, tiles between
pieces. Each step is one call of NumPy's, which adds in an order that only the lengths of the axes decide.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from bnorm.batchnorm import Line, Vector

Values = NDArray[np.floating]
Doubles = NDArray[np.float64]

ROW = 64  # places from which on a plane is summed by itself
RUN = 256  # values in a row: NumPy lets go of the interpreter's lock only for more than 500 dot products at a time
PIECE = 16 * RUN  # values in a piece
BLOCK = 1 << 19  # values of a scratch block at most: fewer mean more waiting for the interpreter's lock
BLOCKS = 1 << 22  # values of the blocks that all threads work on
LONG = 1024  # values that lie together from which on the gaps between them cost little
WIDE = 512  # places from which on a factor for each plane is faster than one for each place
LINE = 64  # bytes of a line of cache
ONES = np.ones(RUN)


class Span(NamedTuple):
    """Some channels, and some of their values by number: whole images, or a part of one."""

    first: int
    last: int
    start: int
    stop: int

    @property
    def channels(self) -> slice:
        """The channels."""
        return slice(self.first, self.last)

    def part(self, span: Span) -> Span:
        """A span that is counted from this one's beginning."""
        return Span(self.first + span.first, self.first + span.last, self.start + span.start, self.start + span.stop)


class Extent(Protocol):
    """How many values a tensor has, and how they lie."""

    @property
    def images(self) -> int:
        """N."""

    @property
    def channels(self) -> int:
        """C."""

    @property
    def places(self) -> int:
        """L."""

    @property
    def channels_last(self) -> bool:
        """Whether the channels of one place lie together."""


class View(NamedTuple):
    """An array of shape (N, C, L) to work on, and whether its channels stand last in memory."""

    array: Values
    channels_last: bool

    @property
    def images(self) -> int:
        """N."""
        return int(self.array.shape[0])

    @property
    def channels(self) -> int:
        """C."""
        return int(self.array.shape[1])

    @property
    def places(self) -> int:
        """L."""
        return int(self.array.shape[2])

    def part(self, span: Span) -> Values:
        """The span's values, (n, c, l)."""
        image, place = divmod(span.start, self.places)
        if place or span.stop - span.start < self.places:
            return self.array[image : image + 1, span.channels, place : place + span.stop - span.start]
        return self.array[image : span.stop // self.places, span.channels]


def together(places: int) -> int:
    """How many images make a row."""
    return 1 if places >= ROW else RUN // places


def runs(places: int) -> int:
    """How many rows a plane makes, or some small planes together."""
    return -(-places // RUN)


def rows(extent: Extent, images: int) -> int:
    """How many rows a channel has, where so many images make one."""
    return -(-extent.images // images) * runs(extent.places)


def row_at(start: int, places: int) -> int:
    """The number of the row that begins with this value."""
    image, place = divmod(start, places)
    return image // together(places) * runs(places) + place // RUN


def piece_images(places: int) -> int:
    """How many images make a piece, where each has no more values than one."""
    return max(PIECE // (places * together(places)), 1) * together(places)


def piece_starts(count: int, places: int, images: int) -> NDArray[np.intp]:
    """The rows that begin a piece, of so many rows, where so many images make one."""
    per_plane = runs(places)
    if places <= PIECE:
        return np.arange(0, count, max(PIECE // (places * images), 1) * per_plane)
    return np.add.outer(np.arange(0, count, per_plane), np.arange(0, per_plane, PIECE // RUN)).reshape(-1)


def tiles(extent: Extent, most: int) -> list[list[Span]]:
    """Cut a tensor between pieces into tiles of about `most` values: a list per group of channels.

    A tile holds whole channels, if they fit and do not lie too scattered; else as many channels as fit.
    """
    places = extent.places
    images, whole = piece_images(places), extent.images * places
    scattered = extent.channels_last or most // whole * places < LONG
    least = min(images * min(places, PIECE), whole) if scattered else whole
    return _plan(extent, most, least, (images, PIECE))


def blocks(extent: Extent, images: int, threads: int) -> list[Span]:
    """Cut a tile between rows into blocks, whose values lie together; so many images make a row.

    There are about two for each thread, where the tile has enough rows, so that none waits long for the last one.
    """
    most = max(min(BLOCK, BLOCKS // threads, extent.channels * extent.images * extent.places // (2 * threads)), 1)
    least = min(images, extent.images) * (min(extent.places, RUN) if extent.channels_last else extent.places)
    return [span for group in _plan(extent, most, least, (images, RUN)) for span in group]


def _plan(extent: Extent, most: int, least: int, steps: tuple[int, int]) -> list[list[Span]]:
    """Spans of as many channels as fit with `least` values of each, and of some steps of images or of places."""
    width = _even(extent.channels, most // least, 1)
    cuts = list(_cuts(extent, max(most // width, 1), steps))
    return [
        [Span(first, min(first + width, extent.channels), start, stop) for start, stop in cuts]
        for first in range(0, extent.channels, width)
    ]


def _cuts(extent: Extent, most: int, steps: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """Cut the values of a channel into images of about `most` values together, or into parts of an image."""
    images, places = extent.images, extent.places
    if places <= max(most, steps[1]):
        step = _even(images, most // places, steps[0])
        for image in range(0, images, step):
            yield image * places, min(image + step, images) * places
        return
    step = _even(places, most, steps[1])
    for first in range(0, images * places, places):
        for place in range(0, places, step):
            yield first + place, first + min(place + step, places)


def _even(total: int, most: int, step: int) -> int:
    """The size, in whole steps, of parts that are about equal and, but for a step, no larger than `most`."""
    count = -(-total // max(most // step * step, step))
    return -(-total // (count * step)) * step


class Scratch:
    """One thread's buffers, kept from block to block."""

    def __init__(self) -> None:
        self.buffers: dict[str, Doubles] = {}

    def block(self, name: str, shape: tuple[int, ...]) -> Doubles:
        """The named buffer in this shape, from the start of a line of cache on: elsewhere NumPy's loops are slower."""
        size = math.prod(shape)
        if name not in self.buffers or self.buffers[name].size < size:
            raw = np.empty(size + LINE // 8)
            self.buffers[name] = raw[-raw.ctypes.data % LINE // 8 :]
        return self.buffers[name][:size].reshape(shape)

    def load(self, name: str, values: Values, shift: Vector | None = None) -> Doubles:
        """Values (n, c, l) as float64, less `shift` (c)."""
        block = self.block(name, values.shape)
        np.copyto(block, values)
        if shift is not None:
            block -= shift[:, np.newaxis]
        return block


def sum_rows(arrays: Sequence[Doubles], images: int, out: Doubles) -> None:
    """Sum each row of a scratch block (n, c, l), or of the product of two: `out` has shape (c, rows)."""
    if images == 1:
        _sum_runs(arrays, out)
        return
    whole = len(arrays[0]) // images * images
    _sum_images([array[:whole] for array in arrays], images, out[:, : whole // images])
    if rest := len(arrays[0]) - whole:
        _sum_images([array[whole:] for array in arrays], rest, out[:, -1:])


def _sum_runs(arrays: Sequence[Doubles], out: Doubles) -> None:
    images, channels, places = arrays[0].shape
    planes = out.reshape(channels, images, -1).swapaxes(0, 1)
    whole = places // RUN * RUN
    if whole:
        shape = (images, channels, -1, RUN)
        _dot(*(array[:, :, :whole].reshape(shape) for array in arrays), out=planes[:, :, : whole // RUN])
    if places > whole:
        _dot(*(array[:, :, whole:] for array in arrays), out=planes[:, :, -1])


def _dot(values: Doubles, factors: Doubles | None = None, *, out: Doubles) -> None:
    """A dot product of every run, with ones if there are no factors: that is faster than NumPy's sum."""
    np.vecdot(values, ONES[: values.shape[-1]] if factors is None else factors, out=out)


def _sum_images(arrays: Sequence[Doubles], images: int, out: Doubles) -> None:
    """Add so many images at a time place by place, and then along the places."""
    _, channels, places = arrays[0].shape
    if channels * places == 1:  # two of it, since NumPy adds a lone one in another order
        arrays = [np.repeat(array, 2, axis=1) for array in arrays]
    grouped = [array.reshape(-1, images, array.shape[1] * places) for array in arrays]
    sums = np.add.reduce(grouped[0], axis=1) if len(grouped) == 1 else np.einsum("gik,gik->gk", *grouped)
    np.add.reduce(sums[:, : channels * places].reshape(-1, channels, places), axis=2, out=out.T)


def sum_block(x: Doubles, delta: Doubles | None, train: bool, images: int, out: Doubles) -> None:
    """In training Σx and Σx², then, with a delta, Σ delta and Σ delta·x of each row: `out` is (2 or 4, c, rows)."""
    wanted = [[x], [x, x]] if train else []
    wanted += [] if delta is None else [[delta], [delta, x]]
    for arrays, sums in zip(wanted, out, strict=True):
        sum_rows(arrays, images, sums)


def apply(line: Line, x: Doubles, delta: Doubles | None, scratch: Scratch, out: Values, *, last: bool) -> None:
    """Write `line` for scratch blocks (n, c, l), rounded once. Delta is used up, and x the last time."""
    images, channels, places = x.shape
    wide = places >= WIDE
    shape = x.shape if wide else (images, channels * places)

    def each(vector: Vector) -> Doubles:
        column = vector[:, np.newaxis]
        if wide:
            return column
        row = scratch.block("row", (channels, places))
        np.copyto(row, column)
        return row.reshape(-1)

    work = x if last else scratch.block("work", x.shape)
    result = np.multiply(x.reshape(shape), each(line.x), out=work.reshape(shape))
    if line.delta is not None and delta is not None:
        upstream = delta.reshape(shape)
        result += np.multiply(upstream, each(line.delta), out=upstream)
    result += each(line.constant)
    np.copyto(out, work)
