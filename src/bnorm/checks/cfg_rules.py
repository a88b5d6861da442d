"""What is odd in a cfg and yet is read: what another fork reads otherwise, and what the fork itself crashes on."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from bnorm.checks.findings import Finding, found
from bnorm.darknet.cfg import CfgText as Text
from bnorm.darknet.cfg import Section
from bnorm.darknet.model import Model
from bnorm.darknet.network import Layer, Network
from bnorm.darknet.section_types import TYPES
from bnorm.darknet.shapes import reads_list
from bnorm.darknet.vocabulary import ACTIVATIONS
from bnorm.text import short

LISTS = frozenset("layers from mask anchors steps scales seq_scales counters_per_class".split())

SCHEDULES = frozenset({"steps", "scales", "seq_scales"})  # lists of [net]


class Remark(NamedTuple):
    """A finding's id, the line in the cfg, and what to say."""

    id: str
    line: int
    message: str


def remarks(network: Network) -> tuple[Remark, ...]:
    """All that is odd in a network's cfg, for `inspect` and `check` to report."""
    layers = (remark for layer in network.layers for rule in LAYER_RULES for remark in rule(network, layer))
    return (*text_remarks(network.text, network.sections), *_short_scales(network), *layers, *_no_image(network))


# --- the text, whatever network it makes ------------------------------------------------------------------------------


def text_remarks(text: Text, sections: tuple[Section, ...]) -> tuple[Remark, ...]:
    """What is odd in the lines and options of a cfg."""
    found = list(_returns(text))
    for section in sections:
        found += _options(section)
        found += _lists(text, section)
    return tuple(found)


def _returns(text: Text) -> Iterator[Remark]:
    """pjreddie compares the whole of a heading with the names it knows (`parser.c: string_to_layer_type`)."""
    numbers = [number for number, line in enumerate(text.lines, 1) if "\r" in line]
    if numbers:
        headings = any(text.lines[number - 1].lstrip().startswith("[") for number in numbers)
        does = "cannot read this file" if headings else "keeps the CR in the values"
        yield Remark("cfg-cr", numbers[0], f"CR line ends: pjreddie's darknet {does}")


def _options(section: Section) -> Iterator[Remark]:
    seen: set[str] = set()
    for key, value, line in section.options:
        kind, what = _option(section, key, value, key in seen)
        if kind:
            yield Remark(kind, line, f"[{section.name}] {short(key)}: {what}")
        if value != "":
            seen.add(key)


def _option(section: Section, key: str, value: str | None, again: bool) -> tuple[str, str]:
    """The kind of finding that an option is, empty for none, and what to say."""
    reader = section.dialect.name
    if value == "":
        why = "cannot be read" if section.dialect.strict else "no value"
        return "cfg-no-value", f"{why}, {reader} drops the line"
    if not section.knows(key):
        return "cfg-unknown-key", f"{reader} ignores this key"
    if again:
        return "cfg-duplicate-key", "given before, the first one counts"
    if value is None:
        return "cfg-no-value", "no value, the default is used"
    if _comments(section, key, value):
        return "cfg-inline-comment", f"to {reader} # is part of the value"
    if key == "activation" and value not in ACTIVATIONS[reader]:
        return "cfg-activation", f"{short(value)} is unknown to {reader}, which computes relu instead"
    return "", ""


def _comments(section: Section, key: str, value: str) -> bool:
    """Whether a `#` in a value is read as a part of it: a number ends there anyway, a list at the next comma."""
    before, mark, behind = value.partition("#")
    number = re.fullmatch(r"[-+.,eE0-9]+", before)
    goes_on = key in LISTS and "," in behind and (section.type, key) not in section.dialect.commented_lists
    return bool(mark) and (number is None or goes_on)


def _lists(text: Text, section: Section) -> Iterator[Remark]:
    """Lists that look otherwise than pjreddie and alexeyab read them, which drop blanks and count commas."""
    reader = section.dialect.name
    for key, _, line in section.options:
        if section.dialect.strict or not _is_list(section, key):
            continue
        items = text.lines[line - 1].partition("=")[2].partition("#")[0].split(",")
        place = f"[{section.name}] {key}"
        if joined := next((item for item in items if re.search(r"[0-9]\s+\S", item)), ""):
            what = f"a comma is missing, {reader} reads {short(joined.strip())} as {short(''.join(joined.split()))}"
            yield Remark("cfg-list", line, f"{place}: {what}")
        if len(items) > 1 and not all(map(str.strip, items)):
            yield Remark("cfg-list", line, f"{place}: a comma too many, {reader} reads a 0 behind it")


def _is_list(section: Section, key: str) -> bool:
    """Whether the fork reads this key, and as a list."""
    if key == "from":
        return reads_list(section)
    if key in SCHEDULES and section.text("policy") not in section.dialect.schedules:
        return False
    return key in LISTS and section.knows(key)


# --- what a fork's own program crashes on, though it is plain what the cfg means and what its file holds --------------


def _crash(section: Section, what: str) -> Remark:
    return Remark("cfg-crash", section.line, f"[{section.name}] {what}")


def _short_scales(network: Network) -> Iterator[Remark]:
    """PJ and AB `parser.c: parse_net_options`; hank fills up with zeros."""
    net, name, policy = network.net, network.dialect.name, network.net.text("policy")
    if net.dialect.strict or policy not in net.dialect.schedules:
        return
    steps = _length(net, "steps")
    if policy == "steps" and not (steps and _length(net, "scales")):
        yield _crash(net, f"policy=steps without both steps and scales: {name} stops")
    for key in ("scales", "seq_scales"):
        if 0 < (count := _length(net, key)) < steps:
            yield _crash(
                net, f"{count} {key}, expected one for each of {steps} steps: {name} reads beyond, and crashes"
            )


def _no_image(network: Network) -> Iterator[Remark]:
    """AB `parser.c: parse_network_cfg_custom`, for `avg_outputs`."""
    name = network.dialect.name
    if network.dialect.averages_images and not any(map(_sees_image, network.layers)):
        what = f"no layer's input is wider and higher than 1: {name} divides by their number, and crashes"
        yield _crash(network.net, what)


def _sees_image(layer: Layer) -> bool:
    """Whether the layer keeps a size of more than one place: most keep that of their input."""
    if layer.type == "detection":
        return layer.section.positive("side", 7) > 1
    if layer.type == "dropout" and layer.section.text("dropblock", "0") == "0":
        return False
    return TYPES[layer.type].keeps_input_size and min(layer.incoming[1:3]) > 1


def _unloadable(network: Network, layer: Layer) -> Iterator[Remark]:
    """PJ `parser.c: load_convolutional_weights` divides by `groups`, which a deconvolution has none of."""
    if layer.type in network.dialect.unloadable:
        what = f"{network.dialect.name} divides by zero when it loads the weights of such a layer, and crashes"
        yield _crash(layer.section, what)


def _bare_base(network: Network, layer: Layer) -> Iterator[Remark]:
    """AB `convolutional_layer.c: make_convolutional_layer` takes over the other's arrays, which are NULL then."""
    for part in layer.parts:
        if part.batch_normalize and part.shared is not None and not network.layers[part.shared].batch_normalize:
            what = f"normalises, and layer {part.shared}, whose arrays it uses, does not"
            yield _crash(layer.section, f"{what}: {network.dialect.name} crashes")


def _many_anchors(network: Network, layer: Layer) -> Iterator[Remark]:
    """`parse_yolo`, `parse_region` and `parse_gaussian_yolo` have room for two numbers for each of `num` boxes."""
    section = layer.section
    if layer.type in network.dialect.unbounded_anchors:
        anchors, most = _length(section, "anchors"), 2 * section.integer("num", 1)
        if anchors > most:
            what = f"{anchors} numbers in anchors, expected 2*num = {most}: {network.dialect.name} writes beyond them"
            yield _crash(section, f"{what}, and may crash")


def _length(section: Section, key: str) -> int:
    """How many numbers a list has, as the fork counts them."""
    value = section.listed(key)
    if section.dialect.strict:
        return len(re.findall(r"[-.0-9]+", value))
    return value.count(",") + 1 if value else 0


LAYER_RULES: tuple[Callable[[Network, Layer], Iterator[Remark]], ...] = (_unloadable, _bare_base, _many_anchors)


def remarked(model: Model) -> tuple[Finding, ...]:
    """What is odd in the cfg and yet is read."""
    return tuple(found(remark.id, f"line {remark.line}: {remark.message}") for remark in remarks(model.network))
