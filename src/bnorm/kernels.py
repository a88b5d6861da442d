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

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from bnorm.batchnorm import Line, Vector

Values = NDArray[np.floating]
Doubles = NDArray[np.float64]

SMALL = 512  # values of a channel in the images that are summed together, where a plane has fewer
TINY = 16  # places under which a plane is less than a line of cache
PLANE = 1 << 12  # values of a plane that are summed as one
BLOCK = 1 << 19  # values of a scratch block, 4 MiB: calls so long that threads rarely wait for the interpreter
LONG = 1 << 14  # values in a row from which on a loop over rows costs nothing beside them


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
    return max(SMALL // places, 1)


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
    """One thread's buffers. They remember what span they hold: a block that is read again is not converted again."""

    def __init__(self) -> None:
        self.buffers: dict[str, Doubles] = {}
        self.held: dict[str, Span] = {}

    def forget(self) -> None:
        """What was read is no longer what stands in memory."""
        self.held.clear()

    def block(self, name: str, shape: tuple[int, ...]) -> Doubles:
        """The named buffer in this shape. It holds nothing any more."""
        size = shape[0] * shape[1] * shape[2]
        if name not in self.buffers or self.buffers[name].size < size:
            self.buffers[name] = np.empty(max(size, BLOCK))
        self.held.pop(name, None)
        return self.buffers[name][:size].reshape(shape)

    def load(self, name: str, view: View, span: Span, shift: Vector | None = None) -> Doubles:
        """The span's values as float64, (n, c, l), less `shift` (per channel of the view)."""
        part = view.part(span)
        held = self.held.get(name) == span
        values = self.block(name, part.shape)
        self.held[name] = span
        if not held:
            np.copyto(values, part)
            if shift is not None:
                rows, each = spread(values, shift[span.channels])
                rows -= each
        return values


def spread(values: Doubles, vector: Vector) -> tuple[Doubles, Vector]:
    """A scratch block and a vector per channel, in shapes that broadcast along long rows."""
    images, channels, places = values.shape
    if places >= LONG:
        return values, vector[:, np.newaxis]
    times = 1
    while images % (2 * times) == 0 and times * channels * places < LONG:
        times *= 2
    row = np.tile(np.repeat(vector, places), times)
    return values.reshape(images // times, row.size), row


def sum_pieces(values: Doubles, out: Doubles) -> None:
    """Sum each piece of a scratch block (n, c, l): `out` has shape (c, pieces)."""
    images, channels, places = values.shape
    group = together(places)
    if group > 1:
        whole = images // group
        grouped = values[: whole * group].reshape(whole, group, channels * places)
        _along_places(np.add.reduce(grouped, axis=1).reshape(whole, channels, places), out[:, :whole])
        if images % group:
            rest = np.add.reduce(values[whole * group :].reshape(-1, channels * places), axis=0)
            _along_places(rest.reshape(1, channels, places), out[:, whole:])
        return
    planes = out.reshape(channels, images, -1)  # (c, n, parts of a plane)
    whole = places // PLANE
    if whole:
        parts = values[:, :, : whole * PLANE].reshape(images, channels, whole, PLANE)
        planes[:, :, :whole] = np.add.reduce(parts, axis=3).swapaxes(0, 1)
    if places % PLANE:
        planes[:, :, whole] = np.add.reduce(values[:, :, whole * PLANE :], axis=2).T


def _along_places(values: Doubles, out: Doubles) -> None:
    np.add.reduce(values, axis=2, out=out.T)


def totals(sums: Doubles) -> Doubles:
    """Sum the pieces of each channel: (..., c, pieces) to (..., c)."""
    with np.errstate(all="ignore"):
        result: Doubles = np.add.reduce(sums, axis=-1)
    return result


def first_values(view: View, channels: slice) -> Vector:
    """Each channel's first value: one of its own, and so near enough to its mean to be subtracted before squaring."""
    return view.array[0, channels, 0].astype(np.float64)


def sum_x(view: View, span: Span, shift: Vector, scratch: Scratch, out: Doubles) -> None:
    """Σ(x − shift) and Σ(x − shift)² of each piece, into `out` of shape (2, c, pieces)."""
    x = scratch.load("x", view, span, shift)
    sum_pieces(x, out[0])
    sum_pieces(np.multiply(x, x, out=scratch.block("work", x.shape)), out[1])


def sum_delta(view: View, delta: View, span: Span, shift: Vector | None, scratch: Scratch, out: Doubles) -> None:
    """Σ delta and Σ delta·(x − shift) of each piece, into `out` of shape (2, c, pieces)."""
    x, upstream = scratch.load("x", view, span, shift), scratch.load("delta", delta, span)
    sum_pieces(upstream, out[0])
    sum_pieces(np.multiply(upstream, x, out=scratch.block("work", x.shape)), out[1])


def apply(
    line: Line,
    x: View,
    delta: View | None,
    span: Span,
    shift: Vector | None,
    scratch: Scratch,
    out: View,
    *,
    final: bool,
) -> None:
    """Write `line` for every value of the span, rounded once; delta is used up, and in the `final` result x, too."""
    loaded = scratch.load("x", x, span, shift)
    if final:
        scratch.held.pop("x")
    block = loaded if final else scratch.block("work", loaded.shape)
    values, factor = spread(loaded, line.x[span.channels])
    work = np.multiply(values, factor, out=block.reshape(values.shape))
    if line.delta is not None and delta is not None:
        upstream, factor = spread(scratch.load("delta", delta, span), line.delta[span.channels])
        scratch.held.pop("delta")
        upstream *= factor
        work += upstream
    work += spread(block, line.constant[span.channels])[1]
    np.copyto(out.part(span), block, casting="same_kind")
