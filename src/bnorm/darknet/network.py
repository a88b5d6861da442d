"""A network: the layers that a dialect builds from a cfg, each with its shapes, its inputs and its parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from bnorm.darknet import cfg, hank, refusals
from bnorm.darknet.cfg import CfgText, Section
from bnorm.darknet.dialects import Dialect
from bnorm.darknet.grammar import INT_MAX
from bnorm.darknet.layer import Layer as Layer
from bnorm.darknet.parts import parts
from bnorm.darknet.shape_rules import output_shape
from bnorm.darknet.shapes import LayerContext, Shape, c_division, image, layers_read, passed_on, size_text

MOST_PARTS = 2000  # of all layers together; the largest network shipped with any fork has a few hundred


@dataclass(frozen=True, slots=True, repr=False)
class Network:
    """A cfg as one dialect reads it. `images_per_batch` is the number of images in one step of training."""

    text: CfgText
    dialect: Dialect
    net: Section
    input: Shape
    images_per_batch: int
    layers: tuple[Layer, ...]

    def __repr__(self) -> str:
        return f"<Network: {self.text.path}, {self.dialect.name}, {len(self.layers):,} layers>"

    @property
    def sections(self) -> tuple[Section, ...]:
        """Return [net] and the sections of the layers."""
        return self.net, *(layer.section for layer in self.layers)


def build(text: CfgText, dialect: Dialect) -> Network:
    """Read the cfg as `dialect` does and infer every shape; a `CfgError` has the line where the fork would fail."""
    net, *sections = cfg.sections(text, dialect)
    if dialect.strict:
        for section in (net, *sections):
            hank.check(section)
    entry = _input(net)
    refusals.check_net(net)
    layers = _layers(sections, entry)
    _check_whole_strides(entry, layers[-1])
    return Network(
        text=text,
        dialect=dialect,
        net=net,
        input=entry,
        images_per_batch=_images_per_batch(net),
        layers=tuple(layers),
    )


def _layers(sections: Sequence[Section], entry: Shape) -> list[Layer]:
    """Build one layer after the other, each from the outputs of those before it."""
    layers: list[Layer] = []
    incoming, part_count = entry, 0
    for section in sections:
        layer = _layer(section, incoming, layers)
        part_count += len(layer.parts)
        if part_count > MOST_PARTS:
            what = f"makes more than {MOST_PARTS} convolutions and fully connected parts, expected a few hundred"
            raise section.error(what)
        layers.append(layer)
        incoming = passed_on(section, layer.output)
    return layers


def _layer(section: Section, incoming: Shape, earlier: Sequence[Layer]) -> Layer:
    index = len(earlier)
    reads = layers_read(section, index)
    numbered = tuple(earlier[number].output for number in reads)
    context = LayerContext(section=section, index=index, incoming=incoming, reads=reads, numbered=numbered)
    output = output_shape(context)
    layer = Layer(
        index=index, section=section, incoming=incoming, reads=reads, output=output, parts=parts(context, output)
    )
    _check_counts(layer)
    refusals.check_layer(layer, earlier)
    return layer


def _input(net: Section) -> Shape:
    """Return the input's shape. The forks need an image or `inputs`; with inputs=0 the image still counts."""
    shape = image(*(net.natural(key) for key in ("channels", "height", "width")))
    inputs = net.natural("inputs", shape.outputs)
    if inputs > INT_MAX or not (inputs or all(shape[:3])):
        raise net.error(
            f"has {inputs} inputs, expected 1 to {INT_MAX}",
            cause="width, height and channels, or inputs, must be given",
        )
    return shape._replace(outputs=inputs)


def _images_per_batch(net: Section) -> int:
    """Return the images of one iteration: batch rounded down to whole subdivisions, times the time steps.

    AlexeyAB's and hank's programs replace a batch or a number of steps below 1 (`parser.c: parse_net_options,
    parse_network_cfg_custom`).
    """
    subdivisions = net.positive("subdivisions")
    steps, images = net.integer("time_steps", 1), c_division(net.integer("batch", 1), subdivisions)
    images *= steps
    if net.dialect.repairs_batch:
        images = max(images, steps, 1)
    return images * subdivisions


def _check_counts(layer: Layer) -> None:
    """Refuse arrays with more values than a C int can count: the forks overflow before they read anything."""
    for part in layer.parts:
        count = prod(part.weights)
        if count > INT_MAX:
            what = f"{part.name} has {count:,} weights".strip()
            raise layer.section.error(f"{what}, expected a number that fits a 32-bit int")


def _check_whole_strides(entry: Shape, last: Layer) -> None:
    """Require multiples of 32, which hank demands of networks that end in some of its detection layers."""
    sizes = (entry.height, entry.width)
    if last.type in last.section.dialect.whole_strides and any(size < 32 or size % 32 for size in sizes):
        raise last.section.error(f"ends a network of {size_text(sizes)}, expected multiples of 32, as hank requires")
