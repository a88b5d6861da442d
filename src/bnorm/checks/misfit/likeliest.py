"""The candidate that explains a weights file's size best, from a systematic search over small edits of the cfg.

Each of the other modules here proposes edits of one kind that would explain the file's size. A candidate is dropped if
its plan reads other values as rolling variances. Of the remaining candidates, the likeliest is the one whose edit and
plan describe the file in the fewest bits, see `evidence`. The cfg as given, with a file that was cut or has extra
bytes, is a candidate as well. If nothing distinguishes two candidates, both are named.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import log
from typing import NamedTuple

from bnorm.checks.findings import Finding
from bnorm.checks.misfit.batch_normalize import folded_cfg, folded_weights, some_sections
from bnorm.checks.misfit.candidate import ONE_OF_MANY, Candidate
from bnorm.checks.misfit.channels import other_channels
from bnorm.checks.misfit.classes import other_classes
from bnorm.checks.misfit.dialect import other_dialects
from bnorm.checks.misfit.evidence import Evidence
from bnorm.checks.misfit.header import other_header
from bnorm.checks.misfit.layers import fewer_layers, more_layers
from bnorm.checks.misfit.sizes import Sizes
from bnorm.checks.misfit.values import other_values
from bnorm.checks.misfit.window import window
from bnorm.darknet.layout import FLOAT, Layout
from bnorm.darknet.weights import Weights

DAMAGED = 3.0  # nats: how much less likely a file is to be cut or extended than to be intact

EQUAL = 2.0  # nats: candidates that differ by less are equal

MISREAD = 100  # one in this many arrays of rolling variances may be implausible

SHOWN = 2  # number of equal candidates that are named


class _Row(NamedTuple):
    nats: float
    candidate: Candidate


def likeliest(weights: Weights, given: Finding) -> tuple[Finding, ...]:
    """Return the finding of the likeliest candidate, or of two that are equal.

    `given` is the finding if the cfg is right and the file was cut or extended. A file that ends between two
    layers has the same bytes as a file for a cfg without the later layers: only then can `given` be one of two.
    """
    evidence = Evidence(weights)
    most = evidence.misreads(weights.layout).count(True)
    mismatch = weights.mismatch()
    partial = mismatch is not None and mismatch.between_layers and not most
    damaged = Candidate(layout=weights.layout, finding=given, nats=_damage(weights))
    others = [row for row in _distinct(weights, evidence) if _is_plausible(evidence, row.layout, most)]
    rows = [_Row(nats=row.nats + evidence.nats(row.layout), candidate=row) for row in (damaged, *others)]
    rows.sort(key=lambda row: row.nats)
    best = rows[0]
    if best.candidate is damaged and not partial:
        return (given,)
    close = (row.candidate for row in rows if row.nats - best.nats < EQUAL)
    equal = [row for row in close if row.edits == best.candidate.edits and (partial or row is not damaged)]
    return tuple(_qualified(row, len(equal), row is damaged) for row in equal[:SHOWN])


def _damage(weights: Weights) -> float:
    """Return how much less likely, in nats, it is that the file was cut here or extended by so many bytes."""
    mismatch = weights.mismatch()
    if mismatch and mismatch.between_layers:
        return ONE_OF_MANY  # the same as for one extra layer at the end of the cfg
    return DAMAGED + log(1 + (weights.nbytes if mismatch and mismatch.missing > 0 else 2 * FLOAT))


def _qualified(candidate: Candidate, equal: int, damaged: bool) -> Finding:
    """Return the finding, with its doubts added to the message."""
    finding = candidate.finding
    doubts = []
    if equal > 1:
        doubts.append(f"{equal - 1} other explanation{'s' * (equal > 2)} would fit as well")
    if not damaged and not _has_variances(candidate.layout):
        doubts.append("no rolling variances confirm it")
    if not doubts:
        return finding
    cause = "; ".join([*([finding.cause] if finding.cause else []), *doubts])
    return finding._replace(cause=cause)


def _has_variances(layout: Layout) -> bool:
    return any(array.field == "rolling_variance" for array in layout.arrays)


def _is_plausible(evidence: Evidence, layout: Layout, most: int) -> bool:
    misreads = evidence.misreads(layout)
    wrong = misreads.count(True)
    return wrong <= most and wrong * MISREAD <= len(misreads)


def _distinct(weights: Weights, evidence: Evidence) -> Iterator[Candidate]:
    """Yield the candidates; of several with the same plan and kind of finding, only the first."""
    seen = set()
    for candidate in _candidates(weights, evidence):
        key = (
            candidate.finding.id,
            candidate.option,
            tuple((array.field, array.offset) for array in candidate.layout.arrays),
        )
        if key not in seen:
            seen.add(key)
            yield candidate


def _candidates(weights: Weights, evidence: Evidence) -> Iterator[Candidate]:
    """Yield all candidates, the most common causes first.

    If the search for one layer had to stop early, only candidates that the variances confirm are yielded, because the
    best one may not have been tried.
    """
    model, sizes = weights.model, Sizes(weights.model)
    yield from other_header(weights)
    yield from folded_weights(model)
    yield from folded_cfg(model)
    yield from other_classes(sizes)
    yield from other_dialects(model)
    yield from some_sections(model, evidence)
    yield from other_channels(sizes)
    layers = window(evidence)
    edits = [*other_values(sizes, layers), *fewer_layers(sizes, layers), *more_layers(sizes, layers)]
    complete = sizes.left()
    yield from (edit for edit in edits if complete or _has_variances(edit.layout))
