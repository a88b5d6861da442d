"""The text of a cfg: its lines and sections, and their values as a dialect converts them.

Lines are kept unchanged, so that one can be removed without touching another byte. Every option has its line number.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

from bnorm.darknet.dialects import Dialect
from bnorm.darknet.foreign import BEGINNING, refuse_foreign_cfg
from bnorm.darknet.grammar import GRAMMARS, INT_MAX, Assignment, Heading
from bnorm.darknet.section_types import SECTIONS
from bnorm.darknet.vocabulary import KEYS
from bnorm.errors import CfgError
from bnorm.files import open_regular
from bnorm.text import plural, short

MOST_BYTES = 512 << 10  # the largest cfg shipped with any fork has 31 kB, and a few hundred lines and sections

MOST_LINES = 50_000

MOST_SECTIONS = 2000

MIXED_UP = "is this the weights file? The arguments are CFG WEIGHTS, in that order"


Number = TypeVar("Number", int, list[int])


class CfgText(NamedTuple):
    """A cfg's lines; each keeps its line end."""

    path: Path
    lines: tuple[str, ...]

    def encode(self) -> bytes:
        """Return the file's bytes."""
        return "".join(self.lines).encode()

    def __repr__(self) -> str:
        return f"<CfgText: {self.path}, {plural(len(self.lines), 'line')}>"


class Option(NamedTuple):
    """One line of a section; `value` is None where there is no `=`, empty where the parser drops the line."""

    key: str
    value: str | None
    line: int

    @property
    def is_dropped(self) -> bool:
        """Return whether the parser drops the line, so that it does not hide a later one with the same key."""
        return self.value == ""


@dataclass(frozen=True, slots=True, repr=False)
class Section:
    """One section, as `dialect` reads it: `type` is darknet's long name, `name` the spelling between the brackets."""

    path: Path
    dialect: Dialect
    type: str
    name: str
    line: int
    options: tuple[Option, ...]

    def __repr__(self) -> str:
        return f"<Section: [{self.name}] at line {self.line}, {plural(len(self.options), 'option')}>"

    def find(self, key: str) -> Option | None:
        """Return the option that the fork uses, or None if it is absent or the fork never asks for the key."""
        if not self.knows(key):
            return None
        for option in self.options:  # a plain loop: this runs thousands of times
            if option.key == key and not option.is_dropped:
                return None if option.value is None else option
        return None

    def text(self, key: str, default: str = "") -> str:
        """Return the option's value."""
        value = self._value(key)
        return default if value is None else value

    def integer(self, key: str, default: int, *, least: int = -INT_MAX) -> int:
        """Return the option's value as the fork converts it; raise `CfgError` below `least` or beyond a 32-bit int."""
        read_number = self._convert(key, GRAMMARS[self.dialect.name].integer)
        number = default if read_number is None else read_number
        if number < least:
            text = self.text(key, str(number))
            read = "" if text == str(number) else f", which {self.dialect.name} reads as {number}"
            raise self.error(f"{key}={short(text)}{read}, expected at least {least}", key)
        return number

    def positive(self, key: str, default: int = 1) -> int:
        """Return an integer of at least 1."""
        return self.integer(key, default, least=1)

    def natural(self, key: str, default: int = 0) -> int:
        """Return an integer of at least 0."""
        return self.integer(key, default, least=0)

    def flag(self, key: str) -> bool:
        """Return whether the option is a number other than 0."""
        return self.integer(key, 0) != 0

    def integers(self, key: str) -> list[int] | None:
        """Return the option's list as the fork splits it, or None if it is absent."""
        return self._convert(key, lambda _: GRAMMARS[self.dialect.name].integers(self.listed(key)))

    def count(self, key: str) -> int:
        """Return how many numbers the fork finds in a list; 0 if the option is absent."""
        return GRAMMARS[self.dialect.name].count(self.listed(key))

    def listed(self, key: str) -> str:
        """Return the text of a list, as far as the fork reads it."""
        value = self.text(key)
        return value.partition("#")[0] if (self.type, key) in self.dialect.commented_lists else value

    def knows(self, key: str) -> bool:
        """Return whether this dialect asks for the key in a section of this type."""
        return key in KEYS[self.dialect.name][self.type]

    def error(
        self, what: str, key: str = "", *, cause: str = "", line: int | None = None, finding: str = ""
    ) -> CfgError:
        """Return an error at `line`, by default the line of the option if `key` is given, else of the section."""
        option = self.find(key) or next((option for option in self.options if key and option.key == key), None)
        line = line or (option.line if option else self.line)
        return CfgError(self.path, f"[{self.name}] {what}", line=line, cause=cause, finding=finding)

    def _value(self, key: str) -> str | None:
        option = self.find(key)
        return option.value if option else None

    def _convert(self, key: str, conversion: Callable[[str], Number]) -> Number | None:
        value = self._value(key)
        if value is None:
            return None
        try:
            return conversion(value)
        except ValueError as error:
            raise self.error(f"{key}={short(value)}, expected {error}", key) from None


def read(path: Path) -> CfgText:
    """Read a cfg's text; raise `CfgError` unless it is UTF-8 text of a plausible size."""
    with open_regular(path, CfgError) as file:
        data = file.read(MOST_BYTES + 1)
    refuse_foreign_cfg(path, data[:BEGINNING])
    if len(data) > MOST_BYTES:
        what = f"more than {MOST_BYTES:,} bytes, expected a cfg of a few kilobytes"
        raise CfgError(path, what, cause=MIXED_UP, finding="cfg-not-text")
    return parse(path, data)


def parse(path: Path, data: bytes) -> CfgText:
    """Split these bytes into lines; `path` is for messages."""
    text = _decoded(path, data)
    lines = tuple(re.findall(r"[^\n]*\n|[^\n]+", text))
    if len(lines) > MOST_LINES:
        raise CfgError(path, f"more than {MOST_LINES} lines, expected a few hundred", line=MOST_LINES + 1)
    return CfgText(path=path, lines=lines)


def _decoded(path: Path, data: bytes) -> str:
    """Decode UTF-8 without a byte order mark or zero bytes; a `CfgError` names the line of the first invalid byte."""
    if data.startswith(codecs.BOM_UTF8):
        what, cause = "begins with a UTF-8 byte order mark, expected [net]", "no fork accepts it: save without BOM"
        raise CfgError(path, what, line=1, cause=cause, finding="cfg-bom")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        what = f"byte 0x{data[error.start]:02x}, expected UTF-8 text"
        raise CfgError(path, what, line=line, cause=_encoding(data), finding="cfg-not-text") from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise CfgError(path, "a zero byte, expected text", line=line, cause=MIXED_UP, finding="cfg-not-text")
    return text


def _encoding(data: bytes) -> str:
    """Return a guess at the encoding of bytes that are not UTF-8."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "it is UTF-16: save it as UTF-8"
    return MIXED_UP if b"\0" in data else "save it as UTF-8"


def sections(text: CfgText, dialect: Dialect) -> tuple[Section, ...]:
    """Split the text as `dialect` does: `[net]` first, then one section per layer, all of known types."""
    if len(text.lines) == 1 and "\r" in text.lines[0].rstrip():
        cause = "every fork reads the file as one line: save it with LF line ends"
        raise CfgError(text.path, "its lines end in CR alone, expected LF", line=1, cause=cause, finding="cfg-cr")
    raw = _raw_sections(text, dialect)
    if not raw:
        raise CfgError(text.path, "no section, expected [net]", cause="the file is empty or is not a darknet cfg")
    net, *layers = _without_replaced(raw) if dialect.strict else raw
    result = (_net(text, dialect, net), *(_layer(text, dialect, layer) for layer in layers))
    if not layers:
        raise CfgError(text.path, "no layer after [net]", line=net.line)
    return result


class _RawSection(NamedTuple):
    """A heading, known or unknown, and the options below it."""

    name: str
    line: int
    options: list[Option]


def _raw_sections(text: CfgText, dialect: Dialect) -> list[_RawSection]:
    raw: list[_RawSection] = []
    for number, line in enumerate(text.lines, 1):
        entry = _read_line(text, dialect, number)
        if isinstance(entry, Heading):
            if len(raw) == MOST_SECTIONS:
                what = f"more than {MOST_SECTIONS} sections, expected a few hundred"
                raise CfgError(text.path, what, line=number)
            raw.append(_RawSection(name=entry.name, line=number, options=[]))
        elif entry and raw:
            raw[-1].options.append(Option(key=entry.key, value=entry.value, line=number))
        elif entry and (entry.value or not dialect.strict):  # hank drops a line without a value before any other check
            what = f"{short(line.strip())} appears before the first section, expected [net]"
            raise CfgError(text.path, what, line=number)
    return raw


def _without_replaced(raw: list[_RawSection]) -> list[_RawSection]:
    """Drop leading empty sections: hank uses the next section in their place (`CfgFile::read`)."""
    while len(raw) > 1 and raw[0].name in SECTIONS["hank"] and not any(option.value for option in raw[0].options):
        raw = raw[1:]
    return raw


def _read_line(text: CfgText, dialect: Dialect, number: int) -> Heading | Assignment | None:
    try:
        return GRAMMARS[dialect.name].read_line(text.lines[number - 1])
    except ValueError as error:
        raise CfgError(text.path, str(error), line=number) from None


def _net(text: CfgText, dialect: Dialect, raw: _RawSection) -> Section:
    if SECTIONS[dialect.name].get(raw.name) != "net":
        raise _unknown(text, dialect, raw, "[net] as the first section")
    return _section(text, dialect, raw)


def _layer(text: CfgText, dialect: Dialect, raw: _RawSection) -> Section:
    kind = SECTIONS[dialect.name].get(raw.name)
    if kind == "net":
        what = f"[{raw.name}] appears again, expected it as the first section only"
        raise CfgError(text.path, what, line=raw.line)
    if kind is None:
        raise _unknown(text, dialect, raw, "a layer")
    return _section(text, dialect, raw)


def _section(text: CfgText, dialect: Dialect, raw: _RawSection) -> Section:
    return Section(
        path=text.path,
        dialect=dialect,
        type=SECTIONS[dialect.name][raw.name],
        name=raw.name,
        line=raw.line,
        options=tuple(raw.options),
    )


def _unknown(text: CfgText, dialect: Dialect, raw: _RawSection, expected: str) -> CfgError:
    shown = short(raw.name if raw.name.startswith("[") else f"[{raw.name}]")
    return CfgError(
        text.path,
        f"{shown} is unknown to {dialect.name}, expected {expected}",
        line=raw.line,
        cause=_why_unknown(raw.name, dialect),
        finding="cfg-cr" if raw.name.endswith("\r") else "cfg-unknown-section",
    )


def _why_unknown(name: str, dialect: Dialect) -> str:
    """Return why the fork does not recognise a known name in this heading; empty if the name is not known either."""
    if name.endswith("\r"):
        return "its line ends in CR, which pjreddie's darknet keeps"
    bare = name.lstrip("[").split("]")[0].strip()
    if bare == name or bare not in SECTIONS[dialect.name]:
        return ""
    if not dialect.strict:
        rule = "the whole line is the section's type"
    elif "]" in name:
        rule = "the name extends to the line's last ]"
    else:
        rule = "blanks inside the brackets count"
    return f"in {dialect.name}, {rule}: expected [{bare}]"
