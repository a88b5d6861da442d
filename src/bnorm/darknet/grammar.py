"""The parsers of the dialects: one line, one number and one list.

pjreddie and alexeyab (`parser.c: read_cfg`, `utils.c: strip`, `option_list.c`) remove blanks everywhere in a line, even
inside names and values, then look at the first byte: `[` opens a section whose type is the whole line, `#` and `;` make
the line a comment, and anything else is `key=value`, split at the first `=`. Inline comments do not exist. If a key is
duplicated, the first line counts; a key without `=` gets its default and hides later ones; `key=` is dropped. Integers
are read by `atoi`.

hank (`darknet_cfg.cpp: CfgFile::read`) trims the ends of a line and matches two patterns, so that `#` starts a comment
anywhere and a line that matches neither is skipped. Duplicated and unknown keys and non-numeric numbers are fatal.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from itertools import takewhile
from typing import NamedTuple

from bnorm.text import short

INT_MAX = 2**31 - 1  # the forks count in C ints


class Heading(NamedTuple):
    """A line that opens a section: the text between the brackets, or the whole line where the fork uses all of it."""

    name: str


class Assignment(NamedTuple):
    """A line of a section; `value` is None where there is no `=`, empty where the parser drops the line."""

    key: str
    value: str | None


class Grammar(NamedTuple):
    """A parser's functions for one line (None: a comment or blank), a number, a list, and the length of a list.

    Each function except `count` raises ValueError with the value that it expected.
    """

    read_line: Callable[[str], Heading | Assignment | None]
    integer: Callable[[str], int]
    integers: Callable[[str], list[int]]
    count: Callable[[str], int]


def _blank_free(blanks: str) -> Callable[[str], Heading | Assignment | None]:
    """Return the line reader of pjreddie and alexeyab, which removes `blanks` anywhere in a line."""
    table = str.maketrans("", "", blanks)

    def read_line(line: str) -> Heading | Assignment | None:
        line = line.translate(table)
        if line[:1] in ("", "#", ";"):
            return None
        if line[0] == "[":
            return Heading(line[1:-1] if line.endswith("]") else line)  # the fork compares the whole line with "[type]"
        key, equals, value = line.partition("=")
        return Assignment(key, value if equals else None)

    return read_line


_HANK_SECTION = re.compile(r"\[(.+)\]")

_HANK_OPTION = re.compile(r"[ \t]*([^#= \t]+)[ \t]*=[ \t]*([^#]+)")

_NUMERIC = "-.0123456789"

_STOF = re.compile(r"-?(?:[0-9]+\.?[0-9]*|\.[0-9]+)")

_HANK_MOST = 50_000  # longer values overflow the stack of the regular expressions that hank uses


def _hank_line(line: str) -> Heading | Assignment | None:
    """Read a line with hank's two patterns; a line that matches neither is dropped."""
    line = line.strip(" \t\r\n")
    if match := _HANK_SECTION.match(line):
        return Heading(match[1])
    if match := _HANK_OPTION.match(line):
        return Assignment(match[1], _hank_value(match[1], match[2].strip(" \t\r\n")))
    if not line or line[0] in "#;":
        return None
    return Assignment(line.partition("=")[0].rstrip(), "")


def _hank_value(key: str, value: str) -> str:
    if not value:
        raise ValueError(f"{short(key)}=, expected a value before the #")
    if len(value) > _HANK_MOST:
        raise ValueError(f"{short(key)}={short(value)}, expected at most {_HANK_MOST:,} characters")
    if not value.strip(_NUMERIC) and not _STOF.match(value):
        raise ValueError(f"{short(key)}={short(value)}, expected a number")
    return value


def _within_int(digits: str) -> int:
    """Convert decimal digits to an int, or raise ValueError where a C int cannot hold them."""
    number = int(digits) if len(digits) < 20 else 2**63
    if abs(number) > INT_MAX:
        raise ValueError("a number that fits a 32-bit int")
    return number


_DIGITS = re.compile(r"[ \t\n\v\f\r]*([+-]?[0-9]+)")


def _atoi(value: str) -> int:
    """Return the leading integer, or 0 without one, as C's atoi does."""
    match = _DIGITS.match(value)
    return _within_int(match[1]) if match else 0


PLAIN_NUMBER = "a plain decimal number: hank refuses anything else"


def is_plain_number(value: str) -> bool:
    """Return whether hank accepts this as a number: it consists of digits, points and minus signs only."""
    return _STOF.match(value) is not None and not value.strip(_NUMERIC)


def _hank_integer(value: str) -> int:
    """Convert a plain decimal number, which hank holds in a float32 on the way."""
    match = _STOF.match(value)
    if match is None or not is_plain_number(value):
        raise ValueError(PLAIN_NUMBER)
    if abs(float(match[0])) > 2 * INT_MAX:
        raise ValueError("a number that fits a 32-bit int")
    (number,) = struct.unpack("<f", struct.pack("<f", float(match[0])))
    return _within_int(str(int(number)))


def _hank_integers(value: str) -> list[int]:
    """Return the leading number of each run of digits and minus signs, up to the first run that has none."""
    numbers: list[int] = []
    for run in re.findall(r"[-0-9]+", value):
        match = re.match(r"-?[0-9]+", run)
        if match is None:
            break
        numbers.append(_within_int(match[0]))
    return numbers


def _atoi_list(value: str) -> list[int]:
    return [_atoi(item) for item in value.split(",")]


def _commas(value: str) -> int:
    return value.count(",") + 1 if value else 0


def _hank_count(value: str) -> int:
    """Return the number of runs that `find_float_array` converts before the first that it cannot convert."""
    return sum(1 for _ in takewhile(_STOF.match, re.findall(r"[-.0-9]+", value)))


GRAMMARS: dict[str, Grammar] = {
    "pjreddie": Grammar(read_line=_blank_free(" \t\n"), integer=_atoi, integers=_atoi_list, count=_commas),
    "alexeyab": Grammar(read_line=_blank_free(" \t\n\r"), integer=_atoi, integers=_atoi_list, count=_commas),
    "hank": Grammar(read_line=_hank_line, integer=_hank_integer, integers=_hank_integers, count=_hank_count),
}
