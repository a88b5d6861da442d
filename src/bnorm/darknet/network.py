"""A network: the layers that a dialect builds from a cfg, each with its shapes and its parts."""

from __future__ import annotations

from dataclasses import dataclass

from bnorm.darknet import cfg, hank
from bnorm.darknet.cfg import Section, Text
from bnorm.darknet.dialects import Dialect
from bnorm.darknet.grammar import INT_MAX
from bnorm.darknet.parts import Built, Part, parts
from bnorm.darknet.shape_rules import Node, output_shape
from bnorm.darknet.shapes import Shape, handed_on, image, size_text

MOST_PARTS = 2000  # of all layers together; the largest network that any fork ships has some hundred


@dataclass(frozen=True, slots=True)
class Layer:
    """One section after [net]. `output` is what the fork reports for it; the next layer may receive a blurred one."""

    index: int
    section: Section
    incoming: Shape
    output: Shape
    parts: tuple[Part, ...]

    @property
    def type(self) -> str:
        """Darknet's long name of the section's type."""
        return self.section.type

    @property
    def batch_normalize(self) -> bool:
        """Whether any part of it normalises."""
        return any(part.batch_normalize for part in self.parts)


@dataclass(frozen=True, slots=True)
class Network:
    """A cfg as one dialect reads it. `images_per_batch` is what one step of training sees."""

    text: Text
    dialect: Dialect
    net: Section
    input: Shape
    images_per_batch: int
    layers: tuple[Layer, ...]

    @property
    def sections(self) -> tuple[Section, ...]:
        """[net] and the sections of the layers."""
        return self.net, *(layer.section for layer in self.layers)


def build(text: Text, dialect: Dialect) -> Network:
    """Read the cfg as `dialect` does and infer every shape; a `CfgError` names the line where the fork would fail."""
    net, *sections = cfg.sections(text, dialect)
    if dialect.strict:
        for section in (net, *sections):
            hank.check(section)
    received = entry = _input(net)
    outputs: list[Shape] = []
    layers: list[Layer] = []
    learned = 0
    for index, section in enumerate(sections):
        output = output_shape(Node(section, received, outputs))
        layer = Layer(index, section, received, output, parts(Built(section, index, received, output)))
        _check_counts(layer)
        _check_shared(layer, layers)
        learned += len(layer.parts)
        if learned > MOST_PARTS:
            raise section.error(f"makes more than {MOST_PARTS} convolutions and matrices, expected some hundred")
        layers.append(layer)
        outputs.append(output)
        received = handed_on(section, output)
    if dialect.whole_strides:
        _check_whole_strides(entry, layers[-1])
    return Network(text, dialect, net, entry, _images_per_batch(net), tuple(layers))


def _input(net: Section) -> Shape:
    shape = image(*(net.natural(key) for key in ("channels", "height", "width")))
    inputs = net.natural("inputs", shape.outputs)
    if not 1 <= inputs <= INT_MAX:
        raise net.error(
            f"has {inputs} inputs, expected 1 to {INT_MAX}",
            cause="width, height and channels, or inputs, must be given",
        )
    return shape._replace(outputs=inputs)


def _images_per_batch(net: Section) -> int:
    """`cur_iteration` counts these: batch rounded down to whole subdivisions, times the time steps (AB `parser.c`)."""
    subdivisions = net.positive("subdivisions")
    return net.positive("batch") // subdivisions * net.positive("time_steps") * subdivisions


def _check_counts(layer: Layer) -> None:
    """The forks count an array's values in an int: larger ones overflow before anything is read."""
    for part in layer.parts:
        count = 1
        for length in part.weights:
            count *= length
        if count > INT_MAX:
            what = f"{part.name} has {count:,} weights".strip()
            raise layer.section.error(f"{what}, expected a number that fits a 32-bit int")


def _check_shared(layer: Layer, earlier: list[Layer]) -> None:
    """`share_index` must name a convolution of the same shape (AB `make_convolutional_layer`)."""
    part = layer.parts[0] if layer.parts else None
    if part is None or part.shared is None:
        return
    base = earlier[part.shared]
    same = base.type == "convolutional" and base.incoming.channels == layer.incoming.channels
    if not same or base.parts[0].weights != part.weights:
        what = f"shares the weights of layer {base.index}, [{base.section.name}], expected a convolution of the same"
        raise layer.section.error(f"{what} channels, filters, groups and size", "share_index")


def _check_whole_strides(entry: Shape, last: Layer) -> None:
    sizes = (entry.height, entry.width)
    if last.type in ("yolo", "region") and any(size < 32 or size % 32 for size in sizes):
        raise last.section.error(f"ends a network of {size_text(sizes)}, expected multiples of 32, which hank demands")
