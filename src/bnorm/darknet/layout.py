"""The plan of a weights file: its arrays, their order and their offsets. Everything else uses this one plan.

A file is a header and then little-endian float32 arrays, layer by layer, without gaps, names or lengths
(`parser.c: load_weights_upto`, hank `weights.cpp`). The plan is what the dialect *reads* for a cfg: `dontload`,
`dontloadscales`, `numload` and `flipped` change that, and a header of version 1000 or more transposes the weights of
fully connected layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, pairwise
from math import prod
from typing import NamedTuple

from bnorm.darknet.dialects import Dialect
from bnorm.darknet.header import Header
from bnorm.darknet.network import Layer, Network
from bnorm.darknet.parts import Part, array_name
from bnorm.darknet.section_types import TYPES

FLOAT = 4  # bytes of a float32

NORMALISATION = ("scales", "rolling_mean", "rolling_variance")

# What each kind of part stores, in file order. A part without batch normalisation lacks the arrays of NORMALISATION.
# The order of a [batchnorm] section is a row of its dialect.
ORDER: dict[str, tuple[str, ...]] = {
    "convolutional": ("biases", *NORMALISATION, "weights"),
    "deconvolutional": ("biases", *NORMALISATION, "weights"),
    "connected": ("biases", "weights", *NORMALISATION),
    "local": ("biases", "weights"),
    "weights": ("weights",),
}


class Array(NamedTuple):
    """One stored array, with its shape in memory and in the file.

    A transposed matrix of 10 outputs and 4 inputs has `shape` (10, 4), `stored` (4, 10) and `axes` (1, 0), so that
    `values.reshape(stored).transpose(axes)` has `shape`.
    """

    layer: int
    part: str
    field: str
    shape: tuple[int, ...]
    offset: int
    stored: tuple[int, ...]  # shape in the file
    axes: tuple[int, ...] | None  # for each axis of `shape`, its axis in the file; None if they are the same

    @property
    def name(self) -> str:
        """Return the array's name within the layer: `weights`, `wf.rolling_mean`."""
        return array_name(self.part, self.field)

    @property
    def size(self) -> int:
        """Return the number of values."""
        return prod(self.shape)

    @property
    def end(self) -> int:
        """Return the offset of the first byte after it."""
        return self.offset + FLOAT * self.size


@dataclass(frozen=True, repr=False)
class Layout:
    """The plan of a file: its arrays in file order, and the size that the file must have."""

    arrays: tuple[Array, ...]
    nbytes: int

    @property
    def parameters(self) -> int:
        """Return the number of stored values."""
        return sum(array.size for array in self.arrays)

    def by_layer(self) -> dict[int, tuple[Array, ...]]:
        """Return the arrays of each layer that stores any, in file order."""
        return {layer: tuple(arrays) for layer, arrays in groupby(self.arrays, lambda array: array.layer)}

    @cached_property
    def by_name(self) -> dict[tuple[int, str], Array]:
        """Return each array by its layer and its name."""
        return {(array.layer, array.name): array for array in self.arrays}

    def array(self, layer: int, name: str) -> Array:
        """Return one array; the KeyError for a wrong name or layer lists the existing ones."""
        if (layer, name) in self.by_name:
            return self.by_name[layer, name]
        if names := [array.name for array in self.arrays if array.layer == layer]:
            raise KeyError(f"layer {layer} has no array {name!r}, expected one of {', '.join(names)}")
        layers = ", ".join(map(str, self.by_layer())) or "none: no layer stores arrays"
        raise KeyError(f"layer {layer!r} stores no arrays, expected {layers}")

    def __repr__(self) -> str:
        return f"<Layout: {len(self.arrays):,} arrays, {self.nbytes:,} bytes>"

    def cut(self, nbytes: int) -> Array | None:
        """Return the array in which, or before which, a file of `nbytes` ends; None if the file holds every array."""
        return next((array for array in self.arrays if array.end > nbytes), None)


def plan(network: Network, header: Header) -> Layout:
    """Lay out every array after the header; raise `CfgError` where the fork cannot load what the cfg asks for."""
    arrays: list[Array] = []
    offset = header.nbytes
    for layer in network.layers:
        for array in arrays_of(layer, network.dialect, header.transposed):
            arrays.append(array._replace(offset=offset))
            offset = arrays[-1].end
    return Layout(arrays=tuple(arrays), nbytes=offset)


def arrays_of(layer: Layer, dialect: Dialect, transposed: bool) -> Iterator[Array]:
    """Yield the stored arrays of a layer in file order, all at offset 0."""
    if layer.section.flag("dontload"):
        return
    without_scales = layer.section.flag("dontloadscales") and TYPES[layer.type].skips_scales
    for part in layer.parts:
        if part.shared is None:
            filters = _stored_filters(layer, part)
            for field in _fields(part, dialect, without_scales):
                yield _array(layer, part, field, filters=filters, transposed=transposed)


def _fields(part: Part, dialect: Dialect, without_scales: bool) -> list[str]:
    """Return the fields of the part's arrays in file order."""
    order = dialect.batchnorm if part.kind == "batchnorm" else ORDER[part.kind]
    normalised = part.batch_normalize and not without_scales
    return [field for field in order if normalised or field not in NORMALISATION]


def _array(layer: Layer, part: Part, field: str, *, filters: int | None, transposed: bool) -> Array:
    shapes = {"weights": part.weights, "biases": part.biases}
    shape = shapes.get(field, (part.channels,))
    if filters is not None:
        axis = 1 if (part.kind, field) == ("deconvolutional", "weights") else 0  # weights (c, n, k, k)
        shape = (*shape[:axis], filters, *shape[axis + 1 :])
    axes = _axes(layer, part, transposed) if field == "weights" else None
    stored = shape if axes is None else tuple(shape[axes.index(axis)] for axis in range(len(shape)))
    return Array(layer=layer.index, part=part.name, field=field, shape=shape, offset=0, stored=stored, axes=axes)


def _stored_filters(layer: Layer, part: Part) -> int | None:
    """Return the number of filters in the file if `numload` gives it, else None.

    `load_convolutional_weights` overflows its heap for more filters than the layer has.
    """
    number = layer.section.integer("numload", 0)
    if not number or not TYPES[layer.type].loads_filters:
        return None
    if not 1 <= number <= part.channels:
        raise layer.section.error(f"numload={number}, expected 1 to {part.channels}, the number of filters", "numload")
    return number


def _axes(layer: Layer, part: Part, transposed: bool) -> tuple[int, ...] | None:
    """Return `Array.axes` of a part's weights."""
    if part.kind == "connected" and transposed:
        return (1, 0)
    if layer.type == "convolutional" and layer.section.flag("flipped"):
        if layer.section.dialect.flips_whole and part.weights[1] != layer.incoming.channels:
            raise layer.section.error("flipped=1 with groups, where pjreddie's loader overruns its memory", "flipped")
        return (3, 0, 1, 2)
    return None


def ends_at_layer(layout: Layout, nbytes: int) -> bool:
    """Return whether a file of `nbytes` ends between two layers, as the partial files `NAME.conv.N` do."""
    borders = (after.offset for before, after in pairwise(layout.arrays) if before.layer != after.layer)
    return nbytes in borders


class Form(NamedTuple):
    """The axes of the weights of one kind of part: the axis of the filters, and the axes that are summed over."""

    filters: int
    window: tuple[int, ...]


FORMS = {
    "convolutional": Form(0, (1, 2, 3)),
    "deconvolutional": Form(1, (0, 2, 3)),
    "connected": Form(0, (1,)),
    "local": Form(1, (2,)),
}


def channel_axis(layer: Layer, array: Array) -> int:
    """Return the axis of `array.stored` that counts channels; in weights the axis of the filters, see `FORMS`."""
    if layer.type == "shortcut":
        return 1  # axis 0 counts the layers that are added
    kind = next(part.kind for part in layer.parts if part.name == array.part)
    axis = FORMS[kind].filters if array.field == "weights" and kind in FORMS else 0
    return array.axes[axis] if array.axes else axis
