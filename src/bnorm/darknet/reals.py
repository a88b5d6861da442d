"""Real numbers in a cfg, as each fork converts them: one value, or a list such as `anchors`.

pjreddie and alexeyab read them with C's `atof`, which takes the longest prefix that is a number, and 0 without one; a
list has one value more than it has commas. hank refuses everything except digits, `-` and `.`, and takes each run of
these characters as one value of a list.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from bnorm.darknet.cfg import Section
from bnorm.text import short

_PREFIX = re.compile(r"[ \t\n\v\f\r]*([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)")

_OTHER = re.compile(r"[ \t\n\v\f\r]*[+-]?(?:0x|inf|nan)", re.IGNORECASE)  # which atof accepts as well

_PLAIN = re.compile(r"-?(?:[0-9]+\.?[0-9]*|\.[0-9]+)")


Value = TypeVar("Value", float, list[float])


class _Reader(NamedTuple):
    """A fork's conversions of a value and of a list; they raise ValueError with the value that was expected."""

    one: Callable[[str], float]
    several: Callable[[str], list[float]]


def _atof(value: str) -> float:
    if _OTHER.match(value):
        raise ValueError("a finite decimal number")
    match = _PREFIX.match(value)
    return float(match[1]) if match else 0.0


def _hank(value: str) -> float:
    match = _PLAIN.match(value)
    if match is None or value.strip("-.0123456789"):
        raise ValueError("a plain decimal number: hank refuses anything else")
    return float(match[0])


def _hank_runs(value: str) -> list[float]:
    numbers: list[float] = []
    for run in re.findall(r"[-.0-9]+", value):
        match = _PLAIN.match(run)
        if match is None:
            break
        numbers.append(float(match[0]))
    return numbers


_C = _Reader(one=_atof, several=lambda value: [_atof(item) for item in value.split(",")])

_READERS = {"pjreddie": _C, "alexeyab": _C, "hank": _Reader(one=_hank, several=_hank_runs)}


def real(section: Section, key: str, default: float) -> float:
    """Return the option's value as the fork converts it; raise `CfgError` for a value that it refuses."""
    option = section.find(key)
    if option is None or option.value is None:
        return default
    return _converted(section, key, lambda: _READERS[section.dialect.name].one(section.text(key)))


def reals(section: Section, key: str) -> list[float]:
    """Return the option's list as the fork splits it; empty if it is absent."""
    if section.find(key) is None:
        return []
    return _converted(section, key, lambda: _READERS[section.dialect.name].several(section.listed(key)))


def _converted(section: Section, key: str, convert: Callable[[], Value]) -> Value:
    try:
        return convert()
    except ValueError as error:
        raise section.error(f"{key}={short(section.text(key))}, expected {error}", key) from None
