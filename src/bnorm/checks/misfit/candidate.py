"""A candidate: an edit of the cfg by which a weights file would have its size, as each module beside this one proposes.

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
from bnorm.darknet.edit import Edit, Value, apply, with_values
from bnorm.darknet.layout import Array, Layout, plan
from bnorm.darknet.model import Model
from bnorm.darknet.network import build
from bnorm.darknet.weights import Floats, Weights
from bnorm.errors import CfgError

SETTING = 3.0  # nats: how much less likely an edit is than none, by the number of edits of its kind that there are

ONE_OF_MANY = 6.0  # nats of an edit of one of the layers

FREE_NUMBER = 5.0  # nats of a number that is free, besides


class Candidate(NamedTuple):
    """Another plan that has the file's size, and the finding that says what was edited to get it.

    `edits` is the number of sections that it edits, where all of a kind count as one; `nats` is how much less likely it
    is than no edit before the file is read. Edits of different options are told apart even where their plans are equal.
    """

    layout: Layout
    finding: Finding
    edits: int = 1
    nats: float = SETTING
    option: str = ""


def edited(text: CfgText, values: Iterable[Value]) -> CfgText:
    """Return the cfg with other values."""
    return apply(text, with_values(text, values))


def fitting(model: Model, *edits: Edit) -> Layout | None:
    """Return the plan of the cfg with these edits; None where it is rejected, or the file has another size."""
    try:
        layout = plan(build(apply(model.network.text, *edits), model.dialect), model.header)
    except CfgError:
        return None
    return layout if layout.nbytes == model.nbytes else None


def variances(weights: Weights, layout: Layout) -> Iterator[tuple[Array, Floats]]:
    """Yield the rolling variances as this plan reads them, as far as the file holds them."""
    for array in layout.arrays:
        if array.field == "rolling_variance" and array.end <= weights.nbytes:
            yield array, weights.read(array)


def implausibility(weights: Weights, layout: Layout) -> int:
    """Return how many rolling variances cannot be any, by this plan: the fewer, the likelier it is."""
    return sum(int(np.count_nonzero(impossible(values))) for _, values in variances(weights, layout))
