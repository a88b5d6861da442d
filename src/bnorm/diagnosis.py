"""Why a weights file does not fit its cfg: the one most likely cause.

Three kinds of evidence. The size: a file has exactly one size for a cfg, a header and a dialect, so that another plan
which gives the file's size explains it. The rolling variances: read at the wrong place they are other numbers, half of
them negative, so that the first layer with such variances is where cfg and file part. The bytes themselves: text, and
zeros to the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from bnorm import cfg
from bnorm.cfg import Section, Text
from bnorm.dialects import DIALECTS, Dialect
from bnorm.errors import BnormError
from bnorm.findings import Finding, found
from bnorm.grammar import INT_MAX
from bnorm.header import VERSION, WIDE, Header
from bnorm.layout import FLOAT, Array, Layout, ends_at_layer, plan
from bnorm.model import Model, read_model
from bnorm.network import build
from bnorm.parts import SWITCHES
from bnorm.rules import DETECTORS
from bnorm.soundness import TRICK
from bnorm.weights import Weights

SAMPLE = 1 << 16  # bytes that show whether a file is text
CHUNK = 1 << 20
ZEROS = 512  # bytes of zeros at the end that no training leaves: a lost sector
REPLACEMENT = b"\xef\xbf\xbd"  # U+FFFD, what decoders put in place of a byte that is no text
MOST_SEEN = 1 << 32  # more images than anyone has trained on
LARGEST = 1e20  # of a variance that may be one
FULL = VERSION.size + WIDE.size  # bytes of a header with a `seen` of 8 bytes


class Cause(NamedTuple):
    """Another plan that has the file's size, and what it means."""

    finding: Finding
    layout: Layout


def misfit(weights: Weights) -> Finding | None:
    """The most likely reason why the file is not what the cfg plans; None where nothing speaks against it."""
    damaged = _reencoded(weights) or _zeros(weights)
    if damaged:
        return damaged
    model = weights.model
    planned = misplaced(weights, model.layout)
    difference = weights.misfit()
    if difference is None:
        return _same_size(weights, planned)
    causes = [*_other_header(weights), *_folded(model), *_other_classes(model), *_other_dialect(model)]
    best = min(causes, key=lambda cause: len(misplaced(weights, cause.layout)), default=None)
    if best and len(misplaced(weights, best.layout)) <= len(planned):
        return best.finding
    return _other_cfg(weights, planned) if planned else _wrong_size(weights, difference.what)


def header_findings(header: Header) -> Iterator[Finding]:
    """What is odd in the header of a file that fits."""
    if not header.writer:
        yield found("header-version", f"its version is {header.version}, which no known fork writes")
    if not 0 <= header.seen < MOST_SEEN:
        yield found("header-seen", f"{header.seen:,} images seen, expected fewer than {MOST_SEEN:,}")


def misplaced(weights: Weights, layout: Layout) -> list[Array]:
    """The rolling variances, as far as the file holds them by this plan, that are none: negative, NaN or huge."""
    return [
        array
        for array in layout.arrays
        if array.field == "rolling_variance" and array.end <= weights.nbytes and _impossible(weights, array)
    ]


def _impossible(weights: Weights, array: Array) -> bool:
    return not bool(((values := weights.read(array)) >= TRICK).all() and (values < LARGEST).all())


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
    """Read backwards as long as there are zeros."""
    end = weights.nbytes
    while end:
        start = max(0, end - CHUNK)
        data = weights.bytes_at(start, end - start).rstrip(b"\0")
        end = start + len(data)
        if data:
            break
    if weights.nbytes - end < ZEROS:
        return None
    where = next((f", in {_named(array)}" for array in weights.layout.arrays if array.end > end), "")
    sizes = f"the last {weights.nbytes - end:,} of {weights.nbytes:,}"
    return found("weights-zeros", f"is all zeros from byte {end:,} on{where}, {sizes}: an interrupted download or copy")


# --- other plans of the same size -------------------------------------------------------------------------------------


def _other_header(weights: Weights) -> Iterator[Cause]:
    """A header of 16 bytes read as 20, or the reverse. The upper half of a real 8-byte `seen` is 0."""
    model = weights.model
    wide = model.header.nbytes == FULL
    if weights.nbytes - model.layout.nbytes != (-FLOAT if wide else FLOAT):
        return
    if wide == (weights.bytes_at(VERSION.size + FLOAT, FLOAT) == bytes(FLOAT)):
        return
    true = FULL - FLOAT if wide else FULL
    what = f"the header is 4 bytes off: by its version, {model.header.version}, it has {model.header.nbytes} bytes"
    sign = "a reader shows it by negative rolling variances"
    finding = found("weights-header-offset", f"{what}, by the file's size {true}; {sign}")
    yield Cause(finding, plan(model.network, true, transposed=model.header.transposed))


def _other_classes(model: Model) -> Iterator[Cause]:
    cause = fitting_classes(model.network.text, model.dialect, model.header, model.nbytes or 0)
    if cause:
        yield cause


def _folded(model: Model) -> Iterator[Cause]:
    """The same network without batch normalisation, as `bnorm fold` writes it."""
    lines = [option.line for section in model.network.sections for option in section.options if option.key in SWITCHES]
    text = cfg.parse(model.network.text.path, model.network.text.edited(lines, {}))
    layout = plan(build(text, model.dialect), model.header.nbytes, transposed=model.header.transposed)
    if layout.nbytes == model.nbytes:
        message = "fits if the cfg's batch_normalize lines are deleted: its batch normalisation has been folded away"
        yield Cause(found("weights-folded", message), layout)


def _other_dialect(model: Model) -> Iterator[Cause]:
    for name in DIALECTS:
        if name != model.dialect.name:
            try:
                other = read_model(model.network.text.path, model.weights, name)
            except BnormError:
                continue
            if other.fits:
                message = f"fits the dialect {name}, not {model.dialect.name}: use --dialect {name}"
                yield Cause(found("weights-dialect", message), other.layout)


def fitting_classes(text: Text, dialect: Dialect, header: Header, nbytes: int) -> Cause | None:
    """The number of classes, and of filters before each detection layer, that gives the file's size.

    The size grows by the same amount with every class, so that two plans tell which number to try.
    """
    few, more = (_with_classes(text, dialect, header, classes) for classes in (1, 2))
    if not few or not more or more.layout.nbytes <= few.layout.nbytes:
        return None
    step = more.layout.nbytes - few.layout.nbytes
    classes, rest = divmod(nbytes - few.layout.nbytes + step, step)
    if rest or not 1 <= classes <= INT_MAX:
        return None
    cause = _with_classes(text, dialect, header, classes)
    return cause if cause and cause.layout.nbytes == nbytes else None


def _with_classes(text: Text, dialect: Dialect, header: Header, classes: int) -> Cause | None:
    """The plan with this number of classes in each detection layer; None where the cfg has none, or is refused."""
    try:
        detectors = _detectors(cfg.sections(text, dialect))
        edited = _edited(text, [(detector, "classes", classes) for _, detector in detectors])
        changes = [
            (before, "filters", DETECTORS[detector.type](detector))
            for before, detector in _detectors(cfg.sections(edited, dialect))
            if before.type == "convolutional"
        ]
        network = build(_edited(edited, changes), dialect)
    except BnormError:
        return None
    if not detectors:
        return None
    now = _either(detector.integer("classes", 20) for _, detector in detectors)
    before = _either(section.integer("filters", 1) for section, _ in detectors if section.type == "convolutional")
    filters, kinds = _either(value for _, _, value in changes), _either(f"[{layer.name}]" for _, layer in detectors)
    message = f"fits if classes={classes} and filters={filters} before each {kinds}"
    message = f"{message}; the cfg has classes={now} and filters={before}"
    layout = plan(network, header.nbytes, transposed=header.transposed)
    return Cause(found("weights-classes", message), layout)


def _either(values: Iterable[object]) -> str:
    return " or ".join(sorted(set(map(str, values))))


def _detectors(sections: tuple[Section, ...]) -> list[tuple[Section, Section]]:
    """Each detection layer, behind the section before it."""
    return [(before, section) for before, section in pairwise(sections) if section.type in DETECTORS]


def _edited(text: Text, changes: list[tuple[Section, str, int]]) -> Text:
    """The text with these values; a key that a section lacks stands behind its heading."""
    lines = list(text.lines)
    for section, key, value in changes:
        option = section.find(key)
        kept = "" if option else lines[section.line - 1].rstrip("\r\n") + "\n"
        lines[(option.line if option else section.line) - 1] = f"{kept}{key}={value}\n"
    return cfg.parse(text.path, "".join(lines).encode())


# --- no other plan: where the two part --------------------------------------------------------------------------------


def _same_size(weights: Weights, planned: list[Array]) -> Finding | None:
    """The size fits; it is by chance where most layers' variances are none. One bad layer is a finding of its own."""
    arrays = [array for array in weights.layout.arrays if array.field == "rolling_variance"]
    if len(planned) < 2 or len(planned) * 2 < len(arrays):
        return None
    wrong = [np.flatnonzero(~(weights.read(array) >= 0)) for array in planned]
    for position, meaning in ((0, "early: the header has 20"), (-1, "late: the header has 16")):
        if all(list(where) == [range(array.size)[position]] for where, array in zip(wrong, planned, strict=True)):
            edge = "first" if position == 0 else "last"
            what = f"in {len(planned)} layers the {edge} rolling variance is negative"
            message = f"the header is 4 bytes off: {what}, so that arrays are read one float too {meaning} bytes"
            return found("weights-header-offset", message, layer=planned[0].layer)
    what = f"the size fits, but {len(planned)} of {len(arrays)} arrays of rolling variances hold other numbers"
    message = f"{what}, the first in {_named(planned[0])}: a cfg of another network, or another order of arrays"
    return found("weights-other-cfg", message, layer=planned[0].layer)


def _other_cfg(weights: Weights, planned: list[Array]) -> Finding:
    header, first = weights.model.header, planned[0]
    sizes = f"expected {weights.layout.nbytes:,} bytes, got {weights.nbytes:,}"
    if not header.writer:
        what = f"is no file of darknet: its version would be {header.version}, and its numbers make no sense"
        return found("weights-foreign", f"{what}; {sizes}")
    good = [array for array in weights.layout.arrays if array.field == first.field and array.offset < first.offset]
    known = f"fit up to {_named(good[-1])}, and no longer at" if good else "do not even fit"
    what = f"belongs to another cfg: its numbers {known} {_named(first)}"
    return found("weights-other-cfg", f"{what}; {sizes}", layer=first.layer)


def _wrong_size(weights: Weights, difference: str) -> Finding:
    """Too long; or cut inside an array, before one, or between two layers, as `darknet partial` does."""
    layout, nbytes = weights.layout, weights.nbytes
    array = layout.cut(nbytes)
    if array is None:
        cause = "layers are missing at the cfg's end, or bytes were added"
        return found("weights-left-over", f"{difference}: {cause}")
    if ends_at_layer(layout, nbytes):
        before = max(other.layer for other in layout.arrays if other.end <= nbytes)
        return _partial(before + 1, array.layer, difference)
    return found("weights-cut", f"{difference}: an interrupted download or copy", layer=array.layer)


def _partial(fewest: int, most: int, difference: str) -> Finding:
    """`partial` counts all layers, also those that store nothing: several numbers N give the same file."""
    same = "" if fewest == most else f" (N = {fewest} to {most} hold the same)"
    what = f"this is NAME.conv.{fewest}{same}, the first layers alone, to start a training from"
    return found("weights-partial", f"{what}; it {difference}", layer=most)


def _named(array: Array) -> str:
    return f"layer {array.layer} {array.name}"
