"""The response of a part's weights to windows of its input: the linear operation that folding must leave unchanged.

A convolution, a fully connected layer and similar layers multiply a window x of the input with the weights: for each
filter the sum Σ w·x over the axes of one window. By `layout.FORMS` the weights of every kind are a matrix
(places, filters, window) for this:

    convolutional      (n, c/groups, k, k)       → (1, n, c/groups·k·k)
    deconvolutional    (c, n, k, k)              → (1, n, c·k·k)
    connected          (outputs, inputs)         → (1, outputs, inputs)
    local              (places, n, c·k·k)        → (places, n, c·k·k)
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
    """Windows of input to multiply with the weights, or with the function `of` each weight.

    `windows` has the shape (1, window, W) for W windows, or (groups, window, W) where each group of filters has
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
    """Return the number of inputs that each output of the part depends on."""
    return prod(part.weights[axis] for axis in FORMS[part.kind].window)


def channel_inputs(vector: Doubles, part: Part, groups: int) -> Doubles:
    """Repeat a value per input channel, (C,), for every input of a window: (groups, window).

    The inputs of a window are ordered by channel, in a fully connected layer as in a convolution.
    """
    by_group = vector.reshape(groups, -1)  # (groups, channels of each)
    return by_group.repeat(window_size(part) // by_group.shape[1], axis=1)


def probe(weights: Stored, part: Part, probes: list[Probe]) -> list[Doubles]:
    """Return Σ w·x for each probe in float64, (places, filters, W). The weights are read once for all probes."""
    places, filters = _outputs(part, weights.array)
    answers = [np.zeros([places, filters, probe.windows.shape[-1]]) for probe in probes]
    buffer = np.empty(0)
    start = 0
    for block in weights.blocks():
        if block.size > buffer.size:
            buffer = np.empty(block.size)  # one for all blocks: new pages for each would cost more than the sums
        values = buffer[: block.size].reshape(block.shape)
        at = _slices(part, weights.array, start, start + len(block))
        for (windows, of), sums in zip(probes, answers, strict=True):
            np.copyto(values, block)
            if of is not None:
                of(values, out=values)
            sums[at.places, at.filters] += _sums(_matrix(values, part, weights.array), windows, at, filters)
        start += len(block)
    return answers


def _outputs(part: Part, array: Array) -> tuple[int, int]:
    """Return the numbers of places and of filters."""
    return prod(array.shape[axis] for axis in _places(part)), array.shape[FORMS[part.kind].filters]


def _places(part: Part) -> list[int]:
    """Return the axes of the weights in memory that are neither filters nor a window's."""
    form = FORMS[part.kind]
    return [axis for axis in range(len(part.weights)) if axis != form.filters and axis not in form.window]


def _slices(part: Part, array: Array, start: int, stop: int) -> Slices:
    """Return the part of the matrix that the rows `start` to `stop` of the array in the file fill.

    Rows that count an axis of the window count its first one, so that they are one slice of the flattened window.
    """
    form, everything = FORMS[part.kind], slice(None)
    axis = array.axes.index(0) if array.axes else 0  # the axis in memory that the file's rows count
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


def _sums(matrix: Doubles, windows: Doubles, at: Slices, filters: int) -> Doubles:
    """Multiply a piece of the matrix with its piece of the windows: (places, filters, W)."""
    seen = windows[:, at.window]
    groups = len(windows)
    if groups > 1:
        group = np.arange(filters)[at.filters] // (filters // groups)  # of each filter
        grouped: Doubles = (matrix[..., np.newaxis] * seen.take(group, axis=0)).sum(axis=2)
        return grouped
    # One product of two matrices: BLAS adds in another order for a stack of them.
    places, rows, window = matrix.shape
    product: Doubles = np.dot(matrix.reshape(places * rows, window), seen[0])
    return product.reshape(places, rows, seen.shape[-1])
