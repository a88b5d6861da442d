"""Evidence for a plan: how well it explains the values of a weights file, to choose between plans of one size.

Values of one array have one magnitude, and those of the next array another: a plan with the right array boundaries
describes the file in fewer bits. For n values of an array, in nats:

    n · ln(root mean square)      each value, by a Gaussian of the array's own magnitude
    n · ln 2                      the signs; ln(n over k) for scales, k of them negative; nothing for rolling variances
    IMPOSSIBLE                    for each value that cannot be a rolling variance, see `variances`
    ½ ln n + ARRAY                the magnitude itself

A difference of d nats between two plans means that the file is e^d times as likely under one as under the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import lgamma, log

import numpy as np

from bnorm.batchnorm.formulas import quiet
from bnorm.checks.variances import impossible, misread
from bnorm.darknet.layout import FLOAT, Array, Layout
from bnorm.darknet.weights import Floats, Weights

IMPOSSIBLE = 7.0  # nats: training leaves fewer than one such value in a thousand variances

ARRAY = 2.0

BLOCK = 64  # values whose sum of squares is cached

CHUNK = 1 << 20  # values that are read at a time

SMALLEST = 1e-6  # a smaller magnitude is not stronger evidence

LARGEST = 1e8  # square of a magnitude: a larger one is not stronger evidence


class Evidence:
    """The values of a file, and the description length of each plan. The file is read once, on first use."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self._sums: np.ndarray[tuple[int], np.dtype[np.float64]] | None = None
        self._before: dict[int, float] = {}
        self._misread: dict[tuple[int, int], bool] = {}
        self._lengths: dict[tuple[str, int, int], float] = {}

    def floats(self, offset: int, count: int) -> Floats:
        """Return `count` values from this offset on, fewer at the end of the file."""
        data = self.weights.bytes_at(offset, FLOAT * count)
        return np.frombuffer(data[: len(data) // FLOAT * FLOAT], "<f4")

    def misread(self, offset: int, count: int) -> bool:
        """Return whether these values cannot be rolling variances, or lie beyond the file's end."""
        key = offset, count
        if key not in self._misread:
            beyond = offset + FLOAT * count > self.weights.nbytes
            self._misread[key] = beyond or misread(self.floats(offset, count))
        return self._misread[key]

    def misreads(self, layout: Layout) -> list[bool]:
        """Return for each array of rolling variances in the file whether it would be misread by this plan."""
        arrays = (array for array in layout.arrays if array.field == "rolling_variance")
        return [self.misread(array.offset, array.size) for array in arrays if array.end <= self.weights.nbytes]

    @quiet
    def nats(self, layout: Layout) -> float:
        """Return the plan's description length of the file; values after the last array count as one more array."""
        nbytes = self.weights.nbytes // FLOAT * FLOAT
        total = sum(self._length(array, min(array.end, nbytes)) for array in layout.arrays if array.offset < nbytes)
        if layout.nbytes >= nbytes:
            return total
        return total + self._magnitude(layout.nbytes, nbytes) + (nbytes - layout.nbytes) // FLOAT * log(2)

    def _length(self, array: Array, end: int) -> float:
        key = array.field, array.offset, end
        if key not in self._lengths:
            signs = self._signs(array.field, array.offset, (end - array.offset) // FLOAT)
            self._lengths[key] = self._magnitude(array.offset, end) + signs
        return self._lengths[key]

    def _signs(self, field: str, offset: int, count: int) -> float:
        if field == "rolling_variance":
            return IMPOSSIBLE * int(np.count_nonzero(impossible(self.floats(offset, count))))
        if field == "scales":
            negative = int(np.count_nonzero(self.floats(offset, count) < 0))
            return lgamma(count + 1) - lgamma(negative + 1) - lgamma(count - negative + 1)
        return count * log(2)

    def _magnitude(self, start: int, end: int) -> float:
        count = (end - start) // FLOAT
        if not count:
            return 0.0
        mean = (self._until(end // FLOAT) - self._until(start // FLOAT)) / count
        return count * log(max(max(mean, 0.0) ** 0.5, SMALLEST)) + 0.5 * log(count) + ARRAY

    def _until(self, index: int) -> float:
        """Return the sum of the squares of all values before this one."""
        if index not in self._before:
            if self._sums is None:
                self._sums = np.cumsum(np.concatenate([[0.0], *self._block_sums()]))
            block = index // BLOCK
            rest = self.floats(FLOAT * BLOCK * block, index - BLOCK * block).astype(np.float64)
            self._before[index] = float(self._sums[block]) + _finite_sum(rest)
        return self._before[index]

    def _block_sums(self) -> Iterator[np.ndarray[tuple[int], np.dtype[np.float64]]]:
        for start in range(0, self.weights.nbytes, FLOAT * CHUNK):
            values = self.floats(start, CHUNK)
            rows = values[: values.size // BLOCK * BLOCK].reshape(-1, BLOCK)
            sums = np.einsum("ij,ij->i", rows, rows).astype(np.float64)
            yield np.nan_to_num(sums, nan=0.0, posinf=BLOCK * LARGEST).clip(max=BLOCK * LARGEST)


def _finite_sum(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
    """Return the sum of squares, with 0 for NaN."""
    total = float((values * values).sum())
    if total <= LARGEST:
        return total
    return float(np.nan_to_num(values * values, nan=0.0, posinf=LARGEST).clip(max=LARGEST).sum())
