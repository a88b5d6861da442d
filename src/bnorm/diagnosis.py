"""Why a weights file does not fit its cfg: the one most likely cause.

Three kinds of evidence. The size: a file has exactly one size for a cfg, a header and a dialect, so that another plan
which gives the file's size explains it. The rolling variances: read at the wrong place they are other numbers, half of
them negative, so that the first layer with such variances is where cfg and file part; a negative one here and there, or
NaN, is what training may leave. The bytes themselves: text, and zeros to the end.
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
from bnorm.folds import plan_folds
from bnorm.grammar import INT_MAX
from bnorm.header import VERSION, WIDE, Header
from bnorm.layout import FLOAT, Array, Layout, ends_at_layer, plan
from bnorm.model import Model, read_model
from bnorm.network import Layer, build
from bnorm.preparation import without_normalisation
from bnorm.rules import DETECTORS
from bnorm.soundness import impossible, misread
from bnorm.weights import Floats, Weights

SAMPLE = 1 << 16  # bytes that show whether a file is text
CHUNK = 1 << 20
ZEROS = 512  # bytes of zeros at the end that no training leaves: a lost sector
REPLACEMENT = b"\xef\xbf\xbd"  # U+FFFD, what decoders put in place of a byte that is no text
MOST_SEEN = 1 << 32  # more images than anyone has trained on
FULL = VERSION.size + WIDE.size  # bytes of a header with a `seen` of 8 bytes
HEADS = frozenset({*DETECTORS, "detection", "iseg", "softmax", "avgpool", "logistic", "cost"})  # behind bare layers


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
    difference = weights.misfit()
    if difference is None:
        return _same_size(weights)
    causes = [*_other_header(weights), *_folded(model), *_unfolded(model), *_other_classes(model)]
    causes += _other_dialect(model)
    best = min(causes, key=lambda cause: _wrong(weights, cause.layout), default=None)
    if best and _wrong(weights, best.layout) <= _wrong(weights, model.layout):
        return best.finding
    misplaced = [array for array, values in _variances(weights, model.layout) if misread(values)]
    return _other_cfg(weights, misplaced) if misplaced else _wrong_size(weights, difference.what)


def header_findings(header: Header) -> Iterator[Finding]:
    """What is odd in the header of a file that fits."""
    if not header.writers:
        yield found("header-version", f"its version is {header.version}, which no known fork writes")
    if not 0 <= header.seen < MOST_SEEN:
        yield found("header-seen", f"{header.seen:,} images seen, expected fewer than {MOST_SEEN:,}")


def _variances(weights: Weights, layout: Layout) -> Iterator[tuple[Array, Floats]]:
    """The rolling variances as this plan reads them, as far as the file holds them."""
    for array in layout.arrays:
        if array.field == "rolling_variance" and array.end <= weights.nbytes:
            yield array, weights.read(array)


def _wrong(weights: Weights, layout: Layout) -> int:
    """How many rolling variances are none, by this plan: the fewer, the likelier it is."""
    return sum(int(np.count_nonzero(impossible(values))) for _, values in _variances(weights, layout))


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


# --- other plans of the same size -------------------------------------------------------------------------------------


def _other_header(weights: Weights) -> Iterator[Cause]:
    """A header of 16 bytes read as 20, or the reverse.

    The upper half of a real 8-byte `seen` is 0; so may be a first bias, and then the variances decide.
    """
    model = weights.model
    wide = model.header.nbytes == FULL
    if weights.nbytes - model.layout.nbytes != (-FLOAT if wide else FLOAT):
        return
    true = FULL - FLOAT if wide else FULL
    layout = plan(model.network, true, transposed=model.header.transposed)
    unclear = wide == (weights.bytes_at(VERSION.size + FLOAT, FLOAT) == bytes(FLOAT))
    if unclear and _wrong(weights, layout) >= _wrong(weights, model.layout):
        return
    what = f"the header is 4 bytes off: by its version, {model.header.version}, it has {model.header.nbytes} bytes"
    sign = "a reader shows it by negative rolling variances"
    finding = found("weights-header-offset", f"{what}, by the file's size {true}; {sign}")
    yield Cause(finding, layout)


def _other_classes(model: Model) -> Iterator[Cause]:
    cause = fitting_classes(model.network.text, model.dialect, model.header, model.nbytes or 0)
    if cause:
        yield cause


def _folded(model: Model) -> Iterator[Cause]:
    """The same network without batch normalisation, as `bnorm fold` writes it."""
    text = without_normalisation(model.network, plan_folds(model.network, {}))
    layout = _planned(cfg.parse(model.network.text.path, text), model)
    if layout.nbytes == model.nbytes:
        message = "fits the cfg that `bnorm fold` writes with it: its batch normalisation has been folded away"
        yield Cause(found("weights-folded", message), layout)


def _unfolded(model: Model) -> Iterator[Cause]:
    """The same network with batch normalisation in every layer, or in all but the last and those before a head."""
    bare = [layer for layer in model.network.layers if layer.section.knows("batch_normalize")]
    bare = [layer for layer in bare if not layer.batch_normalize]
    heads = {layer.index - 1 for layer in model.network.layers if layer.type in HEADS} | {len(model.network.layers) - 1}
    for layers in ([layer for layer in bare if layer.index not in heads], bare):
        edits = [(layer.section, "batch_normalize", 1) for layer in layers]
        try:
            layout = _planned(_edited(model.network.text, edits), model)
        except BnormError:
            return  # there are more lines now than a cfg may have
        if layers and layout.nbytes == model.nbytes:
            yield Cause(_missing(model, layers), layout)
            return


def _missing(model: Model, layers: list[Layer]) -> Finding:
    """What it means that the file fits if these layers normalised."""
    lines = [str(layer.section.line) for layer in layers]
    named = ", ".join(lines[:3]) + f" and {len(lines) - 3} more" * (len(lines) > 3)
    some = any(layer.batch_normalize for layer in model.network.layers)
    why = "they were lost there, or folded away" if some else "the cfg has been folded, the weights have not"
    where = f"the section{'s' * (len(lines) > 1)} of line{'s' * (len(lines) > 1)} {named}"
    return found("weights-unfolded", f"fits with batch_normalize=1 in {where}: {why}", layer=layers[0].index)


def _planned(text: Text, model: Model) -> Layout:
    """The layout of another text behind the same header."""
    return plan(build(text, model.dialect), model.header.nbytes, transposed=model.header.transposed)


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


def _same_size(weights: Weights) -> Finding | None:
    """The size fits; it is by chance where most layers' variances are none. One bad layer is a finding of its own."""
    variances = list(_variances(weights, weights.layout))
    odd = [(array, where) for array, values in variances if (where := np.flatnonzero(impossible(values))).size]
    if len(odd) < 2 or len(odd) * 2 < len(variances):
        return None
    for position, meaning in ((0, "early: the header has 20"), (-1, "late: the header has 16")):
        if all(list(where) == [range(array.size)[position]] for array, where in odd):
            edge = "first" if position == 0 else "last"
            what = f"in {len(odd)} layers the {edge} rolling variance is negative"
            message = f"the header is 4 bytes off: {what}, so that arrays are read one float too {meaning} bytes"
            return found("weights-header-offset", message, layer=odd[0][0].layer)
    misplaced = [array for array, values in variances if misread(values)]
    if len(misplaced) * 2 < len(variances):
        return None
    what = f"the size fits, but {len(misplaced)} of {len(variances)} arrays of rolling variances hold other numbers"
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
