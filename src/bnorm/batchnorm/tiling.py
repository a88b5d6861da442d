"""Cuts a tensor into tiles and blocks, and fixes the order in which the values of a channel are added.

Terms:

    place   one spatial position of an image; a plane is all places of one image and channel, H·W of them
    value   of one channel, numbered i = image · places + place
    row     values side by side: a plane of up to PLANE places, or WIDTH places of a larger plane (its last row may have
            fewer)
    piece   rows below one another, ROWS at most: images of up to PIECE values together, or PIECE places of one plane
    tile    the part of a tensor in memory at a time: cut between pieces, as large as the memory budget allows
    block   the part of a tile that one thread works on: cut between pieces

A sum is taken in three steps, in float64, each addition rounded:

    1. In a piece, each column is added from top to bottom.
    2. The columns of a piece are added in halves: with h = P/2, P/4, ... 1, P being the number of columns rounded up to
       a power of two, column j + h is added to column j, if there is such a column.
    3. The pieces of a channel are added in their order, beginning with 0.

Rows and pieces depend only on the number of places. Tiles and blocks depend on memory, threads and layout, but never
divide a piece. Every product is rounded before it is added, never fused with the addition. So each sum is the same, to
the last bit, for any memory, threads and layout, on every processor, and with both engines.

    plane                     1x1            13x13            300x300
    places                    1              169              90000
    columns                   1              169              1024
    images_per_piece          256            256              1
    pieces_per_plane          1              1                2

    13x13     step 1   images 0 to 255 are the rows of piece 0:  column j = x[0, j] + x[1, j] + ... + x[255, j]
              step 2   P = 256:  column j += column j + 128 for j < 41 (169 columns are there),  then j + 64 for j < 64,
                       j + 32, ... j + 1:  column 0 is the sum of the piece
              step 3   0 + piece 0 + piece 1 (images 256 to 511) + ...

    300x300   step 1   places 0 to 65535 of image 0 are 64 rows of 1024:  column j = x[0, j] + x[0, 1024 + j] + ...
                       places 65536 to 89999 are 23 rows of 1024 and one of 912, which ends in column 911
              step 2   P = 1024:  column j += column j + 512,  then j + 256, ... j + 1
              step 3   0 + piece 0 + piece 1 (both of image 0) + piece 2 (image 1) + ...
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bnorm.tensors.tensor import Extent, Span

PLANE = 4096  # most places of a plane that is one row

WIDTH = 1024  # places in a row of a larger plane: 4 kB of float32, a page, which the processor prefetches

PIECE = 64 * WIDTH  # values in a piece

ROWS = 256  # most rows in a piece: a block of (N, C) values then holds whole rows of up to 2048 channels

BLOCK = 1 << 19  # largest number of values in a block: smaller blocks wait longer for the interpreter's lock

BLOCKS = 1 << 22  # largest number of values in the blocks of all threads together

LONG = 1024  # values of a contiguous run that is long enough for gaps between runs to cost little


@dataclass(frozen=True, slots=True)
class Grouping:
    """The rows and pieces of a channel whose images have this many places."""

    places: int

    @property
    def columns(self) -> int:
        """Return the number of values in a full row."""
        return self.places if self.places <= PLANE else WIDTH

    @property
    def images_per_piece(self) -> int:
        """Return the number of whole images in a piece, or 1 if an image has one or more pieces."""
        return 1 if self.places > PLANE else min(PIECE // self.places, ROWS)

    @property
    def places_per_piece(self) -> int:
        """Return the number of places of each image in a piece; the last piece of a large plane may have fewer."""
        return min(self.places, PIECE)

    @property
    def piece(self) -> int:
        """Return the number of values in a full piece."""
        return self.images_per_piece * self.places_per_piece

    @property
    def pieces_per_plane(self) -> int:
        """Return the number of pieces in a plane, or 1 where a piece holds whole images."""
        return -(-self.places // self.places_per_piece)

    def piece_of(self, value: int) -> int:
        """Return the number of the piece that a value is in."""
        image, place = divmod(value, self.places)
        return image // self.images_per_piece * self.pieces_per_plane + place // self.places_per_piece

    def pieces(self, span: Span) -> slice:
        """Return the pieces of a span, which begins at the start of a piece."""
        return slice(self.piece_of(span.start), self.piece_of(span.stop - 1) + 1)


def tiles(extent: Extent, most: int) -> list[list[Span]]:
    """Return tiles of about `most` values that cover a tensor: one list for each group of channels.

    A tile holds whole channels if they fit and are not scattered in memory, else pieces of as many channels as fit.
    """
    grouping, whole = Grouping(extent.places), extent.images * extent.places
    scattered = extent.channels_last or most // whole * extent.places < LONG
    return _grid(extent, grouping, most, least=min(grouping.piece, whole) if scattered else whole)


def blocks(tile: Extent, grouping: Grouping, threads: int) -> list[Span]:
    """Return blocks that cover a tile, counted from its beginning.

    Several threads get about two blocks each, if the tile has enough pieces, so that none waits long at the end.
    """
    whole = tile.images * tile.places
    share = tile.channels * whole // (2 * threads if threads > 1 else 1)
    most = max(min(BLOCK, BLOCKS // threads, share), 1)
    least = grouping.piece if tile.channels_last else max(grouping.piece, tile.places)
    return [span for group in _grid(tile, grouping, most, least=min(least, whole)) for span in group]


def _grid(extent: Extent, grouping: Grouping, most: int, *, least: int) -> list[list[Span]]:
    """Return spans of about `most` values, one list per group of channels: as many as fit with `least` values each."""
    width = _even(extent.channels, most // least, 1)
    cuts = list(_cuts(extent, grouping, max(most // width, 1)))
    return [
        [Span(first, min(first + width, extent.channels), start, stop) for start, stop in cuts]
        for first in range(0, extent.channels, width)
    ]


def _cuts(extent: Extent, grouping: Grouping, most: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of about `most` values: whole images, or parts of one image."""
    images, places = extent.images, extent.places
    if places <= max(most, grouping.places_per_piece):
        step = _even(images, most // places, grouping.images_per_piece)
        for image in range(0, images, step):
            yield image * places, min(image + step, images) * places
        return
    step = _even(places, most, grouping.places_per_piece)
    for first in range(0, images * places, places):
        for place in range(0, places, step):
            yield first + place, first + min(place + step, places)


def _even(total: int, most: int, step: int) -> int:
    """Return the size, in whole steps, of nearly equal parts of `total` that exceed `most` by less than a step."""
    count = -(-total // max(most // step * step, step))
    return -(-total // (count * step)) * step
