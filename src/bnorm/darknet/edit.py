"""Edits of a cfg: values set, lines dropped, layers removed and the others renumbered.

An `Edit` gives the new text of some lines. Most functions here derive an edit from a network or its sections; only
`apply` changes a text, and it keeps every other byte.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

from bnorm.darknet import cfg
from bnorm.darknet.cfg import CfgText, Option, Section
from bnorm.darknet.grammar import GRAMMARS
from bnorm.darknet.network import Layer, Network
from bnorm.darknet.section_types import TYPES

Edit = Mapping[int, str]  # the new text of each changed line, by its number counted from 1; empty: the line is dropped


def apply(text: CfgText, *edits: Edit) -> CfgText:
    """Return the text with all edits, later ones overriding earlier ones; raise `CfgError` if it gets too long."""
    changed = {number: line for edit in edits for number, line in edit.items()}
    lines = (changed.get(number, line) for number, line in enumerate(text.lines, 1))
    return cfg.parse(text.path, "".join(lines).encode())


def dropped(lines: Iterable[int]) -> Edit:
    """Return the edit that drops these lines."""
    return dict.fromkeys(lines, "")


class Value(NamedTuple):
    """A new value for an option, which the section may lack."""

    section: Section
    key: str
    value: int


def with_values(text: CfgText, values: Iterable[Value]) -> Edit:
    """Return the edit that sets these values; an option that a section lacks gets a line after its heading."""
    changed: dict[int, str] = {}
    for section, key, value in values:
        option = section.find(key)
        number = option.line if option else section.line
        before = "" if option else changed.get(number, text.lines[number - 1].rstrip("\r\n") + "\n")
        changed[number] = f"{before}{key}={value}\n"
    return changed


# --- layers by number -------------------------------------------------------------------------------------------------


class LayerNumber(NamedTuple):
    """A layer's number as written in the section of layer `owner`; a negative one counts back from the owner."""

    written: int
    owner: int

    @property
    def target(self) -> int:
        """Return the layer that the number refers to; a default that is written out may be far out of range."""
        return self.owner + self.written if self.written < 0 else self.written

    def moved(self, new_numbers: Mapping[int, int]) -> int:
        """Return the number to write once the layers have new numbers; a number that refers to no layer is kept."""
        if self.target not in new_numbers:
            return self.written
        absolute = new_numbers[self.target]
        return absolute - new_numbers[self.owner] if self.written < 0 else absolute


class Reference(NamedTuple):
    """An option of layer `layer` that holds numbers of layers."""

    layer: int
    option: Option
    numbers: tuple[LayerNumber, ...]

    def targets(self) -> list[int]:
        """Return the layers that the numbers refer to."""
        return [number.target for number in self.numbers]


def references(network: Network) -> tuple[Reference, ...]:
    """Return every option that holds layer numbers, including those that only another dialect reads.

    `Layer.reads` has the layers that this dialect reads; these are the texts to rewrite.
    """
    return tuple(reference for layer in network.layers for reference in _references(layer))


def _references(layer: Layer) -> Iterator[Reference]:
    for option in layer.section.options:
        if option.value and option.key == TYPES[layer.type].numbers_in:
            try:
                numbers = GRAMMARS[layer.section.dialect.name].integers(option.value)
            except ValueError:
                continue  # the dialect does not read this option, or the network would not have been built
            layer_numbers = tuple(LayerNumber(written=number, owner=layer.index) for number in numbers)
            yield Reference(layer=layer.index, option=option, numbers=layer_numbers)


def readers(network: Network) -> dict[int, set[int]]:
    """Return, for each layer, the layers that refer to it by number in any dialect."""
    by_target: dict[int, set[int]] = {}
    for reference in references(network):
        for target in reference.targets():
            by_target.setdefault(target, set()).add(reference.layer)
    return by_target


# --- removed layers ---------------------------------------------------------------------------------------------------


def without_layers(network: Network, removed: Mapping[int, int]) -> Edit:
    """Return the edit that removes layers; each key of `removed` gives the layer whose output replaces its own.

    Numbers that point past a removed layer are rewritten, so that every layer keeps its inputs.
    """
    rewritten = renumbered(network, _new_numbers(len(network.layers), removed), removed)
    return {**rewritten, **dropped(line for layer in removed for line in section_lines(network, layer))}


def renumbered(network: Network, new_numbers: Mapping[int, int], removed: Collection[int] = ()) -> Edit:
    """Return the edit that rewrites layer numbers in the remaining sections."""
    return {
        reference.option.line: _rewritten(network.text, reference, new_numbers)
        for reference in references(network)
        if reference.layer not in removed
        and any(number.moved(new_numbers) != number.written for number in reference.numbers)
    }


def without(network: Network, removed: Mapping[int, int], lines: Collection[int]) -> bytes:
    """Return the cfg's bytes without the sections of the `removed` layers, see `without_layers`, and these `lines`."""
    return apply(network.text, without_layers(network, removed), dropped(lines)).encode()


def _new_numbers(count: int, removed: Mapping[int, int]) -> dict[int, int]:
    """Return the new number of each layer, or of the layer that replaces it."""
    kept = {layer: number for number, layer in enumerate(layer for layer in range(count) if layer not in removed)}
    return kept | {layer: kept[replacement] for layer, replacement in removed.items()}


def _rewritten(text: CfgText, reference: Reference, new_numbers: Mapping[int, int]) -> str:
    """Return the option's line with new numbers; blanks and line end stay.

    Only forks without inline comments have layers that can be removed, so that no comment follows the numbers.
    """
    before, equals, value = text.lines[reference.option.line - 1].partition("=")
    start, end = len(value) - len(value.lstrip()), len(value.rstrip())
    separator = ", " if ", " in value else ","
    numbers = separator.join(str(number.moved(new_numbers)) for number in reference.numbers)
    return f"{before}{equals}{value[:start]}{numbers}{value[end:]}"


def agree(old: Network, new: Network, removed: Mapping[int, int]) -> bool:
    """Return whether every remaining layer still reads the same layers by number, or their replacements."""
    new_numbers = _new_numbers(len(old.layers), removed)
    expected = [
        [new_numbers.get(target) for target in reference.targets()]
        for reference in references(old)
        if reference.layer not in removed
    ]
    count = len(new.layers)
    actual = [
        [target if 0 <= target < count else None for target in reference.targets()] for reference in references(new)
    ]
    return expected == actual


def section_lines(network: Network, layer: int) -> range:
    """Return the lines of a layer's section, from its heading to its last option, and the empty lines after."""
    section = network.layers[layer].section
    last = max([section.line, *(option.line for option in section.options)])
    lines = network.text.lines
    while last < len(lines) and not lines[last].strip():
        last += 1
    return range(section.line, last + 1)
