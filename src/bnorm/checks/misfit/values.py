"""Another value of one option of one layer: `filters`, `size`, `groups`, `output`, `hidden`."""

from __future__ import annotations

from collections.abc import Iterator

from bnorm.checks.findings import make_finding
from bnorm.checks.misfit.candidate import FREE_NUMBER, ONE_OF_MANY, Candidate, fitting
from bnorm.checks.misfit.sizes import Sizes, solve, with_option
from bnorm.darknet.cfg import Section
from bnorm.darknet.edit import Value, with_values
from bnorm.darknet.network import Layer

GROWS = ("filters", "output", "hidden", "output_filters", "hidden_filters")  # options in which the size is linear

KERNELS = (1, 2, 3, 4, 5, 7, 9, 11, 13)

MOST = 1 << 16  # filters and outputs

DEFAULTS = {"size": 1, "groups": 1}  # of a layer without the option

TYPICAL = 1.0  # nats of a common value: a multiple of 8, a usual kernel


def other_values(sizes: Sizes, layers: range) -> Iterator[Candidate]:
    """Yield each value of one option of one of these layers that gives the file's size."""
    for index in layers:
        layer = sizes.model.network.layers[index]
        if not layer.parts or not sizes.left():
            continue
        for key in (*GROWS, *DEFAULTS):
            if layer.section.knows(key) and (key in DEFAULTS or layer.section.find(key)):
                for value in _values(sizes, layer, key):
                    yield from _candidate(sizes, layer, key, value)


def _given(section: Section, key: str) -> int:
    return section.integer(key, DEFAULTS.get(key, 1))


def _values(sizes: Sizes, layer: Layer, key: str) -> Iterator[int]:
    """Yield the values that may give the file's size."""
    given = _given(layer.section, key)
    if key in GROWS:
        one, two = ((value, _nbytes(sizes, layer, key, value)) for value in (given, 2 * given))
        value = solve(one, two, sizes.model.nbytes or 0)
        tried = list(dict.fromkeys([*([value] if value and value <= MOST else []), *_grouped(sizes, layer)]))
    elif key == "size":
        tried = list(KERNELS)
    else:
        tried = list(_groups(sizes, layer))
    yield from (value for value in tried if value != given and _nbytes(sizes, layer, key, value) == sizes.model.nbytes)


def _grouped(sizes: Sizes, layer: Layer) -> Iterator[int]:
    """Yield the groups of the next layers: before a depthwise convolution, `filters` must equal its groups."""
    for section in sizes.sections[layer.index + 1 : layer.index + 3]:
        if section.knows("groups") and (groups := section.integer("groups", 1)) > 1:
            yield groups


def _groups(sizes: Sizes, layer: Layer) -> Iterator[int]:
    """Yield the number of groups that gives the file's size, which is linear in the channels of one group."""
    channels = layer.incoming.channels
    if channels < 2:
        return
    all_, one = ((of_group, _nbytes(sizes, layer, "groups", channels // of_group)) for of_group in (channels, 1))
    of_group = solve(one, all_, sizes.model.nbytes or 0)
    if of_group and channels % of_group == 0:
        yield channels // of_group


def _nbytes(sizes: Sizes, layer: Layer, key: str, value: int) -> int | None:
    return sizes.replaced(layer.index, with_option(layer.section, key, value))


def _candidate(sizes: Sizes, layer: Layer, key: str, value: int) -> Iterator[Candidate]:
    section = layer.section
    sizes.left(plans=1)
    layout = fitting(sizes.model, with_values(sizes.model.network.text, [Value(section, key, value)]))
    if layout:
        option = section.find(key)
        given = f"the cfg has {key}={_given(section, key)}" if option else f"the cfg gives no {key}"
        message = f"fits if {key}={value} in layer {layer.index}, [{section.name}]; {given}"
        line = option.line if option else section.line
        finding = make_finding("weights-value", message, line=line, layer=layer.index)
        usual = value in (1, 3) or value % 8 == 0 or value == layer.incoming.channels
        nats = ONE_OF_MANY + (TYPICAL if usual else FREE_NUMBER)
        yield Candidate(layout=layout, finding=finding, nats=nats, option=key)
