"""A candidate: other settings by which a weights file would have its size, as each module beside this one proposes.

A file has exactly one size for a cfg, a header and a dialect, so that a candidate is a small edit of one of them, the
plan that follows from it, and the finding that names the edit. Where several have the file's size, `likeliest` chooses.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from bnorm.checks.findings import Finding
from bnorm.checks.variances import impossible
from bnorm.darknet.cfg import CfgText
from bnorm.darknet.edit import Value, apply, with_values
from bnorm.darknet.layout import Array, Layout
from bnorm.darknet.weights import Floats, Weights


class Candidate(NamedTuple):
    """Another plan that has the file's size, and the finding that says what was edited to get it."""

    layout: Layout
    finding: Finding


def edited(text: CfgText, values: Iterable[Value]) -> CfgText:
    """Return the cfg with other values."""
    return apply(text, with_values(text, values))


def variances(weights: Weights, layout: Layout) -> Iterator[tuple[Array, Floats]]:
    """Yield the rolling variances as this plan reads them, as far as the file holds them."""
    for array in layout.arrays:
        if array.field == "rolling_variance" and array.end <= weights.nbytes:
            yield array, weights.read(array)


def implausibility(weights: Weights, layout: Layout) -> int:
    """Return how many rolling variances cannot be any, by this plan: the fewer, the likelier it is."""
    return sum(int(np.count_nonzero(impossible(values))) for _, values in variances(weights, layout))
