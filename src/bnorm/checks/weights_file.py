"""The most likely cause for which a weights file does not fit its cfg.

There are three kinds of evidence. The size: another plan of the same size explains it, see `misfit`. The rolling
variances, see `variances`: the first layer with impossible values is where cfg and file diverge. The bytes themselves:
text, and zeros up to the end.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bnorm.checks.findings import Finding, make_finding
from bnorm.checks.variances import impossible, misread, variances
from bnorm.darknet.header import Header
from bnorm.darknet.layout import FLOAT, Array
from bnorm.darknet.size_mismatch import SizeMismatch, worded
from bnorm.darknet.weights import Weights

TEXT_SAMPLE = 1 << 16  # bytes at the start that show whether a file is text

BACKWARDS = 1 << 20  # bytes that are read at a time from the end

SECTOR = 512  # bytes of zeros at the end that training does not produce: a lost disk sector

REPLACEMENT = b"\xef\xbf\xbd"  # U+FFFD, by which decoders replace invalid bytes

MOST_SEEN = 1 << 32  # more images than anyone has trained on

INTERRUPTED = "an interrupted download or copy"

ACCEPTED = "then use --trailing keep or --trailing drop with inspect, fold or run"


def file_findings(weights: Weights) -> tuple[Finding, ...]:
    """Return the most likely reason why the file is not as planned by the cfg, or two; empty if it seems to be.

    There are two only if two edits of the cfg explain the size equally well.
    """
    damage = _reencoded(weights) or _zero_tail(weights)
    if damage:
        return (damage,)
    mismatch = weights.mismatch()
    if mismatch is None:
        chance = _same_size_by_chance(weights)
        return (chance,) if chance else ()
    misplaced = [array for array, values in variances(weights, weights.layout) if misread(values)]
    given = _other_cfg(weights, misplaced[0]) if misplaced else _wrong_size(weights, mismatch)
    from bnorm.checks.misfit.likeliest import likeliest  # a file that fits need not wait for this import

    return likeliest(weights, given)


def header_findings(header: Header) -> Iterator[Finding]:
    """Yield the findings in the header of a file that fits."""
    if not header.writers:
        yield make_finding("header-version", f"its version is {header.version}, which no known fork writes")
    if not 0 <= header.seen < MOST_SEEN:
        yield make_finding("header-seen", f"{header.seen:,} images seen, expected fewer than {MOST_SEEN:,}")


# --- the bytes themselves ---------------------------------------------------------------------------------------------


def _reencoded(weights: Weights) -> Finding | None:
    """Return a finding for a file that decodes as UTF-8 although many of its bytes are not ASCII."""
    data = weights.bytes_at(0, TEXT_SAMPLE)
    beyond = sum(byte >= 0x80 for byte in data)
    try:
        data[: len(data) - 3].decode()
    except UnicodeDecodeError as error:
        if error.start < len(data) - 6:  # a character may be cut at the end
            return None
    if beyond * 20 < len(data):
        return None
    lost = data.count(REPLACEMENT)
    message = f"is UTF-8 text, with EF BF BD {lost} times in its first {len(data)} bytes"
    opened = "an editor or a tool opened it as text"
    cause = f"{opened}; what was lost cannot be restored" if lost else f"{opened}: decode it again"
    return make_finding("weights-reencoded", message, cause=cause)


def _zero_tail(weights: Weights) -> Finding | None:
    """Return a finding for zeros up to the end, unless the file fits and the zeros may be intended."""
    layout, end = weights.layout, _end_of_data(weights)
    if weights.nbytes - end < SECTOR:
        return None
    array = layout.cut(end)
    last = layout.arrays[-1].layer if layout.arrays else None
    if array and array.layer == last and weights.model.fits and _begins_row(array, end):
        return None
    where = f", in {_named(array)}" if array and array.offset <= end else ""
    message = f"is all zeros from byte {end:,} on{where}, the last {weights.nbytes - end:,} of {weights.nbytes:,}"
    return make_finding("weights-zeros", message, cause=INTERRUPTED)


def _end_of_data(weights: Weights) -> int:
    """Return the offset after the last byte that is not zero, reading backwards as long as there are zeros."""
    end = weights.nbytes
    while end:
        start = max(0, end - BACKWARDS)
        data = weights.bytes_at(start, end - start).rstrip(b"\0")
        end = start + len(data)
        if data:
            break
    return end


def _begins_row(array: Array, offset: int) -> bool:
    """Return whether the array, or a row of its weights, begins here: an untrained layer, or pruned filters."""
    row = FLOAT * array.size // (array.stored[0] if array.field == "weights" else 1)
    return offset >= array.offset and (offset - array.offset) % row == 0


# --- the size fits, but the values do not -----------------------------------------------------------------------------


def _same_size_by_chance(weights: Weights) -> Finding | None:
    """Return a finding if variances of most layers are impossible. `channel_rules` reports a single bad layer."""
    read = list(variances(weights, weights.layout))
    odd = [(array, where) for array, values in read if (where := np.flatnonzero(impossible(values))).size]
    if len(odd) < 2 or len(odd) * 2 < len(read):
        return None
    for edge, position, cause in EDGES:
        if all(list(where) == [range(array.size)[position]] for array, where in odd):
            message = f"the header is 4 bytes off: in {len(odd)} layers the {edge} rolling variance is negative"
            return make_finding("weights-header-offset", message, layer=odd[0][0].layer, cause=cause)
    misplaced = [array for array, values in read if misread(values)]
    if len(misplaced) * 2 < len(read):
        return None
    counts = f"{len(misplaced)} of {len(read)} arrays of rolling variances"
    message = f"the size fits, but {counts} hold implausible values, the first in {_named(misplaced[0])}"
    cause = "a cfg of another network, or another order of arrays"
    return make_finding("weights-other-cfg", message, layer=misplaced[0].layer, cause=cause)


# Where the only impossible variance of each layer is, if all arrays are read one float too early or too late.
EDGES = (
    ("first", 0, "arrays are read one float too early: the header has 20 bytes"),
    ("last", -1, "arrays are read one float too late: the header has 16 bytes"),
)


# --- the size does not fit, and no other plan explains it -------------------------------------------------------------


def _other_cfg(weights: Weights, first: Array) -> Finding:
    """Return the finding for variances that are impossible from this array on."""
    header, layout = weights.model.header, weights.layout
    sizes = f"expected {layout.nbytes:,} bytes, got {weights.nbytes:,}"
    if not header.writers:
        what = f"is not a darknet file: its version would be {header.version}, and its values are implausible"
        return make_finding("weights-foreign", f"{what}; {sizes}")
    good = [array for array in layout.arrays if array.field == first.field and array.offset < first.offset]
    known = f"plausible up to {_named(good[-1])} but not at" if good else "not even plausible at"
    what = f"belongs to another cfg: its values are {known} {_named(first)}"
    return make_finding("weights-other-cfg", f"{what}; {sizes}", layer=first.layer)


def _wrong_size(weights: Weights, mismatch: SizeMismatch) -> Finding:
    """Return a finding for a file that is too long, or cut: in an array, or between layers by `darknet partial`."""
    array, difference = mismatch.array, worded(mismatch).sentence
    if array is None:
        cause = f"layers are missing in the cfg, at its end or before, or a program appended the bytes: {ACCEPTED}"
        return make_finding("weights-left-over", difference, cause=cause)
    if mismatch.between_layers:
        before = max(other.layer for other in weights.layout.arrays if other.end <= weights.nbytes)
        return _partial(before + 1, array.layer, difference)
    return make_finding("weights-cut", difference, layer=array.layer, cause=INTERRUPTED)


def _partial(fewest: int, most: int, difference: str) -> Finding:
    """Return the finding for a partial file; `partial` counts layers without arrays: several N give the same file."""
    same = "" if fewest == most else f" (N = {fewest} to {most} hold the same)"
    what = f"this is NAME.conv.{fewest}{same}, only the first layers, to start a training from"
    return make_finding("weights-partial", f"{what}; it {difference}", layer=most)


def _named(array: Array) -> str:
    return f"layer {array.layer} {array.name}"
