"""Which learned arrays each section type has: a table of parts.

A part is one linear operation with its arrays: the layer itself (its name is empty), or a sub-layer of a recurrent
layer by its field in the fork's C struct, such as `wf` or `input_z_layer`. Shapes are row-major, as in memory. Parts
stand in file order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from bnorm.darknet.cfg import Section
from bnorm.darknet.gates import Gate
from bnorm.darknet.shapes import Shape, kernel, resolve, sources, tdiv

SWITCHES = frozenset({"batch_normalize", "cbn"})  # the keys that turn batch normalisation on


class Part(NamedTuple):
    """One linear operation: its `kind` (a row of `layout.ORDER`), its channels, and the shapes of its arrays.

    `biases` and the arrays of batch normalisation hold `channels` values each, but for `local`, whose biases have the
    shape of its output. `shared` is the layer whose arrays these are (`share_index`): the file then holds none.
    """

    name: str
    kind: str
    channels: int
    weights: tuple[int, ...] = ()
    biases: tuple[int, ...] = ()
    batch_normalize: bool = False
    shared: int | None = None


def array_name(part: str, field: str) -> str:
    """The field, behind its part's name where there is one: `wf.rolling_mean`."""
    return f"{part}.{field}" if part else field


class Built(NamedTuple):
    """A layer whose shapes are known: its section and number, what it receives and what it hands on."""

    section: Section
    layer: int
    incoming: Shape
    output: Shape


Maker = Callable[[Built], Iterator[Part]]


def parts(node: Built) -> tuple[Part, ...]:
    """The layer's parts in file order; none for a type that learns nothing."""
    make = PARTS.get(node.section.type)
    return tuple(make(node)) if make else ()


def _convolution(
    section: Section, name: str, filters: int, channels: int, size: int, *, shared: int | None = None
) -> Part:
    """n filters over channels/groups inputs each: weights (n, channels/groups, size, size)."""
    groups = groups_of(section)
    if not 1 <= groups <= channels:
        raise section.error(f"groups={groups}, expected 1 to {channels}, its input's channels", "groups")
    weights = (filters, tdiv(channels, groups), size, size)
    return Part(name, "convolutional", filters, weights, (filters,), _normalises(section), shared)


def groups_of(section: Section) -> int:
    """A convolution's groups. AlexeyAB and hank repair what is under 1, and take xnor layers as ungrouped."""
    groups = section.integer("groups", 1)
    return 1 if section.dialect.repairs_groups and (groups < 1 or section.flag("xnor")) else groups


def _fully_connected(section: Section, name: str, inputs: int, outputs: int) -> Part:
    """A matrix: weights (outputs, inputs)."""
    return Part(name, "connected", outputs, (outputs, inputs), (outputs,), _normalises(section))


def _normalises(section: Section) -> bool:
    """Any number but 0 counts; `cbn` sets `batch_normalize` to 2 (AB `parser.c: parse_convolutional`)."""
    return any(section.flag(key) for key in SWITCHES)


UNSHARED = -1_000_000_000  # the default of share_index


def _convolutional(node: Built) -> Iterator[Part]:
    base = node.section.integer("share_index", UNSHARED)
    shared = resolve(node.section, "share_index", base, node.layer) if base != UNSHARED else None
    size = node.section.integer("size", 1)
    yield _convolution(node.section, "", node.output.channels, node.incoming.channels, size, shared=shared)


def _deconvolutional(node: Built) -> Iterator[Part]:
    filters, size = node.output.channels, node.section.integer("size", 1)
    weights = (node.incoming.channels, filters, size, size)
    yield Part("", "deconvolutional", filters, weights, (filters,), _normalises(node.section))


def _connected(node: Built) -> Iterator[Part]:
    yield _fully_connected(node.section, "", node.incoming.outputs, node.output.outputs)


def _batchnorm(node: Built) -> Iterator[Part]:
    if channels := node.incoming.channels:  # none behind softmax, say: the record is empty
        yield Part("", "batchnorm", channels, biases=(channels,), batch_normalize=True)


def _local(node: Built) -> Iterator[Part]:
    filters, height, width, _ = node.output
    window = node.incoming.channels * node.section.integer("size", 1) ** 2
    yield Part("", "local", filters, (height * width, filters, window), (filters, height, width))


def _rnn(node: Built) -> Iterator[Part]:
    hidden = node.section.positive("hidden") if node.section.knows("hidden") else node.output.outputs
    yield _fully_connected(node.section, "input_layer", node.incoming.outputs, hidden)
    yield _fully_connected(node.section, "self_layer", hidden, hidden)
    yield _fully_connected(node.section, "output_layer", hidden, node.output.outputs)


def _crnn(node: Built) -> Iterator[Part]:
    hidden = node.section.positive("hidden_filters", node.section.positive("hidden"))
    size, _ = kernel(node.section, 3)
    yield _convolution(node.section, "input_layer", hidden, node.incoming.channels, size)
    yield _convolution(node.section, "self_layer", hidden, hidden, size)
    yield _convolution(node.section, "output_layer", node.output.channels, hidden, size)


def _gru(node: Built) -> Iterator[Part]:
    return _gated(node, node.section.dialect.gru)


def _lstm(node: Built) -> Iterator[Part]:
    return _gated(node, node.section.dialect.lstm)


def _gated(node: Built, gates: tuple[Gate, ...]) -> Iterator[Part]:
    outputs = node.output.outputs
    for name, on_state in gates:
        yield _fully_connected(node.section, name, outputs if on_state else node.incoming.outputs, outputs)


def _conv_lstm(node: Built) -> Iterator[Part]:
    """AB `conv_lstm_layer.c: make_conv_lstm_layer`: v* see the cell, w* the state, u* the input."""
    filters, (size, _) = node.output.channels, kernel(node.section, 3)
    bottleneck = node.section.flag("bottleneck")
    for name in ("vf", "vi", "vo") if node.section.flag("peephole") else ():
        yield _convolution(node.section, name, filters, filters, size)
    yield _convolution(node.section, "wf", filters, filters * 2 if bottleneck else filters, size)
    for name in () if bottleneck else ("wi", "wg", "wo"):
        yield _convolution(node.section, name, filters, filters, size)
    for name in ("uf", "ui", "ug", "uo"):
        yield _convolution(node.section, name, filters, node.incoming.channels, size)


def _shortcut(node: Built) -> Iterator[Part]:
    """Row 0 weighs the layer before, row i the i-th layer of `from` (AB `shortcut_layer.c: make_shortcut_layer`)."""
    section = node.section
    kind = _one_of(section, "weights_type", section.dialect.weights_types)
    if kind == "none":
        return
    _one_of(section, "weights_normalization", section.dialect.weights_normalizations)
    columns = node.incoming.channels if kind == "per_channel" else 1
    yield Part("", "weights", columns, (len(sources(section, node.layer)) + 1, columns))


def _one_of(section: Section, key: str, allowed: tuple[str, ...]) -> str:
    value = section.text(key, "none")
    if value not in allowed:
        raise section.error(f"{key}={value}, expected one of {', '.join(allowed)}", key)
    return value


def _implicit(node: Built) -> Iterator[Part]:
    yield Part("", "weights", node.output.channels, node.output[:2])


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
