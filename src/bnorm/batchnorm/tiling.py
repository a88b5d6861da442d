"""How a tensor is cut into tiles, blocks, pieces and rows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from bnorm.tensors.tensor import Extent, Span

ROW = 64  # places from which on a plane is summed by itself

RUN = 256  # values in a row: NumPy lets go of the interpreter's lock only for more than 500 dot products at a time

PIECE = 16 * RUN  # values in a piece

BLOCK = 1 << 19  # values of a scratch block at most: fewer mean more waiting for the interpreter's lock

BLOCKS = 1 << 22  # values of the blocks that all threads work on

LONG = 1024  # values that lie together from which on the gaps between them cost little


def together(places: int) -> int:
    """How many images make a row."""
    return 1 if places >= ROW else RUN // places


def runs(places: int) -> int:
    """How many rows a plane makes, or some small planes together."""
    return -(-places // RUN)


def rows(extent: Extent, images: int) -> int:
    """How many rows a channel has, where so many images make one."""
    return -(-extent.images // images) * runs(extent.places)


def row_at(start: int, places: int) -> int:
    """The number of the row that begins with this value."""
    image, place = divmod(start, places)
    return image // together(places) * runs(places) + place // RUN


def piece_images(places: int) -> int:
    """How many images make a piece, where each has no more values than one."""
    return max(PIECE // (places * together(places)), 1) * together(places)


def piece_starts(count: int, places: int, images: int) -> NDArray[np.intp]:
    """The rows that begin a piece, of so many rows, where so many images make one."""
    per_plane = runs(places)
    if places <= PIECE:
        return np.arange(0, count, max(PIECE // (places * images), 1) * per_plane)
    return np.add.outer(np.arange(0, count, per_plane), np.arange(0, per_plane, PIECE // RUN)).reshape(-1)


def tiles(extent: Extent, most: int) -> list[list[Span]]:
    """Cut a tensor between pieces into tiles of about `most` values: a list per group of channels.

    A tile holds whole channels, if they fit and do not lie too scattered; else as many channels as fit.
    """
    places = extent.places
    images, whole = piece_images(places), extent.images * places
    scattered = extent.channels_last or most // whole * places < LONG
    least = min(images * min(places, PIECE), whole) if scattered else whole
    return _plan(extent, most, least, (images, PIECE))


def blocks(extent: Extent, images: int, threads: int) -> list[Span]:
    """Cut a tile between rows into blocks, whose values lie together; so many images make a row.

    There are about two for each thread, where the tile has enough rows, so that none waits long for the last one.
    """
    most = max(min(BLOCK, BLOCKS // threads, extent.channels * extent.images * extent.places // (2 * threads)), 1)
    least = min(images, extent.images) * (min(extent.places, RUN) if extent.channels_last else extent.places)
    return [span for group in _plan(extent, most, least, (images, RUN)) for span in group]


def _plan(extent: Extent, most: int, least: int, steps: tuple[int, int]) -> list[list[Span]]:
    """Spans of as many channels as fit with `least` values of each, and of some steps of images or of places."""
    width = _even(extent.channels, most // least, 1)
    cuts = list(_cuts(extent, max(most // width, 1), steps))
    return [
        [Span(first, min(first + width, extent.channels), start, stop) for start, stop in cuts]
        for first in range(0, extent.channels, width)
    ]


def _cuts(extent: Extent, most: int, steps: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """Cut the values of a channel into images of about `most` values together, or into parts of an image."""
    images, places = extent.images, extent.places
    if places <= max(most, steps[1]):
        step = _even(images, most // places, steps[0])
        for image in range(0, images, step):
            yield image * places, min(image + step, images) * places
        return
    step = _even(places, most, steps[1])
    for first in range(0, images * places, places):
        for place in range(0, places, step):
            yield first + place, first + min(place + step, places)


def _even(total: int, most: int, step: int) -> int:
    """The size, in whole steps, of parts that are about equal and, but for a step, no larger than `most`."""
    count = -(-total // max(most // step * step, step))
    return -(-total // (count * step)) * step
