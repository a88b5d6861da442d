"""The job of a writer of one format: the arrays in order, and the options."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bnorm.darknet.layout import Array
from bnorm.exchange.onnx.options import OnnxOptions
from bnorm.exchange.source import Source
from bnorm.transforms.fold.folded_model import FoldOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """The options of `export`; `layers` is None for all, `fold` None without folding.

    `scale_per` is "channel" or "tensor": what each scale is for. `graph` is None except for ONNX.
    """

    layers: frozenset[int] | None
    names: str
    dtype: str
    scale_per: str
    fold: FoldOptions | None
    graph: OnnxOptions | None = None


SCALE = "_scale"  # appended to the name of an array of integers, for the name of its scales


class Item(NamedTuple):
    """One array to write: its name in the file, and its values in C order, in blocks of whole rows of axis 0.

    `scale_of` is the name of the array of integers whose scales this array holds: value = integer * scale.
    """

    name: str
    array: Array
    shape: tuple[int, ...]
    dtype: str  # as NumPy writes it: <f4
    blocks: Callable[[], Iterator[NDArray[Any]]]
    scale_of: str = ""

    @property
    def field(self) -> str:
        """Return the name of the array in its part, such as `weights` or `weights_scale`."""
        return self.array.field + (SCALE if self.scale_of else "")

    @property
    def size(self) -> int:
        """Return the number of values."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Return the number of bytes."""
        return self.size * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """An export: the source, the chosen arrays as they are written, the output files and the options."""

    source: Source
    items: tuple[Item, ...]
    outputs: tuple[Path, ...]
    options: ExportOptions


# Writes a job to its open files, in the order of `outputs`; what it returns is the report's `details`.
Writer = Callable[[Job, Sequence[BinaryIO]], object]
