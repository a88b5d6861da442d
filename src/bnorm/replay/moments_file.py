"""A file with the moments of consecutive mini-batches of one layer, for another process to merge.

A .npz archive, uncompressed, that NumPy reads:

    mean          (inputs, C) float64      the mean of each input and channel
    m2            (inputs, C) float64      Σ(x − mean)²
    count         (inputs,) float64        values per channel of each input: whole numbers, exact up to 2⁵³
    inputs.json   {"layer": "12", "inputs": ["a.npy", ...]}: "" is a layer of `--params`; names as given
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from bnorm.batchnorm.formulas import PartialMoments
from bnorm.errors import TensorError
from bnorm.tensors.npz import NpzWriter, read_text, read_vectors
from bnorm.tensors.open import open_tensor
from bnorm.tensors.tensor import Doubles, FileTensor, Span, Tensor
from bnorm.text import printable

ABOUT = "inputs.json"

MOST_ABOUT = 64 << 20  # bytes of inputs.json: the names of half a million inputs

MOST_COUNT = 1 << 53  # values per channel: float64 holds all whole numbers up to this

NOT_MOMENTS = "expected a file that --moments wrote"


class MomentsWriter:
    """A writer of the moments of a given number of inputs, one after the other, without holding them in memory."""

    def __init__(self, path: Path, file: BinaryIO, layer: str, names: Sequence[str], channels: int) -> None:
        self._archive = NpzWriter(path, file)
        rows = Tensor((len(names), channels), np.dtype("<f8"))
        self._mean, self._m2 = (self._archive.tensor(name, rows) for name in ("mean", "m2"))
        self._about = json.dumps({"layer": layer, "inputs": list(names)})
        self._counts: list[int] = []

    def add(self, moments: PartialMoments) -> None:
        """Write the moments of the next input."""
        span = _row(len(self._counts), len(moments.mean))
        self._mean.write(span, moments.mean.reshape(1, -1, 1))
        self._m2.write(span, moments.m2.reshape(1, -1, 1))
        self._counts.append(moments.count)

    def finish(self) -> None:
        """Complete the file."""
        self._archive.finish({"count": np.array(self._counts, "<f8")}, {ABOUT: self._about})


class MomentsFile(NamedTuple):
    """A file of moments: what it says about the inputs. `rows` reads the moments themselves."""

    path: Path
    layer: str
    names: tuple[str, ...]
    counts: Doubles
    channels: int

    def rows(self) -> Iterator[PartialMoments]:
        """Yield the moments of each input; raises `TensorError` for a negative sum of squares."""
        with ExitStack() as stack:
            mean, m2 = (stack.enter_context(open_tensor(f"{self.path}:{name}")) for name in ("mean", "m2"))
            for number, count in enumerate(self.counts):
                moments = PartialMoments(count=int(count), mean=_read(mean, number), m2=_read(m2, number))
                if (moments.m2 < 0).any():
                    raise TensorError(self.path, f"m2 of {printable(self.names[number])} is negative, {NOT_MOMENTS}")
                yield moments


def read_moments(path: Path) -> MomentsFile:
    """Return what a file of moments says about its inputs; raises `TensorError` for any other file."""
    layer, names = _about(path)
    (counts,) = read_vectors(path, ("count",))
    with open_tensor(f"{path}:mean") as mean, open_tensor(f"{path}:m2") as m2:
        for name, tensor in (("mean", mean), ("m2", m2)):
            if len(tensor.shape) != 2 or tensor.shape[0] != len(names) or tensor.dtype != np.float64:
                what = (
                    f"{name} is {tensor.dtype} of the shape {tensor.shape}, expected float64 ({len(names)}, channels)"
                )
                raise TensorError(path, what)
        if mean.shape != m2.shape or len(counts) != len(names):
            raise TensorError(path, f"mean, m2 and count have different inputs or channels, {NOT_MOMENTS}")
        channels = mean.shape[1]
    if not ((counts >= 2) & (counts <= MOST_COUNT) & (counts == np.floor(counts))).all():
        raise TensorError(path, f"has counts that are not whole numbers of at least 2, {NOT_MOMENTS}")
    return MomentsFile(path=path, layer=layer, names=names, counts=counts, channels=channels)


def _about(path: Path) -> tuple[str, tuple[str, ...]]:
    """Return the layer and the names of the inputs."""
    try:
        about = json.loads(read_text(path, ABOUT, MOST_ABOUT))
        layer, names = about["layer"], about["inputs"]
    except (ValueError, KeyError, TypeError, RecursionError):
        layer, names = None, None
    if not isinstance(layer, str) or not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise TensorError(path, f"its {ABOUT} does not name a layer and inputs, {NOT_MOMENTS}")
    return layer, tuple(names)


def _row(number: int, channels: int) -> Span:
    return Span(0, channels, number, number + 1)


def _read(tensor: FileTensor, number: int) -> Doubles:
    """Return one row of a tensor of shape (inputs, C)."""
    channels = tensor.shape[1]
    values = np.empty(channels, "<f8")
    tensor.read(_row(number, channels), values.reshape(1, channels, 1))
    return values
