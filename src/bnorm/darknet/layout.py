"""Which arrays a weights file holds, in which order, at which offset: the one plan that everything else uses.

A file is a header and then little-endian float32 arrays, layer by layer, without gaps, names or lengths
(`parser.c: load_weights_upto`, hank `weights.cpp`). The plan is what the dialect *reads* for a cfg: `dontload`,
`dontloadscales`, `numload` and `flipped` change that, and a header of version 1000 or more transposes matrices.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, pairwise
from math import prod
from typing import NamedTuple

from bnorm.darknet.dialects import Dialect
from bnorm.darknet.network import Layer, Network
from bnorm.darknet.parts import Part, array_name

FLOAT = 4  # bytes of a float32

NORMALISATION = ("scales", "rolling_mean", "rolling_variance")

# What each kind of part stores, in file order. The arrays of batch normalisation are there only where it normalises.
# A [batchnorm] section's order is its dialect's.
ORDER: dict[str, tuple[str, ...]] = {
    "convolutional": ("biases", *NORMALISATION, "weights"),
    "deconvolutional": ("biases", *NORMALISATION, "weights"),
    "connected": ("biases", "weights", *NORMALISATION),
    "local": ("biases", "weights"),
    "weights": ("weights",),
}

FILTERED = frozenset({"convolutional", "deconvolutional"})  # loaded by load_convolutional_weights


class Array(NamedTuple):
    """One stored array. `shape` is its shape in memory; `stored` and `axes` say how the file holds it."""

    layer: int
    part: str
    field: str
    shape: tuple[int, ...]
    offset: int
    stored: tuple[int, ...]  # shape in the file
    axes: tuple[int, ...] | None  # the permutation from the file's axes to those of `shape`; None: the same

    @property
    def name(self) -> str:
        """Its name within the layer: `weights`, `wf.rolling_mean`."""
        return array_name(self.part, self.field)

    @property
    def size(self) -> int:
        """Number of values."""
        return prod(self.shape)

    @property
    def end(self) -> int:
        """Offset of the first byte behind it."""
        return self.offset + FLOAT * self.size


@dataclass(frozen=True)
class Layout:
    """The plan of a file: its arrays in file order, and the size that the file must have."""

    arrays: tuple[Array, ...]
    nbytes: int

    @property
    def parameters(self) -> int:
        """Number of stored values."""
        return sum(array.size for array in self.arrays)

    def by_layer(self) -> dict[int, tuple[Array, ...]]:
        """The arrays of each layer that stores any, in file order."""
        return {layer: tuple(arrays) for layer, arrays in groupby(self.arrays, lambda array: array.layer)}

    @cached_property
    def by_name(self) -> dict[tuple[int, str], Array]:
        """Each array by its layer and its name."""
        return {(array.layer, array.name): array for array in self.arrays}

    def cut(self, nbytes: int) -> Array | None:
        """The array inside which, or before which, a file of `nbytes` ends; None where it holds them all."""
        return next((array for array in self.arrays if array.end > nbytes), None)


def plan(network: Network, header: int, *, transposed: bool = False) -> Layout:
    """Place every array behind a header of `header` bytes; `transposed` is `header.Header.transposed`."""
    shapes = [shape for layer in network.layers for shape in _layer(layer, network.dialect, transposed)]
    arrays: list[Array] = []
    offset = header
    for layer, part, field, shape, axes in shapes:
        stored = shape if axes is None else tuple(shape[axes.index(axis)] for axis in range(len(shape)))
        arrays.append(Array(layer, part, field, shape, offset, stored, axes))
        offset = arrays[-1].end
    return Layout(tuple(arrays), offset)


Placed = tuple[int, str, str, tuple[int, ...], tuple[int, ...] | None]


def _layer(layer: Layer, dialect: Dialect, transposed: bool) -> Iterator[Placed]:
    section = layer.section
    if section.flag("dontload"):
        return
    # Sub-layers never have the flag, nor does [batchnorm] look at it.
    bare = section.flag("dontloadscales") and layer.type in {*FILTERED, "connected"}
    flipped = section.flag("flipped")
    for part in layer.parts:
        if part.shared is not None:
            continue
        filters = _numload(layer, part)
        for field in _fields(part, dialect, bare):
            shape = _shape(part, field)
            if filters is not None:
                behind = 1 if (part.kind, field) == ("deconvolutional", "weights") else 0  # [c][n][k][k]
                shape = (*shape[:behind], filters, *shape[behind + 1 :])
            axes = _axes(layer, part, flipped, transposed) if field == "weights" else None
            yield layer.index, part.name, field, shape, axes


def _fields(part: Part, dialect: Dialect, bare: bool) -> Sequence[str]:
    order = dialect.batchnorm if part.kind == "batchnorm" else ORDER[part.kind]
    normalised = part.batch_normalize and not bare
    return [field for field in order if normalised or field not in NORMALISATION]


def _shape(part: Part, field: str) -> tuple[int, ...]:
    shapes = {"weights": part.weights, "biases": part.biases}
    return shapes.get(field, (part.channels,))


def _numload(layer: Layer, part: Part) -> int | None:
    """PJ `load_convolutional_weights`: `numload` filters are in the file; more than the layer has overflow its heap."""
    number = layer.section.integer("numload", 0)
    if not number or layer.type not in FILTERED:
        return None
    if not 1 <= number <= part.channels:
        raise layer.section.error(f"numload={number}, expected 1 to {part.channels}, its filters", "numload")
    return number


def _axes(layer: Layer, part: Part, flipped: bool, transposed: bool) -> tuple[int, ...] | None:
    """How the file's axes become those of the weights in memory."""
    if part.kind == "connected" and transposed:
        return (1, 0)
    if flipped and layer.type == "convolutional":
        if layer.section.dialect.flips_whole and part.weights[1] != layer.incoming.channels:
            raise layer.section.error("flipped=1 with groups, where pjreddie's loader overruns its memory", "flipped")
        return (3, 0, 1, 2)
    return None


def ends_at_layer(layout: Layout, nbytes: int) -> bool:
    """Whether a file of `nbytes` ends exactly between two layers, as the partial files `NAME.conv.N` do."""
    borders = (after.offset for before, after in pairwise(layout.arrays) if before.layer != after.layer)
    return nbytes in borders


class Form(NamedTuple):
    """The axes of a kind's weights: that of its filters, and those that it sums over."""

    filters: int
    window: tuple[int, ...]


FORMS = {
    "convolutional": Form(0, (1, 2, 3)),
    "deconvolutional": Form(1, (0, 2, 3)),
    "connected": Form(0, (1,)),
    "local": Form(1, (2,)),
}


def channel_axis(layer: Layer, array: Array) -> int:
    """The axis of `array.stored` that counts channels: of weights that of their filters, by `linear.FORMS`."""
    if layer.type == "shortcut":
        return 1  # behind the layers that it adds
    kind = next(part.kind for part in layer.parts if part.name == array.part)
    axis = FORMS[kind].filters if array.field == "weights" and kind in FORMS else 0
    return array.axes[axis] if array.axes else axis
