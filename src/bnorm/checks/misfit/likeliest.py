"""The candidate that explains a weights file's size best."""

from __future__ import annotations

from collections.abc import Iterator

from bnorm.checks.findings import Finding
from bnorm.checks.misfit.batch_normalize import folded_cfg, folded_weights
from bnorm.checks.misfit.candidate import Candidate, implausibility
from bnorm.checks.misfit.classes import fitting_classes
from bnorm.checks.misfit.dialect import other_dialects
from bnorm.checks.misfit.header import other_header
from bnorm.darknet.weights import Weights


def likeliest(weights: Weights) -> Finding | None:
    """Return the finding of the candidate whose plan reads the most plausible rolling variances, the first of several.

    None without a candidate, and where the variances are more plausible by the cfg as given.
    """
    wrong = [(implausibility(weights, candidate.layout), candidate.finding) for candidate in _candidates(weights)]
    fewest, finding = min(wrong, key=lambda row: row[0], default=(0, None))
    return finding if finding and fewest <= implausibility(weights, weights.layout) else None


def _candidates(weights: Weights) -> Iterator[Candidate]:
    """Yield all candidates, the most common causes first."""
    model = weights.model
    yield from other_header(weights)
    yield from folded_weights(model)
    yield from folded_cfg(model)
    classes = fitting_classes(model.network.text, model.dialect, model.header, weights.nbytes)
    if classes:
        yield classes
    yield from other_dialects(model)
