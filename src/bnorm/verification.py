"""Proof of a fold: each folded layer, before and after, on random windows of its input.

Before is the layer as darknet computes it, step by step in float64: the sums, then each normalisation as
`(x − mean) / deviation · scale + bias`. After is what the folded file says: the sums with its weights, and its biases.
A folded weight or bias is off by its one rounding to float32, so the two differ by no more than that bound.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import NamedTuple

import numpy as np

from bnorm.affine import Statistics
from bnorm.batchnorm import Epsilon, Parameters, Rolling
from bnorm.folds import Fold
from bnorm.linear import Doubles, Question, Stored, inputs_of, respond, signs, window_shape
from bnorm.parts import array_name

WINDOWS = 4
MOST = 1 << 20  # values of all windows; where a single one has more, that one is enough
ROUNDING = 2.0**-24 * 1.01  # of a float64 to float32, relative; the float64 sums around it are off by far less than 1 %
SMALLEST = 2.0**-149  # float32's smallest number: what a rounding near 0 is off by
DOUBLE = 1e-12  # what float64 may lose where large terms cancel, relative to them: 2⁻⁵³ times some thousand terms

Source = Callable[[int, str], Stored]  # by the layer's number in the old network and the array's name


class Difference(NamedTuple):
    """The largest difference between outputs before and after.

    `relative` is in relation to the largest output of its channel, `excess` to the bound of its roundings: above 1 the
    proof has failed.
    """

    absolute: float
    relative: float
    excess: float


class _Outputs(NamedTuple):
    """Outputs for each channel and window, and the size of the terms that they are sums of."""

    values: Doubles
    terms: Doubles


def compare(fold: Fold, old: Source, new: Source, statistics: Statistics, epsilon: Epsilon) -> Difference:
    """Compare one folded part with what it was."""
    shape = window_shape(fold.part)
    count = min(max(MOST // prod(shape), 1), WINDOWS)
    # Each window lies together in memory: twice as fast to multiply with as windows value by value.
    windows = np.moveaxis(np.random.default_rng(fold.layer).standard_normal([count, *shape]), 0, -1)
    with np.errstate(all="ignore"):  # a layer with NaN or infinity has none after, either
        before = _before(fold, old, windows, statistics, epsilon)
        biases = _biases(fold, new)
        sums, size = _bounded_sums(fold, new, windows)
        bound = ROUNDING * (size + np.abs(biases)) + DOUBLE * before.terms + SMALLEST * windows.size
        return _difference(before.values, sums + biases, bound)


def _before(fold: Fold, old: Source, windows: Doubles, statistics: Statistics, epsilon: Epsilon) -> _Outputs:
    for layer in fold.before:
        vectors = _vectors(statistics[layer, ""], epsilon)
        each = [inputs_of(vector, fold.part, fold.groups)[..., np.newaxis] for vector in vectors]
        windows = _normalised(_Outputs(windows, windows), *each).values
    sums = _sums(fold, old, windows)
    normalisers = [statistics[layer, ""] for layer in fold.behind]
    if fold.own:
        outputs = _Outputs(sums, np.abs(sums))
        normalisers.insert(0, statistics[fold.layer, fold.part.name])
    else:
        biases = _biases(fold, old)
        outputs = _Outputs(sums + biases, np.abs(sums) + np.abs(biases))
    for normaliser in normalisers:
        outputs = _normalised(outputs, *(vector[:, np.newaxis] for vector in _vectors(normaliser, epsilon)))
    return outputs


def _vectors(statistics: tuple[Parameters, Rolling], epsilon: Epsilon) -> tuple[Doubles, ...]:
    parameters, rolling = statistics
    return rolling.mean, epsilon.deviation(rolling.variance), parameters.scales, parameters.biases


def _normalised(outputs: _Outputs, mean: Doubles, deviation: Doubles, scales: Doubles, biases: Doubles) -> _Outputs:
    """One step after the other, as PJ `normalize_cpu, scale_bias, add_bias`."""
    values = (outputs.values - mean) / deviation * scales + biases
    return _Outputs(values, (outputs.terms + np.abs(mean)) / deviation * np.abs(scales) + np.abs(biases))


def _sums(fold: Fold, source: Source, windows: Doubles) -> Doubles:
    """Σ weights·x for each filter and window."""
    if fold.binary:
        return _bounded_sums(fold, source, windows)[0]
    (sums,) = respond(_weights(fold, source), fold.part, Question(windows))
    return sums


def _bounded_sums(fold: Fold, source: Source, windows: Doubles) -> tuple[Doubles, Doubles]:
    """The sums, and a bound of Σ|weights·x|: √n · √Σ(weights·x)² by Cauchy and Schwarz.

    Binary weights are their signs times their mean magnitude.
    """
    weights, count = _weights(fold, source), windows[..., 0].size
    if not fold.binary:
        sums, squares = respond(weights, fold.part, Question(windows), Question(windows**2, np.square))
        return sums, np.sqrt(count * squares)
    ones = np.ones_like(windows[..., :1])
    sums, total = respond(weights, fold.part, Question(windows, signs), Question(ones, np.abs))
    return sums * total / count, np.abs(windows).sum() * total / count


def _weights(fold: Fold, source: Source) -> Stored:
    return source(fold.layer, array_name(fold.part.name, "weights"))


def _biases(fold: Fold, source: Source) -> Doubles:
    """The part's biases, for each filter and window; those of `local` differ from place to place."""
    blocks = source(fold.layer, array_name(fold.part.name, "biases")).blocks()
    values = np.concatenate(list(blocks)).astype(np.float64)
    return (values if values.ndim == 1 else values.reshape(len(values), -1).T)[..., np.newaxis]


def _difference(before: Doubles, after: Doubles, bound: Doubles) -> Difference:
    """Where the layer itself gives no number, there is nothing to compare."""
    finite = np.isfinite(before)
    gap = np.where(finite, np.abs(after - before), 0.0)
    largest = np.where(finite, np.abs(before), 0.0).max(axis=-1, keepdims=True)
    relative = gap / np.where(largest > 0, largest, 1.0)
    excess = np.where(finite, gap / bound, 0.0)
    return Difference(*(float(values.max()) for values in (gap, relative, excess)))
