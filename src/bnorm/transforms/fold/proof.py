"""Proof of a fold: the arithmetic of each folded layer, before and after, on random windows of its input.

Before is the layer as darknet computes it, step by step in float64: the sums, then each normalisation as `(x − mean) /
deviation · scale + bias`. After is the layer in the folded file: the sums with its weights, and its biases.
`transforms.response` computes a layer from its bytes by the index rule of the C programs, independently of the code of
the fold. A folded weight or bias is off by one rounding to float32, so the two results differ by no more than that
bound. The proof does not cover the decisions which layer is folded into which, and what each layer reads: those are
made in `folding.plan` and `darknet.edit`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import numpy as np

from bnorm.batchnorm.epsilon import Epsilon
from bnorm.darknet.parts import array_name
from bnorm.folding.plan import Fold
from bnorm.statistics.normalisers import Key, Normaliser
from bnorm.transforms.response import Doubles, Probe, Stored, channels_seen, probe, signs, window_size

WINDOWS = 4

MOST = 1 << 20  # values of all windows, and of their outputs; if a single window has more, only one is used

ROUNDING = 2.0**-24 * 1.01  # of a float64 to float32, relative; the float64 sums around it are off by far less than 1 %

SMALLEST = 2.0**-149  # float32's smallest number: the error of a rounding near 0

DOUBLE = 1e-12  # the error of float64 where large terms cancel, relative to the terms: 2⁻⁵³ times a few thousand terms

Source = Callable[[int, str], Stored]  # by the layer's number in the old network and the array's name


class Difference(NamedTuple):
    """The largest difference between outputs before and after; None if the layer gives no finite values.

    `relative` is relative to the largest output of the channel, `excess` to the bound of the roundings: above 1 the
    proof has failed. `silent` counts channels that give no finite value, and were not compared.
    """

    absolute: float | None
    relative: float | None
    excess: float
    silent: int


class Outputs(NamedTuple):
    """Outputs, and the magnitudes of the terms that they are sums of: (places, filters, W) each."""

    values: Doubles
    terms: Doubles


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerProof:
    """One folded part in the old file and in the new one."""

    fold: Fold
    old: Source
    new: Source
    normalisers: Mapping[Key, Normaliser]
    epsilon: Epsilon

    def difference(self) -> Difference:
        """Compare the part before and after, with plain and with binary weights if both are in use."""
        with np.errstate(all="ignore"):  # a layer with NaN or infinity before folding has them after folding as well
            differences = [self._difference(binary, self._windows()) for binary in self.fold.binary]
        return max(differences, key=lambda difference: difference.excess)

    def _windows(self) -> Doubles:
        """Return random windows, (1, window, W), the same ones for a layer each time."""
        size = window_size(self.fold.part)
        count = min(max(MOST // max(size, prod(self.fold.part.biases)), 1), WINDOWS)
        values = np.random.default_rng(self.fold.layer).standard_normal([count, 1, size])
        # Each window is contiguous in memory, which makes the multiplication twice as fast.
        return np.moveaxis(values, 0, -1)

    def _difference(self, binary: bool, windows: Doubles) -> Difference:
        """Compare outputs before and after; the bound is that of one rounding of each weight and bias."""
        before = self._before(binary, windows)
        biases = self._biases(self.new)
        sums, size = self._bounded_sums(binary, self.new, windows)
        bound = ROUNDING * (size + np.abs(biases)) + DOUBLE * before.terms + SMALLEST * windows.size
        return _compared(before.values, sums + biases, bound)

    def _before(self, binary: bool, windows: Doubles) -> Outputs:
        """Return the old outputs: [batchnorm] before, the sums, own normalisation or biases, [batchnorm] after."""
        outputs = self._linear(binary, windows)
        if self.fold.own:
            outputs = self._normalised(outputs, (self.fold.layer, self.fold.part.name))
        else:
            biases = self._biases(self.old)
            outputs = Outputs(outputs.values + biases, outputs.terms + np.abs(biases))
        for layer in self.fold.after:
            outputs = self._normalised(outputs, (layer, ""))
        return outputs

    def _linear(self, binary: bool, windows: Doubles) -> Outputs:
        """Return the sums of the old weights and the windows, after the `[batchnorm]` layers before them."""
        if not self.fold.before:
            sums = self._sums(binary, self.old, windows)
            return Outputs(sums, np.abs(sums))
        seen = Outputs(windows, np.abs(windows))
        for layer in self.fold.before:
            seen = _normalised(seen, *map(self._seen, self._vectors((layer, ""))))  # (groups, window, W)
        return Outputs(*probe(self._weights(self.old), self.fold.part, [Probe(seen.values), Probe(seen.terms, np.abs)]))

    def _seen(self, vector: Doubles) -> Doubles:
        """Expand one value per input channel to one per input of a window, (groups, window, 1)."""
        return vector[channels_seen(self.fold.part, len(vector))][..., np.newaxis]

    def _normalised(self, outputs: Outputs, key: Key) -> Outputs:
        """Normalise outputs with the normaliser of this part."""
        return _normalised(outputs, *(vector[:, np.newaxis] for vector in self._vectors(key)))  # (filters, 1) each

    def _vectors(self, key: Key) -> tuple[Doubles, ...]:
        """Return mean, deviation, scales and biases of a normaliser, (C,) each."""
        normaliser = self.normalisers[key]
        deviation = self.epsilon.deviation(normaliser.rolling.variance)
        return normaliser.rolling.mean, deviation, normaliser.parameters.scales, normaliser.parameters.biases

    def _sums(self, binary: bool, source: Source, windows: Doubles) -> Doubles:
        """Return Σ w·x, (places, filters, W)."""
        if binary:
            return self._bounded_sums(binary, source, windows)[0]
        (sums,) = probe(self._weights(source), self.fold.part, [Probe(windows)])
        return sums

    def _bounded_sums(self, binary: bool, source: Source, windows: Doubles) -> tuple[Doubles, Doubles]:
        """Return the sums, and a bound of Σ|w·x|: √Σw² · √Σx² by Cauchy and Schwarz.

        Binary weights are their signs times their mean magnitude; their bound is that magnitude times Σ|x|.
        """
        weights, part, ones = self._weights(source), self.fold.part, np.ones_like(windows[..., :1])
        if not binary:
            sums, squares = probe(weights, part, [Probe(windows), Probe(ones, np.square)])
            return sums, np.sqrt(squares * (windows**2).sum(axis=1, keepdims=True))
        count = windows.shape[1]
        sums, total = probe(weights, part, [Probe(windows, signs), Probe(ones, np.abs)])
        return sums * total / count, np.abs(windows).sum() * total / count

    def _weights(self, source: Source) -> Stored:
        return source(self.fold.layer, array_name(self.fold.part.name, "weights"))

    def _biases(self, source: Source) -> Doubles:
        """Return the part's biases, (places, filters, 1); only those of `local` differ from place to place."""
        blocks = source(self.fold.layer, array_name(self.fold.part.name, "biases")).blocks()
        values = np.concatenate(
            [block.astype(np.float64) for block in blocks]
        )  # (filters,) or (filters, height, width)
        return values.reshape(len(values), -1).T[..., np.newaxis]


def _normalised(outputs: Outputs, mean: Doubles, deviation: Doubles, scales: Doubles, biases: Doubles) -> Outputs:
    """Normalise step by step, as pjreddie's `normalize_cpu, scale_bias, add_bias` do."""
    values = (outputs.values - mean) / deviation * scales + biases
    return Outputs(values, (outputs.terms + np.abs(mean)) / deviation * np.abs(scales) + np.abs(biases))


def _compared(before: Doubles, after: Doubles, bound: Doubles) -> Difference:
    """Compare outputs, (places, filters, W) each, where the old layer gives finite values."""
    finite = np.isfinite(before)
    silent = int(np.count_nonzero(~finite.any(axis=-1)))
    gap = np.where(finite, np.abs(after - before), 0.0)
    largest = np.where(finite, np.abs(before), 0.0).max(axis=-1, keepdims=True)  # of each channel
    relative = gap / np.where(largest > 0, largest, 1.0)
    compared = bool(finite.any())
    return Difference(
        absolute=float(gap.max()) if compared else None,
        relative=float(relative.max()) if compared else None,
        excess=float(np.nan_to_num(np.where(finite, gap / bound, 0.0), nan=np.inf).max(initial=0)),
        silent=silent,
    )
