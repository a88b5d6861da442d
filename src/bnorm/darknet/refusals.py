"""Checks that the forks' own programs make on a layer or on [net], as tables.

A row has the forks that make the check, the options that the check is about, and a function that words the refusal; it
returns "" if the fork accepts them. Refusals by a fork's grammar are in `grammar.py`, hank's refusals of a single
option in `hank.py`, and layers without a valid output shape in `shape_rules.py`.

An `assert` stops pjreddie's and AlexeyAB's programs. hank's is built as a release, which leaves assertions out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from bnorm.darknet.cfg import Section
from bnorm.darknet.embeddings import embedding_size
from bnorm.darknet.layer import Layer
from bnorm.darknet.section_types import ALL, HANK, NOT_PJREDDIE
from bnorm.darknet.shape_rules import boxes
from bnorm.darknet.shapes import c_division, kernel, size_text
from bnorm.errors import CfgError
from bnorm.text import plural

Earlier = Sequence[Layer]  # all layers before this one


class Refusal(NamedTuple):
    """One check on layers of one type. The error has the line of the first of the `keys` that the section has."""

    type: str
    forks: frozenset[str]
    keys: tuple[str, ...]
    why: Callable[[Layer, Earlier], str]
    asserted: bool = False  # checked by an `assert`, which a fork's build may leave out
    cause: str = ""


class NetRefusal(NamedTuple):
    """One check on [net]."""

    forks: frozenset[str]
    keys: tuple[str, ...]
    why: Callable[[Section], str]


def check_layer(layer: Layer, earlier: Earlier) -> None:
    """Raise a `CfgError` if the fork refuses this layer."""
    for row, error in _failed(layer, earlier):
        if layer.section.dialect.asserts or not row.asserted:
            raise error


def left_out(layers: Sequence[Layer]) -> Iterator[CfgError]:
    """Yield the assertions that fail in these layers, where the fork's build leaves assertions out."""
    for layer in layers:
        yield from (error for row, error in _failed(layer, layers[: layer.index]) if row.asserted)


def check_net(net: Section) -> None:
    """Raise a `CfgError` if the fork refuses the options of [net]."""
    for row in NET_REFUSALS:
        why = row.why(net) if net.dialect.name in row.forks else ""
        if why:
            raise _error(net, row.keys, why)


def _failed(layer: Layer, earlier: Earlier) -> Iterator[tuple[Refusal, CfgError]]:
    for row in REFUSALS:
        checked = row.type == layer.type and layer.section.dialect.name in row.forks
        why = row.why(layer, earlier) if checked else ""
        if why:
            yield row, _error(layer.section, row.keys, why, row.cause)


def _error(section: Section, keys: Sequence[str], why: str, cause: str = "") -> CfgError:
    return section.error(why, next(filter(section.find, keys), ""), cause=cause)


# --- convolutions -----------------------------------------------------------------------------------------------------

_DEFORMATIONS = ("sway", "rotate", "stretch", "stretch_sway")


def _several_deformations(layer: Layer, _: Earlier) -> str:
    """AlexeyAB `parser.c: parse_convolutional`, hank `darknet_cfg.cpp: parse_convolutional_section`."""
    total = sum(layer.section.integer(key, 0) for key in _DEFORMATIONS)
    return f"{' + '.join(_DEFORMATIONS)} is {total}, expected at most 1" if total > 1 else ""


def _deformed_points(layer: Layer, _: Earlier) -> str:
    """AlexeyAB `parser.c: parse_convolutional`, hank `darknet_cfg.cpp: parse_convolutional_section`."""
    given = [key for key in _DEFORMATIONS if layer.section.flag(key)]
    return f"{given[0]} with size=1, expected size=3 or more" if given and kernel(layer.section)[0] == 1 else ""


def _unlike_the_shared(layer: Layer, earlier: Earlier) -> str:
    """AlexeyAB `convolutional_layer.c: make_convolutional_layer`, for `share_layer`."""
    (part,) = layer.parts
    if part.shared is None:
        return ""
    base = earlier[part.shared]
    same = base.type == "convolutional" and base.incoming.channels == layer.incoming.channels
    if same and base.parts[0].weights == part.weights:
        return ""
    shared = f"shares the weights of layer {base.index}, [{base.section.name}]"
    return f"{shared}, expected a convolution of the same channels, filters, groups and size"


# --- assertions about sizes -------------------------------------------------------------------------------------------


def _uneven_groups(layer: Layer, _: Earlier) -> str:
    """`softmax_layer.c: make_softmax_layer`; groups=0 divides by zero there."""
    groups, inputs = layer.section.integer("groups", 1), layer.incoming.outputs
    return f"groups={groups}, expected a divisor of {inputs}" if not groups or inputs % groups else ""


def _shortcut_sizes(layer: Layer, earlier: Earlier) -> str:
    """AlexeyAB `parser.c: parse_shortcut`."""
    expected = layer.incoming[1:3]
    for index in layer.reads:
        size = earlier[index].output[1:3]
        if size != expected:
            return f"from layer {index}, which has a size of {_by(size)}, expected {_by(expected)} as the layer before"
    return ""


def _by(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes)) if any(sizes) else "-"


def _scale_sizes(layer: Layer, earlier: Earlier) -> str:
    """AlexeyAB `scale_channels_layer.c: make_scale_channels_layer`."""
    (index,) = layer.reads
    scaled = earlier[index].output
    expected = (1, *scaled[1:3]) if layer.section.flag("scale_wh") else (scaled.channels, 1, 1)
    if layer.incoming[:3] == expected:
        return ""
    return f"gets {size_text(layer.incoming)} scales for layer {index}, expected {size_text(expected)}"


def _sam_sizes(layer: Layer, earlier: Earlier) -> str:
    """AlexeyAB `sam_layer.c: make_sam_layer`."""
    (index,) = layer.reads
    sizes, expected = earlier[index].output, layer.incoming
    if sizes[:3] == expected[:3]:
        return ""
    return f"from layer {index}, which has {size_text(sizes)}, expected {size_text(expected)} as in the layer before"


def _crnn_sizes(layer: Layer, _: Earlier) -> str:
    """AlexeyAB `crnn_layer.c: make_crnn_layer` adds up the outputs of its convolutions."""
    size, expected = layer.output[1:3], layer.incoming[1:3]
    return "" if size == expected else f"has an output of {_by(size)}, expected the input's {_by(expected)}"


def _dropped_blocks(layer: Layer, _: Earlier) -> str:
    """AlexeyAB `dropout_layer.c: make_dropout_layer`."""
    without = layer.section.flag("dropblock") and not all(layer.incoming[:3])
    return "dropblock follows a layer that has no channels, height and width, expected an image" if without else ""


# --- detection and embeddings -----------------------------------------------------------------------------------------


def _uncounted_classes(layer: Layer, _: Earlier) -> str:
    """AlexeyAB `parser.c: get_classes_multipliers`, hank's function of that name in `darknet_cfg.cpp`."""
    count, classes = layer.section.count("counters_per_class"), layer.section.natural("classes", 20)
    return f"{plural(count, 'number')} in counters_per_class, expected {classes}" if count not in (0, classes) else ""


def _uneven_embedding(layer: Layer, earlier: Earlier) -> str:
    """hank `darknet_cfg.cpp: parse_yolo_section`; AlexeyAB's program warns and waits for a key."""
    _, rest = embedding_size(layer, earlier)
    return "embedding_layer has filters that are not a multiple of the boxes, expected one" if rest else ""


def _not_yolo(layer: Layer, earlier: Earlier) -> str:
    """AlexeyAB `parser.c: parse_contrastive`, hank `darknet_cfg.cpp: parse_contrastive_section`.

    The number 0 leaves a pointer at NULL, which both forks dereference.
    """
    number = layer.section.integer("yolo_layer", 0)
    index = layer.index + number if number < 0 else number
    if not number:
        return "has no yolo_layer, expected the number of a [yolo] layer"
    if 0 < index < layer.index and earlier[index].type == "yolo":
        return ""
    name = f"layer {index}, [{earlier[index].section.name}]" if 0 <= index < layer.index else f"layer {index}"
    return (
        f"yolo_layer={number} is {name}, expected a [yolo] layer before this one{'' if index else ', except layer 0'}"
    )


def _other_embedding(layer: Layer, earlier: Earlier) -> str:
    """AlexeyAB `softmax_layer.c: make_contrastive_layer`, and hank's function of that name."""
    number = layer.section.integer("yolo_layer", 0)
    yolo = earlier[number]  # absolute, or counted back from the end of the layers before
    expected, _ = embedding_size(yolo, earlier)
    cells = boxes(yolo.section) * layer.incoming.height * layer.incoming.width
    if not cells:
        return "follows a layer that has no height and width, expected an image"
    size, rest = divmod(layer.incoming.outputs, cells)
    if rest or size != expected:
        what = f"has embeddings of {layer.incoming.outputs / cells:g} values, expected {expected}"
        return f"{what}, the filters of the embedding_layer of layer {yolo.index} divided by its boxes"
    return ""


def _unsupported_activation(layer: Layer, _: Earlier) -> str:
    """hank `darknet_cfg.cpp: parse_scale_channels_section, parse_sam_section`."""
    name = layer.section.text("activation")
    return f"activation={name}, expected any but swish and mish" if name in ("swish", "mish") else ""


REFUSALS = (
    Refusal("convolutional", NOT_PJREDDIE, _DEFORMATIONS, _several_deformations),
    Refusal("convolutional", NOT_PJREDDIE, _DEFORMATIONS, _deformed_points),
    Refusal("convolutional", NOT_PJREDDIE, ("share_index",), _unlike_the_shared),
    Refusal("softmax", ALL, ("groups",), _uneven_groups, asserted=True),
    Refusal("shortcut", NOT_PJREDDIE, ("from",), _shortcut_sizes, asserted=True),
    Refusal("scale_channels", NOT_PJREDDIE, ("from",), _scale_sizes, asserted=True),
    Refusal("scale_channels", HANK, ("activation",), _unsupported_activation),
    Refusal("sam", NOT_PJREDDIE, ("from",), _sam_sizes, asserted=True),
    Refusal("sam", HANK, ("activation",), _unsupported_activation),
    Refusal("crnn", NOT_PJREDDIE, (), _crnn_sizes, asserted=True, cause="crnn needs pad=1 and stride=1"),
    Refusal("dropout", NOT_PJREDDIE, ("dropblock",), _dropped_blocks),
    Refusal("yolo", NOT_PJREDDIE, ("counters_per_class",), _uncounted_classes),
    Refusal("yolo", HANK, ("embedding_layer",), _uneven_embedding),
    Refusal("Gaussian_yolo", NOT_PJREDDIE, ("counters_per_class",), _uncounted_classes),
    Refusal("contrastive", NOT_PJREDDIE, ("yolo_layer",), _not_yolo),
    Refusal("contrastive", NOT_PJREDDIE, ("yolo_layer",), _other_embedding),
)


# --- [net] ------------------------------------------------------------------------------------------------------------


def _missing_schedule(net: Section) -> str:
    """`parser.c: parse_net_options`, hank `darknet_cfg.cpp: parse_net_section`."""
    missing = [key for key in ("steps", "scales") if not net.count(key)]
    if net.text("policy") != "steps" or not missing:
        return ""
    return f"policy=steps without {' and '.join(missing)}, expected both steps and scales"


def _single_image(net: Section) -> str:
    """AlexeyAB `parser.c: parse_net_options`, hank `darknet_cfg.cpp: parse_net_section`."""
    images = c_division(net.integer("batch", 1), net.positive("subdivisions"))
    small = net.flag("contrastive") and images < 2
    return f"contrastive with batch/subdivisions = {images}, expected at least 2" if small else ""


NET_REFUSALS = (
    NetRefusal(ALL, ("policy",), _missing_schedule),
    NetRefusal(NOT_PJREDDIE, ("contrastive",), _single_image),
)
