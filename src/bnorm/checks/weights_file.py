"""Why a weights file does not fit its cfg: the one most likely cause.

Three kinds of evidence. The size: another plan that has it explains it, see `causes`. The rolling variances: read at
the wrong place they are other numbers, half of them negative, so that the first layer with such variances is where cfg
and file part; a negative one here and there, or NaN, is what training may leave. The bytes themselves: text, and zeros
to the end.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bnorm.checks.channel_rules import impossible, misread
from bnorm.checks.findings import Finding, found
from bnorm.checks.misfit_causes import likeliest, variances
from bnorm.darknet.header import Header
from bnorm.darknet.layout import FLOAT, Array
from bnorm.darknet.size_mismatch import SizeMismatch, worded
from bnorm.darknet.weights import Weights

SAMPLE = 1 << 16  # bytes that show whether a file is text

CHUNK = 1 << 20

ZEROS = 512  # bytes of zeros at the end that no training leaves: a lost sector

REPLACEMENT = b"\xef\xbf\xbd"  # U+FFFD, what decoders put in place of a byte that is no text

MOST_SEEN = 1 << 32  # more images than anyone has trained on


def misfit(weights: Weights) -> Finding | None:
    """The most likely reason why the file is not what the cfg plans; None where nothing speaks against it."""
    damaged = _reencoded(weights) or _zeros(weights)
    if damaged:
        return damaged
    mismatch = weights.mismatch()
    if mismatch is None:
        return _same_size(weights)
    if cause := likeliest(weights):
        return cause
    misplaced = [array for array, values in variances(weights, weights.layout) if misread(values)]
    return _other_cfg(weights, misplaced) if misplaced else _wrong_size(weights, mismatch)


def header_findings(header: Header) -> Iterator[Finding]:
    """What is odd in the header of a file that fits."""
    if not header.writers:
        yield found("header-version", f"its version is {header.version}, which no known fork writes")
    if not 0 <= header.seen < MOST_SEEN:
        yield found("header-seen", f"{header.seen:,} images seen, expected fewer than {MOST_SEEN:,}")


# --- the bytes themselves ---------------------------------------------------------------------------------------------


def _reencoded(weights: Weights) -> Finding | None:
    """Numbers that decode as UTF-8, though half of their bytes are beyond ASCII, have been encoded so."""
    data = weights.bytes_at(0, SAMPLE)
    beyond = sum(byte >= 0x80 for byte in data)
    try:
        data[: len(data) - 3].decode()
    except UnicodeDecodeError as error:
        if error.start < len(data) - 6:  # a character may be cut at the end
            return None
    if beyond * 20 < len(data):
        return None
    lost = data.count(REPLACEMENT)
    what = f"is UTF-8 text, {lost} times EF BF BD in its first {len(data)} bytes"
    cause = "an editor or a tool opened it as text; what was lost cannot be restored" if lost else "decode it again"
    return found("weights-reencoded", f"{what}: {cause}")


def _zeros(weights: Weights) -> Finding | None:
    """Read backwards as long as there are zeros. If the size fits, they may be meant: see `_begins_row`."""
    end = weights.nbytes
    while end:
        start = max(0, end - CHUNK)
        data = weights.bytes_at(start, end - start).rstrip(b"\0")
        end = start + len(data)
        if data:
            break
    array = next((array for array in weights.layout.arrays if array.end > end), None)
    last = weights.layout.arrays[-1].layer if weights.layout.arrays else None
    meant = array and array.layer == last and weights.model.fits and _begins_row(array, end)
    if weights.nbytes - end < ZEROS or meant:
        return None
    where = f", in {_named(array)}" if array and array.offset <= end else ""
    sizes = f"the last {weights.nbytes - end:,} of {weights.nbytes:,}"
    return found("weights-zeros", f"is all zeros from byte {end:,} on{where}, {sizes}: an interrupted download or copy")


def _begins_row(array: Array, offset: int) -> bool:
    """Whether the array, or a row of its weights, begins at this offset: an untrained layer, or pruned filters."""
    row = FLOAT * array.size // (array.stored[0] if array.field == "weights" else 1)
    return offset >= array.offset and (offset - array.offset) % row == 0


# --- no other plan: where the two part --------------------------------------------------------------------------------


def _same_size(weights: Weights) -> Finding | None:
    """The size fits; it is by chance where most layers' variances are none. One bad layer is a finding of its own."""
    read = list(variances(weights, weights.layout))
    odd = [(array, where) for array, values in read if (where := np.flatnonzero(impossible(values))).size]
    if len(odd) < 2 or len(odd) * 2 < len(read):
        return None
    for position, meaning in ((0, "early: the header has 20"), (-1, "late: the header has 16")):
        if all(list(where) == [range(array.size)[position]] for array, where in odd):
            edge = "first" if position == 0 else "last"
            what = f"in {len(odd)} layers the {edge} rolling variance is negative"
            message = f"the header is 4 bytes off: {what}, so that arrays are read one float too {meaning} bytes"
            return found("weights-header-offset", message, layer=odd[0][0].layer)
    misplaced = [array for array, values in read if misread(values)]
    if len(misplaced) * 2 < len(read):
        return None
    what = f"the size fits, but {len(misplaced)} of {len(read)} arrays of rolling variances hold other numbers"
    message = f"{what}, the first in {_named(misplaced[0])}: a cfg of another network, or another order of arrays"
    return found("weights-other-cfg", message, layer=misplaced[0].layer)


def _other_cfg(weights: Weights, misplaced: list[Array]) -> Finding:
    header, first = weights.model.header, misplaced[0]
    sizes = f"expected {weights.layout.nbytes:,} bytes, got {weights.nbytes:,}"
    if not header.writers:
        what = f"is no file of darknet: its version would be {header.version}, and its numbers make no sense"
        return found("weights-foreign", f"{what}; {sizes}")
    good = [array for array in weights.layout.arrays if array.field == first.field and array.offset < first.offset]
    known = f"fit up to {_named(good[-1])}, and no longer at" if good else "do not even fit"
    what = f"belongs to another cfg: its numbers {known} {_named(first)}"
    return found("weights-other-cfg", f"{what}; {sizes}", layer=first.layer)


def _wrong_size(weights: Weights, mismatch: SizeMismatch) -> Finding:
    """Too long; or cut inside an array, before one, or between two layers, as `darknet partial` does."""
    array, difference = mismatch.array, worded(mismatch).sentence
    if array is None:
        cause = "layers are missing at the cfg's end, or bytes were added"
        return found("weights-left-over", f"{difference}: {cause}")
    if mismatch.between_layers:
        before = max(other.layer for other in weights.layout.arrays if other.end <= weights.nbytes)
        return _partial(before + 1, array.layer, difference)
    return found("weights-cut", f"{difference}: an interrupted download or copy", layer=array.layer)


def _partial(fewest: int, most: int, difference: str) -> Finding:
    """`partial` counts all layers, also those that store nothing: several numbers N give the same file."""
    same = "" if fewest == most else f" (N = {fewest} to {most} hold the same)"
    what = f"this is NAME.conv.{fewest}{same}, the first layers alone, to start a training from"
    return found("weights-partial", f"{what}; it {difference}", layer=most)


def _named(array: Array) -> str:
    return f"layer {array.layer} {array.name}"
