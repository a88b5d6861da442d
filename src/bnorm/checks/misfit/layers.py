"""A layer more, or a layer fewer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from bnorm.checks.findings import make_finding
from bnorm.checks.misfit.candidate import FREE_NUMBER, ONE_OF_MANY, Candidate, fitting
from bnorm.checks.misfit.sizes import Sizes, solve
from bnorm.darknet import cfg
from bnorm.darknet.cfg import Option, Section
from bnorm.darknet.edit import Edit, dropped, renumbered, section_lines
from bnorm.darknet.layout import Layout

NEAR = 4  # sections before and after a missing one that it may be like

KERNELS = (1, 3, 5, 7)

MOST = 1 << 14  # filters of a missing layer


def fewer_layers(sizes: Sizes, layers: range) -> Iterator[Candidate]:
    """Yield each layer without which the file has its size, the numbers of the others as they are or rewritten."""
    network = sizes.model.network
    count = len(network.layers)
    if count < 2:
        return
    for layer in layers if sizes.model.nbytes else ():
        if not sizes.left():
            return
        section = network.layers[layer].section
        kept = {index: index - (index > layer) for index in range(count) if index != layer}
        moved = {**kept, layer: max(layer - 1, 0)}
        cut = dropped(section_lines(network, layer))
        layout = _of(sizes, moved, {layer}, cut, lambda sections, at=layer: [*sections[:at], *sections[at + 1 :]])
        if layout:
            message = f"fits without layer {layer}, [{section.name}]: the cfg has a layer more than the file"
            finding = make_finding("weights-layer", message, line=section.line, layer=layer)
            yield Candidate(layout=layout, finding=finding, nats=ONE_OF_MANY)


def more_layers(sizes: Sizes, layers: range) -> Iterator[Candidate]:
    """Yield each place where one more layer, like one beside it or a new convolution, gives the file its size."""
    end = layers.stop + (layers.stop == len(sizes.sections))
    for at in range(layers.start, end):
        beside = sizes.sections[max(at - NEAR, 0) : at + NEAR]
        new = [_options(section) for section in beside if sizes.model.network.layers]
        for text, nats in dict.fromkeys((text, ONE_OF_MANY) for text in new if text):
            yield from _inserted(sizes, at, text, nats)
        for text, nats in _convolutions(sizes, at):
            yield from _inserted(sizes, at, text, nats)
        if not sizes.left():
            return


def _options(section: Section) -> str:
    """Return the text of a section that could be a layer of its own."""
    if section.find("share_index") or not section.knows("batch_normalize"):
        return ""
    lines = [f"{option.key}={option.value}" for option in section.options if option.value is not None]
    return "\n".join([f"[{section.name}]", *lines]) + "\n"


def _convolutions(sizes: Sizes, at: int) -> Iterator[tuple[str, float]]:
    """Yield convolutions of a usual kernel, with the number of filters that gives the file's size."""
    before = sizes.model.network.layers[at - 1].output if at else sizes.model.network.input
    if not all(before[:3]):
        return
    for kernel in KERNELS:
        for normalised in ("batch_normalize=1\n", ""):
            for groups in ("", f"groups={before.channels}\n"):
                tail = f"size={kernel}\nstride=1\npad=1\n{groups}activation=leaky\n"
                form = f"[convolutional]\n{normalised}filters={{}}\n{tail}"
                filters = _filters(sizes, at, form, before.channels)
                if filters:
                    yield form.format(filters), ONE_OF_MANY + 2 * FREE_NUMBER


def _filters(sizes: Sizes, at: int, form: str, channels: int) -> int | None:
    """Return the number of filters that gives the file's size, which is linear in it."""
    points = []
    for filters in (channels, 2 * channels):
        (section,) = _parsed(sizes, form.format(filters))
        points.append((filters, sizes.nbytes([*sizes.sections[:at], section, *sizes.sections[at:]])))
    filters = solve(points[0], points[1], sizes.model.nbytes or 0)
    return filters if filters and filters <= MOST else None


def _parsed(sizes: Sizes, text: str) -> Sequence[Section]:
    """Return the section of this text."""
    path, dialect = sizes.model.network.text.path, sizes.model.dialect
    return cfg.sections(cfg.parse(path, f"[net]\n{text}".encode()), dialect)[1:]


def _inserted(sizes: Sizes, at: int, text: str, nats: float) -> Iterator[Candidate]:
    """Yield the candidate with this section before layer `at`, if it has the file's size."""
    if not sizes.left():
        return
    network = sizes.model.network
    (section,) = _parsed(sizes, text)
    last = at == len(network.layers)
    number = len(network.text.lines) if last else network.layers[at].section.line
    line = network.text.lines[number - 1]
    edit = {number: f"{line.rstrip()}\n\n{text}" if last else f"{text}\n{line}"}
    moved = {index: index + (index >= at) for index in range(len(network.layers))}
    layout = _of(sizes, moved, set(), edit, lambda sections: [*sections[:at], section, *sections[at:]])
    if layout:
        what = _described(section)
        place = f"after layer {at - 1}, at the end" if last else f"before layer {at}, [{network.layers[at].section.name}]"
        message = f"fits with one more layer {place}: {what}"
        line_number = None if last else number
        cause = "a layer is missing in the cfg" + "; others of the same size are possible" * (nats > ONE_OF_MANY)
        finding = make_finding("weights-layer", message, line=line_number, layer=min(at, len(moved) - 1), cause=cause)
        yield Candidate(layout=layout, finding=finding, nats=nats)


def _described(section: Section) -> str:
    shown = ("batch_normalize", "filters", "size", "groups", "output", "hidden")
    options = [f"{key}={option.value}" for key in shown if (option := section.find(key))]
    return f"[{section.name}] with {' '.join(options)}"


def _of(
    sizes: Sizes,
    moved: Mapping[int, int],
    removed: set[int],
    edit: Edit,
    change: Callable[[list[Section]], list[Section]],
) -> Layout | None:
    """Return the plan of the file's size with the layers' numbers as the cfg has them, or else rewritten."""
    network, wanted = sizes.model.network, sizes.model.nbytes
    for rewritten in ({}, renumbered(network, moved, removed)):
        sections = [_with_lines(section, rewritten) for section in sizes.sections] if rewritten else sizes.sections
        if sizes.nbytes(change(sections)) == wanted and sizes.left(plans=1):
            layout = fitting(sizes.model, rewritten, edit)
            if layout:
                return layout
    return None


def _with_lines(section: Section, edit: Edit) -> Section:
    """Return the section with the new text of its lines."""
    if not any(option.line in edit for option in section.options):
        return section
    options = tuple(
        Option(key=option.key, value=edit[option.line].partition("=")[2].strip(), line=option.line)
        if option.line in edit
        else option
        for option in section.options
    )
    return replace(section, options=options)
