"""How a tensor is cut into tiles and blocks, and how the values of a channel are grouped for summation.

Words, each with one meaning:

    place   one spatial position of an image; a plane is all places of one image and channel, H·W of them
    value   of one channel, numbered i = image · places + place
    row     values that are summed first: RUN places of a plane, or whole images where planes have fewer than ROW places
    piece   rows that are summed next; the sums of all pieces are added last. About PIECE values
    tile    what is in memory at a time: cut between pieces, as large as the memory budget allows
    block   what one thread works on: cut between rows of a tile, so that its values are contiguous in memory

The grouping depends only on the number of places. Tiles and blocks depend on memory, threads and layout, but never
divide a piece or a row. That is why none of these changes a bit of the sums.

    plane                     1x1            13x13            208x208
    places                    1              169              43264
    images_per_row            256            1                1
    rows_per_plane            1              1                169
    rows_per_piece            16             24               16, and 9 at the end of a plane
    images_per_piece          4096           24               1

    13x13     image   |   0   |   1   | ... |  23   |  24   | ...
              row     |   0   |   1   | ... |  23   |  24   | ...          a row is a plane: 169 values
              piece   |               0             |   1 ...               24 rows: 4056 values

    208x208   image   |                    0                       |   1 ...
              row     |   0   |   1   | ... |  15   |  16   | ... | 168 | 169 ...    256 values each
              piece   |               0             |   1 ...  |  10    |  11 ...    16 rows: 4096 values
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bnorm.tensors.tensor import Extent, Span

ROW = 64  # places from which on a plane has rows of its own

RUN = 256  # values in a row: NumPy releases the interpreter's lock only for more than 500 dot products at a time

PIECE = 16 * RUN  # values in a piece

BLOCK = 1 << 19  # largest number of values in a block: smaller blocks wait longer for the interpreter's lock

BLOCKS = 1 << 22  # largest number of values in the blocks of all threads together

LONG = 1024  # length of a contiguous run from which on the gaps between runs cost little


@dataclass(frozen=True, slots=True)
class RowScheme:
    """The rows and pieces of a channel whose images have so many places."""

    places: int

    @property
    def images_per_row(self) -> int:
        """Return the number of whole images in a row, or 1 where an image has one row or more."""
        return 1 if self.places >= ROW else RUN // self.places

    @property
    def rows_per_plane(self) -> int:
        """Return the number of rows in a plane, or 1 where several images make a row."""
        return -(-self.places // RUN)

    @property
    def rows_per_piece(self) -> int:
        """Return the number of rows in a piece; the last piece of a large plane, and of a channel, may have fewer."""
        if self.places > PIECE:
            return PIECE // RUN
        return max(PIECE // (self.places * self.images_per_row), 1) * self.rows_per_plane

    @property
    def images_per_piece(self) -> int:
        """Return the number of whole images in a piece, or 1 where an image has one piece or more."""
        return 1 if self.places > PIECE else self.rows_per_piece // self.rows_per_plane * self.images_per_row

    def row_of(self, value: int) -> int:
        """Return the number of the row that a value is in."""
        image, place = divmod(value, self.places)
        return image // self.images_per_row * self.rows_per_plane + place // RUN

    def rows(self, span: Span) -> tuple[int, int]:
        """Return the first row of a span, and the one after its last."""
        return self.row_of(span.start), self.row_of(span.stop - 1) + 1

    def piece_starts(self, first: int, last: int) -> NDArray[np.intp]:
        """Return the rows from `first` to before `last` that begin a piece, counted from `first`, which begins one."""
        if self.places <= PIECE:
            return np.arange(0, last - first, self.rows_per_piece)
        rows_in_plane = np.arange(first, last) % self.rows_per_plane  # no piece crosses the end of a plane
        return np.flatnonzero(rows_in_plane % self.rows_per_piece == 0)


def tiles(extent: Extent, most: int) -> list[list[Span]]:
    """Return tiles of about `most` values that cover a tensor: one list for each group of channels.

    A tile holds whole channels if they fit and are not scattered in memory, else as many channels as fit.
    """
    scheme, places = RowScheme(extent.places), extent.places
    per_channel = extent.images * places
    scattered = extent.channels_last or most // per_channel * places < LONG
    least = min(scheme.images_per_piece * min(places, PIECE), per_channel) if scattered else per_channel
    return _grid(extent, most, least, image_step=scheme.images_per_piece, place_step=PIECE)


def blocks(tile: Extent, scheme: RowScheme, threads: int) -> list[Span]:
    """Return blocks that cover a tile, counted from its beginning.

    There are about two for each thread, where the tile has enough rows, so that none waits long for the last one.
    """
    share = tile.channels * tile.images * tile.places // (2 * threads)
    most = max(min(BLOCK, BLOCKS // threads, share), 1)
    least = min(scheme.images_per_row, tile.images) * (min(tile.places, RUN) if tile.channels_last else tile.places)
    groups = _grid(tile, most, least, image_step=scheme.images_per_row, place_step=RUN)
    return [span for group in groups for span in group]


def _grid(extent: Extent, most: int, least: int, *, image_step: int, place_step: int) -> list[list[Span]]:
    """Return spans of up to `most` values, a list per group of channels: as many as fit with `least` values of each."""
    width = _even(extent.channels, most // least, 1)
    cuts = list(_cuts(extent, max(most // width, 1), image_step, place_step))
    return [
        [Span(first, min(first + width, extent.channels), start, stop) for start, stop in cuts]
        for first in range(0, extent.channels, width)
    ]


def _cuts(extent: Extent, most: int, image_step: int, place_step: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges of values that are whole images of about `most` values together, or parts of one image."""
    images, places = extent.images, extent.places
    if places <= max(most, place_step):
        step = _even(images, most // places, image_step)
        for image in range(0, images, step):
            yield image * places, min(image + step, images) * places
        return
    step = _even(places, most, place_step)
    for first in range(0, images * places, places):
        for place in range(0, places, step):
            yield first + place, first + min(place + step, places)


def _even(total: int, most: int, step: int) -> int:
    """Return the size, in whole steps, of nearly equal parts of `total` that exceed `most` by less than a step."""
    count = -(-total // max(most // step * step, step))
    return -(-total // (count * step)) * step
