"""The response of a part's weights to windows of its input: the linear operation that folding must leave unchanged.

A convolution, a fully connected layer and similar layers multiply a window x of the input by the weights: for each
filter the sum Σ w·x over one window. The weights are read as the C programs read them in memory, each in its
`forward_*_layer`, which is a product of matrices (`gemm`) with these operands:

    convolutional      group j: m = n/groups rows of k = size²·c/groups values from weights + j·nweights/groups
    deconvolutional    m = n·size² columns of c values, A[c·m + i]; a filter sums its size² columns
    connected          outputs rows of inputs values
    local              for each place: n rows of c·size² values

All divisions truncate. A convolution's groups may leave remainders, see `Rows`; all other operands are a matrix
(places, filters, window) along the axes of `layout.FORMS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from bnorm.darknet.layout import FORMS, Array
from bnorm.darknet.parts import Part
from bnorm.darknet.weights import Floats

Doubles = NDArray[np.float64]

Indices = NDArray[np.intp]


class OfWeights(Protocol):
    """A function of each weight, such as `np.square`; `out` may be `values`."""

    def __call__(self, values: Doubles, /, *, out: Doubles) -> object:
        """Write into `out`."""


def signs(values: Doubles, /, *, out: Doubles) -> None:
    """Write 1 for a weight above 0, else −1: the sign of a binary weight, whose magnitude is the mean of its filter.

    Source: pjreddie `convolutional_layer.c: binarize_weights`.
    """
    np.copyto(out, np.where(values > 0, 1.0, -1.0))


class Probe(NamedTuple):
    """Windows of input to multiply by the weights, or by the function `of` each weight.

    `windows` has the shape (1, window, W) for W windows, or (groups, window, W) if each group of filters has
    windows of its own.
    """

    windows: Doubles
    of: OfWeights | None = None


class Stored(NamedTuple):
    """An array, and a function that yields its values in blocks of rows, in file order."""

    array: Array
    blocks: Callable[[], Iterator[Floats]]


class Slices(NamedTuple):
    """The part of the matrix (places, filters, window) that a block holds."""

    places: slice
    filters: slice
    window: slice


def window_size(part: Part) -> int:
    """Return how many inputs each output of the part depends on."""
    if part.kind == "convolutional":
        return part.weights[-1] ** 2 * part.inputs // part.groups
    return prod(part.weights[axis] for axis in FORMS[part.kind].window)


def channels_seen(part: Part, channels: int) -> Indices:
    """Return the input channel of each value of a window, (groups, window), for an input of `channels` channels.

    Group j of a convolution reads from channel j·c/groups on, with size² rows of each (`im2col`). The input of a
    fully connected layer is one channel after the other.
    """
    values = np.arange(window_size(part))
    if part.kind != "convolutional":
        return (values // (len(values) // channels))[np.newaxis]
    first = np.arange(part.groups) * part.inputs // part.groups
    seen: Indices = np.minimum(first[:, np.newaxis] + values // part.weights[-1] ** 2, channels - 1)
    return seen


class Rows(NamedTuple):
    """The rows of a grouped convolution's weights, as `forward_convolutional_layer` reads them (all three forks).

    Row i of group j makes filter j·m + i, of k values from weights + j·nweights/groups + i·k. If groups divide filters
    and channels, each row is one filter. Otherwise rows overlap or leave gaps, the last filters have no row, and a
    row may extend past the end of the array: the values there are taken as 0.
    """

    starts: Indices  # (m·groups,)
    groups: Indices  # (m·groups,)
    length: int

    @classmethod
    def of(cls, part: Part) -> Rows:
        """Return the rows of a part."""
        count, length = part.channels // part.groups, window_size(part)
        group = np.repeat(np.arange(part.groups), count)
        starts = group * prod(part.weights) // part.groups + np.tile(np.arange(count), part.groups) * length
        return cls(starts, group, length)

    def add(self, values: Doubles, first: int, windows: Doubles, sums: Doubles) -> None:
        """Add Σ w·x to sums, (filters, W), where `values` are the weights from number `first` on."""
        here = np.flatnonzero((self.starts < first + values.size) & (self.starts + self.length > first))
        index = self.starts[here, np.newaxis] - first + np.arange(self.length)  # (rows, k)
        inside = (index >= 0) & (index < values.size)
        rows = np.where(inside, values.take(index, mode="clip"), 0.0)
        if len(windows) == 1:
            sums[here] += np.dot(rows, windows[0])
        else:
            sums[here] += (rows[..., np.newaxis] * windows.take(self.groups[here], axis=0)).sum(axis=1)


def probe(weights: Stored, part: Part, probes: list[Probe]) -> list[Doubles]:
    """Return Σ w·x for each probe in float64, (places, filters, W). The weights are read once for all probes."""
    if part.groups > 1:
        return _probe_rows(weights, part, probes)
    places, filters = _outputs(part, weights.array)
    answers = [np.zeros([places, filters, probe.windows.shape[-1]]) for probe in probes]
    buffer = np.empty(0)
    start = 0
    for block in weights.blocks():
        if block.size > buffer.size:
            buffer = np.empty(block.size)  # reused for all blocks: allocating each would cost more than the sums
        values = buffer[: block.size].reshape(block.shape)
        at = _slices(part, weights.array, start, start + len(block))
        fresh = False  # whether `values` are still those of the block
        for (windows, of), sums in zip(probes, answers, strict=True):
            if not fresh:
                np.copyto(values, block)
            if of is not None:
                of(values, out=values)
            fresh = of is None
            sums[at.places, at.filters] += _sums(_matrix(values, part, weights.array), windows[0, at.window])
        start += len(block)
    return answers


def _probe_rows(weights: Stored, part: Part, probes: list[Probe]) -> list[Doubles]:
    """Return Σ w·x of a grouped convolution for each probe, (1, filters, W)."""
    rows = Rows.of(part)
    answers = [np.zeros([1, part.channels, probe.windows.shape[-1]]) for probe in probes]
    first = 0
    for block in _in_memory(weights):
        for (windows, of), sums in zip(probes, answers, strict=True):
            values = block.astype(np.float64)
            if of is not None:
                of(values, out=values)
            rows.add(values, first, windows, sums[0])
        first += block.size
    return answers


def _in_memory(weights: Stored) -> Iterator[Floats]:
    """Yield the values in the order of memory; weights that the loader transposes (`flipped`) as one block."""
    axes = weights.array.axes
    if axes is None:
        yield from (block.reshape(-1) for block in weights.blocks())
    else:
        yield np.concatenate([block.copy() for block in weights.blocks()]).transpose(axes).reshape(-1)


def _outputs(part: Part, array: Array) -> tuple[int, int]:
    """Return the numbers of places and of filters."""
    return prod(array.shape[axis] for axis in _places(part)), array.shape[FORMS[part.kind].filters]


def _places(part: Part) -> list[int]:
    """Return the axes of the weights in memory that belong neither to the filters nor to a window."""
    form = FORMS[part.kind]
    return [axis for axis in range(len(part.weights)) if axis != form.filters and axis not in form.window]


def _slices(part: Part, array: Array, start: int, stop: int) -> Slices:
    """Return the part of the matrix that the rows `start` to `stop` of the array in the file fill.

    Rows along an axis of the window are along its first axis, so they are one slice of the flattened window.
    """
    form, everything = FORMS[part.kind], slice(None)
    axis = array.axes.index(0) if array.axes else 0  # the axis in memory along which the file has its rows
    if axis == form.filters:
        return Slices(everything, slice(start, stop), everything)
    if axis in form.window:
        inner = window_size(part) // array.shape[axis]
        return Slices(everything, everything, slice(start * inner, stop * inner))
    return Slices(slice(start, stop), everything, everything)


def _matrix(values: Doubles, part: Part, array: Array) -> Doubles:
    """Return a block of the array in the file as its part of the matrix (places, filters, window)."""
    form, places = FORMS[part.kind], _places(part)
    memory = values if array.axes is None else values.transpose(array.axes)
    return memory.transpose(*places, form.filters, *form.window).reshape(
        prod(memory.shape[axis] for axis in places),
        memory.shape[form.filters],
        prod(memory.shape[axis] for axis in form.window),
    )


def _sums(matrix: Doubles, windows: Doubles) -> Doubles:
    """Multiply a piece of the matrix by its piece of the windows, (window, W); return (places, filters, W)."""
    # One product of two matrices: for a stack of matrices, BLAS adds in another order.
    places, rows, window = matrix.shape
    product: Doubles = np.dot(matrix.reshape(places * rows, window), windows)
    return product.reshape(places, rows, windows.shape[-1])
