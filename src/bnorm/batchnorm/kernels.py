"""Sums and maps of one span: the loops over values, in NumPy.

`sum_span` and `map_span` are all that the engine calls. Both take the values of a span as they are stored, (n, c, l)
for n images, c channels and l places; convert them to float64 in scratch blocks that stay in cache; and subtract
`shift`, shape (c,).

To the last bit, a sum depends only on the lengths of the axes of each NumPy call, and these follow from the grouping
into rows (see `tiling`). Large planes: each row is one dot product. Small planes: several images form one row; they
are summed element by element, then across the row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from bnorm.batchnorm.epsilon import Vector
from bnorm.batchnorm.formulas import ChannelMap
from bnorm.batchnorm.tiling import RUN
from bnorm.tensors.tensor import Doubles, Values

WIDE = 512  # places from which on one factor per plane is faster than one per place

CACHE_LINE = 64  # bytes

ONES = np.ones(RUN)


class Scratch:
    """The float64 buffers of one thread, kept from block to block."""

    def __init__(self) -> None:
        self.buffers: dict[str, Doubles] = {}

    def block(self, name: str, shape: tuple[int, ...]) -> Doubles:
        """Return the named buffer in this shape, aligned to a cache line: NumPy's loops are slower elsewhere."""
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


# --- sums -------------------------------------------------------------------------------------------------------------


def sum_span(
    x: Values,
    delta: Values | None,
    shift: Vector,
    scratch: Scratch,
    out: Doubles,
    *,
    moments: bool,
    images_per_row: int,
) -> None:
    """Write the sums of each row into `out`, shape (2 or 4, c, rows).

    These are Σx and Σx² with `moments`, then Σ delta and Σ delta·x with a delta, where x means x − shift.
    """
    shifted = scratch.load("x", x, shift)
    factors: list[list[Doubles]] = [[shifted], [shifted, shifted]] if moments else []
    if delta is not None:
        upstream = scratch.load("delta", delta)
        factors += [[upstream], [upstream, shifted]]
    for arrays, sums in zip(factors, out, strict=True):
        sum_rows(arrays, images_per_row, sums)


def sum_rows(arrays: Sequence[Doubles], images_per_row: int, out: Doubles) -> None:
    """Sum each row of an array (n, c, l), or of the product of two, into `out`, shape (c, rows)."""
    if images_per_row == 1:
        _sum_runs(arrays, out)
        return
    images = len(arrays[0])
    whole = images // images_per_row * images_per_row
    _sum_images([array[:whole] for array in arrays], images_per_row, out[:, : whole // images_per_row])
    if images > whole:
        _sum_images([array[whole:] for array in arrays], images - whole, out[:, -1:])


def _sum_runs(arrays: Sequence[Doubles], out: Doubles) -> None:
    """Sum RUN places of a plane at a time, and the remaining places."""
    images, channels, places = arrays[0].shape
    planes = out.reshape(channels, images, -1).swapaxes(0, 1)  # (n, c, rows of a plane)
    whole = places // RUN * RUN
    if whole:
        shape = (images, channels, -1, RUN)
        _dot(*(array[:, :, :whole].reshape(shape) for array in arrays), out=planes[:, :, : whole // RUN])
    if places > whole:
        _dot(*(array[:, :, whole:] for array in arrays), out=planes[:, :, -1])


def _dot(values: Doubles, factors: Doubles | None = None, *, out: Doubles) -> None:
    """Write dot products along the last axis; without factors, with ones, which is faster than NumPy's sum."""
    np.vecdot(values, ONES[: values.shape[-1]] if factors is None else factors, out=out)


def _sum_images(arrays: Sequence[Doubles], images_per_row: int, out: Doubles) -> None:
    """Sum groups of whole images element by element, then across the places."""
    _, channels, places = arrays[0].shape
    if channels * places == 1:  # repeated, because NumPy adds a single column in another order
        arrays = [np.repeat(array, 2, axis=1) for array in arrays]
    grouped = [array.reshape(-1, images_per_row, array.shape[1] * places) for array in arrays]  # (rows, images, c·l)
    sums = np.add.reduce(grouped[0], axis=1) if len(grouped) == 1 else np.einsum("gik,gik->gk", *grouped)
    np.add.reduce(sums[:, : channels * places].reshape(-1, channels, places), axis=2, out=out.T)


# --- maps -------------------------------------------------------------------------------------------------------------


def map_span(
    maps: Mapping[str, ChannelMap],
    x: Values,
    delta: Values | None,
    shift: Vector,
    scratch: Scratch,
    outputs: Mapping[str, Values],
) -> None:
    """Write each output, (n, c, l), by the map of its name; every value is rounded once, to the output's dtype."""
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
