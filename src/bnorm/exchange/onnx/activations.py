"""darknet's activations as operators: one row each (`activations.c`; AlexeyAB and hank have more than pjreddie)."""

from __future__ import annotations

from collections.abc import Callable

from bnorm.darknet.vocabulary import ACTIVATIONS
from bnorm.exchange.onnx.context import Context
from bnorm.exchange.onnx.graph import Graph, Value

Formula = Callable[[Graph, Value], Value]

EPSILON = 0.0001  # of the activations that normalise over channels

ACROSS_CHANNELS = frozenset({"normalize_channels", "normalize_channels_softmax", "normalize_channels_softmax_maxval"})

# The forks' CPU code returns 0 for these where no function of their own is called (`activations.c: activate`).
_ZERO_ON_CPU = {
    "alexeyab": frozenset({"relu6", "swish", "mish", "hard_mish"}),
    "hank": frozenset({"swish", "mish", "hard_mish"}),
}
_OWN_FUNCTION = {
    "convolutional": frozenset({"swish", "mish", "hard_mish"}),
    "shortcut": frozenset({"swish", "mish"}),
}


def activate(context: Context, value: Value, default: str = "logistic") -> Value:
    """Apply the layer's activation; pjreddie and alexeyab read a name that they do not know as relu."""
    name = context.layer.section.text("activation", default)
    if name not in ACTIVATIONS[context.dialect]:
        name = "relu"
    kind = context.layer.type
    if name in ACROSS_CHANNELS and kind != "convolutional":
        raise context.refusal(f"activation={name}, expected it in a convolution only", "activation")
    zero = _ZERO_ON_CPU.get(context.dialect, frozenset()) - _OWN_FUNCTION.get(kind, frozenset())
    if name in zero:
        context.graph.notes.append(
            f"layer {context.number}: {name} is computed as on a GPU; {context.dialect}'s CPU code outputs zeros"
        )
    return FORMULAS[name](context.graph, value)


def _swish(graph: Graph, x: Value) -> Value:
    return graph.binary("Mul", x, graph.unary("Sigmoid", x))


def _mish(graph: Graph, x: Value) -> Value:
    return graph.binary("Mul", x, graph.unary("Tanh", graph.unary("Softplus", x)))


def _hard_mish(graph: Graph, x: Value) -> Value:
    """x above 0, x²/2 + x from −2 to 0, and 0 below."""
    low = graph.clip(x, -2.0, 0.0)
    bend = graph.binary("Add", low, graph.scaled(graph.binary("Mul", low, low), 0.5))
    return graph.binary("Add", graph.unary("Relu", x), bend)


def _gelu(graph: Graph, x: Value) -> Value:
    """0.5·x·(1 + tanh(0.797885·x + 0.035677·x³))."""
    cube = graph.binary("Mul", graph.binary("Mul", x, x), x)
    inner = graph.binary("Add", graph.scaled(x, 0.797885), graph.scaled(cube, 0.035677))
    return graph.binary("Mul", graph.scaled(x, 0.5), graph.scaled(graph.unary("Tanh", inner), offset=1.0))


def _ramp(graph: Graph, x: Value) -> Value:
    return graph.binary("Add", graph.unary("Relu", x), graph.scaled(x, 0.1))


def _beyond(low: float, high: float, slope: float, bend: float, offset: float) -> Formula:
    """Return bend·x + offset from `low` to `high`, and from there on a line with this slope."""

    def formula(graph: Graph, x: Value) -> Value:
        inside = graph.clip(x, low, high)
        outside = graph.scaled(graph.binary("Sub", x, inside), slope)
        return graph.binary("Add", graph.scaled(inside, bend, offset), outside)

    return formula


def _stair(graph: Graph, x: Value) -> Value:
    """⌊x/2⌋, and in odd intervals x − ⌊x⌋ more."""
    floor = graph.unary("Floor", x)
    half = graph.unary("Floor", graph.scaled(floor, 0.5))
    odd = graph.binary("Sub", floor, graph.scaled(half, 2.0))
    return graph.binary("Add", half, graph.binary("Mul", odd, graph.binary("Sub", x, floor)))


def _normalize_channels(graph: Graph, x: Value) -> Value:
    """max(x, 0) by its sum over the channels (AlexeyAB `activate_array_normalize_channels`)."""
    positive = graph.unary("Relu", x)
    return graph.binary("Div", positive, graph.scaled(graph.reduce("ReduceSum", positive, 0), offset=EPSILON))


def _softmax_channels(from_largest: bool) -> Formula:
    """exp(x − m) by its sum over the channels, with m their largest value or 0."""

    def formula(graph: Graph, x: Value) -> Value:
        shifted = graph.binary("Sub", x, graph.reduce("ReduceMax", x, 0)) if from_largest else x
        power = graph.unary("Exp", shifted)
        return graph.binary("Div", power, graph.scaled(graph.reduce("ReduceSum", power, 0), offset=EPSILON))

    return formula


FORMULAS: dict[str, Formula] = {
    "linear": lambda _, x: x,
    "logistic": lambda graph, x: graph.unary("Sigmoid", x),
    "loggy": lambda graph, x: graph.scaled(graph.unary("Sigmoid", x), 2.0, -1.0),
    "relu": lambda graph, x: graph.unary("Relu", x),
    "relu6": lambda graph, x: graph.clip(x, 0.0, 6.0),
    "leaky": lambda graph, x: graph.unary("LeakyRelu", x, alpha=0.1),
    "revleaky": lambda graph, x: graph.unary("LeakyRelu", x, alpha=0.1),
    "relie": lambda graph, x: graph.unary("LeakyRelu", x, alpha=0.01),
    "elu": lambda graph, x: graph.unary("Elu", x, alpha=1.0),
    "selu": lambda graph, x: graph.unary("Selu", x, alpha=1.6732, gamma=1.0507),
    "gelu": _gelu,
    "tanh": lambda graph, x: graph.unary("Tanh", x),
    "swish": _swish,
    "mish": _mish,
    "hard_mish": _hard_mish,
    "ramp": _ramp,
    "plse": _beyond(-4.0, 4.0, 0.01, 0.125, 0.5),
    "lhtan": _beyond(0.0, 1.0, 0.001, 1.0, 0.0),
    "hardtan": lambda graph, x: graph.clip(x, -1.0, 1.0),
    "stair": _stair,
    "normalize_channels": _normalize_channels,
    "normalize_channels_softmax": _softmax_channels(from_largest=False),
    "normalize_channels_softmax_maxval": _softmax_channels(from_largest=True),
}
