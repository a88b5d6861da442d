"""Results of another program, for comparison with a run: a folder or a .npz archive with the same names."""

from __future__ import annotations

from pathlib import Path
from threading import Lock
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bnorm.errors import TensorError
from bnorm.replay.outputs import RESULTS, input_folders
from bnorm.tensors.npz import names_in
from bnorm.tensors.open import file_of, open_tensor, open_vector
from bnorm.tensors.tensor import Doubles, FileTensor, Span, Tensor, Values, buffer_view

SMALLEST = 2.0**-23  # of an array's largest value: the least that a channel is compared with


class Difference(NamedTuple):
    """The largest differences of a result from its reference, and the channel of the largest relative one.

    `max_rel` is the largest difference in a channel ÷ the channel's largest reference value, infinite if only one of
    two values is finite.
    """

    max_abs: float
    max_rel: float
    channel: int


class References(NamedTuple):
    """The contents of a reference: the file of each result, for each input."""

    path: Path
    files: tuple[dict[str, str], ...]

    def names(self) -> set[str]:
        """Return the names of the results in the reference."""
        return {name for files in self.files for name in files}

    def paths(self) -> list[Path]:
        """Return all files, which must not be written."""
        return [*{file_of(name) for files in self.files for name in files.values()}]

    def require(self, wanted: tuple[str, ...]) -> None:
        """Raise `TensorError` if the reference has none of the run's results."""
        if not self.names() & set(wanted):
            held = ", ".join(sorted(self.names())) or "none of the results"
            raise TensorError(self.path, f"holds {held}, expected one or more of {', '.join(wanted)}")


def find_references(path: Path, inputs: int) -> References:
    """Return the references for this many inputs: `REF.npz`, `DIR/y.npy`, or for several `DIR/000/y.npy`.

    Raises `TensorError` for any other path, FileNotFoundError if it does not exist.
    """
    if path.is_dir():
        folders = input_folders(path, inputs)
        files = [{name: folder / f"{name}.npy" for name in RESULTS} for folder in folders]
        found = [{name: str(file) for name, file in each.items() if file.is_file()} for each in files]
        return References(path, tuple(found))
    if inputs > 1:
        raise TensorError(path, f"is one file, expected a folder with 000, 001 and so on for {inputs} inputs")
    return References(path, ({name: f"{path}:{name}" for name in names_in(path) if name in RESULTS},))


class Deviation:
    """The difference of a tensor from its reference, measured as its values are written, by several threads."""

    def __init__(self, reference: FileTensor) -> None:
        self._reference = reference
        self._lock = Lock()
        self._largest = np.zeros((2, reference.channels))  # |difference| and |reference|

    def __call__(self, span: Span, values: Values) -> None:
        """Compare the values of a span, shape (n, c, l)."""
        empty = np.empty(span.size, self._reference.dtype)
        reference = buffer_view(empty, span, self._reference).array
        self._reference.read(span, reference)
        largest = [array.max(axis=(0, 2)) for array in _compared(values, reference)]
        with self._lock:
            part = self._largest[:, span.channels]
            np.maximum(part, largest, out=part)

    def difference(self) -> Difference:
        """Return the difference over all written values."""
        return _worst(*self._largest)


def vector_difference(values: NDArray[np.floating], reference: Doubles) -> Difference:
    """Return the difference of a vector, (C,), from its reference."""
    return _worst(*_compared(values, reference))


def _compared(values: Values, reference: Values) -> tuple[Doubles, Doubles]:
    """Return |difference| and |reference|. Values that are not finite differ by 0 if equal, otherwise by infinity."""
    wanted = reference.astype(np.float64)
    with np.errstate(all="ignore"):
        difference = np.abs(values - wanted)
        if not np.isfinite(difference.max(initial=0)):
            same = (values == wanted) | (np.isnan(values) & np.isnan(wanted))
            difference[same] = 0
            difference[np.isnan(difference)] = np.inf
            wanted[~np.isfinite(wanted)] = 0
    return difference, np.abs(wanted)


def _worst(difference: Doubles, size: Doubles) -> Difference:
    """Return the difference of the worst channel, from the largest difference and reference value per channel, (C,)."""
    with np.errstate(all="ignore"):
        relative = difference / np.maximum(size, SMALLEST * size.max())
    relative[difference == 0] = 0
    return Difference(max_abs=float(difference.max()), max_rel=float(relative.max()), channel=int(np.argmax(relative)))


def open_reference(name: str, like: Tensor) -> FileTensor:
    """Open the reference of a tensor, which the caller closes; raises `TensorError` for another shape."""
    tensor = open_tensor(name, layout=like.layout)
    if tensor.shape != like.shape:
        tensor.close()
        raise TensorError(tensor.path, f"has the shape {tensor.shape}, expected that of the input, {like.shape}")
    return tensor


def read_reference(name: str, channels: int) -> Doubles:
    """Return the reference of a vector; raises `TensorError` for another number of channels."""
    vector = open_vector(name)
    if len(vector) != channels:
        raise TensorError(file_of(name), f"has {len(vector)} values, expected {channels}, one per channel of the layer")
    return vector
