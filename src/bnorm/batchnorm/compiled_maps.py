# mypy: allow-untyped-defs, allow-untyped-calls
"""Maps of a span, compiled by Numba: each value is loaded, mapped in float64 in a register, and rounded once.

An item is the unit of work: some rows, see `Grid`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from bnorm.batchnorm.compiler import compiled, compiled_parallel, prange, uint64
from bnorm.batchnorm.memory import interleaved
from bnorm.tensors.tensor import Values

RUN = 64  # places from which on a plane is mapped by itself, with one factor

WIDE = 1024  # columns of an item: their factors fit the L1 cache

ITEM = 1 << 17  # values of an item


class Grid(NamedTuple):
    """The sizes by which a map of a span is cut into items.

    A row is an image, or with channels last a place: `columns` values side by side, where column j belongs to channel
    j // repeat. An item is `height` rows of `width` columns. If `width` is 0, a row is a plane, of which an image has
    `repeat`, and an item is `height` places of one plane, which share their factors.
    """

    rows: Any
    columns: Any
    repeat: Any
    height: Any
    width: Any
    down: Any  # items below one another: in the same columns, or of one plane


def grid_of(x: Values) -> tuple[Grid, int]:
    """Return the sizes by which a map of values (n, c, l) is cut into items, and the number of items."""
    images, channels, places = x.shape
    if not interleaved(x) and places >= RUN:
        down = -(-places // ITEM)
        sizes = {"rows": images * channels, "columns": places, "repeat": channels, "height": ITEM, "width": 0}
        return Grid(down=down, **sizes), images * channels * down
    rows, repeat = (images * places, 1) if interleaved(x) else (images, places)
    width = min(max(WIDE // repeat, 1) * repeat, channels * repeat)
    height = max(ITEM // width, 1)
    down = -(-rows // height)
    sizes = {"rows": rows, "columns": channels * repeat, "repeat": repeat, "height": height, "width": width}
    return Grid(down=down, **sizes), down * -(-channels * repeat // width)


@compiled
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


@compiled
def _spread(vectors, first, channels, repeat, factors):
    """Write the shift and the factors of some channels into `factors`, (4, columns), each `repeat` times."""
    for k in range(4):
        for c in range(channels):
            value = vectors[k, first + c]
            for j in range(repeat):
                factors[k, c * repeat + j] = value


@compiled
def _map_rows_of_channels(x, steps_x, delta, steps, with_delta, out, steps_out, grid, vectors, begin, end):
    """Write the items of a map whose rows hold several channels.

    Items are numbered down the rows first: the factors are spread again only when the columns change.
    """
    factors, shifted = np.empty((4, grid.width)), np.any(vectors[0])
    for item in range(begin, end):
        row, column = item % grid.down * grid.height, item // grid.down * grid.width
        rows, count = min(grid.height, grid.rows - row), min(grid.width, grid.columns - column)
        if item == begin or not row:
            _spread(vectors, column // grid.repeat, count // grid.repeat, grid.repeat, factors)
        first_x, first, first_out = row * steps_x[0] + column, row * steps[0] + column, row * steps_out[0] + column
        all_steps = steps_x[0], steps[0], steps_out[0]
        _map_rows(x, first_x, delta, first, with_delta, out, first_out, rows, count, all_steps, factors, shifted)


@compiled
def _map_planes(x, steps_x, delta, steps, with_delta, out, steps_out, grid, vectors, begin, end):
    """Write the items of a map whose rows are planes, without a call or a division for each.

    On a small plane either takes as long as the map itself.
    """
    plane, place = begin // grid.down, begin % grid.down * grid.height
    image, channel = plane // grid.repeat, plane % grid.repeat
    for _ in range(begin, end):
        count = min(grid.height, grid.columns - place)
        shift, gain, slope, constant = (
            vectors[0, channel],
            vectors[1, channel],
            vectors[2, channel],
            vectors[3, channel],
        )
        first_x = image * steps_x[0] + channel * steps_x[1] + place
        first = image * steps[0] + channel * steps[1] + place
        first_out = image * steps_out[0] + channel * steps_out[1] + place
        if with_delta:
            for j in range(count):
                value = np.float64(x[first_x + j])
                if shift != 0.0:  # the compiler makes two loops of this one
                    value = value - shift
                out[first_out + j] = value * gain + np.float64(delta[first + j]) * slope + constant
        else:
            for j in range(count):
                value = np.float64(x[first_x + j])
                if shift != 0.0:
                    value = value - shift
                out[first_out + j] = value * gain + constant
        place += count
        if place == grid.columns:
            place = uint64(0)
            channel += uint64(1)
            if channel == grid.repeat:
                channel = uint64(0)
                image += uint64(1)


@compiled
def map_items(x, delta, numbers, with_delta, out, vectors, begin, end):
    """Write the items from `begin` to before `end`.

    `numbers` are the steps from row to row, and from channel to channel of a plane, of x, delta and out, and a `Grid`;
    `vectors` are shift and the map's factors, shape (4, c).
    """
    n = numbers
    steps_x, steps, steps_out = (n[0], n[1]), (n[2], n[3]), (n[4], n[5])
    grid = Grid(n[6], n[7], n[8], n[9], n[10], n[11])
    if grid.width:
        _map_rows_of_channels(x, steps_x, delta, steps, with_delta, out, steps_out, grid, vectors, begin, end)
    else:
        _map_planes(x, steps_x, delta, steps, with_delta, out, steps_out, grid, vectors, begin, end)


@compiled_parallel
def map_shared(x, delta, numbers, with_delta, out, vectors, items, threads):
    """Write all items, with this many threads."""
    for thread in prange(threads):
        begin, end = uint64(thread) * items // threads, (uint64(thread) + uint64(1)) * items // threads
        map_items(x, delta, numbers, with_delta, out, vectors, begin, end)
