"""A cfg translated for another fork: lines that the target would read differently are rewritten or dropped.

A line, an option or a layer that the target cannot read the way the source does is an obstacle. The steps:

1. Each line as both grammars read it: comments, blanks, line ends. Where they differ, the source's reading is written.
2. Keys. A key that only the source asks for is an obstacle if it changes what a layer computes or stores
   (`key_effects`). A key that only the target asks for is dropped in that case. For a strict target, every key that
   the target refuses and the source does not use is dropped.
3. Activations: all forks except hank read an unknown name as relu.
4. Values that the source implies and the target needs in the cfg, see `implied`.
5. The target builds the network, and every layer must have the shapes, inputs and parts that it has in the source.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from bnorm.darknet import hank
from bnorm.darknet.cfg import Option, Section
from bnorm.darknet.counterparts import difference
from bnorm.darknet.dialects import Dialect
from bnorm.darknet.edit import apply
from bnorm.darknet.grammar import GRAMMARS, Assignment, Heading
from bnorm.darknet.implied import can_be_told, implied
from bnorm.darknet.key_effects import computed_activation, effects, is_neutral
from bnorm.darknet.network import Layer, Network, build
from bnorm.darknet.section_types import SECTIONS
from bnorm.darknet.vocabulary import ACTIVATIONS
from bnorm.errors import CfgError
from bnorm.text import short

BLANKS = str.maketrans("", "", " \t")  # inside values: hank keeps them, but no fork uses them


class CfgChange(NamedTuple):
    """A line of a cfg, by its number in the old text, that is dropped (`after` is empty) or rewritten."""

    line: int
    before: str
    after: str
    reason: str


class Obstacle(NamedTuple):
    """A reason why the target cannot do what the source does; `layer` and `line` are None for the cfg as a whole."""

    layer: int | None
    line: int | None
    reason: str


class Translation(NamedTuple):
    """The network as the target reads the new cfg; None if there are obstacles."""

    network: Network | None
    changes: tuple[CfgChange, ...]
    obstacles: tuple[Obstacle, ...]


def translate(network: Network, target: Dialect) -> Translation:
    """Return the network translated for another fork, or every obstacle."""
    draft = _Draft(network, target)
    draft.rewrite_lines()
    for layer, section in enumerate(network.sections, -1):
        draft.rewrite_options(None if layer < 0 else layer, section)
    for item in network.layers:
        draft.tell(item)
    if draft.obstacles:
        return Translation(None, (), tuple(draft.obstacles))
    built, obstacles = draft.built()
    return Translation(built, draft.changes(), obstacles)


class _Draft:
    """The new text of lines, each with its reason, and the obstacles, filled by one step after the other."""

    def __init__(self, network: Network, target: Dialect) -> None:
        self.network, self.target = network, target
        self.lines: dict[int, str] = {}
        self.reasons: dict[int, str] = {}
        self.obstacles: list[Obstacle] = []

    def change(self, line: int, text: str, reason: str) -> None:
        """Change the text of a line; an empty text drops the line."""
        self.lines[line] = text
        self.reasons.setdefault(line, reason)

    # --- step 1 -------------------------------------------------------------------------------------------------------

    def rewrite_lines(self) -> None:
        """Rewrite every line that the target's grammar reads differently."""
        for number, line in enumerate(self.network.text.lines, 1):
            entry = GRAMMARS[self.network.dialect.name].read_line(line)
            if not _same_entry(entry, self._read(line)):
                self.change(number, _written(entry), f"{self.target.name} reads this line differently")

    def _read(self, line: str) -> Heading | Assignment | None:
        """Return what the target reads in a line; a heading without a name if it refuses the line."""
        try:
            return GRAMMARS[self.target.name].read_line(line)
        except ValueError:
            return Heading("")

    # --- steps 2 and 3 ------------------------------------------------------------------------------------------------

    def rewrite_options(self, layer: int | None, section: Section) -> None:
        """Drop or rewrite the options of a section that the target would use differently."""
        if section.type not in SECTIONS[self.target.name].values():
            reason = f"{self.target.name} has no [{section.name}]"
            self.obstacles.append(Obstacle(layer, section.line, reason))
            return
        for option in section.options:
            if section.find(option.key) in (option, None) and not option.is_dropped:
                self._rewrite_option(layer, section, option)
        if self.target.strict:
            self._drop_refused(layer, section)

    def _rewrite_option(self, layer: int | None, section: Section, option: Option) -> None:
        computes = effects(section.type)
        theirs = replace(section, dialect=self.target).knows(option.key)
        if section.knows(option.key) and theirs:
            self._rewrite_activation(layer, section, option)
        elif option.key in computes and not is_neutral(section, option, computes[option.key]):
            if theirs:
                self.change(option.line, "", f"{section.dialect.name} ignores it, {self.target.name} would not")
            elif section.knows(option.key) and not can_be_told(section, option.key, self.target):
                reason = f"{option.key}={short(option.value or '')}, which {self.target.name} does not have"
                self.obstacles.append(Obstacle(layer, option.line, reason))

    def _rewrite_activation(self, layer: int | None, section: Section, option: Option) -> None:
        if option.key != "activation" or option.value is None:
            return
        meant = computed_activation(option.value, section.dialect)
        entry = self._read(self.lines.get(option.line, self.network.text.lines[option.line - 1]))
        seen = entry.value if isinstance(entry, Assignment) and entry.value else ""
        known = ACTIVATIONS[self.target.name]
        if meant not in known:
            reason = f"activation={meant}, which {self.target.name} does not have"
            self.obstacles.append(Obstacle(layer, option.line, reason))
        elif seen != meant and (self.target.strict or computed_activation(seen, self.target) != meant):
            reason = f"{section.dialect.name} computes {meant} with it"
            self.change(option.line, f"activation={meant}\n", reason)

    def _drop_refused(self, layer: int | None, section: Section) -> None:
        """Drop the options that a strict target refuses; an option that the source uses becomes an obstacle."""
        for refused in hank.refusals(replace(section, dialect=self.target)):
            option = refused.option
            if option.line in self.reasons and option.key == "activation":
                continue
            used = section.find(option.key) == option
            if refused.removable or not used:
                self.change(option.line, "", f"{self.target.name} refuses it")
            else:
                self.obstacles.append(Obstacle(layer, option.line, refused.error.what))

    # --- step 4 -------------------------------------------------------------------------------------------------------

    def tell(self, layer: Layer) -> None:
        """Write the values that the source implies and the target needs."""
        for key, value in implied(layer, self.target).items():
            option = next((item for item in layer.section.options if item.key == key and not item.is_dropped), None)
            source = layer.section.dialect.name
            reason = f"{source} implies this without the line" if option is None else f"the value that {source} reads"
            number = option.line if option else layer.section.line
            line = self.lines.get(number, self.network.text.lines[number - 1])
            before = "" if option else line.rstrip("\r\n") + "\n"
            self.change(number, f"{before}{key}={value}\n", reason)

    # --- step 5 -------------------------------------------------------------------------------------------------------

    def built(self) -> tuple[Network | None, tuple[Obstacle, ...]]:
        """Return the network that the target builds from the new text, or the obstacles if it differs."""
        try:
            text = apply(self.network.text, self.lines)
            new = build(text, self.target)
        except CfgError as error:
            line = None if error.line is None else self._old_line(error.line)
            return None, (Obstacle(self._layer_at(line), line, f"{self.target.name} refuses it: {error.what}"),)
        obstacles = tuple(
            Obstacle(old.index, old.section.line, reason)
            for old, theirs in zip(self.network.layers, new.layers, strict=True)
            if (reason := difference(old, theirs))
        )
        return (None if obstacles else new), obstacles

    def _old_line(self, number: int) -> int:
        """Return the number in the old text of a line of the new text."""
        count = 0
        for old, line in enumerate(self.network.text.lines, 1):
            count += self.lines.get(old, line).count("\n")
            if count >= number:
                return old
        return len(self.network.text.lines)

    def _layer_at(self, line: int | None) -> int | None:
        """Return the layer whose section contains this line."""
        earlier = [layer.index for layer in self.network.layers if line is not None and layer.section.line <= line]
        return earlier[-1] if earlier else None

    def changes(self) -> tuple[CfgChange, ...]:
        """Return the changed lines in order."""
        old = self.network.text.lines
        return tuple(
            CfgChange(
                line=line,
                before=old[line - 1].rstrip("\n"),
                after=self.lines[line].rstrip("\n"),
                reason=self.reasons[line],
            )
            for line in sorted(self.lines)
        )


def _same_entry(mine: Heading | Assignment | None, theirs: Heading | Assignment | None) -> bool:
    """Return whether two grammars read a line alike, ignoring blanks and the key of a line that is dropped."""
    if isinstance(mine, Assignment) and isinstance(theirs, Assignment) and mine.value and theirs.value:
        return (mine.key, mine.value.translate(BLANKS)) == (theirs.key, theirs.value.translate(BLANKS))
    if isinstance(mine, Heading) and isinstance(theirs, Heading):
        return mine == theirs
    return _is_dropped(mine) and _is_dropped(theirs)


def _is_dropped(entry: Heading | Assignment | None) -> bool:
    return entry is None or (isinstance(entry, Assignment) and not entry.value)


def _written(entry: Heading | Assignment | None) -> str:
    """Return the line that every fork reads as this entry; empty for None."""
    if isinstance(entry, Heading):
        return f"[{entry.name}]\n"
    if entry is None or not entry.value:
        return ""
    return f"{entry.key}={entry.value.strip()}\n"
