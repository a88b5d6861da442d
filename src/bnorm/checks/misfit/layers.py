"""One more layer in the cfg, or one layer fewer."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from bnorm.checks.findings import Finding, make_finding
from bnorm.checks.misfit.candidate import FREE_NUMBER, ONE_OF_MANY, Candidate, fitting
from bnorm.checks.misfit.sizes import BUILT, Sizes, solve
from bnorm.darknet import cfg
from bnorm.darknet.cfg import Section
from bnorm.darknet.edit import Edit, dropped, renumbered, section_lines
from bnorm.darknet.layout import Layout
from bnorm.darknet.network import Layer

NEAR = 4  # sections before and after a missing section that are tried in its place

KERNELS = (1, 3, 5, 7)

MOST = 1 << 14  # filters of a missing layer


class _Numbering(NamedTuple):
    """The sections with the cfg's layer numbers, or renumbered for one layer more or fewer, and this edit."""

    sections: list[Section]
    edit: Edit


def fewer_layers(sizes: Sizes, layers: range) -> Iterator[Candidate]:
    """Yield each layer whose removal from the cfg explains the file's size."""
    network = sizes.model.network
    count = len(network.layers)
    for layer in layers if count > 1 else ():
        if not sizes.left():
            return
        section = network.layers[layer].section
        moved = {index: index - (index > layer) for index in range(count)} | {layer: max(layer - 1, 0)}
        cut = dropped(section_lines(network, layer))
        for sections, rewritten in _numberings(sizes, moved, removed={layer}):
            layout = _planned(sizes, [*sections[:layer], *sections[layer + 1 :]], rewritten, cut)
            if layout:
                message = f"fits without layer {layer}, [{section.name}]: the cfg has one layer more than the file"
                finding = make_finding("weights-layer", message, line=section.line, layer=layer)
                yield Candidate(layout=layout, finding=finding, nats=ONE_OF_MANY)
                break


def more_layers(sizes: Sizes, layers: range) -> Iterator[Candidate]:
    """Yield each layer that, inserted somewhere, explains the file's size; equal files are one, with all its places."""
    equal: dict[tuple[object, ...], list[_Inserted]] = {}
    for inserted in _insertions(sizes, layers):
        arrays = tuple((array.field, array.offset) for array in inserted.layout.arrays)
        equal.setdefault((_described(inserted.section), arrays), []).append(inserted)
    for first, *others in equal.values():
        latest = max([first.at, *(other.at for other in others)])
        yield Candidate(layout=first.layout, finding=_missing(sizes, first, latest), nats=first.nats)


class _Inserted(NamedTuple):
    """A section that explains the file's size when inserted before layer `at`."""

    at: int
    section: Section
    layout: Layout
    nats: float


def _insertions(sizes: Sizes, layers: range) -> Iterator[_Inserted]:
    """Yield each place where one more layer, like a neighbour or a new convolution, explains the file's size."""
    count = len(sizes.sections)
    for at in range(layers.start, layers.stop + (layers.stop == count)):
        if not sizes.left():
            return
        moved = {index: index + (index >= at) for index in range(count)}
        numberings = _numberings(sizes, moved)
        beside = dict.fromkeys(_text(section) for section in sizes.sections[max(at - NEAR, 0) : at + NEAR])
        alike = [
            inserted
            for text in filter(None, beside)
            for inserted in _inserted(sizes, numberings, at, text, ONE_OF_MANY)
        ]
        yield from alike
        for text in () if alike else _convolutions(sizes, numberings, at):
            yield from _inserted(sizes, numberings, at, text, ONE_OF_MANY + 2 * FREE_NUMBER)


def _numberings(sizes: Sizes, moved: Mapping[int, int], removed: Collection[int] = ()) -> list[_Numbering]:
    """Return the sections with their numbers unchanged, and also renumbered if that makes a difference."""
    given = _Numbering(sections=sizes.sections, edit={})
    sizes.left(steps=len(sizes.sections))
    edit = renumbered(sizes.model.network, moved, removed)
    if not edit:
        return [given]
    return [given, _Numbering(sections=[_with_lines(section, edit) for section in sizes.sections], edit=edit)]


def _with_lines(section: Section, edit: Edit) -> Section:
    """Return the section with the new text of its lines."""
    if not any(option.line in edit for option in section.options):
        return section
    options = (
        option._replace(value=edit[option.line].partition("=")[2].strip()) if option.line in edit else option
        for option in section.options
    )
    return replace(section, options=tuple(options))


def _planned(sizes: Sizes, sections: Sequence[Section], *edits: Edit) -> Layout | None:
    """Return the plan of the cfg with these edits, if its sections give the file's size."""
    if sizes.nbytes(sections) != sizes.model.nbytes or not sizes.left(plans=1):
        return None
    return fitting(sizes.model, *edits)


# --- the missing layer ------------------------------------------------------------------------------------------------


def _text(section: Section) -> str:
    """Return the text of a section that stores arrays and could be inserted as it is; otherwise an empty text."""
    if section.find("share_index") or not section.knows("batch_normalize"):
        return ""
    lines = [f"{option.key}={option.value}" for option in section.options if option.value is not None]
    return "\n".join([f"[{section.name}]", *lines]) + "\n"


def _convolutions(sizes: Sizes, numberings: Sequence[_Numbering], at: int) -> Iterator[str]:
    """Yield convolutions of a usual kernel with the filters that give the file's size, and depthwise ones."""
    network = sizes.model.network
    channels, height, width, _ = network.layers[at - 1].output if at else network.input
    if not (channels and height and width):
        return
    for kernel in KERNELS:
        for normalised in ("batch_normalize=1\n", ""):
            tail = f"size={kernel}\nstride=1\npad=1\nactivation=leaky\n"
            form = f"[convolutional]\n{normalised}filters={{}}\n"
            for numbering in numberings:
                filters = _filters(sizes, numbering.sections, at, form + tail, channels)
                if filters:
                    yield (form + tail).format(filters)
            yield f"{form.format(channels)}groups={channels}\n{tail}"


def _filters(sizes: Sizes, sections: list[Section], at: int, form: str, channels: int) -> int | None:
    """Return the number of filters that gives the file's size: the size is linear in it."""
    points = []
    for filters in (channels, 2 * channels):
        section = _parsed(sizes, form.format(filters))
        points.append((filters, sizes.nbytes([*sections[:at], section, *sections[at:]])))
    solution = solve(points[0], points[1], sizes.model.nbytes or 0)
    return solution if solution and solution <= MOST else None


def _parsed(sizes: Sizes, text: str) -> Section:
    """Return the section of this text."""
    sizes.left(steps=BUILT)
    path, dialect = sizes.model.network.text.path, sizes.model.dialect
    return cfg.sections(cfg.parse(path, f"[net]\nwidth=1\n{text}".encode()), dialect)[1]


def _inserted(sizes: Sizes, numberings: Sequence[_Numbering], at: int, text: str, nats: float) -> Iterator[_Inserted]:
    """Yield this section before layer `at`, if the file then has its size."""
    network, section = sizes.model.network, _parsed(sizes, text)
    last = at == len(network.layers)
    number = len(network.text.lines) if last else network.layers[at].section.line
    line = network.text.lines[number - 1]
    edit = {number: f"{line.rstrip()}\n\n{text}" if last else f"{text}\n{line}"}
    for sections, rewritten in numberings:
        layout = _planned(sizes, [*sections[:at], section, *sections[at:]], rewritten, edit)
        if layout:
            yield _Inserted(at=at, section=section, layout=layout, nats=nats)
            return


def _missing(sizes: Sizes, inserted: _Inserted, latest: int) -> Finding:
    """Return the finding that the file fits with this section, at the earliest before layer `at`."""
    layers, (at, section, _, nats) = sizes.model.network.layers, inserted
    last = at == len(layers)
    message = f"fits with one more layer {_position(layers, at, latest)}: {_described(section)}"
    cause = "a layer is missing in the cfg" + "; its options are computed from the size" * (nats > ONE_OF_MANY)
    line, layer = (None, at - 1) if last else (layers[at].section.line, at)
    return make_finding("weights-layer", message, line=line, layer=layer, cause=cause)


def _position(layers: Sequence[Layer], earliest: int, latest: int) -> str:
    """Return the place of the missing layer as text."""
    if earliest == len(layers):
        return "at the end of the cfg"
    later = f" (or later, up to layer {latest}: the file would be the same)" if latest > earliest else ""
    return f"before layer {earliest}, [{layers[earliest].section.name}]{later}"


def _described(section: Section) -> str:
    shown = ("batch_normalize", "filters", "size", "groups", "output", "hidden")
    options = [f"{key}={option.value}" for key in shown if (option := section.find(key))]
    return f"[{section.name}] with {' '.join(options)}"
