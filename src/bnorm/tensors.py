"""Tensors: in memory, in .npy and .npz files, and as raw float32; read and written by spans.

Shapes: 2-D is (N, C), 3-D one image (C, H, W), 4-D (N, C, H, W); with the layout nhwc channels stand last. Types:
float16, float32 and float64, little-endian, in C order; anything else is refused. Nothing is ever unpickled. Files are
read with positioned reads of what a span needs, so that their size does not matter.
"""

from __future__ import annotations

import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from types import TracebackType
from typing import IO, BinaryIO, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from bnorm.errors import TensorError
from bnorm.files import open_regular
from bnorm.kernels import Span, View

DTYPES = ("float16", "float32", "float64")
Values = NDArray[np.floating]
DType = np.dtype[np.floating]
LAYOUTS = ("nchw", "nhwc")
CHUNK = 1 << 20  # bytes that are copied at a time
MOST_CHANNELS = 1 << 24
Transfer = Callable[[int, list[memoryview], int], int]  # os.preadv and os.pwritev


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

    resident = False  # whether its values are in memory anyway

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

    def read(self, span: Span) -> View:
        """The span's values, valid until the next call."""
        raise NotImplementedError

    def blank(self, span: Span) -> View:
        """Room for the span's values, to be filled and given to `write`."""
        raise NotImplementedError

    def write(self, span: Span, view: View) -> None:
        """Keep the values of a view that `blank` gave."""
        raise NotImplementedError


def as_view(values: Values, images: int, channels: int, places: int, channels_last: bool) -> View:
    """Values in C order as (N, C, L), whichever of the axes stands last in memory."""
    if channels_last:
        return View(values.reshape(images, places, channels).transpose(0, 2, 1), True)
    return View(values.reshape(images, channels, places), False)


class MemoryTensor(Tensor):
    """A NumPy array, worked on where it is; it must be in C order."""

    resident = True

    def __init__(self, array: Values, layout: str = "nchw") -> None:
        super().__init__(array.shape, array.dtype, layout)
        self.view = as_view(array, *self.geometry)

    def read(self, span: Span) -> View:
        return self.view._replace(array=self.view.part(span))

    blank = read

    def write(self, span: Span, view: View) -> None:
        """The values are in their places already."""


def blank_view(buffer: Values, span: Span, tensor: Tensor) -> View:
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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()

    def read(self, span: Span) -> View:
        view = self.blank(span)
        for at, values in self._runs(span, view.array):
            self._transfer(at, values, os.preadv)
        return view

    def blank(self, span: Span) -> View:
        size = (span.stop - span.start) * (span.last - span.first)
        if self._buffer.size < size:
            self._buffer = np.empty(size, self.dtype)
        return blank_view(self._buffer[:size], span, self)

    def write(self, span: Span, view: View) -> None:
        for at, values in self._runs(span, view.array):
            self._transfer(at, values, os.pwritev)

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
        elif array.shape[2] == places:
            for number, run in enumerate(array, image):
                yield (number * channels + span.first) * places, run
        else:
            for channel, run in enumerate(array[0], span.first):
                yield (image * channels + channel) * places + place, run

    def _transfer(self, at: int, values: Values, move: Transfer) -> None:
        """Move all of the bytes between the file and the values."""
        data = memoryview(values.reshape(-1).view(np.uint8).data)
        done = 0
        while done < data.nbytes:
            moved = move(self.file.fileno(), [data[done:]], self.offset + at * self.dtype.itemsize + done)
            if moved == 0:
                raise TensorError(self.path, "ended while it was read", cause="another program cut the file")
            done += moved


# --- reading files ----------------------------------------------------------------------------------------------------


def open_tensor(name: str, shape: tuple[int, ...] | None = None, layout: str = "nchw") -> FileTensor:
    """Open `X.npy`, `X.npz` of one array, `X.npz:key`, or with a `shape` a file of raw little-endian float32.

    `TensorError` where it is none of these, or has an unfit type or shape. Nothing of its values is read.
    """
    if shape is not None:
        return _open_raw(Path(name), shape, layout)
    path, key = file_of(name), name.partition(".npz:")[2]
    with open_regular(path, TensorError) as file:
        start = file.read(4)
    if start == b"PK\x03\x04":
        return _open_member(path, key, layout)
    with _kept(path.open("rb")) as file:
        found, dtype = _header(path, file)
        return _checked(path, file, file.tell(), found, dtype, layout)


@contextmanager
def _kept(file: BinaryIO) -> Iterator[BinaryIO]:
    """A file that is closed only where an error comes between."""
    try:
        yield file
    except BaseException:
        file.close()
        raise


def file_of(name: str) -> Path:
    """The file of a tensor's name: `X.npz` of `X.npz:key`."""
    archive, dot, _ = name.partition(".npz:")
    return Path(archive + ".npz" if dot else name)


def _open_raw(path: Path, shape: tuple[int, ...], layout: str) -> FileTensor:
    with _kept(open_regular(path, TensorError)) as file:
        return _checked(path, file, 0, shape, np.dtype("<f4"), layout)


def _checked(path: Path, file: BinaryIO, offset: int, shape: tuple[int, ...], dtype: DType, layout: str) -> FileTensor:
    """The tensor, if its shape is one and the file has exactly its size."""
    try:
        tensor = FileTensor(path, file, offset, shape, dtype, layout)
    except ValueError as error:
        raise TensorError(path, f"has the shape {shape}, expected {error}") from None
    expected, got = prod(shape) * dtype.itemsize, os.fstat(file.fileno()).st_size - offset
    if expected > got or (offset == 0 and expected != got):
        raise TensorError(path, f"has the shape {shape}, expected {expected} bytes of values, got {got}")
    return tensor


def _header(path: Path, file: IO[bytes]) -> tuple[tuple[int, ...], DType]:
    """Shape and type of a .npy stream, which then stands at the values."""
    try:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, fortran, dtype = read(file)
    except KeyError:
        raise TensorError(path, "has an unknown version of the .npy format, expected 1.0 or 2.0") from None
    except (ValueError, EOFError) as error:
        raise TensorError(path, f"is no .npy file: {error}", cause="raw float32 needs --shape") from None
    if dtype.name not in DTYPES or not dtype.isnative:
        raise TensorError(path, f"holds {dtype}, expected {', '.join(DTYPES)} in little-endian order")
    if fortran and len(shape) > 1:
        raise TensorError(path, "is in Fortran order, expected C order", cause="save numpy.ascontiguousarray(x)")
    return shape, dtype


def _open_member(path: Path, key: str, layout: str) -> FileTensor:
    """One array of an archive: where it stands if it is stored as it is, else unpacked into a temporary file."""
    with _archive(path) as archive:
        info = _member(path, archive, key)
        with archive.open(info) as stream:
            shape, dtype = _header(path, stream)
            header = stream.tell()
            if info.compress_type != zipfile.ZIP_STORED:
                with _kept(_unpacked(path, stream, prod(shape) * dtype.itemsize)) as file:
                    return _checked(path, file, 0, shape, dtype, layout)
    with _kept(path.open("rb")) as file:
        file.seek(info.header_offset + 26)
        name, extra = (int.from_bytes(file.read(2), "little") for _ in range(2))
        return _checked(path, file, info.header_offset + 30 + name + extra + header, shape, dtype, layout)


def _archive(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise TensorError(path, f"is no .npz archive: {error}") from None


def _member(path: Path, archive: zipfile.ZipFile, key: str) -> zipfile.ZipInfo:
    members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    wanted = key or (next(iter(members)) if len(members) == 1 else "")
    if wanted not in members:
        held = ", ".join(sorted(members)[:9]) or "nothing"
        raise TensorError(path, f"holds {held}, expected {key or 'one array, or FILE.npz:NAME'}")
    return members[wanted]


def _unpacked(path: Path, stream: IO[bytes], nbytes: int) -> BinaryIO:
    """The next `nbytes` of the stream in a file without a name; no more is unpacked, whatever the archive holds."""
    left = nbytes
    with _kept(tempfile.TemporaryFile()) as target:
        try:
            while left and (data := stream.read(min(left, CHUNK))):
                target.write(data)
                left -= len(data)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise TensorError(path, f"cannot be unpacked: {error}") from None
        if left:
            raise TensorError(path, f"expected {nbytes} bytes of values, got {nbytes - left}")
        target.flush()
        return target


def read_vectors(path: Path, names: tuple[str, ...]) -> list[NDArray[np.float64]]:
    """1-D arrays of one length from a .npz archive, as float64."""
    vectors = []
    with _archive(path) as archive:
        for name in names:
            with archive.open(_member(path, archive, name)) as stream:
                shape, dtype = _header(path, stream)
                if len(shape) != 1 or not 1 <= shape[0] <= MOST_CHANNELS:
                    raise TensorError(path, f"{name} has the shape {shape}, expected one value per channel")
                data = stream.read(shape[0] * dtype.itemsize)
            if len(data) != shape[0] * dtype.itemsize:
                raise TensorError(path, f"{name} ends early, expected {shape[0]} values")
            vectors.append(np.frombuffer(data, dtype).astype(np.float64))
    if len({len(vector) for vector in vectors}) > 1:
        raise TensorError(path, f"has {', '.join(str(len(v)) for v in vectors)} values, expected as many of each")
    return vectors


# --- writing files ----------------------------------------------------------------------------------------------------


def new_npy(path: Path, file: BinaryIO, like: Tensor) -> FileTensor:
    """A .npy file of the same shape, type and layout, to be filled by spans. The file is as long as it will be."""
    np.lib.format.write_array_header_1_0(file, {"descr": like.dtype.str, "fortran_order": False, "shape": like.shape})
    file.flush()
    offset = file.tell()
    file.truncate(offset + prod(like.shape) * like.dtype.itemsize)
    return FileTensor(path, file, offset, like.shape, like.dtype, like.layout)


def write_npy(file: BinaryIO, array: NDArray[np.floating]) -> None:
    """A whole .npy file."""
    np.lib.format.write_array(file, array, allow_pickle=False)


def write_npz(file: BinaryIO, members: Iterable[tuple[str, BinaryIO]]) -> None:
    """An archive of .npy files, stored as they are and without times, so that the same arrays give the same bytes."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, source in members:
            source.seek(0)
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as target:
                while data := source.read(CHUNK):
                    target.write(data)
