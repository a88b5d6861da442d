"""What explains a weights file's size: another plan that has it.

A file has exactly one size for a cfg, a header and a dialect. Where several others have the same, the rolling variances
decide: read at the wrong place, half of them are negative.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from bnorm.checks.channel_rules import impossible
from bnorm.checks.findings import Finding, found
from bnorm.darknet import cfg
from bnorm.darknet.autodetect import read_model
from bnorm.darknet.cfg import CfgText, Section
from bnorm.darknet.dialects import DIALECTS, Dialect
from bnorm.darknet.edit import Value, apply, with_values
from bnorm.darknet.grammar import INT_MAX
from bnorm.darknet.header import VERSION, WIDE, Header
from bnorm.darknet.layout import FLOAT, Array, Layout, plan
from bnorm.darknet.model import Model
from bnorm.darknet.network import Layer, build
from bnorm.darknet.section_types import TYPES
from bnorm.darknet.shape_rules import DETECTORS
from bnorm.darknet.weights import Floats, Weights
from bnorm.errors import BnormError
from bnorm.transforms.fold.plan import plan_folds, without_normalisation

FULL = VERSION.size + WIDE.size  # bytes of a header with a `seen` of 8 bytes


class Cause(NamedTuple):
    """Another plan that has the file's size, and what it means."""

    finding: Finding
    layout: Layout


def likeliest(weights: Weights) -> Finding | None:
    """What the plan means that explains the size best, unless the numbers speak for the cfg as it stands."""
    model = weights.model
    causes = [*_other_header(weights), *_folded(model), *_unfolded(model), *_other_classes(model)]
    causes += _other_dialect(model)
    best = min(causes, key=lambda cause: _wrong(weights, cause.layout), default=None)
    return best.finding if best and _wrong(weights, best.layout) <= _wrong(weights, model.layout) else None


def variances(weights: Weights, layout: Layout) -> Iterator[tuple[Array, Floats]]:
    """The rolling variances as this plan reads them, as far as the file holds them."""
    for array in layout.arrays:
        if array.field == "rolling_variance" and array.end <= weights.nbytes:
            yield array, weights.read(array)


def _wrong(weights: Weights, layout: Layout) -> int:
    """How many rolling variances are none, by this plan: the fewer, the likelier it is."""
    return sum(int(np.count_nonzero(impossible(values))) for _, values in variances(weights, layout))


def _other_header(weights: Weights) -> Iterator[Cause]:
    """A header of 16 bytes read as 20, or the reverse.

    The upper half of a real 8-byte `seen` is 0; so may be a first bias, and then the variances decide.
    """
    model = weights.model
    wide = model.header.nbytes == FULL
    if weights.nbytes - model.layout.nbytes != (-FLOAT if wide else FLOAT):
        return
    true = FULL - FLOAT if wide else FULL
    layout = plan(model.network, model.header._replace(nbytes=true))
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
    before_heads = {layer.index - 1 for layer in model.network.layers if TYPES[layer.type].is_head}
    heads = before_heads | {len(model.network.layers) - 1}
    for layers in ([layer for layer in bare if layer.index not in heads], bare):
        edits = [Value(layer.section, "batch_normalize", 1) for layer in layers]
        try:
            layout = _planned(apply(model.network.text, with_values(model.network.text, edits)), model)
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


def _planned(text: CfgText, model: Model) -> Layout:
    """The layout of another text behind the same header."""
    return plan(build(text, model.dialect), model.header)


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


def fitting_classes(text: CfgText, dialect: Dialect, header: Header, nbytes: int) -> Cause | None:
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


def _with_classes(text: CfgText, dialect: Dialect, header: Header, classes: int) -> Cause | None:
    """The plan with this number of classes in each detection layer; None where the cfg has none, or is refused."""
    try:
        detectors = _detectors(cfg.sections(text, dialect))
        edited = apply(text, with_values(text, (Value(detector, "classes", classes) for _, detector in detectors)))
        changes = [
            Value(before, "filters", DETECTORS[detector.type](detector))
            for before, detector in _detectors(cfg.sections(edited, dialect))
            if before.type == "convolutional"
        ]
        network = build(apply(edited, with_values(edited, changes)), dialect)
    except BnormError:
        return None
    if not detectors:
        return None
    now = _either(detector.integer("classes", 20) for _, detector in detectors)
    before = _either(section.integer("filters", 1) for section, _ in detectors if section.type == "convolutional")
    filters, kinds = _either(value for _, _, value in changes), _either(f"[{layer.name}]" for _, layer in detectors)
    message = f"fits if classes={classes} and filters={filters} before each {kinds}"
    message = f"{message}; the cfg has classes={now} and filters={before}"
    layout = plan(network, header)
    return Cause(found("weights-classes", message), layout)


def _either(values: Iterable[object]) -> str:
    return " or ".join(sorted(set(map(str, values))))


def _detectors(sections: tuple[Section, ...]) -> list[tuple[Section, Section]]:
    """Each detection layer, behind the section before it."""
    return [(before, section) for before, section in pairwise(sections) if section.type in DETECTORS]
