# mypy: allow-untyped-defs, allow-untyped-calls
"""Sums and maps of one span, compiled by Numba: the same results as the NumPy kernels, to the last bit.

A value is loaded, converted to float64 in a register, used, and rounded once: there are no copies. Additions are those
that `tiling` draws, in its order. Numba compiles them as they are written here: it neither reorders additions nor fuses
them with multiplications unless `fastmath` asks for it. Four rows are added at a time, column by column and from top to
bottom, so that an accumulator is loaded and stored once for four values; the columns fill the vector registers.

A tensor is handed in as one contiguous vector of memory and the strides of images, channels and places. All indices
are unsigned: a negative index would count from the end, and loops that allow for it are not vectorised.

    item       what is done in one go: a piece of some channels, or the map of some rows
    segment    columns side by side in memory: those of all channels of an item, or with channels last of one place
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import cache
from importlib.util import find_spec
from typing import Any, NamedTuple, TypeVar, cast

import numba
import numpy as np
from numba import prange, uint64
from numpy.lib.stride_tricks import as_strided

from bnorm.batchnorm.epsilon import Vector
from bnorm.batchnorm.formulas import ChannelMap
from bnorm.batchnorm.kernels import Scratch
from bnorm.batchnorm.tiling import PLANE, Grouping
from bnorm.tensors.tensor import Doubles, Values

SEGMENT = 1536  # columns that are side by side in an item, if one channel does not have more: they fit the first cache

RUN = 64  # places from which on a plane is mapped by itself, with one factor

WIDE = 1024  # columns of an item of a map: their factors fit the first cache

ITEM = 1 << 17  # values of an item of a map

OPENMP = "numba.np.ufunc.omppool"  # which not every system has

Function = TypeVar("Function", bound=Callable[..., None])


def _compile(function: Function, **options: bool) -> Function:
    """Return the compiled function, which is kept in a cache folder if there is one that can be written."""
    settings = {"nogil": True, "error_model": "numpy", **options}
    try:
        return cast(Function, numba.njit(cache=True, **settings)(function))
    except RuntimeError:  # Numba found no folder for its cache
        return cast(Function, numba.njit(**settings)(function))


def _compile_parallel(function: Function) -> Function:
    return _compile(function, parallel=True)


# --- sums -------------------------------------------------------------------------------------------------------------


@_compile
def _add_values(x, first, step, rows, count, shift, shifted, sums, squares, begin):
    """Add rows of `count` values, `step` apart, and their squares, to the columns from `begin` on; minus shift."""
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


@_compile
def _add_deltas(delta, first, step, x, first_x, step_x, rows, count, shift, shifted, sums, products, begin):
    """Do the same for delta, and for its products with x minus shift."""
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


@_compile
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


class Sizes(NamedTuple):
    """How the sums of a span are cut into items.

    Numba recognises the type of a vector faster than that of a tuple: they are handed over as one.
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


@_compile
def _rows_of(piece, sizes):
    """Return a piece's first image and place, its number of full rows, and the length of a shorter last one."""
    if not sizes.large:
        image = piece * sizes.images_per_piece
        return image, uint64(0), min(sizes.images_per_piece, sizes.images - image), uint64(0)
    image, place = piece // sizes.pieces_per_plane, piece % sizes.pieces_per_plane * sizes.places_per_piece
    length = min(sizes.places_per_piece, sizes.places - place)
    return image, place, length // sizes.columns, length % sizes.columns


@_compile
def _sum_piece(delta, strides, x, strides_x, of_delta, channel, piece, width, sizes, shifts, shifted, sums, products):
    """Fill the columns of a piece of `width` channels: those of x, or of delta; shift is that of each column."""
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
                _add_deltas(delta, first, step, x, first_x, step_x, height, count, shifts, shifted, sums, products, begin)
            else:
                _add_values(x, first_x, step_x, height, count, shifts, shifted, sums, products, begin)
        at, at_x = at + rows * step, at_x + rows * step_x


@_compile
def _sum_items(x, delta, numbers, shift, moments, with_delta, out, begin, end):
    """Write the sums of the items from `begin` to before `end`; `numbers` are the strides of both, and `Sizes`."""
    n = numbers
    strides_x, strides = (n[0], n[1], n[2]), (n[3], n[4], n[5])
    sizes = Sizes(n[6], n[7], n[8], n[9], n[10], n[11], n[12], n[13], n[14], n[15], n[16])
    size = sizes.columns * sizes.width
    shifts, sums, products = np.empty(size), np.empty(size), np.empty(size)
    shifted = np.any(shift)
    for item in range(begin, end):
        piece, channel = item % sizes.pieces, item // sizes.pieces * sizes.width
        width = min(sizes.width, sizes.channels - channel)
        step, channel_step = (width, uint64(1)) if sizes.interleaved else (uint64(1), sizes.columns)
        for c in range(width):
            for j in range(channel_step):
                shifts[c * channel_step + j] = shift[channel + c]
        row = uint64(0)
        for of_delta in range(2):
            if with_delta if of_delta else moments:
                sums[:] = 0
                products[:] = 0
                _sum_piece(delta, strides, x, strides_x, of_delta, channel, piece, width, sizes, shifts, shifted, sums, products)
                for c in range(width):
                    out[row, channel + c, piece] = _halve(sums, c * channel_step, step, sizes.columns)
                    out[row + uint64(1), channel + c, piece] = _halve(products, c * channel_step, step, sizes.columns)
                row += uint64(2)


@_compile_parallel
def _sum_shared(x, delta, numbers, shift, moments, with_delta, out, items, threads):
    """Do the same for all items, with so many threads."""
    for thread in prange(threads):
        begin, end = uint64(thread) * items // threads, (uint64(thread) + uint64(1)) * items // threads
        _sum_items(x, delta, numbers, shift, moments, with_delta, out, begin, end)


# --- maps -------------------------------------------------------------------------------------------------------------


class Grid(NamedTuple):
    """How a map of a span is cut into items.

    Rows are images, or with channels last places, of `columns` values side by side, those of channel j // repeat in
    column j; an item is `height` rows of `width` columns. Where `width` is 0, rows are planes, `repeat` of each image,
    and an item is `height` places of one, whose values have the same factors.
    """

    rows: Any
    columns: Any
    repeat: Any
    height: Any
    width: Any
    across: Any  # items side by side


@_compile
def _map_rows(x, first_x, delta, first, with_delta, out, first_out, rows, count, steps, factors, shifted):
    """Map rows of `count` values; each column has its own factors."""
    shift, gain, slope, constant = factors[0], factors[1], factors[2], factors[3]
    for _ in range(rows):
        if with_delta:
            for j in range(count):
                value = np.float64(x[first_x + j])
                if shifted:  # the compiler makes two loops of this one
                    value = value - shift[j]
                out[first_out + j] = value * gain[j] + np.float64(delta[first + j]) * slope[j] + constant[j]
        else:
            for j in range(count):
                value = np.float64(x[first_x + j])
                if shifted:
                    value = value - shift[j]
                out[first_out + j] = value * gain[j] + constant[j]
        first_x, first, first_out = first_x + steps[0], first + steps[1], first_out + steps[2]


@_compile
def _map_tile(x, steps_x, delta, steps, with_delta, out, steps_out, grid, vectors, item, factors, shifted):
    """Write the item of a map whose rows hold several channels."""
    row, column = item // grid.across * grid.height, item % grid.across * grid.width
    rows, count = min(grid.height, grid.rows - row), min(grid.width, grid.columns - column)
    for k in range(4):
        for c in range(count // grid.repeat):
            value = vectors[k, column // grid.repeat + c]
            for j in range(grid.repeat):
                factors[k, c * grid.repeat + j] = value
    first_x, first, first_out = row * steps_x[0] + column, row * steps[0] + column, row * steps_out[0] + column
    all_steps = steps_x[0], steps[0], steps_out[0]
    _map_rows(x, first_x, delta, first, with_delta, out, first_out, rows, count, all_steps, factors, shifted)


@_compile
def _map_parts(x, steps_x, delta, steps, with_delta, out, steps_out, grid, vectors, begin, end):
    """Write the items of a map whose rows are planes: without a call for each, which would cost as much as a plane."""
    for item in range(begin, end):
        plane, place = item // grid.across, item % grid.across * grid.height
        image, channel, count = plane // grid.repeat, plane % grid.repeat, min(grid.height, grid.columns - place)
        shift, gain, slope, constant = vectors[0, channel], vectors[1, channel], vectors[2, channel], vectors[3, channel]
        first_x = image * steps_x[0] + channel * steps_x[1] + place
        first = image * steps[0] + channel * steps[1] + place
        first_out = image * steps_out[0] + channel * steps_out[1] + place
        if with_delta:
            for j in range(count):
                value = (np.float64(x[first_x + j]) - shift) * gain
                out[first_out + j] = value + np.float64(delta[first + j]) * slope + constant
        else:
            for j in range(count):
                out[first_out + j] = (np.float64(x[first_x + j]) - shift) * gain + constant


@_compile
def _map_items(x, delta, numbers, with_delta, out, vectors, begin, end):
    """Write the items from `begin` to before `end`.

    `numbers` are the steps from row to row, and from channel to channel of a plane, of x, delta and out, and a `Grid`;
    `vectors` are shift and the map's factors, shape (4, c).
    """
    n = numbers
    steps_x, steps, steps_out = (n[0], n[1]), (n[2], n[3]), (n[4], n[5])
    grid = Grid(n[6], n[7], n[8], n[9], n[10], n[11])
    if not grid.width:
        _map_parts(x, steps_x, delta, steps, with_delta, out, steps_out, grid, vectors, begin, end)
        return
    factors, shifted = np.empty((4, grid.width)), np.any(vectors[0])
    for item in range(begin, end):
        _map_tile(x, steps_x, delta, steps, with_delta, out, steps_out, grid, vectors, item, factors, shifted)


@_compile_parallel
def _map_shared(x, delta, numbers, with_delta, out, vectors, items, threads):
    """Write all items, with so many threads."""
    for thread in prange(threads):
        begin, end = uint64(thread) * items // threads, (uint64(thread) + uint64(1)) * items // threads
        _map_items(x, delta, numbers, with_delta, out, vectors, begin, end)


# --- the engine -------------------------------------------------------------------------------------------------------


def _memory(values: Values, *, writeable: bool = False) -> Values:
    """Return the contiguous memory that values (n, c, l) lie in, as a vector.

    What is only read is made read-only, always, so that the code is compiled once.
    """
    ordered = values.transpose(0, 2, 1) if _interleaved(values) else values
    if ordered.flags.c_contiguous:
        memory = ordered.reshape(-1)  # much faster than as_strided
        memory.flags.writeable = writeable
        return memory
    steps = _steps(values)
    length = sum((size - 1) * step for size, step in zip(values.shape, steps, strict=True)) + 1
    return as_strided(values, (length,), (values.itemsize,), writeable=writeable)


def _steps(values: Values) -> list[int]:
    """Return the strides of the axes, counted in values."""
    return [stride // values.itemsize for stride in values.strides]


class CompiledKernels:
    """The kernels of Numba; each call shares its work among `threads` threads of Numba's own."""

    dtypes = "fd"  # without float16, of which processors have no arithmetic

    def __init__(self, threads: int = 1) -> None:
        self.threads = threads

    def shared(self, threads: int) -> CompiledKernels | None:
        """Return kernels that share the work of a call among so many threads; None if Numba cannot do so here."""
        return CompiledKernels(threads) if _has_openmp() and not _FORKED else None

    def sum_span(
        self,
        x: Values,
        delta: Values | None,
        shift: Vector,
        scratch: Scratch,
        out: Doubles,
        *,
        moments: bool,
        grouping: Grouping,
    ) -> None:
        """Write the sums of each piece into `out`, as `kernels.sum_span` does."""
        sizes = _sizes(x, grouping, out.shape[2])
        items = out.shape[2] * -(-x.shape[1] // int(sizes.width))
        other = x if delta is None else delta
        numbers = np.array([*_steps(x), *_steps(other), *sizes], np.uint64)
        sums = np.empty(out.shape)  # always contiguous, so that the code is compiled once
        arguments = (_memory(x), _memory(other), numbers, shift, moments, delta is not None, sums)
        self._run(_sum_items, _sum_shared, arguments, items)
        out[:] = sums

    def map_span(
        self,
        maps: Mapping[str, ChannelMap],
        x: Values,
        delta: Values | None,
        shift: Vector,
        scratch: Scratch,
        outputs: Mapping[str, Values],
    ) -> None:
        """Write each output, as `kernels.map_span` does."""
        grid, items = _grid(x)
        axis = 2 if _interleaved(x) and x.shape[2] > 1 else 0  # along which rows follow one another
        for name, out in outputs.items():
            gain, slope, constant = maps[name]
            other = x if delta is None or slope is None else delta
            steps = [step for values in (x, other, out) for step in (_steps(values)[axis], _steps(values)[1])]
            numbers = np.array([*steps, *grid], np.uint64)
            vectors = np.array([shift, gain, gain if slope is None else slope, constant])
            arguments = (_memory(x), _memory(other), numbers, slope is not None, _memory(out, writeable=True), vectors)
            self._run(_map_items, _map_shared, arguments, items)

    def _run(
        self, one: Callable[..., None], shared: Callable[..., None], arguments: tuple[Any, ...], items: int
    ) -> None:
        if self.threads > 1:
            shared(*arguments, np.uint64(items), np.uint64(min(self.threads, items)))
        else:
            one(*arguments, np.uint64(0), np.uint64(items))


def _interleaved(x: Values) -> bool:
    """True if the channels of one place are side by side; a single place of each channel is taken for that, too."""
    return x.shape[2] == 1 or x.strides[2] > x.itemsize


def _sizes(x: Values, grouping: Grouping, pieces: int) -> Sizes:
    """Return how the sums of values (n, c, l) are cut into items."""
    large, interleaved = grouping.places > PLANE, _interleaved(x)
    columns = grouping.columns
    if interleaved:
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
        interleaved=interleaved,
        width=min(width, x.shape[1]),
    )


def _grid(x: Values) -> tuple[Grid, int]:
    """Return how a map of values (n, c, l) is cut into items, and their number."""
    images, channels, places = x.shape
    if not _interleaved(x) and places >= RUN:
        across = -(-places // ITEM)
        sizes = {"rows": images * channels, "columns": places, "repeat": channels, "height": ITEM, "width": 0}
        return Grid(across=across, **sizes), images * channels * across
    rows, repeat = (images * places, 1) if _interleaved(x) else (images, places)
    width = min(max(WIDE // repeat, 1) * repeat, channels * repeat)
    height, across = max(ITEM // width, 1), -(-channels * repeat // width)
    sizes = {"rows": rows, "columns": channels * repeat, "repeat": repeat, "height": height, "width": width}
    return Grid(across=across, **sizes), -(-rows // height) * across


_FORKED = False  # GNU's OpenMP ends a process that uses it after a fork of one that did


def _after_fork() -> None:
    global _FORKED
    _FORKED = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@cache
def _has_openmp() -> bool:
    """Return True if Numba has threads that several callers may use at a time: OpenMP."""
    from numba.core import config

    return config.THREADING_LAYER in ("default", "omp", "threadsafe") and bool(find_spec(OPENMP))
