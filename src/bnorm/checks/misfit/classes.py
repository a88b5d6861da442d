"""Another number of classes, and of filters before each detection layer."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

from bnorm.checks.findings import make_finding
from bnorm.checks.misfit.candidate import Candidate, edited
from bnorm.darknet import cfg
from bnorm.darknet.cfg import CfgText, Section
from bnorm.darknet.dialects import Dialect
from bnorm.darknet.edit import Value
from bnorm.darknet.grammar import INT_MAX
from bnorm.darknet.header import Header
from bnorm.darknet.layout import Layout, plan
from bnorm.darknet.network import build
from bnorm.darknet.shape_rules import DETECTORS
from bnorm.errors import BnormError

DEFAULT = 20  # classes of a detection layer that gives none


class Detector(NamedTuple):
    """A detection layer and the section before it."""

    before: Section
    section: Section

    @property
    def filtered(self) -> bool:
        """Whether the number of its channels is the number of filters of a convolution."""
        return self.before.type == "convolutional"


def fitting_classes(text: CfgText, dialect: Dialect, header: Header, nbytes: int) -> Candidate | None:
    """Return the number of classes that gives the file's size; None without one, or where the cfg is rejected."""
    try:
        detectors = _detectors(text, dialect)
        classes = _solve(text, dialect, header, nbytes) if detectors else None
        if classes is None:
            return None
        other = _with_classes(text, dialect, classes)
        layout = plan(build(other, dialect), header)
        if layout.nbytes != nbytes:
            return None
        kinds = _either(f"[{detector.section.name}]" for detector in detectors)
        message = f"fits if {_settings(_detectors(other, dialect))} before each {kinds}"
        message = f"{message}; the cfg has {_settings(detectors)}"
    except BnormError:
        return None
    return Candidate(layout=layout, finding=make_finding("weights-classes", message))


def _solve(text: CfgText, dialect: Dialect, header: Header, nbytes: int) -> int | None:
    """Return the number of classes to try: every class adds the same number of bytes, which two plans tell."""
    one, two = (_layout(text, dialect, header, classes).nbytes for classes in (1, 2))
    step = two - one
    if step <= 0:
        return None
    classes, rest = divmod(nbytes - one + step, step)
    return classes if not rest and 1 <= classes <= INT_MAX else None


def _layout(text: CfgText, dialect: Dialect, header: Header, classes: int) -> Layout:
    return plan(build(_with_classes(text, dialect, classes), dialect), header)


def _with_classes(text: CfgText, dialect: Dialect, classes: int) -> CfgText:
    """Return the cfg with this number of classes in each detection layer, and the filters before it that follow."""
    other = edited(text, [Value(detector.section, "classes", classes) for detector in _detectors(text, dialect)])
    filters = [
        Value(detector.before, "filters", DETECTORS[detector.section.type](detector.section))
        for detector in _detectors(other, dialect)
        if detector.filtered
    ]
    return edited(other, filters)


def _detectors(text: CfgText, dialect: Dialect) -> list[Detector]:
    sections = pairwise(cfg.sections(text, dialect))
    return [Detector(before=before, section=section) for before, section in sections if section.type in DETECTORS]


def _settings(detectors: list[Detector]) -> str:
    classes = _either(detector.section.integer("classes", DEFAULT) for detector in detectors)
    filters = _either(detector.before.integer("filters", 1) for detector in detectors if detector.filtered)
    return f"classes={classes} and filters={filters}"


def _either(values: Iterable[object]) -> str:
    return " or ".join(sorted(set(map(str, values))))
