"""The linear operation of a part, on one window of its input at a time.

A convolution, a matrix and their kin multiply a window x of the input with the weights: for filter f the sum of
`weights[f, ...] · x[...]` over channels and places. That is all that folding must leave unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from bnorm.darknet.layout import FORMS, Array, Form
from bnorm.darknet.parts import Part
from bnorm.darknet.weights import Floats

Doubles = NDArray[np.float64]


class Each(Protocol):
    """A function of each weight, such as `np.square`, that may write where it reads."""

    def __call__(self, values: Doubles, /, *, out: Doubles) -> object:
        """Write into `out`."""


def signs(values: Doubles, /, *, out: Doubles) -> None:
    """1 for a weight above 0, else −1: binary weights are these times the mean magnitude of their filter's.

    PJ `convolutional_layer.c: binarize_weights`.
    """
    np.copyto(out, np.where(values > 0, 1.0, -1.0))


class Question(NamedTuple):
    """Windows to multiply the weights with, and what to do to the weights before.

    `windows` has the shape of the weights and one more axis, for the windows, at its end. Axes that are not summed
    over have length 1; that of the filters may have one place for each group instead, whose filters see that window.
    """

    windows: Doubles
    each: Each | None = None


class Stored(NamedTuple):
    """An array and how to read its values: by blocks of rows, as the file holds them, as often as needed."""

    array: Array
    blocks: Callable[[], Iterator[Floats]]


def along(vector: Doubles, axis: int, dimensions: int) -> Doubles:
    """A vector that broadcasts along this axis."""
    return vector.reshape([-1 if number == axis else 1 for number in range(dimensions)])


def in_file(factor: Doubles, array: Array, start: int, stop: int) -> Doubles:
    """What broadcasts with the array in memory, turned to broadcast with its rows `start` to `stop` in the file."""
    stored = factor if array.axes is None else factor.transpose(np.argsort(array.axes))
    return stored[start:stop] if len(stored) > 1 else stored


def inputs_of(vector: Doubles, part: Part, groups: int) -> Doubles:
    """One value per channel of the input, in the shape of weights with one filter for each group.

    A matrix sees each channel's places one after the other.
    """
    if part.kind == "connected":
        return np.repeat(vector, part.weights[1] // vector.size)[np.newaxis]
    return vector.reshape(groups, -1, 1, 1)


def window_shape(part: Part) -> list[int]:
    """The shape of the part's weights, with 1 for every axis that it does not sum over."""
    return [length if axis in FORMS[part.kind].window else 1 for axis, length in enumerate(part.weights)]


def respond(weights: Stored, part: Part, *questions: Question) -> list[Doubles]:
    """The sums Σ weights·x of each question, in float64: (filters, windows), or (places, filters, windows).

    The weights are read once, whatever the number of questions.
    """
    form, shape = FORMS[part.kind], weights.array.shape
    axes = weights.array.axes or tuple(range(len(shape)))
    cut = axes.index(0)  # the axis in memory that blocks are pieces of
    kept = [axis for axis in range(len(shape)) if axis not in form.window]
    answers = [np.zeros([*(shape[axis] for axis in kept), question.windows.shape[-1]]) for question in questions]
    buffer = np.empty(0)
    start = 0
    for block in weights.blocks():
        if block.size > buffer.size:
            buffer = np.empty(block.size)  # one for all blocks: new pages for each would cost more than the sums
        values = buffer[: block.size].reshape(block.shape)
        piece = slice(start, start + len(block))
        for (windows, each), sums in zip(questions, answers, strict=True):
            np.copyto(values, block)
            if each is not None:
                each(values, out=values)
            seen = _seen(windows, form, cut, piece, shape)
            into = sums if cut in form.window else sums[(slice(None),) * kept.index(cut) + (piece,)]
            into += _sums(values.transpose(axes), seen, form)
        start = piece.stop
    return answers


def _seen(windows: Doubles, form: Form, cut: int, piece: slice, shape: tuple[int, ...]) -> Doubles:
    """The part of the windows that a piece of the weights along axis `cut` is multiplied with."""
    if cut in form.window:
        windows = windows[(slice(None),) * cut + (piece,)]
    groups = windows.shape[form.filters]
    if groups == 1:
        return windows
    filters = np.arange(shape[form.filters])[piece if cut == form.filters else slice(None)]
    seen: Doubles = windows.take(filters // (shape[form.filters] // groups), axis=form.filters)
    return seen


def _sums(values: Doubles, windows: Doubles, form: Form) -> Doubles:
    if windows.shape[form.filters] > 1:
        result: Doubles = (values[..., np.newaxis] * windows).sum(axis=form.window)
        return result
    lengths = [values.shape[axis] for axis in form.window]
    return np.tensordot(values, windows.reshape(*lengths, windows.shape[-1]), (form.window, tuple(range(len(lengths)))))
