"""Sums and maps of one span: the loops over values, in NumPy.

The engine calls only `sum_span` and `map_span`. Both take the values of a span as they are stored, (n, c, l)
for n images, c channels and l places; convert them to float64 in scratch blocks that stay in cache; and subtract
`shift`, shape (c,).

Sums are added in the order of `tiling`. On every processor NumPy adds the rows of a C-ordered array from top to
bottom, unless there is a single column (`np.add.reduce` over the first of two axes; the tests compare it with plain
Python).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from bnorm.batchnorm.epsilon import Vector
from bnorm.batchnorm.formulas import ChannelMap
from bnorm.batchnorm.tiling import PIECE, PLANE, WIDTH, Grouping
from bnorm.tensors.tensor import Doubles, Values

WIDE = 512  # places from which on one factor per plane is faster than one per place

CACHE_LINE = 64  # bytes


class Scratch:
    """The float64 buffers of one thread, kept from block to block."""

    def __init__(self) -> None:
        self.buffers: dict[str, Doubles] = {}

    def block(self, name: str, shape: tuple[int, ...]) -> Doubles:
        """Return the named buffer in this shape, aligned to a cache line: NumPy's loops are slower without that."""
        size = math.prod(shape)
        if name not in self.buffers or self.buffers[name].size < size:
            raw = np.empty(size + CACHE_LINE // 8)
            self.buffers[name] = raw[-raw.ctypes.data % CACHE_LINE // 8 :]
        return self.buffers[name][:size].reshape(shape)

    def load(self, name: str, values: Values, shift: Vector | None = None) -> Doubles:
        """Return a float64 copy of values (n, c, l), minus `shift` (c,)."""
        block = self.block(name, values.shape)
        np.copyto(block, values)
        if shift is not None and np.count_nonzero(shift):  # much faster than shift.any()
            block -= shift[:, np.newaxis]
        return block


class Operands(NamedTuple):
    """The values of a span, as they are stored, (n, c, l), and the shift of its channels, (c,)."""

    x: Values
    delta: Values | None
    shift: Vector


# --- sums -------------------------------------------------------------------------------------------------------------


def sum_span(operands: Operands, grouping: Grouping, scratch: Scratch, out: Doubles, *, moments: bool) -> None:
    """Write the sums of each piece into `out`, shape (pieces, 2 or 4, c).

    These are Σx and Σx² with `moments`, then Σ delta and Σ delta·x with a delta, where x means x − shift.
    """
    x, delta, shift = operands
    shifted = scratch.load("x", x, shift)
    sum_pieces = sum_planes if grouping.places > PLANE else sum_images
    if moments:
        sum_pieces(shifted, grouping, out[:, 0])
    # Products overwrite their factors, which are not needed any more: fewer blocks in the cache.
    if delta is not None:
        upstream = scratch.load("delta", delta)
        sum_pieces(upstream, grouping, out[:, -2])
        sum_pieces(np.multiply(upstream, shifted, out=upstream), grouping, out[:, -1])
    if moments:
        sum_pieces(np.multiply(shifted, shifted, out=shifted), grouping, out[:, 1])


def sum_images(values: Doubles, grouping: Grouping, out: Doubles) -> None:
    """Sum pieces of whole images (n, c, l) into `out`, shape (pieces, c)."""
    images, channels, places = values.shape
    rows = values.reshape(images, channels * places)
    columns = np.empty((len(out), channels * places))
    for piece, first in enumerate(range(0, images, grouping.images_per_piece)):
        _add_rows(rows[first : first + grouping.images_per_piece], columns[piece])
    out[:] = _halve(columns.reshape(-1, channels, places))


def sum_planes(values: Doubles, _grouping: Grouping, out: Doubles) -> None:
    """Sum the pieces of large planes (n, c, l), or of a part of one plane, into `out`, shape (pieces, c)."""
    images, channels, places = values.shape
    sums = out.reshape(images, -1, channels).swapaxes(1, 2)  # (n, c, pieces of a plane)
    whole = places // PIECE
    if whole:
        rows = values[:, :, : whole * PIECE].reshape(images, channels, whole, -1, WIDTH)
        sums[:, :, :whole] = _halve(np.add.reduce(rows, axis=3))
    if places > whole * PIECE:
        sums[:, :, whole] = _halve(_last_columns(values[:, :, whole * PIECE :]))


def _last_columns(values: Doubles) -> Doubles:
    """Return the columns of the last piece of each plane, whose last row may be short: (n, c, columns)."""
    images, channels, places = values.shape
    whole = places // WIDTH * WIDTH
    if not whole:
        return values.copy()
    columns: Doubles = np.add.reduce(values[:, :, :whole].reshape(images, channels, -1, WIDTH), axis=2)
    columns[:, :, : places - whole] += values[:, :, whole:]
    return columns


def _add_rows(rows: Doubles, out: Doubles) -> None:
    """Add rows of shape (n, columns) from top to bottom; NumPy adds a single column in another order."""
    if rows.shape[1] == 1:
        out[:] = np.add.accumulate(rows)[-1]
    else:
        np.add.reduce(rows, axis=0, out=out)


def _halve(columns: Doubles) -> Doubles:
    """Return the sums of the last axis, added in halves: the array is overwritten."""
    half = 1 << (columns.shape[-1] - 1).bit_length() >> 1
    while half:
        upper = columns[..., half : 2 * half]
        columns[..., : upper.shape[-1]] += upper
        half //= 2
    sums: Doubles = columns[..., 0]
    return sums


# --- maps -------------------------------------------------------------------------------------------------------------


def map_span(
    operands: Operands, maps: Mapping[str, ChannelMap], scratch: Scratch, outputs: Mapping[str, Values]
) -> None:
    """Write each output, (n, c, l), by the map of its name; every value is rounded once, to the output's dtype."""
    x, delta, shift = operands
    shifted = scratch.load("x", x, shift)
    upstream = None if delta is None else scratch.load("delta", delta)
    last = list(outputs)[-1] if outputs else ""
    for name, out in outputs.items():
        # Nothing reads x and delta after the last map, so it need not copy them to other scratch blocks.
        apply(maps[name], shifted, upstream, scratch, out, may_overwrite=name == last)


def apply(
    channel_map: ChannelMap,
    x: Doubles,
    delta: Doubles | None,
    scratch: Scratch,
    out: Values,
    *,
    may_overwrite: bool,
) -> None:
    """Write a map of scratch blocks (n, c, l) into `out`; `may_overwrite` x and delta with intermediate values."""
    images, channels, places = x.shape
    wide = places >= WIDE
    shape = x.shape if wide else (images, channels * places)

    def spread(vector: Vector) -> Doubles:
        """Return one factor per plane, (c, 1), or one per place, (c·l,)."""
        column = vector[:, np.newaxis]
        if wide:
            return column
        row = scratch.block("row", (channels, places))
        np.copyto(row, column)
        return row.reshape(-1)

    work = x if may_overwrite else scratch.block("work", x.shape)
    result = np.multiply(x.reshape(shape), spread(channel_map.x), out=work.reshape(shape))
    if channel_map.delta is not None and delta is not None:
        term = delta if may_overwrite else scratch.block("term", delta.shape)
        result += np.multiply(delta.reshape(shape), spread(channel_map.delta), out=term.reshape(shape))
    result += spread(channel_map.constant)
    np.copyto(out, work)
