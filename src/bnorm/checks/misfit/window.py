"""The range of layers that can contain an edit: around where rolling variances stop being plausible."""

from __future__ import annotations

from bnorm.checks.misfit.evidence import Evidence

CHANCE = 24  # this many values are not all plausible by chance


def window(evidence: Evidence) -> range:
    """Return the range of layers from the last arrays that are reliably plausible to the first misread array.

    Every array after an edit is read at the wrong offset, so the edit is not after the first array that is
    misread. Nor is it before an array with many plausible values.
    """
    model = evidence.weights.model
    arrays = [array for array in model.layout.arrays if array.field == "rolling_variance"]
    held = evidence.misreads(model.layout)
    first = held.index(True) if True in held else len(held)
    start, count = first, 0
    while start and (count < CHANCE or first - start < 2):
        start -= 1
        count += arrays[start].size
    last = arrays[first].layer if first < len(arrays) and first < len(held) else len(model.network.layers) - 1
    return range(arrays[start].layer if start and count >= CHANCE else 0, last + 1)
