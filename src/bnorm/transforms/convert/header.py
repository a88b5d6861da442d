"""The header of a converted file."""

from __future__ import annotations

from bnorm.checks.misfit.header import other_header
from bnorm.darknet.dialects import Dialect
from bnorm.darknet.header import NARROW_VERSION, SIZES, VERSION, Header, limit_of_seen
from bnorm.darknet.model import Model
from bnorm.darknet.weights import open_weights
from bnorm.errors import WeightsError
from bnorm.transforms.convert.request import Request


def with_header_of_its_size(model: Model) -> Model:
    """Return the model with a header of the other length and a matching version, if the file's size supports that.

    This lets `header` repair a file whose version and size disagree: see `checks.misfit.header`.
    """
    with open_weights(model, allow_misfit=True) as weights:
        candidate = next(other_header(weights), None)
        if candidate is None:
            return model
        nbytes = sum(SIZES) - model.header.nbytes
        seen = int.from_bytes(weights.bytes_at(VERSION.size, nbytes - VERSION.size), "little")
    header = _versioned(model.header._replace(seen=seen), model.dialect, nbytes)
    return model._replace(header=header, layout=candidate.layout)


def new_header(model: Model, request: Request) -> Header:
    """Return the header with the requested changes; raise `WeightsError` if it cannot hold `seen`.

    For another dialect it gets a version that this fork writes, unless it already has one. A version
    that means transposed weights is replaced, because the new file has the weights in the order that every fork writes.
    """
    old = model.header
    header = old if request.seen is None else old._replace(seen=request.seen)
    if _needs_version(old, request):
        header = _versioned(header, request.dialect or model.dialect, request.header or SIZES[1])
    if not min(0, old.seen) <= header.seen <= limit_of_seen(header.nbytes) or _negative(header):
        cause = "--seen N sets it: darknet counts images with it, for its schedule of training"
        what = f"{header.seen:,} images seen, expected 0 to {limit_of_seen(header.nbytes):,}"
        raise WeightsError(model.weights or "", f"{what} in a header of {header.nbytes} bytes", cause=cause)
    return header


def _needs_version(old: Header, request: Request) -> bool:
    """Return whether the version contradicts the request."""
    if request.header is not None:
        return old.nbytes != request.header or old.transposed or _is_foreign(old, request)
    return request.dialect is not None and (old.transposed or _is_foreign(old, request))


def _is_foreign(old: Header, request: Request) -> bool:
    """Return whether the target does not write this version."""
    return request.dialect is not None and request.dialect.name not in old.writers


def _versioned(header: Header, dialect: Dialect, nbytes: int) -> Header:
    major, minor, revision = NARROW_VERSION if nbytes == SIZES[0] else dialect.version
    return header._replace(major=major, minor=minor, revision=revision, nbytes=nbytes)


def _negative(header: Header) -> bool:
    """Return whether a wide header would have to hold a negative number, which only a narrow header can."""
    return header.seen < 0 and header.nbytes == SIZES[1]
