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

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from bnorm.errors import TensorError
from bnorm.files import naming, read_at, write_at

Values = NDArray[np.floating]

Doubles = NDArray[np.float64]


class Span(NamedTuple):
    """Some channels, and some of their values by number: whole images, or a part of one."""

    first: int
    last: int
    start: int
    stop: int

    @property
    def channels(self) -> slice:
        """The channels."""
        return slice(self.first, self.last)

    def part(self, span: Span) -> Span:
        """A span that is counted from this one's beginning."""
        return Span(self.first + span.first, self.first + span.last, self.start + span.start, self.start + span.stop)


class Extent(Protocol):
    """How many values a tensor has, and how they lie."""

    @property
    def images(self) -> int:
        """N."""

    @property
    def channels(self) -> int:
        """C."""

    @property
    def places(self) -> int:
        """L."""

    @property
    def channels_last(self) -> bool:
        """Whether the channels of one place lie together."""


class View(NamedTuple):
    """An array of shape (N, C, L) to work on, and whether its channels stand last in memory."""

    array: Values
    channels_last: bool

    @property
    def images(self) -> int:
        """N."""
        return int(self.array.shape[0])

    @property
    def channels(self) -> int:
        """C."""
        return int(self.array.shape[1])

    @property
    def places(self) -> int:
        """L."""
        return int(self.array.shape[2])

    def part(self, span: Span) -> Values:
        """The span's values, (n, c, l)."""
        image, place = divmod(span.start, self.places)
        if place or span.stop - span.start < self.places:
            return self.array[image : image + 1, span.channels, place : place + span.stop - span.start]
        return self.array[image : span.stop // self.places, span.channels]


DType = np.dtype[np.floating]

LAYOUTS = ("nchw", "nhwc")

Transfer = Callable[[BinaryIO, memoryview, int], int]  # read_at and write_at


class Geometry(NamedTuple):
    """How a shape lies in memory: (N, C, L) channels apart, or (N, L, C) channels last."""

    images: int
    channels: int
    places: int
    channels_last: bool

    @classmethod
    def of(cls, shape: tuple[int, ...], layout: str) -> Geometry:
        """ValueError for a shape that is no tensor."""
        if not 2 <= len(shape) <= 4 or 0 in shape:
            raise ValueError("2 to 4 dimensions, none of them 0")
        images = shape[0] if len(shape) != 3 else 1
        rest = shape if len(shape) == 3 else shape[1:]
        channels = rest[-1] if layout == "nhwc" else rest[0]
        places = prod(rest) // channels
        if channels == 1:  # both layouts are the same then, and all images one
            return cls(1, 1, images * places, False)
        return cls(images, channels, places, layout == "nhwc" and places > 1)


class Tensor:
    """A tensor of a shape and layout; where its values are, the two subclasses know."""

    def __init__(self, shape: tuple[int, ...], dtype: DType, layout: str = "nchw") -> None:
        self.shape, self.dtype, self.layout = shape, dtype, layout
        self.geometry = Geometry.of(shape, layout)

    @property
    def images(self) -> int:
        """N."""
        return self.geometry.images

    @property
    def channels(self) -> int:
        """C."""
        return self.geometry.channels

    @property
    def places(self) -> int:
        """L."""
        return self.geometry.places

    @property
    def length(self) -> int:
        """M = N·L, the number of values of a channel."""
        return self.images * self.places

    @property
    def channels_last(self) -> bool:
        """Whether the channels of one place lie together."""
        return self.geometry.channels_last

    def room(self, span: Span) -> View:
        """Where the span's values are, or room for them, valid until the next call."""
        raise NotImplementedError

    def read(self, span: Span, values: Values) -> None:
        """Fill the span's part of the room. Threads may read and write different spans at a time."""
        raise NotImplementedError

    def write(self, span: Span, values: Values) -> None:
        """Keep the span's part of the room."""
        raise NotImplementedError


def as_view(values: Values, images: int, channels: int, places: int, channels_last: bool) -> View:
    """Values in C order as (N, C, L), whichever of the axes stands last in memory."""
    if channels_last:
        return View(values.reshape(images, places, channels).transpose(0, 2, 1), True)
    return View(values.reshape(images, channels, places), False)


class MemoryTensor(Tensor):
    """A NumPy array, worked on where it is; it must be in C order."""

    def __init__(self, array: Values, layout: str = "nchw") -> None:
        super().__init__(array.shape, array.dtype, layout)
        self.view = as_view(array, *self.geometry)

    def room(self, span: Span) -> View:
        return self.view._replace(array=self.view.part(span))

    def read(self, span: Span, values: Values) -> None:
        """The values are in their places already."""

    write = read


def buffer_view(buffer: Values, span: Span, tensor: Tensor) -> View:
    """A buffer as the room for a span of the tensor: whole images, or a part of one."""
    length, places = span.stop - span.start, tensor.places
    images = length // places or 1
    return as_view(buffer, images, span.last - span.first, length // images, tensor.channels_last)


class FileTensor(Tensor):
    """Values in a file, from `offset` on: close it, or use it in a `with` statement."""

    def __init__(
        self, path: Path, file: BinaryIO, offset: int, shape: tuple[int, ...], dtype: DType, layout: str = "nchw"
    ) -> None:
        super().__init__(shape, dtype, layout)
        self.path, self.file, self.offset = path, file, offset
        self._buffer = np.empty(0, dtype)

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def room(self, span: Span) -> View:
        size = (span.stop - span.start) * (span.last - span.first)
        if self._buffer.size < size:
            self._buffer = np.empty(size, self.dtype)
        return buffer_view(self._buffer[:size], span, self)

    def read(self, span: Span, values: Values) -> None:
        for at, run in self._runs(span, values):
            self._transfer(at, run, read_at)

    def write(self, span: Span, values: Values) -> None:
        for at, run in self._runs(span, values):
            self._transfer(at, run, write_at)

    def _runs(self, span: Span, array: Values) -> Iterator[tuple[int, Values]]:
        """Where each run of values that lie together begins in the file, counted in values, and its part of `array`."""
        _, channels, places, last = self.geometry
        image, place = divmod(span.start, places)
        if last:
            rows = array.transpose(0, 2, 1).reshape(-1, array.shape[1])  # a row per place
            if array.shape[1] == channels:
                yield span.start * channels, rows
            else:
                yield from (((span.start + row) * channels + span.first, run) for row, run in enumerate(rows))
        elif array.shape[1:] == (channels, places):
            yield span.start * channels, array
        elif array.shape[2] == places:
            for number, run in enumerate(array, image):
                yield (number * channels + span.first) * places, run
        else:
            for channel, run in enumerate(array[0], span.first):
                yield (image * channels + channel) * places + place, run

    def _transfer(self, at: int, values: Values, move: Transfer) -> None:
        """Move all of the bytes between the file and the values."""
        data = np.frombuffer(values, np.uint8).data  # which refuses values that do not lie together
        done = 0
        while done < data.nbytes:
            with naming(self.path):
                moved = move(self.file, data[done:], self.offset + at * self.dtype.itemsize + done)
            if moved == 0:
                raise TensorError(self.path, "ended while it was read", cause="another program cut the file")
            done += moved


@contextmanager
def _kept(file: BinaryIO) -> Iterator[BinaryIO]:
    """A file that is closed only where an error comes between."""
    try:
        yield file
    except BaseException:
        file.close()
        raise


def _checked(path: Path, file: BinaryIO, offset: int, shape: tuple[int, ...], dtype: DType, layout: str) -> FileTensor:
    """The tensor, if its shape is one and the file has exactly its size."""
    try:
        tensor = FileTensor(path, file, offset, shape, dtype, layout)
    except ValueError as error:
        raise TensorError(path, f"has the shape {shape}, expected {error}") from None
    expected, got = prod(shape) * dtype.itemsize, os.fstat(file.fileno()).st_size - offset
    if expected > got or (offset == 0 and expected != got):
        raise TensorError(path, f"has the shape {shape}, expected {expected:,} bytes of values, got {got:,}")
    return tensor
