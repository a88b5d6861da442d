"""Tensors: their order in memory, and tensors in memory or in files of any size.

In a tensor of N images, C channels and L places (H·W), each channel has N·L values, numbered i = n·L + l. The order in
memory is (N, C, L), channels first, or (N, L, C), channels last. Shapes (N, C), (C, H, W) and (N, C, H, W) are
accepted, or (H, W, C) and (N, H, W, C) in the layout "nhwc".
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import lru_cache
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
    """Channels `first` up to `last`, and their values `start` up to `stop`, exclusive: whole images, or part of one."""

    first: int
    last: int
    start: int
    stop: int

    @property
    def channels(self) -> slice:
        """Return the channels as a slice."""
        return slice(self.first, self.last)

    @property
    def size(self) -> int:
        """Return the number of values of all channels."""
        return (self.last - self.first) * (self.stop - self.start)

    def part(self, span: Span) -> Span:
        """Return the span of the tensor for a span that is relative to this one."""
        return Span(self.first + span.first, self.first + span.last, self.start + span.start, self.start + span.stop)


class Extent(Protocol):
    """The sizes of a tensor, and its order in memory."""

    @property
    def images(self) -> int:
        """Return N, the number of images."""

    @property
    def channels(self) -> int:
        """Return C, the number of channels."""

    @property
    def places(self) -> int:
        """Return L, the number of places of an image."""

    @property
    def channels_last(self) -> bool:
        """Return whether the channels of one place are contiguous in memory."""


class View(NamedTuple):
    """An array of shape (N, C, L) to compute with, in either order in memory."""

    array: Values
    channels_last: bool

    @property
    def images(self) -> int:
        """Return N, the number of images."""
        return int(self.array.shape[0])

    @property
    def channels(self) -> int:
        """Return C, the number of channels."""
        return int(self.array.shape[1])

    @property
    def places(self) -> int:
        """Return L, the number of places of an image."""
        return int(self.array.shape[2])

    def part(self, span: Span) -> Values:
        """Return the span's values, shape (n, c, l)."""
        image, place = divmod(span.start, self.places)
        if place or span.stop - span.start < self.places:
            return self.array[image : image + 1, span.channels, place : place + span.stop - span.start]
        return self.array[image : span.stop // self.places, span.channels]


DType = np.dtype[np.floating]

LAYOUTS = ("nchw", "nhwc")

Transfer = Callable[[BinaryIO, memoryview, int], int]  # read_at and write_at


def check_layout(layout: str) -> None:
    """Raise ValueError for a layout that is not in `LAYOUTS`."""
    if layout not in LAYOUTS:
        raise ValueError(f"layout={layout!r}, expected one of {', '.join(LAYOUTS)}")


class Geometry(NamedTuple):
    """The axes of a tensor in memory: (N, C, L), or (N, L, C) with channels last."""

    images: int
    channels: int
    places: int
    channels_last: bool

    @classmethod
    @lru_cache
    def from_shape(cls, shape: tuple[int, ...], layout: str) -> Geometry:
        """Return the axes of a shape; raises ValueError for an unknown layout or an unsupported shape."""
        check_layout(layout)
        if not 2 <= len(shape) <= 4 or 0 in shape:
            raise ValueError("2 to 4 dimensions, none of them 0")
        images = shape[0] if len(shape) != 3 else 1
        rest = shape if len(shape) == 3 else shape[1:]
        channels = rest[-1] if layout == "nhwc" else rest[0]
        places = prod(rest) // channels
        if channels == 1:  # both layouts are then the same, and all images together are contiguous
            return cls(images=1, channels=1, places=images * places, channels_last=False)
        last = layout == "nhwc" and places > 1
        return cls(images=images, channels=channels, places=places, channels_last=last)


class Tensor:
    """A tensor of a shape, dtype and layout; its values are in memory or in a file, depending on the subclass.

    `images`, `channels`, `places` and `channels_last` are those of its `geometry`.
    """

    def __init__(self, shape: tuple[int, ...], dtype: DType, layout: str = "nchw") -> None:
        self.shape, self.dtype, self.layout = shape, dtype, layout
        self.geometry = Geometry.from_shape(shape, layout)
        self.images, self.channels, self.places, self.channels_last = self.geometry

    @property
    def length(self) -> int:
        """Return N·L, the number of values of a channel."""
        return self.images * self.places

    def buffer(self, span: Span) -> View:
        """Return a view of the span, or an empty buffer for it, which the next call reuses."""
        raise NotImplementedError

    def read(self, span: Span, values: Values) -> None:
        """Fill `values`, the span's part of the buffer. Threads may read and write different spans concurrently."""
        raise NotImplementedError

    def write(self, span: Span, values: Values) -> None:
        """Store `values`, the span's part of the buffer."""
        raise NotImplementedError


def as_view(values: Values, images: int, channels: int, places: int, channels_last: bool) -> View:
    """Return a view, shape (N, C, L), of values in C order."""
    if channels_last:
        return View(values.reshape(images, places, channels).transpose(0, 2, 1), True)
    return View(values.reshape(images, channels, places), False)


class MemoryTensor(Tensor):
    """A NumPy array in C order, which is read and written in place."""

    def __init__(self, array: Values, layout: str = "nchw") -> None:
        super().__init__(array.shape, array.dtype, layout)
        self.view = as_view(array, *self.geometry)

    def buffer(self, span: Span) -> View:
        if span.size == self.view.array.size:
            return self.view  # for a small tensor, a part of it would take as long as its values
        return self.view._replace(array=self.view.part(span))

    def read(self, span: Span, values: Values) -> None:
        """Do nothing: the buffer is the array itself."""

    write = read


def buffer_view(buffer: Values, span: Span, tensor: Tensor) -> View:
    """Return a buffer as a view of a span of the tensor: whole images, or part of one."""
    length, places = span.stop - span.start, tensor.places
    images = length // places or 1
    return as_view(buffer, images, span.last - span.first, length // images, tensor.channels_last)


class FileTensor(Tensor):
    """Values in a file, from `offset` (bytes) on: close it, or use it in a `with` statement.

    `buffer` holds the values of one span at a time; `read` and `write` move parts of it from and to the file, one
    system call for each run of contiguous values. They do not use the file's own position, so
    threads may call them concurrently. They raise `TensorError` for a file that ends early, and for a failing device an
    OSError that names the file.
    """

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

    def buffer(self, span: Span) -> View:
        if self._buffer.size < span.size:
            self._buffer = np.empty(span.size, self.dtype)
        return buffer_view(self._buffer[: span.size], span, self)

    def read(self, span: Span, values: Values) -> None:
        for at, run in self._runs(span, values):
            self._transfer(at, run, read_at)

    def write(self, span: Span, values: Values) -> None:
        for at, run in self._runs(span, values):
            self._transfer(at, run, write_at)

    def _runs(self, span: Span, array: Values) -> Iterator[tuple[int, Values]]:
        """Yield each contiguous run: its offset in the file, counted in values, and its part of `array`."""
        _, channels, places, last = self.geometry
        image, place = divmod(span.start, places)
        if last:
            rows = array.transpose(0, 2, 1).reshape(-1, array.shape[1])  # one row per place
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
        """Transfer all of the bytes between the file and the values."""
        data = np.frombuffer(values, np.uint8).data  # raises ValueError unless the values are contiguous
        done = 0
        while done < data.nbytes:
            with naming(self.path):
                moved = move(self.file, data[done:], self.offset + at * self.dtype.itemsize + done)
            if moved == 0:
                raise TensorError(self.path, "ended while it was read", cause="another program cut the file")
            done += moved


def file_tensor(
    path: Path, file: BinaryIO, offset: int, shape: tuple[int, ...], dtype: DType, layout: str
) -> FileTensor:
    """Return the tensor of an open file; raises `TensorError` for a bad shape, or a file whose length does not fit.

    The caller closes the file after an error.
    """
    check_layout(layout)
    try:
        tensor = FileTensor(path, file, offset, shape, dtype, layout)
    except ValueError as error:
        raise TensorError(path, f"has the shape {shape}, expected {error}") from None
    expected, got = prod(shape) * dtype.itemsize, os.fstat(file.fileno()).st_size - offset
    if expected > got or (offset == 0 and expected != got):
        raise TensorError(path, f"has the shape {shape}, expected {expected:,} bytes of values, got {got:,}")
    return tensor
