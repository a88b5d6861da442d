"""Which layers a cfg names by number, and the same cfg after some of its layers have gone."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from bnorm.darknet import cfg
from bnorm.darknet.cfg import Option, Section, Text
from bnorm.darknet.grammar import GRAMMARS
from bnorm.darknet.network import Layer, Network
from bnorm.darknet.shapes import REFERENCES

# Options that hold numbers of layers: absolute, or counted back from their own layer where negative.
KEYS = REFERENCES | {"convolutional": "share_index", "contrastive": "yolo_layer", "yolo": "embedding_layer"}


class Reference(NamedTuple):
    """An option of a layer that holds `numbers` of layers."""

    layer: int
    option: Option
    numbers: tuple[int, ...]

    def targets(self) -> list[int]:
        """The layers that the numbers mean; some keys' defaults, if written, mean none and lie far outside."""
        return [self.layer + number if number < 0 else number for number in self.numbers]


def references(network: Network) -> tuple[Reference, ...]:
    """Every reference, also those which this dialect ignores and another one reads."""
    return tuple(found for layer in network.layers for found in _references(layer))


def _references(layer: Layer) -> Iterator[Reference]:
    for option in layer.section.options:
        if option.key == KEYS.get(layer.type) and option.value:
            try:
                numbers = GRAMMARS[layer.section.dialect.name].integers(option.value)
            except ValueError:
                continue  # a value that no reader asks for, or the network would not have been built
            yield Reference(layer.index, option, tuple(numbers))


def readers(network: Network) -> dict[int, set[int]]:
    """The layers that name each layer by number."""
    found: dict[int, set[int]] = {}
    for reference in references(network):
        for target in reference.targets():
            found.setdefault(target, set()).add(reference.layer)
    return found


def without(network: Network, removed: Mapping[int, int], dropped: Collection[int]) -> bytes:
    """The cfg's bytes less the sections of the `removed` layers, each standing for the layer that now gives its output.

    Numbers that pointed past a removed layer are rewritten, so that every layer reads what it read. The lines numbered
    in `dropped` go, too.
    """
    place = _places(len(network.layers), removed)
    changed = {
        reference.option.line: _rewritten(network, reference, place)
        for reference in references(network)
        if reference.layer not in removed and _moved(reference, place) != reference.numbers
    }
    gone = {line for layer in removed for line in _lines(network, layer)}
    return network.text.edited(gone | set(dropped), changed)


def _places(count: int, removed: Mapping[int, int]) -> dict[int, int]:
    """The new number of each layer, or of the one that stands for it."""
    kept = {layer: number for number, layer in enumerate(layer for layer in range(count) if layer not in removed)}
    return kept | {layer: kept[stand_in] for layer, stand_in in removed.items()}


def _moved(reference: Reference, place: Mapping[int, int]) -> tuple[int, ...]:
    """The same layers by their new numbers; what means no layer stays."""
    own = place[reference.layer]
    return tuple(
        number if target not in place else place[target] - own if number < 0 else place[target]
        for number, target in zip(reference.numbers, reference.targets(), strict=True)
    )


def _rewritten(network: Network, reference: Reference, place: Mapping[int, int]) -> str:
    """The option's line with new numbers; blanks and line end stay. What has [batchnorm] has no comments in a value."""
    before, equals, value = network.text.lines[reference.option.line - 1].partition("=")
    start, end = len(value) - len(value.lstrip()), len(value.rstrip())
    numbers = (", " if ", " in value else ",").join(map(str, _moved(reference, place)))
    return f"{before}{equals}{value[:start]}{numbers}{value[end:]}"


def agree(old: Network, new: Network, removed: Mapping[int, int]) -> bool:
    """Whether every layer that is left reads by number what it read, or what stands for that."""
    place = _places(len(old.layers), removed)
    expected = [
        [place.get(target) for target in reference.targets()]
        for reference in references(old)
        if reference.layer not in removed
    ]
    count = len(new.layers)
    found = [
        [target if 0 <= target < count else None for target in reference.targets()] for reference in references(new)
    ]
    return expected == found


def _lines(network: Network, layer: int) -> range:
    """The lines of a layer's section, from its heading to its last option, and the empty lines behind."""
    section = network.layers[layer].section
    last = max([section.line, *(option.line for option in section.options)])
    lines = network.text.lines
    while last < len(lines) and not lines[last].strip():
        last += 1
    return range(section.line, last + 1)


def _edited(text: Text, changes: list[tuple[Section, str, int]]) -> Text:
    """The text with these values; a key that a section lacks stands behind its heading."""
    lines = list(text.lines)
    for section, key, value in changes:
        option = section.find(key)
        kept = "" if option else lines[section.line - 1].rstrip("\r\n") + "\n"
        lines[(option.line if option else section.line) - 1] = f"{kept}{key}={value}\n"
    return cfg.parse(text.path, "".join(lines).encode())
