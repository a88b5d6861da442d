"""Findings in a cfg that can be read: lines that another fork reads differently, or that crash the fork itself."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from math import prod

from bnorm.checks.findings import Finding, make_finding
from bnorm.checks.heads import head_findings
from bnorm.darknet.cfg import CfgText, Option, Section
from bnorm.darknet.embeddings import embedding_layer
from bnorm.darknet.hank import NAMES, TEXTS
from bnorm.darknet.im2col import misread_windows
from bnorm.darknet.network import Layer, Network
from bnorm.darknet.refusals import left_out
from bnorm.darknet.section_types import TYPES
from bnorm.darknet.shapes import reads_list
from bnorm.darknet.vocabulary import ACTIVATIONS
from bnorm.text import short

LISTS = frozenset("layers from mask anchors steps scales seq_scales counters_per_class".split())

WORDS = TEXTS | NAMES.keys() | {"lstm_activation"}  # keys whose value is not one number

_NUMBER = re.compile(r"[-+]?(?:0[xX][0-9a-fA-F]+|(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?)")

SCHEDULES = frozenset({"steps", "scales", "seq_scales"})  # lists of [net]


def cfg_findings(network: Network) -> tuple[Finding, ...]:
    """Return all findings in a network's cfg."""
    text = text_findings(network.text, network.sections)
    return (*text, *(finding for rule in NETWORK_RULES for finding in rule(network)))


def text_findings(text: CfgText, sections: tuple[Section, ...]) -> tuple[Finding, ...]:
    """Return the findings in the lines and options of a cfg, even if no network can be built from it."""
    found = list(_carriage_returns(text))
    for section in sections:
        for rule in SECTION_RULES:
            found += rule(text, section)
    return tuple(found)


# --- the text ---------------------------------------------------------------------------------------------------------


def _carriage_returns(text: CfgText) -> Iterator[Finding]:
    """pjreddie compares a whole heading with the names it knows (`parser.c: string_to_layer_type`)."""
    numbers = [number for number, line in enumerate(text.lines, 1) if "\r" in line]
    if numbers:
        headings = any(text.lines[number - 1].lstrip().startswith("[") for number in numbers)
        effect = "cannot read this file" if headings else "keeps the CR in the values"
        yield make_finding("cfg-cr", f"CR line ends: pjreddie's darknet {effect}", line=numbers[0])


def _odd_options(_: CfgText, section: Section) -> Iterator[Finding]:
    seen: set[str] = set()
    for option in section.options:
        finding = _odd_option(section, option, again=option.key in seen)
        if finding:
            yield finding
        if option.value != "":
            seen.add(option.key)


def _odd_option(section: Section, option: Option, *, again: bool) -> Finding | None:
    """Return the first finding in an option; `again` says that its key has been given before."""
    fork, value = section.dialect.name, option.value
    if value == "":
        why = "cannot be read" if section.dialect.strict else "no value"
        return _about(section, option, "cfg-no-value", f"{why}, {fork} drops the line")
    if not section.knows(option.key):
        return _about(section, option, "cfg-unknown-key", f"{fork} ignores this key")
    if again:
        return _about(section, option, "cfg-duplicate-key", "given before, the first one counts")
    if value is None:
        return _about(section, option, "cfg-no-value", "no value, the default is used")
    if _includes_comment(section, option.key, value):
        return _about(section, option, "cfg-inline-comment", f"{fork} reads # as part of the value")
    if option.key == "activation" and value not in ACTIVATIONS[fork]:
        what = f"{short(value)} is unknown to {fork}, which computes relu instead"
        return _about(section, option, "cfg-activation", what)
    return _odd_number(section, option, value)


def _odd_number(section: Section, option: Option, value: str) -> Finding | None:
    """Return a note on text after a number: `atoi` and `atof` ignore it, hank refuses it."""
    before, mark, _ = value.partition("#")
    fork = section.dialect.name
    if mark:
        what = f"{fork} reads {short(before)} and ignores the comment; other readers fail"
        return _about(section, option, "cfg-inline-comment", what, severity="note")
    if section.dialect.strict or (option.key in WORDS and option.key not in LISTS):
        return None
    for item in value.rstrip("\r").split(",") if option.key in LISTS else [value.rstrip("\r")]:
        number = _NUMBER.match(item)
        if number and number.end() < len(item):
            what = f"{fork} reads {short(item)} as {short(number[0])}; other readers fail"
            return _about(section, option, "cfg-number", what)
    return None


def _about(section: Section, option: Option, kind: str, what: str, severity: str | None = None) -> Finding:
    return make_finding(kind, f"[{section.name}] {short(option.key)}: {what}", line=option.line, severity=severity)


def _includes_comment(section: Section, key: str, value: str) -> bool:
    """Return whether a `#` becomes part of the value: a number ends before it, a list may continue after a comma."""
    before, mark, after = value.partition("#")
    number = re.fullmatch(r"[-+.,eE0-9]+", before)
    continues = key in LISTS and "," in after and (section.type, key) not in section.dialect.commented_lists
    return bool(mark) and (number is None or continues)


def _odd_lists(text: CfgText, section: Section) -> Iterator[Finding]:
    """Yield lists that are not read the way they look: pjreddie and alexeyab drop blanks and count commas."""
    fork = section.dialect.name
    for option in section.options:
        if section.dialect.strict or not _is_list(section, option.key):
            continue
        items = text.lines[option.line - 1].partition("=")[2].partition("#")[0].split(",")
        if joined := next((item for item in items if re.search(r"[0-9]\s+\S", item)), ""):
            what = f"a comma is missing, {fork} reads {short(joined.strip())} as {short(''.join(joined.split()))}"
            yield _about(section, option, "cfg-list", what)
        if len(items) > 1 and not all(map(str.strip, items)):
            yield _about(section, option, "cfg-list", f"one comma too many, {fork} reads an extra 0")


def _is_list(section: Section, key: str) -> bool:
    """Return whether the fork reads this key, and as a list."""
    if key == "from":
        return reads_list(section)
    if key in SCHEDULES and section.text("policy") not in section.dialect.schedules:
        return False
    return key in LISTS and section.knows(key)


SECTION_RULES: tuple[Callable[[CfgText, Section], Iterator[Finding]], ...] = (_odd_options, _odd_lists)


# --- crashes of a fork's own program, although the meaning of the cfg and the plan of its file are clear --------------


def _crash(section: Section, what: str) -> Finding:
    return make_finding("cfg-crash", f"[{section.name}] {what}", line=section.line)


def _short_schedule(network: Network) -> Iterator[Finding]:
    """pjreddie and alexeyab `parser.c: parse_net_options`; hank fills up with zeros."""
    net, fork = network.net, network.dialect.name
    if net.dialect.strict or net.text("policy") not in net.dialect.schedules:
        return
    steps = net.count("steps")
    for key in ("scales", "seq_scales"):
        if 0 < (count := net.count(key)) < steps:
            what = f"{count} {key}, expected one for each of {steps} steps"
            yield _crash(net, f"{what}: {fork} reads past the end, and crashes")


def _crashing_layers(network: Network) -> Iterator[Finding]:
    for layer in network.layers:
        for rule in LAYER_RULES:
            yield from rule(network, layer)


def _no_image(network: Network) -> Iterator[Finding]:
    """alexeyab `parser.c: parse_network_cfg_custom`, hank `darknet_cfg.cpp: create_network`, for `avg_outputs`."""
    fork = network.dialect.name
    if network.dialect.averages_images and not any(min(size) > 1 for size in _sizes(network)):
        what = f"no layer's input is wider and higher than 1: {fork} divides by the number of such layers, and crashes"
        yield _crash(network.net, what)


def _sizes(network: Network) -> list[tuple[int, int]]:
    """Return the fields h and w of every layer: those of its input, except in some types."""
    sizes: list[tuple[int, int]] = []
    for layer in network.layers:
        if layer.type == "route":
            sizes.append(sizes[layer.reads[0]])  # the input of the layer that it reads first, not its output
        elif layer.type == "detection":
            sizes.append((layer.section.positive("side", 7),) * 2)
        else:
            without = layer.type == "dropout" and not layer.section.flag("dropblock")
            kept = TYPES[layer.type].keeps_input_size and not without
            sizes.append(layer.incoming[1:3] if kept else (0, 0))
    return sizes


def _miscomputed(network: Network) -> Iterator[Finding]:
    """Yield convolutions that the fork's CPU path does not compute as the cfg means, see `darknet.im2col`."""
    for layer in network.layers:
        if why := misread_windows(layer):
            yield make_finding("cfg-miscomputed", f"[{layer.section.name}] has {why}", line=layer.section.line)


def _only_costs(network: Network) -> Iterator[Finding]:
    """pjreddie `network.c: get_network_output_layer` steps back over [cost] layers without a limit."""
    if network.dialect.skips_costs and all(layer.type == "cost" for layer in network.layers):
        what = f"every layer is a [cost]: {network.dialect.name} reads before the first layer, and crashes"
        yield _crash(network.net, what)


def _failed_assertions(network: Network) -> Iterator[Finding]:
    """Yield assertions that make AlexeyAB's program refuse a network, and hank's if it is built with assertions."""
    for error in left_out(network.layers):
        what = f"{error.what}: an assertion that {network.dialect.name}'s release build leaves out"
        yield make_finding("cfg-assertion", what, line=error.line, cause=error.cause or None)


def _empty_layers(network: Network) -> Iterator[Finding]:
    """Every fork builds layers that have no weights: their output is their biases."""
    for layer in network.layers:
        if any(part.weights and not prod(part.weights) for part in layer.parts):
            key = next((key for key in ("groups", "size", "hidden") if layer.section.find(key)), "")
            option = layer.section.find(key)
            given = f"{key}={short(option.value or '')}: " if option else ""
            what = f"[{layer.section.name}] {given}has no weights, so its input has no effect"
            yield make_finding("cfg-no-weights", what, line=option.line if option else layer.section.line)


NETWORK_RULES: tuple[Callable[[Network], Iterator[Finding]], ...] = (
    _short_schedule,
    _crashing_layers,
    _no_image,
    _miscomputed,
    _only_costs,
    _failed_assertions,
    _empty_layers,
    head_findings,
)


def _unloadable(network: Network, layer: Layer) -> Iterator[Finding]:
    """pjreddie `parser.c: load_convolutional_weights` divides by `groups`, which is 0 for a deconvolution."""
    if layer.type in network.dialect.unloadable and not layer.section.flag("dontload"):
        what = f"{network.dialect.name} divides by zero when it loads the weights of such a layer, and crashes"
        yield _crash(layer.section, what)


def _bare_shared(network: Network, layer: Layer) -> Iterator[Finding]:
    """alexeyab `convolutional_layer.c: make_convolutional_layer` uses arrays of the shared layer that are NULL."""
    for part in layer.parts:
        if part.batch_normalize and part.shared is not None and not network.layers[part.shared].batch_normalize:
            what = f"normalises, but layer {part.shared}, whose arrays it uses, does not"
            yield _crash(layer.section, f"{what}: {network.dialect.name} crashes")


def _many_anchors(network: Network, layer: Layer) -> Iterator[Finding]:
    """`parse_yolo`, `parse_region` and `parse_gaussian_yolo` have room for two numbers for each of `num` boxes."""
    section = layer.section
    if layer.type in network.dialect.unbounded_anchors:
        anchors, most = section.count("anchors"), 2 * section.integer("num", 1)
        if anchors > most:
            what = f"{anchors} numbers in anchors, expected 2*num = {most}"
            yield _crash(section, f"{what}: {network.dialect.name} writes past the end, and may crash")


def _far_embedding(network: Network, layer: Layer) -> Iterator[Finding]:
    """alexeyab `parser.c: parse_yolo`, hank `darknet_cfg.cpp: parse_yolo_section`."""
    if layer.type != "yolo" or not layer.section.knows("embedding_layer"):
        return
    index = embedding_layer(layer)
    if index is not None and not 0 <= index < len(network.layers):
        what = f"embedding_layer is layer {index}, expected 0 to {len(network.layers) - 1}"
        yield _crash(layer.section, f"{what}: {network.dialect.name} reads beyond the layers, and crashes")


def _few_anchors(network: Network, layer: Layer) -> Iterator[Finding]:
    """`make_yolo_layer`, `make_region_layer`: all anchors are 0.5 before those in the cfg replace the first ones."""
    section = layer.section
    if layer.type not in ANCHORED or not section.knows("anchors"):
        return
    anchors, boxes = section.count("anchors"), section.integer("num", 1)
    mask = [number for number in section.integers("mask") or range(boxes) if number >= 0]
    used = sum(2 * number + 1 >= anchors for number in mask)
    if anchors >= 2 * boxes and not used:
        return
    what = f"{anchors} numbers in anchors, expected 2*num = {2 * boxes}: {network.dialect.name} uses 0.5 for the rest"
    effect = f"{used} of {len(mask)} boxes of this layer have a default size" if used else "mask uses none of them"
    severity = None if used else "note"
    yield make_finding("cfg-anchors", f"[{section.name}] {what}; {effect}", line=section.line, severity=severity)


ANCHORED = frozenset({"yolo", "Gaussian_yolo", "region"})

LAYER_RULES: tuple[Callable[[Network, Layer], Iterator[Finding]], ...] = (
    _unloadable,
    _bare_shared,
    _many_anchors,
    _few_anchors,
    _far_embedding,
)
