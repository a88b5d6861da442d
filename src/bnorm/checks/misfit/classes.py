"""Another number of classes, and of filters before each detection layer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from bnorm.checks.findings import Finding, make_finding
from bnorm.checks.heads import Head, disagreement, heads_of
from bnorm.checks.misfit.candidate import Candidate, edited
from bnorm.checks.misfit.sizes import Sizes, solve, with_option
from bnorm.darknet import cfg
from bnorm.darknet.cfg import CfgText, Section
from bnorm.darknet.dialects import Dialect
from bnorm.darknet.edit import Value
from bnorm.darknet.header import Header
from bnorm.darknet.layout import Layout, plan
from bnorm.darknet.network import build
from bnorm.darknet.shape_rules import DETECTORS
from bnorm.errors import BnormError


def fitting_classes(text: CfgText, dialect: Dialect, header: Header, nbytes: int) -> Candidate | None:
    """Return the number of classes that gives the file's size; None if none does, or if the cfg is rejected."""
    try:
        points = [(classes, _layout(text, dialect, header, classes).nbytes) for classes in (1, 2)]
    except BnormError:
        return None
    classes = solve(points[0], points[1], nbytes)
    return _candidate(text, dialect, header, nbytes, classes) if classes else None


def other_classes(sizes: Sizes) -> Iterator[Candidate]:
    """Yield the number of classes that gives the file's size, for a cfg that the fork accepts."""
    model = sizes.model
    points = [(classes, sizes.nbytes(_sections(sizes.sections, classes))) for classes in (1, 2)]
    classes = solve(points[0], points[1], model.nbytes or 0)
    if classes and sizes.left(plans=1):
        candidate = _candidate(model.network.text, model.dialect, model.header, model.nbytes or 0, classes)
        yield from [candidate] if candidate else []


def _sections(sections: Sequence[Section], classes: int) -> list[Section]:
    """Return the sections with this number of classes, and the filters that follow from it."""
    new = list(sections)
    for index, section in enumerate(sections):
        if section.type in DETECTORS:
            new[index] = with_option(section, "classes", classes)
            if index and Head(before=sections[index - 1], section=section).filtered:
                new[index - 1] = with_option(sections[index - 1], "filters", DETECTORS[section.type](new[index]))
    return new


def _candidate(text: CfgText, dialect: Dialect, header: Header, nbytes: int, classes: int) -> Candidate | None:
    """Return the cfg with this number of classes; None if the file has another size, or the cfg is rejected."""
    try:
        heads = heads_of(cfg.sections(text, dialect))
        other = _with_classes(text, dialect, classes)
        layout = plan(build(other, dialect), header)
        if layout.nbytes != nbytes:
            return None
        finding = _finding(heads, heads_of(cfg.sections(other, dialect)))
    except BnormError:
        return None
    return Candidate(layout=layout, finding=finding)


def _finding(heads: list[Head], fitting: list[Head]) -> Finding:
    """Return the finding, with the lines of all heads if they disagree."""
    kinds = _either(f"[{head.section.name}]" for head in heads)
    message = f"fits if {_settings(fitting)} before each {kinds}"
    differences = disagreement(heads)
    if not differences:
        return make_finding("weights-classes", f"{message}; the cfg has {_settings(heads)}")
    wrong = [head for head, other in zip(heads, fitting, strict=True) if head.settings != other.settings]
    return make_finding("weights-classes", f"{message}; {differences}", line=wrong[0].section.line)


def _layout(text: CfgText, dialect: Dialect, header: Header, classes: int) -> Layout:
    return plan(build(_with_classes(text, dialect, classes), dialect), header)


def _with_classes(text: CfgText, dialect: Dialect, classes: int) -> CfgText:
    """Return the cfg with this number of classes in each detection layer, and matching filters before each."""
    heads = heads_of(cfg.sections(text, dialect))
    other = edited(text, [Value(head.section, "classes", classes) for head in heads])
    filters = [
        Value(head.before, "filters", DETECTORS[head.section.type](head.section))
        for head in heads_of(cfg.sections(other, dialect))
        if head.filtered
    ]
    return edited(other, filters)


def _settings(heads: list[Head]) -> str:
    classes = _either(head.classes for head in heads)
    filters = _either(head.filters for head in heads if head.filtered)
    return f"classes={classes} and filters={filters}"


def _either(values: Iterable[object]) -> str:
    return " or ".join(sorted(set(map(str, values))))
