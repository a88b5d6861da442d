"""The learned arrays of each section type: a table of parts.

A part is one linear operation with its arrays: the layer itself (its name is empty), or a sub-layer of a recurrent
layer, named by its field in the fork's C struct, such as `wf` or `input_z_layer`. Shapes are row-major, as in memory.
Parts are in file order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from bnorm.darknet.cfg import Section
from bnorm.darknet.gate_order import Gate
from bnorm.darknet.shapes import LayerContext, Shape, c_division, kernel, resolve

SWITCHES = frozenset({"batch_normalize", "cbn"})  # the keys that turn batch normalisation on

UNSHARED = -1_000_000_000  # the default of share_index


class Part(NamedTuple):
    """One linear operation: its `kind` (a row of `layout.ORDER`), its channels, and the shapes of its arrays.

    `biases` and the arrays of batch normalisation hold `channels` values each, except for `local`, whose biases have
    the shape of its output. `shared` is the layer whose arrays the part uses (`share_index`): the file then holds none.
    A convolution has the channels of its input as `inputs`, and is cut into `groups`, which need not divide them.
    """

    name: str
    kind: str
    channels: int
    weights: tuple[int, ...] = ()
    biases: tuple[int, ...] = ()
    batch_normalize: bool = False
    shared: int | None = None
    inputs: int = 0
    groups: int = 1


def array_name(part: str, field: str) -> str:
    """Return the name of an array: the field, preceded by the part's name if there is one: `wf.rolling_mean`."""
    return f"{part}.{field}" if part else field


Maker = Callable[[LayerContext, Shape], Iterator[Part]]


def parts(layer: LayerContext, output: Shape) -> tuple[Part, ...]:
    """Return the parts of a layer with this output, in file order; none for a type without learned arrays."""
    make = PARTS.get(layer.section.type)
    return tuple(make(layer, output)) if make else ()


def _convolution(
    section: Section, name: str, *, filters: int, channels: int, size: int, shared: int | None = None
) -> Part:
    """Return a convolution with weights (filters, channels / groups, size, size); empty if groups > channels."""
    groups = groups_of(section)
    if groups < 1:
        raise section.error(f"groups={groups}, expected at least 1", "groups")
    return Part(
        name=name,
        kind="convolutional",
        channels=filters,
        weights=(filters, c_division(channels, groups), size, size),
        biases=(filters,),
        batch_normalize=_normalises(section),
        shared=shared,
        inputs=channels,
        groups=groups,
    )


def groups_of(section: Section) -> int:
    """Return a convolution's groups. AlexeyAB and hank replace values below 1 with 1, and do not group xnor layers."""
    groups = section.integer("groups", 1)
    return 1 if section.dialect.repairs_groups and (groups < 1 or section.flag("xnor")) else groups


def _fully_connected(section: Section, name: str, *, inputs: int, outputs: int) -> Part:
    """Return a fully connected layer with weights (outputs, inputs). Without outputs, all its arrays are empty."""
    return Part(
        name=name,
        kind="connected",
        channels=outputs,
        weights=(outputs, inputs),
        biases=(outputs,),
        batch_normalize=outputs > 0 and _normalises(section),
    )


def _normalises(section: Section) -> bool:
    """Return whether a switch is any number except 0; `cbn` sets `batch_normalize` to 2 (AlexeyAB, `parser.c`)."""
    return any(section.flag(key) for key in SWITCHES)


def _convolutional(layer: LayerContext, output: Shape) -> Iterator[Part]:
    section = layer.section
    base = section.integer("share_index", UNSHARED)
    yield _convolution(
        section,
        "",
        filters=output.channels,
        channels=layer.incoming.channels,
        size=section.integer("size", 1),
        shared=resolve(section, "share_index", base, layer.index) if base != UNSHARED else None,
    )


def _deconvolutional(layer: LayerContext, output: Shape) -> Iterator[Part]:
    filters, size = output.channels, layer.section.integer("size", 1)
    yield Part(
        name="",
        kind="deconvolutional",
        channels=filters,
        weights=(layer.incoming.channels, filters, size, size),
        biases=(filters,),
        batch_normalize=_normalises(layer.section),
    )


def _connected(layer: LayerContext, output: Shape) -> Iterator[Part]:
    yield _fully_connected(layer.section, "", inputs=layer.incoming.outputs, outputs=output.outputs)


def _batchnorm(layer: LayerContext, _: Shape) -> Iterator[Part]:
    if channels := layer.incoming.channels:  # 0 after softmax, for example: the fork then stores empty arrays
        yield Part(name="", kind="batchnorm", channels=channels, biases=(channels,), batch_normalize=True)


def _local(layer: LayerContext, output: Shape) -> Iterator[Part]:
    filters, height, width, _ = output
    window = layer.incoming.channels * layer.section.integer("size", 1) ** 2
    yield Part(
        name="",
        kind="local",
        channels=filters,
        weights=(height * width, filters, window),
        biases=(filters, height, width),
    )


def _rnn(layer: LayerContext, output: Shape) -> Iterator[Part]:
    section, inputs, outputs = layer.section, layer.incoming.outputs, output.outputs
    hidden = section.natural("hidden", 1) if section.knows("hidden") else outputs
    yield _fully_connected(section, "input_layer", inputs=inputs, outputs=hidden)
    yield _fully_connected(section, "self_layer", inputs=hidden, outputs=hidden)
    yield _fully_connected(section, "output_layer", inputs=hidden, outputs=outputs)


def _crnn(layer: LayerContext, output: Shape) -> Iterator[Part]:
    section = layer.section
    hidden = section.positive("hidden_filters", section.positive("hidden"))
    size, _ = kernel(section, 3)
    yield _convolution(section, "input_layer", filters=hidden, channels=layer.incoming.channels, size=size)
    yield _convolution(section, "self_layer", filters=hidden, channels=hidden, size=size)
    yield _convolution(section, "output_layer", filters=output.channels, channels=hidden, size=size)


def _gru(layer: LayerContext, output: Shape) -> Iterator[Part]:
    return _gated(layer, output, layer.section.dialect.gru)


def _lstm(layer: LayerContext, output: Shape) -> Iterator[Part]:
    return _gated(layer, output, layer.section.dialect.lstm)


def _gated(layer: LayerContext, output: Shape, gates: tuple[Gate, ...]) -> Iterator[Part]:
    outputs = output.outputs
    for gate in gates:
        inputs = outputs if gate.on_state else layer.incoming.outputs
        yield _fully_connected(layer.section, gate.name, inputs=inputs, outputs=outputs)


def _conv_lstm(layer: LayerContext, output: Shape) -> Iterator[Part]:
    """Yield v* for the cell, w* for the state, u* for the input (AlexeyAB, `make_conv_lstm_layer`)."""
    section, filters, (size, _) = layer.section, output.channels, kernel(layer.section, 3)
    bottleneck = section.flag("bottleneck")
    for name in ("vf", "vi", "vo") if section.flag("peephole") else ():
        yield _convolution(section, name, filters=filters, channels=filters, size=size)
    yield _convolution(section, "wf", filters=filters, channels=filters * 2 if bottleneck else filters, size=size)
    for name in () if bottleneck else ("wi", "wg", "wo"):
        yield _convolution(section, name, filters=filters, channels=filters, size=size)
    for name in ("uf", "ui", "ug", "uo"):
        yield _convolution(section, name, filters=filters, channels=layer.incoming.channels, size=size)


def _shortcut(layer: LayerContext, _: Shape) -> Iterator[Part]:
    """Yield weights: row 0 for the layer before, row i for layer i of `from` (AlexeyAB, `make_shortcut_layer`)."""
    section = layer.section
    kind = _one_of(section, "weights_type", section.dialect.weights_types)
    if kind == "none":
        return
    _one_of(section, "weights_normalization", section.dialect.weights_normalizations)
    columns = layer.incoming.channels if kind == "per_channel" else 1
    yield Part(name="", kind="weights", channels=columns, weights=(len(layer.reads) + 1, columns))


def _one_of(section: Section, key: str, allowed: tuple[str, ...]) -> str:
    value = section.text(key, "none")
    if value not in allowed:
        raise section.error(f"{key}={value}, expected one of {', '.join(allowed)}", key)
    return value


def _implicit(_: LayerContext, output: Shape) -> Iterator[Part]:
    yield Part(name="", kind="weights", channels=output.channels, weights=output[:2])


PARTS: dict[str, Maker] = {
    "convolutional": _convolutional,
    "deconvolutional": _deconvolutional,
    "connected": _connected,
    "batchnorm": _batchnorm,
    "local": _local,
    "rnn": _rnn,
    "crnn": _crnn,
    "gru": _gru,
    "lstm": _lstm,
    "conv_lstm": _conv_lstm,
    "shortcut": _shortcut,
    "implicit": _implicit,
}
