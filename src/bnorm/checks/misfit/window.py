"""The layers among which an edit can be: where the rolling variances stop being plausible by the cfg as given."""

from __future__ import annotations

from bnorm.checks.misfit.evidence import Evidence

CHANCE = 24  # that many values are not all plausible by chance


def window(evidence: Evidence) -> range:
    """Return the layers after which nothing is plausible any more, and before which everything is; else all layers.

    Every array after an edit is read at the wrong offset, so that the edit is not after the first array that is
    misread. It is not before many values that are plausible.
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
