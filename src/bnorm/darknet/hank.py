"""What hank refuses beyond its grammar, where the other forks go on with a default.

Sources: `darknet_cfg.cpp: find_unused_lines, parse_net_section`, `darknet_enums.cpp`.
"""

from __future__ import annotations

from bnorm.darknet.cfg import Section
from bnorm.darknet.grammar import GRAMMARS
from bnorm.darknet.vocabulary import ACTIVATIONS
from bnorm.text import short

# Keys of [net] that it asks for only where another key has one of these values; the empty tuple: any number but 0.
CONDITIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "B1": ("adam", ()),
    "B2": ("adam", ()),
    "eps": ("adam", ()),
    "step": ("policy", ("step", "sigmoid")),
    "scale": ("policy", ("step",)),
    "steps": ("policy", ("steps", "sgdr")),
    "scales": ("policy", ("steps", "sgdr")),
    "seq_scales": ("policy", ("steps", "sgdr")),
    "gamma": ("policy", ("exp", "sigmoid")),
}

# Keys whose value is one of these names.
NAMES: dict[str, frozenset[str]] = {
    "activation": ACTIVATIONS["hank"],
    "policy": frozenset("random poly constant step exp sigmoid steps sgdr".split()),
    "type": frozenset("sse masked smooth".split()),
    "iou_loss": frozenset("iou giou mse diou ciou".split()),
    "nms_kind": frozenset("default greedynms diounms cornersnms".split()),
}

# Other keys whose value is no single number; every other key's must be one.
TEXTS = frozenset(
    """tree map iou_thresh_kind yolo_point weights_type weights_normalization layers from mask anchors steps scales
    seq_scales counters_per_class""".split()
)


def check(section: Section) -> None:
    """A `CfgError` for a key that is given twice, that hank never asks for, or whose value it cannot take."""
    seen: set[str] = set()
    for key, value, line in section.options:
        if not value:
            continue
        twice = f"is given twice, which {section.dialect.name} refuses" if key in seen else ""
        if refused := twice or _unused(section, key) or _unfit(section, key, value):
            finding = "cfg-duplicate-key" if twice else "" if section.knows(key) else "cfg-unknown-key"
            raise section.error(f"{short(key)} {refused}", line=line, finding=finding)
        seen.add(key)


def _unused(section: Section, key: str) -> str:
    if not section.knows(key):
        return f"is unknown, which {section.dialect.name} refuses"
    if section.type != "net" or key not in CONDITIONS:
        return ""
    decider, values = CONDITIONS[key]
    asked = section.text(decider) in values if values else section.flag(decider)
    return "" if asked else f"is not used with this {decider}, which {section.dialect.name} refuses"


def _unfit(section: Section, key: str, value: str) -> str:
    if key in NAMES:
        return "" if value in NAMES[key] else f"is {short(value)}, expected one of {', '.join(sorted(NAMES[key]))}"
    if key in TEXTS:
        return ""
    try:
        GRAMMARS[section.dialect.name].integer(value)
    except ValueError as error:
        return f"is {short(value)}, expected {error}"
    return ""
