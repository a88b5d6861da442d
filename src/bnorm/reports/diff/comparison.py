"""Two arrays compared value by value, in one pass: how many differ, by how much, and where."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bnorm.darknet.weights import Floats, aligned
from bnorm.reports.diff.arrays import Comparable
from bnorm.transforms.fold.proof import ROUNDING, SMALLEST
from bnorm.transforms.response import Doubles

ROUNDINGS = 4  # roundings of a value by function: the scale, its products in two files, and the fold of one


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayDifference:
    """One array in both files.

    `changed` values differ in their bits, `changed_value` of them also in value: 0 and −0 have the same value, as do
    two NaN. By function, both count differences that roundings do not explain. `max_abs` is the largest difference,
    infinite if one value is NaN; `max_rel` is relative to the largest finite value of the array in either file; `place`
    is its place in memory and `index` its filter or channel. An array that is not `compared` has a `reason`.
    """

    layer: int
    layer_b: int | None
    part: str
    name: str
    count: int
    compared: bool
    reason: str = ""
    changed: int = 0
    changed_value: int = 0
    max_abs: float = 0.0
    max_rel: float = 0.0
    index: int | None = None
    place: tuple[int, ...] | None = None

    @property
    def is_same(self) -> bool:
        """Return whether the array is in both files, and the same."""
        return self.compared and not self.changed


class Counts(NamedTuple):
    """The number of values that differ, the largest difference, and its position in the file; −1 for none."""

    changed: int = 0
    changed_value: int = 0
    gap: float = 0.0
    flat: int = -1


def compare(a: Comparable, b: Comparable, *, exactly: bool) -> ArrayDifference:
    """Compare two arrays of one shape; by bits, or within the roundings of values that were computed."""
    axes = a.array.axes
    counts, start = Counts(), 0
    for left, right in aligned(a.blocks(axes), b.blocks(axes)):
        if not np.array_equal(left.view(np.uint32), right.view(np.uint32)):
            bound = None if exactly else _bound(left, right, _terms(a, b), start)
            counts = _added(counts, _counted(left, right, bound), start)
        start += left.size
    place = a.place(counts.flat) if counts.flat >= 0 else None
    return ArrayDifference(
        layer=a.array.layer,
        layer_b=b.array.layer,
        part=a.array.part,
        name=a.name,
        count=a.array.size,
        compared=True,
        changed=counts.changed,
        changed_value=counts.changed_value,
        max_abs=counts.gap,
        max_rel=_relative(counts.gap, _largest(a, b)) if counts.gap else 0.0,
        index=place.channel if place else None,
        place=place.place if place else None,
    )


def _terms(a: Comparable, b: Comparable) -> Doubles | None:
    """Return the magnitudes of the terms of each value in either file, flat; None if values are products."""
    known = [item.terms.reshape(-1) for item in (a, b) if item.terms is not None]
    return None if not known else np.maximum(known[0], known[-1])


def _bound(left: Floats, right: Floats, terms: Doubles | None, start: int) -> Doubles:
    """Return the largest difference of two values that `ROUNDINGS` roundings explain."""
    size = np.maximum(np.abs(left), np.abs(right)).astype(np.float64)
    if terms is not None:
        size = np.maximum(size, terms[start : start + left.size])
    bound: Doubles = ROUNDINGS * (ROUNDING * size + SMALLEST)
    return bound


def _counted(left: Floats, right: Floats, bound: Doubles | None) -> Counts:
    """Count the differences between two pieces; the position is relative to the piece."""
    gap = _gaps(left, right)
    worst = int(np.argmax(gap))
    if bound is not None:
        outside = int(np.count_nonzero((gap > 0) & ~(gap <= bound)))  # a bound of NaN counts as exceeded
        return Counts(outside, outside, float(gap[worst]), worst)
    differs = left.view(np.uint32) != right.view(np.uint32)
    if not gap[worst]:
        worst = int(np.argmax(differs))
    return Counts(int(np.count_nonzero(differs)), int(np.count_nonzero(gap)), float(gap[worst]), worst)


def _gaps(left: Floats, right: Floats) -> Doubles:
    """Return |left − right| in float64: 0 for two NaN or equal infinities, infinite for one NaN."""
    gap: Doubles = np.subtract(left, right, dtype=np.float64)
    np.abs(gap, out=gap)
    if not np.isfinite(gap.max(initial=0)):
        same = (left == right) | (np.isnan(left) & np.isnan(right))
        gap[np.isnan(gap)] = np.inf
        gap[same] = 0.0
    return gap


def _added(counts: Counts, more: Counts, start: int) -> Counts:
    """Add the counts of a piece that begins at `start`."""
    larger = more.gap > counts.gap or counts.flat < 0
    return Counts(
        changed=counts.changed + more.changed,
        changed_value=counts.changed_value + more.changed_value,
        gap=more.gap if larger else counts.gap,
        flat=start + more.flat if larger else counts.flat,
    )


def _largest(a: Comparable, b: Comparable) -> float:
    """Return the largest finite magnitude in either file; 0 if there is none."""
    return max((_magnitude(block) for item in (a, b) for block in _blocks(item)), default=0.0)


def _blocks(item: Comparable) -> Iterator[Floats]:
    return item.blocks(item.array.axes)


def _magnitude(block: NDArray[np.float32]) -> float:
    largest = max(float(block.max(initial=0)), -float(block.min(initial=0)))
    if np.isfinite(largest):
        return largest
    return float(np.abs(block[np.isfinite(block)]).max(initial=0))


def _relative(gap: float, largest: float) -> float:
    return gap / largest if largest else float("inf")
