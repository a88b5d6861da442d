"""A candidate: an edit of the cfg that would explain a weights file's size. The other modules here propose them.

A cfg, a header and a dialect determine the size of a file. A candidate is a small edit of one of the three, the
plan that follows from it, and the finding that names the edit. If several explain the size, `likeliest` chooses.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from bnorm.checks.findings import Finding
from bnorm.checks.variances import impossible, variances
from bnorm.darknet.cfg import CfgText
from bnorm.darknet.edit import Edit, Value, apply, with_values
from bnorm.darknet.layout import Layout, plan
from bnorm.darknet.model import Model
from bnorm.darknet.network import build
from bnorm.darknet.weights import Weights
from bnorm.errors import CfgError

SETTING = 3.0  # nats: how much less likely an edit of a setting is than no edit; edits with more variants cost more

ONE_OF_MANY = 6.0  # nats of an edit in any one of the layers

FREE_NUMBER = 5.0  # further nats of a number that may have any value


class Candidate(NamedTuple):
    """Another plan that has the file's size, and the finding that names the edit.

    `edits` is the number of edited sections, where all sections of a kind count as one; `nats` is how much less likely
    it is than no edit, before the file is read. Edits of different options stay distinct even if their plans are equal.
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


def implausibility(weights: Weights, layout: Layout) -> int:
    """Return how many values read as rolling variances by this plan cannot be variances: fewer are more plausible."""
    return sum(int(np.count_nonzero(impossible(values))) for _, values in variances(weights, layout))
