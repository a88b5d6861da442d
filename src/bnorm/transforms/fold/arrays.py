"""What folding makes of a part's arrays, in float64: its weights times a gain per filter, and new biases.

A layer's batch normalisation is `y = gain·x + offset` at inference. Those that a part takes in, one behind the other,
are again of this form.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from functools import reduce
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bnorm.batchnorm.epsilon import Epsilon, Vector
from bnorm.batchnorm.formulas import gain_offset
from bnorm.darknet.layout import FORMS, Array
from bnorm.darknet.parts import array_name
from bnorm.darknet.weights import Floats, Weights
from bnorm.statistics.normalisers import Statistics
from bnorm.transforms.fold.plan import Fold
from bnorm.transforms.response import Doubles, Question, Stored, along, in_file, inputs_of, respond, signs, window_shape

TOO_LARGE = "folded, its numbers are beyond float32"


class Beyond(Exception):
    """Folded numbers are beyond what a float32 holds: those of `layers`, with all that was to go into them."""

    def __init__(self, layers: Set[int]) -> None:
        self.layers = layers


class Affine(NamedTuple):
    """A part's new weights are the old ones times `gain` per filter, and times `inputs` where those are scaled, too."""

    fold: Fold
    gain: Vector
    inputs: Doubles | None  # broadcasts with the weights
    biases: Doubles


def affine(fold: Fold, weights: Weights, known: Statistics, epsilon: Epsilon) -> Affine:
    """All that the part takes in, as one gain and new biases.

    own       weights·gain, offset
    behind    the same once more, of what was there
    before    Σ weights·(gain·x + offset): inputs times gain, biases plus the part's own gain · Σ weights·offset
    """
    if fold.own:
        gain, biases = gain_offset(*known[fold.layer, fold.part.name], epsilon)
    else:
        biases = weights[fold.layer, array_name(fold.part.name, "biases")].astype(np.float64)
        gain = np.ones(fold.part.channels)
    inputs = None
    if fold.before:
        factor, shift = _composed(fold.before, known, epsilon)
        inputs = inputs_of(factor, fold.part, fold.groups)
        if fold.groups > 1:
            inputs = inputs.repeat(fold.part.channels // fold.groups, axis=0)
        biases = biases + gain * _of_constant(fold, weights, inputs_of(shift, fold.part, fold.groups))
    if fold.behind:
        factor, shift = _composed(fold.behind, known, epsilon)
        gain = gain * factor
        biases = along(factor, 0, biases.ndim) * biases + along(shift, 0, biases.ndim)
    return Affine(fold, gain, inputs, biases)


def _composed(layers: tuple[int, ...], known: Statistics, epsilon: Epsilon) -> tuple[Vector, Vector]:
    """Gain and offset of several `[batchnorm]` layers one after the other."""
    lines = [gain_offset(*known[layer, ""], epsilon) for layer in layers]
    return reduce(lambda first, then: (then[0] * first[0], then[0] * first[1] + then[1]), lines)


def _of_constant(fold: Fold, weights: Weights, inputs: Doubles) -> Vector:
    """What the part makes of an input that is the same everywhere in a channel."""
    shape = [len(inputs), *window_shape(fold.part)[1:]]
    windows = np.broadcast_to(inputs, shape)[..., np.newaxis]
    (sums,) = respond(stored(weights, fold), fold.part, Question(windows))
    return sums[..., 0]


def stored(weights: Weights, fold: Fold) -> Stored:
    """The weights of the part that takes something in."""
    name = array_name(fold.part.name, "weights")
    array = weights.layout.by_name[fold.layer, name]
    return Stored(array, lambda: weights.blocks(array))


def folded(weights: Weights, array: Array, change: Affine) -> Iterator[Floats]:
    """The part's biases or weights after folding, rounded once, in blocks of rows as the file holds them.

    `Beyond` where a finite number has become an infinite one.
    """
    if array.field == "biases":
        yield _finite(change.biases.astype(np.float32), change.biases, change.fold)
        return
    factors = [along(change.gain, FORMS[change.fold.part.kind].filters, len(array.shape))]
    factors += [] if change.inputs is None else [change.inputs]
    start = 0
    for block in weights.blocks(array):
        rows = [in_file(factor, array, start, start + len(block)) for factor in factors]
        yield _finite(_product(block, rows), block, change.fold)
        start += len(block)


def _product(block: Floats, factors: list[Doubles]) -> Floats:
    product: NDArray[np.floating] = block
    for factor in factors[:-1]:
        product = product * factor
    rounded: Floats = np.multiply(
        product, factors[-1], out=np.empty(block.shape, np.float32), dtype=np.float64, casting="same_kind"
    )
    return rounded


def _finite(values: Floats, before: NDArray[np.floating], fold: Fold) -> Floats:
    if np.isinf(values).any() and np.isfinite(before[np.isinf(values)]).any():
        raise Beyond({fold.layer, *fold.before, *fold.behind})
    return values


def lost_signs(weights: Weights, change: Affine) -> str:
    """Why a binary part cannot be folded: a gain below 0 turns every sign, but not that of a weight of 0.

    Nor may a weight become 0, or a number that no float32 holds; a filter of zeros alone has no sign.
    """
    part, source = change.fold.part, stored(weights, change.fold)
    ones = np.ones([*window_shape(part), 1])
    new = Stored(source.array, lambda: folded(weights, source.array, change))
    before, magnitudes = respond(source, part, Question(ones, signs), Question(ones, np.abs))
    try:
        (after,) = respond(new, part, Question(ones, signs))
    except Beyond:
        return TOO_LARGE
    gain = change.gain[:, np.newaxis]
    count = int(np.count_nonzero((before * np.sign(gain) != after) & (gain * magnitudes != 0)))
    return f"folding would change signs of weights in {count} binary filter{'s' * (count != 1)}" if count else ""
