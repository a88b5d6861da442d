"""A layer of a network: one section after [net], with its shapes, its inputs and its parts."""

from __future__ import annotations

from dataclasses import dataclass

from bnorm.darknet.cfg import Section
from bnorm.darknet.parts import Part
from bnorm.darknet.shapes import Shape, size_text


@dataclass(frozen=True, slots=True, repr=False)
class Layer:
    """One section after [net], with its shapes, inputs and parts.

    Its inputs are the layer before it (even for [route], which ignores it) and the layers in `reads`. `output` is the
    shape that the fork reports; the next layer may receive a blurred output, see `shapes.passed_on`.
    """

    index: int
    section: Section
    incoming: Shape
    reads: tuple[int, ...]  # the layers that it reads by number, besides the one before it
    output: Shape
    parts: tuple[Part, ...]

    def __repr__(self) -> str:
        return f"<Layer: {self.index} {self.type} {size_text(self.output)}>"

    @property
    def type(self) -> str:
        """Return the long name of the section's type, as darknet spells it."""
        return self.section.type

    @property
    def batch_normalize(self) -> bool:
        """Return whether any part of the layer normalises."""
        return any(part.batch_normalize for part in self.parts)
