"""A layer as two forks build it: the parts with the same task, and the differences."""

from __future__ import annotations

from bnorm.darknet.dialects import roles
from bnorm.darknet.network import Layer
from bnorm.darknet.parts import Part
from bnorm.darknet.shapes import Shape, size_text


def counterparts(old: Layer, new: Layer) -> dict[str, str]:
    """Return, for each part of the new layer, the name of the part of the old layer with the same task."""
    mine = {role: name for name, role in _tasks(old).items()}
    return {name: mine[role] for name, role in _tasks(new).items() if role in mine}


def _tasks(layer: Layer) -> dict[str, str]:
    return {part.name: task(layer, part.name) for part in layer.parts}


def task(layer: Layer, part: str) -> str:
    """Return the task of a part in words that all forks share: the role of a gate, or the part's name."""
    return roles(layer.section.dialect, layer.type).get(part, part)


def difference(old: Layer, new: Layer) -> str:
    """Return the difference between a layer in two forks as text; empty if there is none."""
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
    """Return whether two shapes are equal, or one of them has only a number of outputs and that is equal."""
    return old.outputs == new.outputs and (old == new or not any(old[:3]) or not any(new[:3]))


def _numbers(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers)) or "none"
