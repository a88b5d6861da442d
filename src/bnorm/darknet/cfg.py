"""The text of a cfg: its lines and sections, and their values as a dialect converts them.

Lines are kept as they stand, so that one can be removed without touching another byte. Every option knows its line.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from bnorm.darknet.dialects import Dialect
from bnorm.darknet.grammar import GRAMMARS, INT_MAX
from bnorm.darknet.vocabulary import KEYS, SECTIONS
from bnorm.errors import CfgError
from bnorm.files import open_regular
from bnorm.text import short

MOST_BYTES = 512 << 10  # the largest cfg that any fork ships has 31 kB, and some hundred lines and sections

MOST_LINES = 50_000

MOST_SECTIONS = 2000

MIXED_UP = "is this the weights file? CFG stands before WEIGHTS on the command line"


class Text(NamedTuple):
    """A cfg as it stands in its file; each line keeps its line end."""

    path: Path
    lines: tuple[str, ...]

    def edited(self, dropped: Collection[int], changed: Mapping[int, str]) -> bytes:
        """The file's bytes less the `dropped` lines and with the `changed` ones, by their numbers counted from 1."""
        kept = (number for number in range(1, len(self.lines) + 1) if number not in dropped)
        return "".join(changed.get(number, self.lines[number - 1]) for number in kept).encode()


class Option(NamedTuple):
    """One line of a section; `value` is None where there is no `=`, empty where the parser drops the line."""

    key: str
    value: str | None
    line: int


@dataclass(frozen=True, slots=True)
class Section:
    """One section, as `dialect` reads it: `type` is darknet's long name, `name` what stands between the brackets."""

    path: Path
    dialect: Dialect
    type: str
    name: str
    line: int
    options: tuple[Option, ...]

    def find(self, key: str) -> Option | None:
        """The option that the fork would use: None where it is absent or where this dialect never asks for the key."""
        if not self.knows(key):
            return None
        found = next((option for option in self.options if option.key == key and option.value != ""), None)
        return found if found and found.value is not None else None

    def text(self, key: str, default: str = "") -> str:
        """The option's value."""
        value = self._value(key)
        return default if value is None else value

    def integer(self, key: str, default: int, *, least: int = -INT_MAX) -> int:
        """The option's value as the fork converts it; a `CfgError` below `least` or beyond a 32-bit int."""
        numbers = self._convert(key, GRAMMARS[self.dialect.name].integer)
        number = default if numbers is None else numbers[0]
        if number < least:
            text = self.text(key, str(number))
            read = "" if text == str(number) else f", which {self.dialect.name} reads as {number}"
            raise self.error(f"{key}={short(text)}{read}, expected at least {least}", key)
        return number

    def positive(self, key: str, default: int = 1) -> int:
        """An integer of at least 1."""
        return self.integer(key, default, least=1)

    def natural(self, key: str, default: int = 0) -> int:
        """An integer of at least 0."""
        return self.integer(key, default, least=0)

    def flag(self, key: str) -> bool:
        """Whether it is another number than 0."""
        return self.integer(key, 0) != 0

    def integers(self, key: str) -> list[int] | None:
        """The option's list as the fork splits it, None where it is absent."""
        return self._convert(key, lambda _: GRAMMARS[self.dialect.name].integers(self.listed(key)))

    def listed(self, key: str) -> str:
        """The text of a list, as far as the fork looks at it."""
        value = self.text(key)
        return value.partition("#")[0] if (self.type, key) in self.dialect.commented_lists else value

    def knows(self, key: str) -> bool:
        """Whether this dialect asks for the key in a section of this type."""
        return key in KEYS[self.dialect.name][self.type]

    def error(
        self, what: str, key: str = "", *, cause: str = "", line: int | None = None, finding: str = ""
    ) -> CfgError:
        """An error at this line, or at the option's, or at the section's."""
        option = self.find(key) or next((option for option in self.options if key and option.key == key), None)
        place = line or (option.line if option else self.line)
        return CfgError(self.path, f"[{self.name}] {what}", line=place, cause=cause, finding=finding)

    def _value(self, key: str) -> str | None:
        option = self.find(key)
        return option.value if option else None

    def _convert(self, key: str, conversion: Callable[[str], list[int]]) -> list[int] | None:
        value = self._value(key)
        if value is None:
            return None
        try:
            return conversion(value)
        except ValueError as error:
            raise self.error(f"{key}={short(value)}, expected {error}", key) from None


def read(path: Path) -> Text:
    """Read a cfg's text; a `CfgError` where it is not UTF-8 text of a cfg's size."""
    with open_regular(path, CfgError) as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        what = f"more than {MOST_BYTES:,} bytes, expected a cfg of some kilobytes"
        raise CfgError(path, what, cause=MIXED_UP, finding="cfg-not-text")
    return parse(path, data)


def parse(path: Path, data: bytes) -> Text:
    """The text of these bytes; `path` is for messages."""
    if data.startswith(codecs.BOM_UTF8):
        cause = "every fork fails on the mark: save the file as UTF-8 without BOM"
        raise CfgError(
            path, "begins with a UTF-8 byte order mark, expected [net]", line=1, cause=cause, finding="cfg-bom"
        )
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        what = f"byte 0x{data[error.start]:02x}, expected UTF-8 text"
        raise CfgError(path, what, line=line, cause=_encoding(data), finding="cfg-not-text") from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise CfgError(path, "a zero byte, expected text", line=line, cause=MIXED_UP, finding="cfg-not-text")
    lines = tuple(re.findall(r"[^\n]*\n|[^\n]+", text))
    if len(lines) > MOST_LINES:
        raise CfgError(path, f"more than {MOST_LINES} lines, expected some hundred", line=MOST_LINES + 1)
    return Text(path, lines)


def _encoding(data: bytes) -> str:
    """What bytes that are no UTF-8 may be."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "it is UTF-16: save it as UTF-8"
    return MIXED_UP if b"\0" in data else "save it as UTF-8"


def sections(text: Text, dialect: Dialect) -> tuple[Section, ...]:
    """Split the text as `dialect` does: `[net]` first, then one section per layer, all of known types."""
    if len(text.lines) == 1 and "\r" in text.lines[0].rstrip():
        cause = "every fork takes the file for one line: save it with LF line ends"
        raise CfgError(text.path, "its lines end in CR alone, expected LF", line=1, cause=cause, finding="cfg-cr")
    grammar = GRAMMARS[dialect.name]
    found: list[tuple[str, int, list[Option]]] = []
    for number, line in enumerate(text.lines, 1):
        try:
            entry = grammar.read_line(line)
        except ValueError as error:
            raise CfgError(text.path, str(error), line=number) from None
        if entry is None:
            continue
        key, value = entry
        if key is None and len(found) == MOST_SECTIONS:
            raise CfgError(text.path, f"more than {MOST_SECTIONS} sections, expected some hundred", line=number)
        if key is None:
            found.append((value or "", number, []))
        elif not found and dialect.strict and not value:
            continue  # hank skips such a line before it looks for a section
        elif not found:
            raise CfgError(text.path, f"{short(line.strip())} stands before any section, expected [net]", line=number)
        else:
            found[-1][2].append(Option(key, value, number))
    if not found:
        raise CfgError(text.path, "no section, expected [net]", cause="the file is empty or is not a darknet cfg")
    result = tuple(
        _section(text.path, dialect, index, name, line, tuple(options))
        for index, (name, line, options) in enumerate(found)
    )
    if len(result) == 1:
        raise CfgError(text.path, "no layer after [net]", line=result[0].line)
    return result


def _section(path: Path, dialect: Dialect, index: int, name: str, line: int, options: tuple[Option, ...]) -> Section:
    names = SECTIONS[dialect.name]
    if index and name in ("net", "network"):
        raise CfgError(path, f"[{name}] stands again, expected it as the first section alone", line=line)
    if (name in ("net", "network")) != (index == 0) or name not in names:
        expected = "[net] as the first section" if index == 0 else "a layer"
        bare = name.lstrip("[").split("]")[0].strip()
        cause = "its line ends in CR, which pjreddie's darknet keeps" if name.endswith("\r") else ""
        if not cause and bare in names and bare != name:
            inside = "the name goes on to the line's last ]" if "]" in name else "blanks inside the brackets count"
            kept = inside if dialect.strict else "the whole line is the section's type"
            cause = f"to {dialect.name} {kept}, expected [{bare}]"
        shown = short(name if name.startswith("[") else f"[{name}]")
        what = f"{shown} is unknown to {dialect.name}, expected {expected}"
        finding = "cfg-cr" if name.endswith("\r") else "cfg-unknown-section"
        raise CfgError(path, what, line=line, cause=cause, finding=finding)
    return Section(path, dialect, names[name], name, line, options)
