"""Proof of a fold: the arithmetic of each folded layer, before and after, on random windows of its input.

Before is the layer as darknet computes it, step by step in float64: the sums, then each normalisation as
`(x − mean) / deviation · scale + bias`. After is what the folded file says: the sums with its weights, and its biases.
A folded weight or bias is off by its one rounding to float32, so the two differ by no more than that bound. Which layer
may go into which, and what each one reads, is decided in `folds` and `references`, and not proven here.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import NamedTuple

import numpy as np

from bnorm.batchnorm.epsilon import Epsilon
from bnorm.batchnorm.formulas import Parameters, Rolling
from bnorm.darknet.parts import array_name
from bnorm.statistics.normalisers import Statistics
from bnorm.transforms.fold.plan import Fold
from bnorm.transforms.response import Doubles, Question, Stored, inputs_of, respond, signs, window_shape

WINDOWS = 4

MOST = 1 << 20  # values of all windows, and of their outputs; where a single one has more, that one is enough

ROUNDING = 2.0**-24 * 1.01  # of a float64 to float32, relative; the float64 sums around it are off by far less than 1 %

SMALLEST = 2.0**-149  # float32's smallest number: what a rounding near 0 is off by

DOUBLE = 1e-12  # what float64 may lose where large terms cancel, relative to them: 2⁻⁵³ times some thousand terms

Source = Callable[[int, str], Stored]  # by the layer's number in the old network and the array's name


class Difference(NamedTuple):
    """The largest difference between outputs before and after; None where the layer gives no numbers.

    `relative` is in relation to the largest output of its channel, `excess` to the bound of its roundings: above 1 the
    proof has failed. `silent` channels give no number, and so were not compared.
    """

    absolute: float | None
    relative: float | None
    excess: float
    silent: int


class _Outputs(NamedTuple):
    """Outputs for each channel and window, and the size of the terms that they are sums of."""

    values: Doubles
    terms: Doubles


def compare(fold: Fold, old: Source, new: Source, statistics: Statistics, epsilon: Epsilon) -> Difference:
    """Compare one folded part with what it was, with plain and with binary weights if both are in use."""
    with np.errstate(all="ignore"):  # a layer with NaN or infinity has none after, either
        found = [_compare(fold, binary, old, new, statistics, epsilon) for binary in fold.binary]
    return max(found, key=lambda difference: difference.excess)


def _compare(
    fold: Fold, binary: bool, old: Source, new: Source, statistics: Statistics, epsilon: Epsilon
) -> Difference:
    shape = window_shape(fold.part)
    count = min(max(MOST // max(prod(shape), prod(fold.part.biases)), 1), WINDOWS)
    # Each window lies together in memory: twice as fast to multiply with as windows value by value.
    windows = np.moveaxis(np.random.default_rng(fold.layer).standard_normal([count, *shape]), 0, -1)
    before = _before(fold, binary, old, windows, statistics, epsilon)
    biases = _biases(fold, new)
    sums, size = _bounded_sums(fold, binary, new, windows)
    bound = ROUNDING * (size + np.abs(biases)) + DOUBLE * before.terms + SMALLEST * windows.size
    return _difference(before.values, sums + biases, bound)


def _before(
    fold: Fold, binary: bool, old: Source, windows: Doubles, statistics: Statistics, epsilon: Epsilon
) -> _Outputs:
    outputs = _linear(fold, binary, old, windows, statistics, epsilon)
    normalisers = [statistics[layer, ""] for layer in fold.behind]
    if fold.own:
        normalisers.insert(0, statistics[fold.layer, fold.part.name])
    else:
        biases = _biases(fold, old)
        outputs = _Outputs(outputs.values + biases, outputs.terms + np.abs(biases))
    for normaliser in normalisers:
        outputs = _normalised(outputs, *(vector[:, np.newaxis] for vector in _vectors(normaliser, epsilon)))
    return outputs


def _linear(
    fold: Fold, binary: bool, old: Source, windows: Doubles, statistics: Statistics, epsilon: Epsilon
) -> _Outputs:
    """What the part's weights make of the windows, behind the `[batchnorm]` layers before it."""
    if not fold.before:
        sums = _sums(fold, binary, old, windows)
        return _Outputs(sums, np.abs(sums))
    seen = _Outputs(windows, np.abs(windows))
    for layer in fold.before:
        vectors = _vectors(statistics[layer, ""], epsilon)
        seen = _normalised(seen, *(inputs_of(vector, fold.part, fold.groups)[..., np.newaxis] for vector in vectors))
    return _Outputs(*respond(_weights(fold, old), fold.part, Question(seen.values), Question(seen.terms, np.abs)))


def _vectors(statistics: tuple[Parameters, Rolling], epsilon: Epsilon) -> tuple[Doubles, ...]:
    parameters, rolling = statistics
    return rolling.mean, epsilon.deviation(rolling.variance), parameters.scales, parameters.biases


def _normalised(outputs: _Outputs, mean: Doubles, deviation: Doubles, scales: Doubles, biases: Doubles) -> _Outputs:
    """One step after the other, as PJ `normalize_cpu, scale_bias, add_bias`."""
    values = (outputs.values - mean) / deviation * scales + biases
    return _Outputs(values, (outputs.terms + np.abs(mean)) / deviation * np.abs(scales) + np.abs(biases))


def _sums(fold: Fold, binary: bool, source: Source, windows: Doubles) -> Doubles:
    """Σ weights·x for each filter and window."""
    if binary:
        return _bounded_sums(fold, binary, source, windows)[0]
    (sums,) = respond(_weights(fold, source), fold.part, Question(windows))
    return sums


def _bounded_sums(fold: Fold, binary: bool, source: Source, windows: Doubles) -> tuple[Doubles, Doubles]:
    """The sums, and a bound of Σ|weights·x|: √n · √Σ(weights·x)² by Cauchy and Schwarz.

    Binary weights are their signs times their mean magnitude.
    """
    weights, count = _weights(fold, source), windows[..., 0].size
    if not binary:
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
    silent = int(np.count_nonzero(~finite.any(axis=-1)))
    gap = np.where(finite, np.abs(after - before), 0.0)
    largest = np.where(finite, np.abs(before), 0.0).max(axis=-1, keepdims=True)
    relative = gap / np.where(largest > 0, largest, 1.0)
    excess = float(np.nan_to_num(np.where(finite, gap / bound, 0.0), nan=np.inf).max(initial=0))
    if not finite.any():
        return Difference(None, None, excess, silent)
    return Difference(float(gap.max()), float(relative.max()), excess, silent)
