"""Another dialect, with other rules for what the layers of a cfg store."""

from __future__ import annotations

from collections.abc import Iterator

from bnorm.checks.findings import make_finding
from bnorm.checks.misfit.candidate import Candidate
from bnorm.darknet.dialects import DIALECTS, Dialect
from bnorm.darknet.header import VERSION, Header, seen_type
from bnorm.darknet.layout import plan
from bnorm.darknet.model import Model
from bnorm.darknet.network import build
from bnorm.errors import BnormError


def other_dialects(model: Model) -> Iterator[Candidate]:
    """Yield every other dialect by which the file has the planned size; there is none if bnorm chose the dialect."""
    for dialect in () if model.reason else DIALECTS.values():
        if dialect.name == model.dialect.name:
            continue
        try:
            layout = plan(build(model.network.text, dialect), _read_by(dialect, model.header))
        except BnormError:
            continue
        if layout.nbytes == model.nbytes:
            message = f"fits the dialect {dialect.name}, not {model.dialect.name}"
            cause = f"the wrong dialect: use --dialect {dialect.name}"
            yield Candidate(layout=layout, finding=make_finding("weights-dialect", message, cause=cause))


def _read_by(dialect: Dialect, header: Header) -> Header:
    """Return the header with the length that this dialect gives it."""
    return header._replace(nbytes=VERSION.size + seen_type(header.major, header.minor, dialect).size)
