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

import importlib
import os
from collections.abc import Callable, Mapping
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

SEGMENT = 1024  # columns that are side by side in an item, if one channel does not have more

RUN = 256  # values side by side that are worth a loop of their own

ITEM = 1 << 14  # values of an item of a map

Function = TypeVar("Function", bound=Callable[..., None])

Fields = TypeVar("Fields", bound=NamedTuple)


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
def _add_values(x, first, step, rows, count, shift, sums, squares, begin):  # type: ignore[no-untyped-def]
    """Add rows of `count` values, `step` apart, minus shift, and their squares, to the columns from `begin` on."""
    while rows >= uint64(4):
        second = first + step
        third = second + step
        fourth = third + step
        for j in range(count):
            a, b = np.float64(x[first + j]) - shift[j], np.float64(x[second + j]) - shift[j]
            c, d = np.float64(x[third + j]) - shift[j], np.float64(x[fourth + j]) - shift[j]
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
def _add_deltas(delta, first, step, x, first_x, step_x, rows, count, shift, sums, products, begin):  # type: ignore[no-untyped-def]
    """Do the same for delta, and for its products with x minus shift."""
    while rows >= uint64(4):
        second, second_x = first + step, first_x + step_x
        third, third_x = second + step, second_x + step_x
        fourth, fourth_x = third + step, third_x + step_x
        for j in range(count):
            a, b = np.float64(delta[first + j]), np.float64(delta[second + j])
            c, d = np.float64(delta[third + j]), np.float64(delta[fourth + j])
            sums[begin + j] = sums[begin + j] + a + b + c + d
            products[begin + j] = (
                products[begin + j]
                + a * (np.float64(x[first_x + j]) - shift[j])
                + b * (np.float64(x[second_x + j]) - shift[j])
                + c * (np.float64(x[third_x + j]) - shift[j])
                + d * (np.float64(x[fourth_x + j]) - shift[j])
            )
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
def _halve(values, first, step, count):  # type: ignore[no-untyped-def]
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
    """How the sums of a span are cut into items; all of them unsigned, for the compiled code."""

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
def _rows_of(piece, sizes):  # type: ignore[no-untyped-def]
    """Return a piece's first image and place, its number of full rows, and the length of a shorter last one."""
    if not sizes.large:
        image = piece * sizes.images_per_piece
        return image, uint64(0), min(sizes.images_per_piece, sizes.images - image), uint64(0)
    image, place = piece // sizes.pieces_per_plane, piece % sizes.pieces_per_plane * sizes.places_per_piece
    length = min(sizes.places_per_piece, sizes.places - place)
    return image, place, length // sizes.columns, length % sizes.columns


@_compile
def _sum_piece(delta, strides, x, strides_x, of_delta, channel, piece, width, sizes, shifts, sums, products):  # type: ignore[no-untyped-def]
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
                _add_deltas(delta, first, step, x, first_x, step_x, height, count, shifts, sums, products, begin)
            else:
                _add_values(x, first_x, step_x, height, count, shifts, sums, products, begin)
        at, at_x = at + rows * step, at_x + rows * step_x


@_compile
def _sum_items(x, strides_x, delta, strides, shift, sizes, moments, with_delta, out, begin, end):  # type: ignore[no-untyped-def]
    """Write the sums of the items from `begin` to before `end`."""
    size = sizes.columns * sizes.width
    shifts, sums, products = np.empty(size), np.empty(size), np.empty(size)
    for item in range(begin, end):
        piece, channel = item % sizes.pieces, item // sizes.pieces * sizes.width
        width = min(sizes.width, sizes.channels - channel)
        step, channel_step = (width, uint64(1)) if sizes.interleaved else (uint64(1), sizes.columns)
        for j in range(width if sizes.interleaved else width * sizes.columns):
            shifts[j] = shift[channel + j // channel_step]
        row = uint64(0)
        for of_delta in range(2):
            if with_delta if of_delta else moments:
                sums[:] = 0
                products[:] = 0
                _sum_piece(
                    delta, strides, x, strides_x, of_delta, channel, piece, width, sizes, shifts, sums, products
                )
                for c in range(width):
                    out[row, channel + c, piece] = _halve(sums, c * channel_step, step, sizes.columns)
                    out[row + uint64(1), channel + c, piece] = _halve(products, c * channel_step, step, sizes.columns)
                row += uint64(2)


@_compile_parallel
def _sum_shared(x, strides_x, delta, strides, shift, sizes, moments, with_delta, out, items, threads):  # type: ignore[no-untyped-def]
    """Do the same for all items, with so many threads."""
    for thread in prange(threads):
        begin, end = uint64(thread) * items // threads, (uint64(thread) + uint64(1)) * items // threads
        _sum_items(x, strides_x, delta, strides, shift, sizes, moments, with_delta, out, begin, end)


# --- maps -------------------------------------------------------------------------------------------------------------


class Grid(NamedTuple):
    """How a map of a span is cut into items; all of them unsigned, for the compiled code.

    Rows are images, or with channels last places. They lie `step` apart and have `columns` values side by side, those
    of channel j // repeat in column j. An item is `height` rows of `width` columns. Without `width`, an item is a part
    of one plane, of `height` places: its values have the same factors.
    """

    rows: Any
    columns: Any
    repeat: Any
    height: Any
    width: Any
    across: Any  # items side by side


@_compile
def _map_plane(x, first_x, delta, first, with_delta, out, first_out, count, factors):  # type: ignore[no-untyped-def]
    """Map `count` values that share their factors: shift, that of x, that of delta, constant."""
    shift, gain, slope, constant = factors
    if with_delta:
        for j in range(count):
            value = (np.float64(x[first_x + j]) - shift) * gain
            out[first_out + j] = value + np.float64(delta[first + j]) * slope + constant
    else:
        for j in range(count):
            out[first_out + j] = (np.float64(x[first_x + j]) - shift) * gain + constant


@_compile
def _map_rows(x, first_x, delta, first, with_delta, out, first_out, rows, count, steps, factors):  # type: ignore[no-untyped-def]
    """Map rows of `count` values; each column has its own factors."""
    shift, gain, slope, constant = factors[0], factors[1], factors[2], factors[3]
    for _ in range(rows):
        if with_delta:
            for j in range(count):
                value = (np.float64(x[first_x + j]) - shift[j]) * gain[j]
                out[first_out + j] = value + np.float64(delta[first + j]) * slope[j] + constant[j]
        else:
            for j in range(count):
                out[first_out + j] = (np.float64(x[first_x + j]) - shift[j]) * gain[j] + constant[j]
        first_x, first, first_out = first_x + steps[0], first + steps[1], first_out + steps[2]


@_compile
def _map_items(x, strides_x, delta, strides, with_delta, out, strides_out, grid, vectors, begin, end):  # type: ignore[no-untyped-def]
    """Write the items from `begin` to before `end`; `vectors` are shift and the map's factors, shape (4, c)."""
    factors = np.empty((4, grid.width))
    steps = strides_x[0], strides[0], strides_out[0]
    for item in range(begin, end):
        row, column = item // grid.across * grid.height, item % grid.across * grid.width
        rows, count = min(grid.height, grid.rows - row), min(grid.width, grid.columns - column)
        for j in range(count):
            for k in range(4):
                factors[k, j] = vectors[k, (column + j) // grid.repeat]
        first_x, first, first_out = row * steps[0] + column, row * steps[1] + column, row * steps[2] + column
        _map_rows(x, first_x, delta, first, with_delta, out, first_out, rows, count, steps, factors)


@_compile
def _map_planes(x, strides_x, delta, strides, with_delta, out, strides_out, grid, vectors, begin, end):  # type: ignore[no-untyped-def]
    """Do the same where an item is `height` places of one plane; `rows` planes of `columns` places, `repeat` channels."""
    for item in range(begin, end):
        plane, place = item // grid.across, item % grid.across * grid.height
        image, channel = plane // grid.repeat, plane % grid.repeat
        first_x = image * strides_x[0] + channel * strides_x[1] + place
        first = image * strides[0] + channel * strides[1] + place
        first_out = image * strides_out[0] + channel * strides_out[1] + place
        factors = vectors[0, channel], vectors[1, channel], vectors[2, channel], vectors[3, channel]
        count = min(grid.height, grid.columns - place)
        _map_plane(x, first_x, delta, first, with_delta, out, first_out, count, factors)


@_compile
def _map_any(x, strides_x, delta, strides, with_delta, out, strides_out, grid, vectors, begin, end):  # type: ignore[no-untyped-def]
    """Write items of either kind."""
    if grid.width:
        _map_items(x, strides_x, delta, strides, with_delta, out, strides_out, grid, vectors, begin, end)
    else:
        _map_planes(x, strides_x, delta, strides, with_delta, out, strides_out, grid, vectors, begin, end)


@_compile_parallel
def _map_shared(x, strides_x, delta, strides, with_delta, out, strides_out, grid, vectors, items, threads):  # type: ignore[no-untyped-def]
    """Write all items, with so many threads."""
    for thread in prange(threads):
        begin, end = uint64(thread) * items // threads, (uint64(thread) + uint64(1)) * items // threads
        _map_any(x, strides_x, delta, strides, with_delta, out, strides_out, grid, vectors, begin, end)


# --- the engine -------------------------------------------------------------------------------------------------------


class _Flat(NamedTuple):
    """Values (n, c, l) as the contiguous memory that they lie in, and the strides of their axes, counted in values."""

    memory: Values
    strides: tuple[np.uint64, ...]


def _flat(values: Values, *, writeable: bool = False) -> _Flat:
    strides = [stride // values.itemsize for stride in values.strides]
    length = sum((size - 1) * stride for size, stride in zip(values.shape, strides, strict=True)) + 1
    memory = as_strided(values, (length,), (values.itemsize,), writeable=writeable)
    return _Flat(memory, tuple(map(np.uint64, strides)))


def _unsigned(fields: type[Fields], **values: int) -> Fields:
    """Return a tuple of unsigned numbers."""
    return fields(**{name: np.uint64(value) for name, value in values.items()})


class CompiledKernels:
    """The kernels of Numba; each call shares its work among `threads` threads of Numba's own."""

    dtypes = ("float32", "float64")  # processors have no arithmetic of float16: NumPy's conversions are used

    def __init__(self, threads: int = 1) -> None:
        self.threads = threads

    def shared(self, threads: int) -> CompiledKernels | None:
        """Return kernels that share the work of a call among so many threads; None if Numba cannot do so here."""
        return CompiledKernels(threads) if _can_share() else None

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
        flat, other = _flat(x), _flat(x if delta is None else delta)
        sums = np.empty(out.shape)  # always contiguous, so that the code is compiled once
        arguments = (*flat, *other, shift, sizes, moments, delta is not None, sums)
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
        for name, out in outputs.items():
            row = maps[name]
            with_delta = delta is not None and row.delta is not None
            vectors = np.stack([shift, row.x, row.x if row.delta is None else row.delta, row.constant])
            arrays = [_flat(x), _flat(delta if with_delta and delta is not None else x), _flat(out, writeable=True)]
            if x.shape[2] > 1 and x.strides[2] > x.itemsize:  # rows are places
                arrays = [flat._replace(strides=flat.strides[2:] * 3) for flat in arrays]
            self._run(_map_any, _map_shared, (*arrays[0], *arrays[1], with_delta, *arrays[2], grid, vectors), items)

    def _run(self, one: Callable[..., None], shared: Callable[..., None], arguments: tuple[Any, ...], items: int) -> None:
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
        width = max(SEGMENT * 8 // columns, 16) if columns > 1 else RUN
    else:
        width = 1 if large else max(SEGMENT // columns, 1)
    return _unsigned(
        Sizes,
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
        return _unsigned(Grid, across=across, **sizes), images * channels * across
    rows, repeat = (images * places, 1) if _interleaved(x) else (images, places)
    width = min(max(SEGMENT // repeat, 1) * repeat, channels * repeat)
    height, across = max(ITEM // width, 1), -(-channels * repeat // width)
    sizes = {"rows": rows, "columns": channels * repeat, "repeat": repeat, "height": height, "width": width}
    return _unsigned(Grid, across=across, **sizes), -(-rows // height) * across


_FORKED = False  # GNU's OpenMP ends a process that uses it after a fork of one that did


def _after_fork() -> None:
    global _FORKED
    _FORKED = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _can_share() -> bool:
    """True if Numba has threads that several callers may use at a time: OpenMP, but not after a fork."""
    if _FORKED:
        return False
    try:
        importlib.import_module("numba.np.ufunc.omppool")
    except ImportError:
        return False
    return numba.config.THREADING_LAYER in ("default", "omp", "threadsafe")
