"""The same layer in two forks: which parts have the same task, and what is different."""

from __future__ import annotations

from bnorm.darknet.dialects import roles
from bnorm.darknet.network import Layer
from bnorm.darknet.parts import Part
from bnorm.darknet.shapes import Shape, size_text


def counterparts(old: Layer, new: Layer) -> dict[str, str]:
    """Return the part of the old layer for each part of the new one that has the same task, by their names."""
    mine = {role: name for name, role in _tasks(old).items()}
    return {name: mine[role] for name, role in _tasks(new).items() if role in mine}


def _tasks(layer: Layer) -> dict[str, str]:
    return {part.name: task(layer, part.name) for part in layer.parts}


def task(layer: Layer, part: str) -> str:
    """Return what a part is for, in words that every fork shares: that of a gate, or its name."""
    return roles(layer.section.dialect, layer.type).get(part, part)


def difference(old: Layer, new: Layer) -> str:
    """Return what is different about a layer in the other fork, empty if nothing is."""
    theirs = new.section.dialect.name
    if not _same_shape(old.output, new.output):
        return f"has an output of {size_text(old.output)}, in {theirs} of {size_text(new.output)}"
    if old.reads != new.reads:
        return f"reads layers {_numbers(old.reads)}, in {theirs} {_numbers(new.reads)}"
    names = counterparts(old, new)
    if len(names) != len(old.parts) or len(names) != len(new.parts):
        return f"has {len(old.parts)} parts, in {theirs} {len(new.parts)}"
    parts = {part.name: part for part in old.parts}
    return next((reason for part in new.parts if (reason := _part(parts[names[part.name]], part, theirs))), "")


def _part(old: Part, new: Part, theirs: str) -> str:
    if old.batch_normalize != new.batch_normalize:
        return f"{'normalises' if old.batch_normalize else 'does not normalise'}, in {theirs} the other way round"
    if old._replace(name="") != new._replace(name=""):
        return f"{new.name} has weights of {old.weights}, in {theirs} of {new.weights}".strip()
    return ""


def _same_shape(old: Shape, new: Shape) -> bool:
    """Return whether two forks report the same, or one of them nothing but the number of outputs."""
    return old.outputs == new.outputs and (old == new or not any(old[:3]) or not any(new[:3]))


def _numbers(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers)) or "none"
