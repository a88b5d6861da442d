"""A header of 16 bytes that is read as 20 bytes, or the reverse."""

from __future__ import annotations

from collections.abc import Iterator

from bnorm.checks.findings import make_finding
from bnorm.checks.misfit.candidate import Candidate, implausibility
from bnorm.darknet.header import VERSION, WIDE
from bnorm.darknet.layout import FLOAT, plan
from bnorm.darknet.weights import Weights

REPAIR = "bnorm convert --header {right} rewrites the header of {actual} bytes"

FULL = VERSION.size + WIDE.size  # bytes of a header with a `seen` of 8 bytes


def other_header(weights: Weights) -> Iterator[Candidate]:
    """Yield the header of the other length, if the file's size supports it.

    The upper half of a real 8-byte `seen` is 0. The first bias may be 0 as well, and then the variances decide.
    """
    header = weights.model.header
    wide = header.nbytes == FULL
    if weights.nbytes - weights.layout.nbytes != (-FLOAT if wide else FLOAT):
        return
    other = header._replace(nbytes=FULL - FLOAT if wide else FULL)
    layout = plan(weights.model.network, other)
    unclear = wide == (weights.bytes_at(VERSION.size + FLOAT, FLOAT) == bytes(FLOAT))
    if unclear and implausibility(weights, layout) >= implausibility(weights, weights.layout):
        return
    lengths = f"{header.nbytes} bytes by its version, {header.version}, and {other.nbytes} by the file's size"
    message = f"the header is 4 bytes off: {lengths}; typical symptom: negative rolling variances"
    cause = REPAIR.format(actual=other.nbytes, right=header.nbytes)
    yield Candidate(layout=layout, finding=make_finding("weights-header-offset", message, cause=cause))
