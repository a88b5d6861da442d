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
from collections.abc import Sequence

import numpy as np

from bnorm.batchnorm.epsilon import Vector
from bnorm.batchnorm.formulas import Line
from bnorm.batchnorm.tiling import RUN
from bnorm.tensors.tensor import Doubles, Values

WIDE = 512  # places from which on a factor for each plane is faster than one for each place

LINE = 64  # bytes of a line of cache

ONES = np.ones(RUN)


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
