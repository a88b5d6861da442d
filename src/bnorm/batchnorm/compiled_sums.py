# mypy: allow-untyped-defs, allow-untyped-calls
"""Sums of a span, compiled by Numba: additions in the order that `tiling` draws.

Four rows are added at a time, column by column and from top to bottom, so that an accumulator is loaded and stored once
for four values; the columns fill the vector registers.

    item       the unit of work: one piece of some channels
    segment    columns side by side in memory: all channels of an item, or with channels last those of one place
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from bnorm.batchnorm.compiler import compiled, compiled_parallel, prange, uint64
from bnorm.batchnorm.memory import interleaved
from bnorm.batchnorm.tiling import PLANE, Grouping
from bnorm.tensors.tensor import Values

SEGMENT = 1536  # columns side by side in an item, unless a single channel has more: they fit the L1 cache


class Sizes(NamedTuple):
    """The sizes by which the sums of a span are cut into items.

    They are passed to compiled code as one vector, whose type Numba recognises faster than that of a tuple.
    """

    images: Any
    channels: Any
    places: Any
    columns: Any  # of a full row
    images_per_piece: Any
    places_per_piece: Any
    pieces: Any  # in the span
    pieces_per_plane: Any
    large: Any  # 1 where rows are parts of a plane, else 0
    interleaved: Any  # 1 with channels last, else 0
    width: Any  # channels of an item


def sizes_of(x: Values, grouping: Grouping, pieces: int) -> Sizes:
    """Return the sizes by which the sums of values (n, c, l) are cut into items."""
    large, columns = grouping.places > PLANE, grouping.columns
    if interleaved(x):
        width = max(SEGMENT * 4 // columns, 16) if columns > 1 else 1024
    else:
        width = 1 if large else max(SEGMENT // columns, 1)
    return Sizes(
        images=x.shape[0],
        channels=x.shape[1],
        places=x.shape[2],
        columns=columns,
        images_per_piece=grouping.images_per_piece,
        places_per_piece=grouping.places_per_piece,
        pieces=pieces,
        pieces_per_plane=-(-x.shape[2] // grouping.places_per_piece),
        large=large,
        interleaved=interleaved(x),
        width=min(width, x.shape[1]),
    )


@compiled
def _add_values(x, first, step, rows, count, shift, shifted, sums, squares, begin):
    """Add rows of `count` values, `step` apart, and their squares, to the columns from `begin` on, minus `shift`."""
    while rows >= uint64(4):
        second = first + step
        third = second + step
        fourth = third + step
        for j in range(count):
            a, b = np.float64(x[first + j]), np.float64(x[second + j])
            c, d = np.float64(x[third + j]), np.float64(x[fourth + j])
            if shifted:  # the compiler makes two loops of this one
                a, b, c, d = a - shift[j], b - shift[j], c - shift[j], d - shift[j]
            sums[begin + j] = sums[begin + j] + a + b + c + d
            squares[begin + j] = squares[begin + j] + a * a + b * b + c * c + d * d
        first = fourth + step
        rows -= uint64(4)
    while rows > uint64(0):
        for j in range(count):
            a = np.float64(x[first + j]) - shift[j]
            sums[begin + j] += a
            squares[begin + j] += a * a
        first += step
        rows -= uint64(1)


@compiled
def _add_deltas(delta, first, step, x, first_x, step_x, rows, count, shift, shifted, sums, products, begin):
    """Add rows of delta, and its products with x minus `shift`, to the columns from `begin` on."""
    while rows >= uint64(4):
        second, second_x = first + step, first_x + step_x
        third, third_x = second + step, second_x + step_x
        fourth, fourth_x = third + step, third_x + step_x
        for j in range(count):
            a, b = np.float64(delta[first + j]), np.float64(delta[second + j])
            c, d = np.float64(delta[third + j]), np.float64(delta[fourth + j])
            p, q = np.float64(x[first_x + j]), np.float64(x[second_x + j])
            r, s = np.float64(x[third_x + j]), np.float64(x[fourth_x + j])
            if shifted:
                p, q, r, s = p - shift[j], q - shift[j], r - shift[j], s - shift[j]
            sums[begin + j] = sums[begin + j] + a + b + c + d
            products[begin + j] = products[begin + j] + a * p + b * q + c * r + d * s
        first, first_x = fourth + step, fourth_x + step_x
        rows -= uint64(4)
    while rows > uint64(0):
        for j in range(count):
            a = np.float64(delta[first + j])
            sums[begin + j] += a
            products[begin + j] += a * (np.float64(x[first_x + j]) - shift[j])
        first, first_x = first + step, first_x + step_x
        rows -= uint64(1)


@compiled
def _halve(values, first, step, count):
    """Return the sum of `count` columns, `step` apart, added in halves: they are overwritten."""
    half = uint64(1)
    while half < count:
        half *= uint64(2)
    half //= uint64(2)
    while half > uint64(0):
        above = min(half, count - half) if count > half else uint64(0)
        if step == uint64(1):
            for j in range(above):
                values[first + j] += values[first + half + j]
        else:
            for j in range(above):
                values[first + j * step] += values[first + (half + j) * step]
        half //= uint64(2)
    return values[first]


@compiled
def _write_sums(values, width, sizes, out, first):
    """Write the sum of each channel's columns into `out`, from channel `first` on: the columns are overwritten."""
    if sizes.columns == uint64(1):  # a call for each takes a quarter of the time of all sums
        for c in range(width):
            out[first + c] = values[c]
        return
    stride, step = (uint64(1), width) if sizes.interleaved else (sizes.columns, uint64(1))
    for c in range(width):
        out[first + c] = _halve(values, c * stride, step, sizes.columns)


@compiled
def _rows_of(piece, sizes):
    """Return a piece's first image and place, its number of full rows, and the length of a shorter last row."""
    if not sizes.large:
        image = piece * sizes.images_per_piece
        return image, uint64(0), min(sizes.images_per_piece, sizes.images - image), uint64(0)
    image, place = piece // sizes.pieces_per_plane, piece % sizes.pieces_per_plane * sizes.places_per_piece
    length = min(sizes.places_per_piece, sizes.places - place)
    return image, place, length // sizes.columns, length % sizes.columns


@compiled
def _sum_piece(delta, strides, x, strides_x, of_delta, channel, piece, width, sizes, shifts, shifted, sums, products):
    """Add a piece of `width` channels, of x or of delta, to the columns; `shifts` has the shift of each column."""
    image, place, rows, short = _rows_of(piece, sizes)
    at = image * strides[0] + channel * strides[1] + place * strides[2]
    at_x = image * strides_x[0] + channel * strides_x[1] + place * strides_x[2]
    along = sizes.columns if sizes.large else uint64(0)
    step = along * strides[2] if sizes.large else strides[0]
    step_x = along * strides_x[2] if sizes.large else strides_x[0]
    for part in range(2):  # the full rows, and the short one
        length = sizes.columns if part == 0 else short
        segments = length if sizes.interleaved else uint64(1)
        count = width if sizes.interleaved else width * length
        height = rows if part == 0 else uint64(1)
        for segment in range(segments if length > uint64(0) else uint64(0)):
            first, first_x = at + segment * strides[2], at_x + segment * strides_x[2]
            begin = segment * count
            if of_delta:
                _add_deltas(
                    delta, first, step, x, first_x, step_x, height, count, shifts, shifted, sums, products, begin
                )
            else:
                _add_values(x, first_x, step_x, height, count, shifts, shifted, sums, products, begin)
        at, at_x = at + rows * step, at_x + rows * step_x


@compiled
def sum_items(x, delta, numbers, shift, moments, with_delta, out, begin, end):
    """Write the sums of the items from `begin` to before `end` into `out`, shape (pieces, 2 or 4, c).

    `numbers` are the steps of x and delta, and `Sizes`.
    """
    n = numbers
    strides_x, strides = (n[0], n[1], n[2]), (n[3], n[4], n[5])
    sizes = Sizes(n[6], n[7], n[8], n[9], n[10], n[11], n[12], n[13], n[14], n[15], n[16])
    size = sizes.columns * sizes.width
    shifts, sums, products = np.empty(size), np.empty(size), np.empty(size)
    shifted = np.any(shift)
    for item in range(begin, end):
        piece, channel = item % sizes.pieces, item // sizes.pieces * sizes.width
        width = min(sizes.width, sizes.channels - channel)
        repeat = uint64(1) if sizes.interleaved else sizes.columns
        for c in range(width):
            for j in range(repeat):
                shifts[c * repeat + j] = shift[channel + c]
        row = uint64(0)
        for of_delta in range(2):
            if with_delta if of_delta else moments:
                sums[:] = 0
                products[:] = 0
                _sum_piece(
                    delta,
                    strides,
                    x,
                    strides_x,
                    of_delta,
                    channel,
                    piece,
                    width,
                    sizes,
                    shifts,
                    shifted,
                    sums,
                    products,
                )
                _write_sums(sums, width, sizes, out[piece, row], channel)
                _write_sums(products, width, sizes, out[piece, row + uint64(1)], channel)
                row += uint64(2)


@compiled_parallel
def sum_shared(x, delta, numbers, shift, moments, with_delta, out, items, threads):
    """Write the sums of all items, with this many threads."""
    for thread in prange(threads):
        begin, end = uint64(thread) * items // threads, (uint64(thread) + uint64(1)) * items // threads
        sum_items(x, delta, numbers, shift, moments, with_delta, out, begin, end)
