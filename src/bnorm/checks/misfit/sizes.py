"""The size of a weights file for edited sections, computed without a cfg text, so that many can be tried.

Work is counted in layers, not in seconds, so that the same files give the same answer on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from bnorm.darknet.cfg import Option, Section
from bnorm.darknet.layout import FLOAT, arrays_of
from bnorm.darknet.model import Model
from bnorm.darknet.network import Layer
from bnorm.darknet.parts import parts
from bnorm.darknet.section_types import TYPES
from bnorm.darknet.shape_rules import output_shape
from bnorm.darknet.shapes import LayerContext, Shape, layers_read, passed_on
from bnorm.errors import CfgError

WORK = 140_000  # half a second

BUILT = 12  # the work for a layer that has to be built, relative to a known layer

PLANNED = 20  # the work per layer of a cfg that is parsed, built and planned, and whose values are read

COPIED = 20  # layers that are copied in the time of one step


class _Built(NamedTuple):
    """The facts about a layer that the next layers and the file's size depend on."""

    output: Shape
    passed: Shape
    nbytes: int


class Sizes:
    """Sizes of weights files for the model's header and dialect, until its budget of `work` is used up."""

    def __init__(self, model: Model, work: int = WORK) -> None:
        self.model = model
        self.work = work
        self.sections = [layer.section for layer in model.network.layers]
        self._known: dict[tuple[object, ...], _Built | None] = {}
        self._passed = [model.network.input]  # what each layer receives
        self._passed += (passed_on(layer.section, layer.output) for layer in model.network.layers)
        self._ends = [model.header.nbytes]  # where each layer's arrays begin
        for layer in model.network.layers:
            self._ends.append(self._ends[-1] + self._stored(layer))
        self._outputs = [layer.output for layer in model.network.layers]
        self._last_readers = {read: layer.index for layer in model.network.layers for read in layer.reads}
        self._used: list[Section] = []  # kept alive, so that no id is reused

    def left(self, steps: int = 0, plans: int = 0) -> bool:
        """Return whether there is work left after this many steps and whole plans."""
        self.work -= steps + plans * PLANNED * len(self.sections)
        return self.work > 0

    def replaced(self, index: int, section: Section) -> int | None:
        """Return the size with one section replaced; None as for `nbytes`.

        It stops at the first layer whose input is unchanged, if no later layer reads a changed layer by number.
        """
        incoming, total, last = self._passed[index], self._ends[index], index
        outputs = self._outputs[:index]
        self.work -= index // COPIED
        for number in range(index, len(self.sections)):
            if number > last and incoming == self._passed[number]:
                return total + self._ends[-1] - self._ends[number]
            built = self._layer(section if number == index else self.sections[number], incoming, outputs)
            if built is None:
                return None
            if built.output != self._outputs[number]:
                last = max(last, self._last_readers.get(number, 0))
            outputs.append(built.output)
            incoming = built.passed
            total += built.nbytes
        return total

    def nbytes(self, sections: Sequence[Section], entry: Shape | None = None) -> int | None:
        """Return the size of a file for these layers; None if the fork rejects them, or no work is left."""
        kept = 0 if entry else self._unchanged(sections)
        incoming = entry or self._passed[kept]
        total = self._ends[kept]
        outputs = self._outputs[:kept]
        self.work -= len(sections) // COPIED
        for section in sections[kept:]:
            built = self._layer(section, incoming, outputs)
            if built is None:
                return None
            outputs.append(built.output)
            incoming = built.passed
            total += built.nbytes
        return total

    def _unchanged(self, sections: Sequence[Section]) -> int:
        """Return how many sections at the start are the same as in the cfg."""
        pairs = zip(sections, self.sections, strict=False)
        return next(
            (index for index, (new, old) in enumerate(pairs) if new is not old), min(len(sections), len(self.sections))
        )

    def _stored(self, layer: Layer) -> int:
        """Return the number of bytes of a layer's arrays."""
        arrays = arrays_of(layer, self.model.dialect, self.model.header.transposed)
        return FLOAT * sum(array.size for array in arrays)

    def _layer(self, section: Section, incoming: Shape, outputs: Sequence[Shape]) -> _Built | None:
        if not self.left(steps=1):
            return None
        index = len(outputs)
        try:
            reads = layers_read(section, index) if TYPES[section.type].reads_numbered else ()
        except CfgError:
            return None
        numbered = tuple(outputs[number] for number in reads)
        key = (id(section), incoming, numbered)
        if key not in self._known:
            self.work -= BUILT
            self._used.append(section)
            context = LayerContext(section=section, index=index, incoming=incoming, reads=reads, numbered=numbered)
            self._known[key] = self._built(context)
        return self._known[key]

    def _built(self, context: LayerContext) -> _Built | None:
        """Return the layer; None if the fork rejects it, or has more groups than channels, which nobody trains."""
        section = context.section
        try:
            output = output_shape(context)
            layer = Layer(
                index=context.index,
                section=section,
                incoming=context.incoming,
                reads=context.reads,
                output=output,
                parts=parts(context, output),
            )
            nbytes = self._stored(layer)
        except CfgError:
            return None
        if any(part.groups > part.inputs > 0 for part in layer.parts):
            return None
        return _Built(output=output, passed=passed_on(section, output), nbytes=nbytes)


def with_option(section: Section, key: str, value: int) -> Section:
    """Return the section with another value of an option, which it may lack."""
    old = section.find(key)
    new = Option(key=key, value=str(value), line=old.line if old else section.line)
    options = tuple(new if option is old else option for option in section.options)
    return replace(section, options=options if old else (new, *options))


def solve(first: tuple[int, int | None], second: tuple[int, int | None], wanted: int) -> int | None:
    """Return the integer x ≥ 1 at which a line through two points (x, size) has the wanted size; None without one."""
    (x, low), (other, high) = first, second
    if low is None or high is None or low == high:
        return None
    steps, rest = divmod((wanted - low) * (other - x), high - low)
    return x + steps if not rest and x + steps >= 1 else None
