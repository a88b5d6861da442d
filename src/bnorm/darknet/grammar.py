"""How each dialect's parser reads one line, one number and one list.

pjreddie and alexeyab (`parser.c: read_cfg`, `utils.c: strip`, `option_list.c`) remove blanks everywhere in a line, also
inside names and values, then look at the first byte: `[` opens a section whose type is the whole line, `#` and `;`
make the line a comment, anything else is `key=value`, split at the first `=`. There are no inline comments. Of a
duplicated key the first line counts; a key without `=` is as good as absent and hides later ones; `key=` is dropped.
Integers are `atoi`'s.

hank (`darknet_cfg.cpp: CfgFile::read`) trims the ends of a line and matches two patterns, so that `#` starts a comment
anywhere and a line that matches neither is skipped. Duplicated and unknown keys and non-numeric numbers are fatal.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from typing import NamedTuple

from bnorm.text import short

INT_MAX = 2**31 - 1  # what the forks count in

Entry = tuple[str | None, str | None]  # (None, section name) or (key, value)


class Grammar(NamedTuple):
    """How a parser reads one line, a number and a list; each raises ValueError with what it expected."""

    read_line: Callable[[str], Entry | None]
    integer: Callable[[str], list[int]]
    integers: Callable[[str], list[int]]


def _blank_free(blanks: str) -> Callable[[str], Entry | None]:
    """The line reader of pjreddie and alexeyab, which drop `blanks` wherever they stand."""
    table = str.maketrans("", "", blanks)

    def read_line(line: str) -> Entry | None:
        line = line.translate(table)
        if line[:1] in ("", "#", ";"):
            return None
        if line[0] == "[":
            return None, line[1:-1] if line.endswith("]") else line  # the fork compares the whole line with "[type]"
        key, equals, value = line.partition("=")
        return key, value if equals else None

    return read_line


_HANK_SECTION = re.compile(r"\[(.+)\]")

_HANK_OPTION = re.compile(r"[ \t]*([^#= \t]+)[ \t]*=[ \t]*([^#]+)")

_NUMERIC = "-.0123456789"

_STOF = re.compile(r"-?(?:[0-9]+\.?[0-9]*|\.[0-9]+)")

_HANK_MOST = 50_000  # longer values overflow the stack of the regular expressions that hank uses


def _hank_line(line: str) -> Entry | None:
    line = line.strip(" \t\r\n")
    if match := _HANK_SECTION.match(line):
        return None, match[1]
    if match := _HANK_OPTION.match(line):
        key, value = match[1], match[2].strip(" \t\r\n")
        if not value:
            raise ValueError(f"{short(key)}=, expected a value before the #")
        if len(value) > _HANK_MOST:
            raise ValueError(f"{short(key)}={short(value)}, expected at most {_HANK_MOST:,} characters")
        if not value.strip(_NUMERIC) and not _STOF.match(value):
            raise ValueError(f"{short(key)}={short(value)}, expected a number")
        return key, value
    return (line.partition("=")[0].rstrip(), "") if line and line[0] not in "#;" else None  # skipped by hank


def _within_int(digits: str) -> int:
    number = int(digits) if len(digits) < 20 else 2**63
    if abs(number) > INT_MAX:
        raise ValueError("a number that fits a 32-bit int")
    return number


_DIGITS = re.compile(r"[ \t\n\v\f\r]*([+-]?[0-9]+)")


def _atoi(value: str) -> int:
    """C's atoi: the leading integer, and 0 where there is none."""
    match = _DIGITS.match(value)
    return _within_int(match[1]) if match else 0


def _hank_integer(value: str) -> int:
    """Hank's numbers: plain decimals, held in a float32 on the way."""
    match = _STOF.match(value)
    if match is None or value.strip(_NUMERIC):
        raise ValueError("a plain decimal number: hank refuses anything else")
    if abs(float(match[0])) > 2 * INT_MAX:
        raise ValueError("a number that fits a 32-bit int")
    (number,) = struct.unpack("<f", struct.pack("<f", float(match[0])))
    return _within_int(str(int(number)))


def _hank_integers(value: str) -> list[int]:
    numbers: list[int] = []
    for run in re.findall(r"[-0-9]+", value):
        match = re.match(r"-?[0-9]+", run)
        if match is None:
            break
        numbers.append(_within_int(match[0]))
    return numbers


def _line_grammar(blanks: str) -> Grammar:
    return Grammar(
        _blank_free(blanks), lambda value: [_atoi(value)], lambda value: [_atoi(item) for item in value.split(",")]
    )


GRAMMARS: dict[str, Grammar] = {
    "pjreddie": _line_grammar(" \t\n"),
    "alexeyab": _line_grammar(" \t\n\r"),
    "hank": Grammar(_hank_line, lambda value: [_hank_integer(value)], _hank_integers),
}
