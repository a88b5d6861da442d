"""The arrays of a folded part, in float64: its weights times a gain per filter, and new biases.

A layer's batch normalisation is `y = gain·x + offset` at inference. Several of them in sequence have
the same form: then·(first·x + offset) + shift = (then·first)·x + (then·offset + shift).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import reduce
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bnorm.batchnorm.epsilon import Epsilon, Vector
from bnorm.darknet.layout import FORMS, Array
from bnorm.darknet.parts import Part, array_name
from bnorm.darknet.weights import Arrays, Floats, Weights
from bnorm.folding.fates import Kept
from bnorm.folding.plan import Fold
from bnorm.statistics.normalisers import Key, Normaliser
from bnorm.transforms.response import Doubles, Probe, Stored, probe, signs, window_size

TOO_LARGE = Kept(("its folded values exceed float32",))


class Affine(NamedTuple):
    """A part's new weights are the old ones times `gain` per filter, and times `inputs` per input channel.

    `gain` has the shape (filters,), `biases` that of the part's biases. `inputs` is None if no `[batchnorm]` before the
    part is folded into it; otherwise it broadcasts with the weights in memory: (1 or filters, channels, 1, 1), or
    (1, inputs) in a fully connected layer.
    """

    fold: Fold
    gain: Vector
    inputs: Doubles | None
    biases: Doubles


class Folded(NamedTuple):
    """A block of a folded array, and whether a finite value has become infinite in it."""

    values: Floats
    overflows: bool


def affine(fold: Fold, weights: Arrays, normalisers: Mapping[Key, Normaliser], epsilon: Epsilon) -> Affine:
    """Combine every batch norm that is folded into this part into one gain per filter and new biases.

    own       gain, offset of the part itself; without: gain = 1, offset = biases
    before    y = gain·Σ w·(factor·x + shift) + offset: inputs = factor, biases = offset + gain·Σ w·shift
    after     y = factor·(gain·Σ + biases) + shift: gain = factor·gain, biases = factor·biases + shift
    """
    if fold.own:
        gain, biases = normalisers[fold.layer, fold.part.name].gain_offset(epsilon)
    else:
        biases = weights[fold.layer, array_name(fold.part.name, "biases")].astype(np.float64)
        gain = np.ones(fold.part.channels)
    inputs = None
    if fold.before:
        factor, shift = _composed(fold.before, normalisers, epsilon)
        inputs = _along_inputs(factor, fold)
        biases = biases + gain * _response_to_constant(fold, weights, shift)
    if fold.after:
        factor, shift = _composed(fold.after, normalisers, epsilon)
        gain = gain * factor
        biases = _along(factor, 0, biases.ndim) * biases + _along(shift, 0, biases.ndim)
    return Affine(fold=fold, gain=gain, inputs=inputs, biases=biases)


def _composed(
    layers: tuple[int, ...], normalisers: Mapping[Key, Normaliser], epsilon: Epsilon
) -> tuple[Vector, Vector]:
    """Return gain and offset of several `[batchnorm]` layers in sequence."""
    lines = [normalisers[layer, ""].gain_offset(epsilon) for layer in layers]
    return reduce(lambda first, then: (then[0] * first[0], then[0] * first[1] + then[1]), lines)


def _along_inputs(factor: Vector, fold: Fold) -> Doubles:
    """Return a factor per input channel in a shape that broadcasts with the weights in memory."""
    groups = fold.part.groups
    if fold.part.kind == "connected":
        return _channel_inputs(factor, fold.part)
    by_group = factor.reshape(groups, -1, 1, 1)
    return by_group.repeat(fold.part.channels // groups, axis=0) if groups > 1 else by_group


def _channel_inputs(vector: Doubles, part: Part) -> Doubles:
    """Expand one value per input channel to one per input of a window: (groups, window).

    A convolution and a fully connected layer both read all places of a channel before the next channel.
    """
    by_group = vector.reshape(part.groups, -1)  # (groups, channels per group)
    return by_group.repeat(window_size(part) // by_group.shape[1], axis=1)


def _along(vector: Vector, axis: int, dimensions: int) -> Doubles:
    """Return the vector in a shape that broadcasts along this axis."""
    return vector.reshape([-1 if number == axis else 1 for number in range(dimensions)])


def _response_to_constant(fold: Fold, weights: Arrays, values: Vector) -> Vector:
    """Return Σ w·x per filter for an input that is constant within each channel, (C,) → (filters,)."""
    windows = _channel_inputs(values, fold.part)[..., np.newaxis]  # (groups, window, 1)
    (sums,) = probe(stored_weights(weights, fold), fold.part, [Probe(windows)])  # (1, filters, 1)
    return sums[0, :, 0]


def stored_weights(weights: Arrays, fold: Fold) -> Stored:
    """Return the weights of a folded part as the file holds them."""
    array = weights.layout.by_name[fold.layer, array_name(fold.part.name, "weights")]
    return Stored(array, lambda: weights.blocks(array))


def folded(weights: Arrays, array: Array, change: Affine) -> Iterator[Folded]:
    """Yield the part's biases or weights after folding, rounded once, in blocks of rows as the file holds them."""
    if array.field == "biases":
        yield _rounded(change.biases.astype(np.float32), change.biases)
        return
    factors = [_along(change.gain, FORMS[change.fold.part.kind].filters, len(array.shape))]
    factors += [] if change.inputs is None else [change.inputs]
    start = 0
    for block in weights.blocks(array):
        rows = [_rows(factor, array, start, start + len(block)) for factor in factors]
        yield _rounded(_product(block, rows), block)
        start += len(block)


def _rows(factor: Doubles, array: Array, start: int, stop: int) -> Doubles:
    """Turn a factor that broadcasts with the array in memory into one that broadcasts with these rows in the file."""
    in_file = factor if array.axes is None else factor.transpose(np.argsort(array.axes))
    return in_file[start:stop] if len(in_file) > 1 else in_file


def _product(block: Floats, factors: list[Doubles]) -> Floats:
    """Multiply a block with factors that broadcast with it in float64, rounded to float32 once."""
    product: NDArray[np.floating] = block
    for factor in factors[:-1]:
        product = product * factor
    rounded: Floats = np.multiply(
        product, factors[-1], out=np.empty(block.shape, np.float32), dtype=np.float64, casting="same_kind"
    )
    return rounded


def _rounded(values: Floats, before: NDArray[np.floating]) -> Folded:
    """Return a block, and whether finite values have become infinite in it."""
    infinite = np.isinf(values)
    return Folded(values, bool(infinite.any() and np.isfinite(before[infinite]).any()))


def lost_signs(weights: Weights, change: Affine) -> Kept | None:
    """Return why a binary part cannot be folded; None if it can.

    A negative gain flips every sign, but a weight of 0 has no sign to flip. Nor may a weight become 0 or exceed
    float32. In a filter of nothing but zeros the signs do not matter.
    """
    part, source = change.fold.part, stored_weights(weights, change.fold)
    if any(block.overflows for block in folded(weights, source.array, change)):
        return TOO_LARGE
    ones = np.ones([1, window_size(part), 1])
    before, magnitudes = probe(source, part, [Probe(ones, signs), Probe(ones, np.abs)])  # (1, filters, 1) each
    new = Stored(source.array, lambda: (block.values for block in folded(weights, source.array, change)))
    (after,) = probe(new, part, [Probe(ones, signs)])
    gain = change.gain[:, np.newaxis]  # (filters, 1)
    count = int(np.count_nonzero((before * np.sign(gain) != after) & (gain * magnitudes != 0)))
    reason = f"folding would change signs of weights in {count} binary filter{'s' * (count != 1)}"
    return Kept((reason,)) if count else None
