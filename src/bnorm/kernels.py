"""The loops over values: exact sums and affine maps, on blocks that stay in cache.

A tensor of N images, C channels and L places gives each channel M = N·L values, numbered i = n·L + l. It lies in memory
as (N, C, L), channels apart, or as (N, L, C), channels last. Every value is converted to float64 once, when it enters a
scratch block of shape (n, c, l): images that lie together stay together, and rows are long, which is what NumPy's loops
need to be fast, be it on large planes, on many small ones, or on a matrix, where L is 1.

The sums do not depend, to the last bit, on how the work is cut, on the number of threads, on the memory budget or on
the order in memory. The values of a channel are cut into pieces by their number alone: where planes are small, some
images at a time, added place by place and then along the places; where they are large, each plane, in parts of `PLANE`.
Each step is one call of NumPy's, which adds in an order that only the lengths of the axes decide.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from bnorm.batchnorm import Line, Vector

Values = NDArray[np.floating]
Doubles = NDArray[np.float64]

SMALL = 256  # values of a channel in the images that are summed together, where a plane has fewer than ROW
TINY = 16  # places under which a plane is less than a line of cache
ROW = 128  # values in a row from which on a call for each costs little beside them
PLANE = 1 << 12  # values of a plane that are summed as one
BLOCK = 1 << 17  # values of a scratch block, 1 MiB: it stays in the second level of cache
LINE = 64  # bytes of a line of cache


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
    """How many images are summed together."""
    return 1 if places >= ROW else SMALL // places


def pieces(extent: Extent) -> int:
    """How many pieces the values of a channel make."""
    return -(-extent.images // together(extent.places)) * -(-extent.places // PLANE)


def piece_at(start: int, places: int) -> int:
    """The number of the piece that begins with this value."""
    image, place = divmod(start, places)
    return image // together(places) * -(-places // PLANE) + place // PLANE


def plan(extent: Extent, most: int) -> list[list[Span]]:
    """Cut a tensor into spans of about `most` values: a list per group of channels.

    A channel is only cut where it is longer than `most`, and then between pieces. Where the values of a channel lie
    scattered, since channels stand last or planes are tiny, all channels are taken together as far as they fit. No
    group of a matrix is one channel alone, unless it has no other: NumPy would sum it in another order.
    """
    channels, places = extent.channels, extent.places
    scattered = extent.channels_last or places < TINY
    width = most // (together(places) * min(places, PLANE) if scattered else extent.images * places)
    width = min(max(width, 2 if places == 1 else 1), channels)
    borders = list(range(0, channels, width))
    if places == 1 and len(borders) > 1 and borders[-1] == channels - 1:
        borders.pop()
    cuts = list(_cuts(extent, max(most // width, 1)))
    return [
        [Span(first, last, start, stop) for start, stop in cuts]
        for first, last in zip(borders, [*borders[1:], channels], strict=True)
    ]


def _cuts(extent: Extent, most: int) -> Iterator[tuple[int, int]]:
    """Cut the values of a channel into images of about `most` values together, or into parts of an image."""
    images, places = extent.images, extent.places
    if places <= max(most, PLANE):
        step = max(most // (places * together(places)), 1) * together(places)
        for image in range(0, images, step):
            yield image * places, min(image + step, images) * places
        return
    step = most // PLANE * PLANE or PLANE
    for image in range(0, images * places, places):
        for place in range(0, places, step):
            yield image + place, image + min(place + step, places)


class Scratch:
    """One thread's buffers, kept from block to block."""

    def __init__(self) -> None:
        self.buffers: dict[str, Doubles] = {}

    def block(self, name: str, shape: tuple[int, ...]) -> Doubles:
        """The named buffer in this shape, from the start of a line of cache on: elsewhere NumPy's loops are slower."""
        size = math.prod(shape)
        if name not in self.buffers or self.buffers[name].size < size:
            raw = np.empty(max(size, BLOCK) + LINE // 8)
            self.buffers[name] = raw[-raw.ctypes.data % LINE // 8 :]
        return self.buffers[name][:size].reshape(shape)

    def load(self, name: str, values: Values, shift: Vector | None = None) -> Doubles:
        """Values (n, c, l) as float64, less `shift` (c)."""
        block = self.block(name, values.shape)
        if shift is None:
            np.copyto(block, values)
        else:
            np.subtract(values, shift[:, np.newaxis], out=block)
        return block


def sum_pieces(values: Doubles, factors: Doubles | None, group: int, out: Doubles) -> None:
    """Sum each piece of a scratch block (n, c, l), times the factors of another: `out` has shape (c, pieces).

    `group` is how many of the tensor's images are summed together; the block may hold a part of one.
    """
    images, channels, places = values.shape
    if group > 1:
        whole = images // group * group
        _sum_images(values[:whole], factors if factors is None else factors[:whole], group, out[:, : whole // group])
        if images > whole:
            rest = factors if factors is None else factors[whole:]
            _sum_images(values[whole:], rest, images - whole, out[:, whole // group :])
        return
    planes = out.reshape(channels, images, -1).swapaxes(0, 1)  # (n, c, parts of a plane)
    whole = places // PLANE * PLANE
    if whole:
        shape = (images, channels, -1, PLANE)
        parts = factors if factors is None else factors[:, :, :whole].reshape(shape)
        _sum_rows(values[:, :, :whole].reshape(shape), parts, planes[:, :, : whole // PLANE])
    if places > whole:
        _sum_rows(values[:, :, whole:], factors if factors is None else factors[:, :, whole:], planes[:, :, -1])


def _sum_rows(values: Doubles, factors: Doubles | None, out: Doubles) -> None:
    if factors is None:
        np.add.reduce(values, axis=-1, out=out)
    else:
        np.vecdot(values, factors, out=out)


def _sum_images(values: Doubles, factors: Doubles | None, group: int, out: Doubles) -> None:
    """Add each group of images place by place, and then along the places."""
    images, channels, places = values.shape
    shape = (images // group, group, channels * places)
    if factors is None:
        sums = np.add.reduce(values.reshape(shape), axis=1)
    else:
        sums = np.einsum("gik,gik->gk", values.reshape(shape), factors.reshape(shape))
    np.add.reduce(sums.reshape(-1, channels, places), axis=2, out=out.T)


def totals(sums: Doubles) -> Doubles:
    """Sum the pieces of each channel: (..., c, pieces) to (..., c)."""
    with np.errstate(all="ignore"):
        result: Doubles = np.add.reduce(sums, axis=-1)
    return result


def sum_block(x: Doubles, delta: Doubles | None, train: bool, group: int, out: Doubles) -> None:
    """Σx, Σx², Σ delta and Σ delta·x of each piece, as far as they are wanted, into `out` of shape (4, c, pieces)."""
    if train:
        sum_pieces(x, None, group, out[0])
        sum_pieces(x, x, group, out[1])
    if delta is not None:
        sum_pieces(delta, None, group, out[2])
        sum_pieces(delta, x, group, out[3])


def first_values(view: View) -> Vector:
    """Each channel's first value: one of its own, and so near enough to its mean to be subtracted before squaring."""
    return view.array[0, :, 0].astype(np.float64)


def apply(line: Line, x: Doubles, delta: Doubles | None, work: Doubles, out: Values) -> None:
    """Write `line` for scratch blocks (n, c, l), rounded once. `work` may be x itself; delta is used up."""
    images, channels, places = x.shape
    long = places >= ROW
    shape = x.shape if long else (images, channels * places)

    def each(vector: Vector) -> Vector:
        return vector[:, np.newaxis] if long else np.repeat(vector, places)

    result = np.multiply(x.reshape(shape), each(line.x), out=work.reshape(shape))
    if line.delta is not None and delta is not None:
        upstream = delta.reshape(shape)
        upstream *= each(line.delta)
        result += upstream
    result += each(line.constant)
    np.copyto(out, work, casting="same_kind")
