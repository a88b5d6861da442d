"""Options that hank refuses although its grammar accepts them; the other forks use a default instead.

Sources: `darknet_cfg.cpp: find_unused_lines, parse_net_section`, `darknet_enums.cpp`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from bnorm.darknet.cfg import Option, Section
from bnorm.darknet.dialects import HANK
from bnorm.darknet.grammar import PLAIN_NUMBER, is_plain_number
from bnorm.darknet.vocabulary import ACTIVATIONS
from bnorm.errors import CfgError
from bnorm.text import short


class Condition(NamedTuple):
    """Another key of [net] and the values for which hank asks for a key; no values: any number except 0."""

    key: str
    values: tuple[str, ...] = ()


_ADAM = Condition("adam")

_LISTS = Condition("policy", ("steps", "sgdr"))

# Keys of [net] that hank asks for only under a condition.
CONDITIONS: dict[str, Condition] = {
    "B1": _ADAM,
    "B2": _ADAM,
    "eps": _ADAM,
    "step": Condition("policy", ("step", "sigmoid")),
    "scale": Condition("policy", ("step",)),
    "steps": _LISTS,
    "scales": _LISTS,
    "seq_scales": _LISTS,
    "gamma": Condition("policy", ("exp", "sigmoid")),
}

# Keys whose value is one of these names.
NAMES: dict[str, frozenset[str]] = {
    "activation": ACTIVATIONS["hank"],
    "policy": frozenset("random poly constant step exp sigmoid steps sgdr".split()),
    "type": frozenset("sse masked smooth".split()),
    "iou_loss": frozenset("iou giou mse diou ciou".split()),
    "iou_thresh_kind": frozenset("iou giou mse diou ciou".split()),
    "nms_kind": frozenset("default greedynms diounms cornersnms".split()),
    "yolo_point": frozenset("center left_top right_bottom".split()),
    "weights_normalization": frozenset(HANK.weights_normalizations),
}

# Other keys whose value is not a single number; that of every other key must be one.
TEXTS = frozenset("tree map weights_type layers from mask anchors steps scales seq_scales counters_per_class".split())


def check(section: Section) -> None:
    """Raise a `CfgError` for a key that is given twice, that hank never asks for, or whose value it cannot convert."""
    for refused in refusals(section):
        raise refused.error


class Refused(NamedTuple):
    """An option that hank refuses, and the error; it is `removable` if its value is not used."""

    option: Option
    error: CfgError
    removable: bool


def refusals(section: Section) -> Iterator[Refused]:
    """Yield every option that hank refuses, in the order of the lines."""
    seen: set[str] = set()
    for option in section.options:
        if option.value:
            unused = option.key in seen or not section.knows(option.key) or bool(_unused(section, option.key))
            error = _refusal(section, option, option.value, again=option.key in seen)
            if error:
                yield Refused(option, error, removable=unused)
            seen.add(option.key)


def _refusal(section: Section, option: Option, value: str, *, again: bool) -> CfgError | None:
    """Return the error of an option that hank refuses, None for one that it reads."""
    name, finding = section.dialect.name, ""
    if again:
        what, finding = f"is given twice, which {name} refuses", "cfg-duplicate-key"
    elif not section.knows(option.key):
        what, finding = f"is unknown, which {name} refuses", "cfg-unknown-key"
    else:
        what = _unused(section, option.key) or _wrong_value(option.key, value)
    return section.error(f"{short(option.key)} {what}", line=option.line, finding=finding) if what else None


def _unused(section: Section, key: str) -> str:
    """Return the message that the condition for this key is not met; empty if it is met."""
    if section.type != "net" or key not in CONDITIONS:
        return ""
    decider, values = CONDITIONS[key]
    is_met = section.text(decider) in values if values else section.flag(decider)
    return "" if is_met else f"is not used with this {decider}, which {section.dialect.name} refuses"


def _wrong_value(key: str, value: str) -> str:
    """Return which value was expected instead; empty if hank can convert this one."""
    if key in NAMES:
        return "" if value in NAMES[key] else f"is {short(value)}, expected one of {', '.join(sorted(NAMES[key]))}"
    if key in TEXTS:
        return ""
    return "" if is_plain_number(value) else f"is {short(value)}, expected {PLAIN_NUMBER}"
