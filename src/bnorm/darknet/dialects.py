"""The three forks of darknet, as data: how each reads a cfg, orders its arrays, and writes its header.

`pjreddie` is pjreddie/darknet f6afaabc, `alexeyab` AlexeyAB/darknet 59596d78, `hank` hank-ai/darknet f684e1d7. A
difference between them is a field here, or a row of `grammar`, `section_types` or `vocabulary`, not a branch elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

from bnorm.darknet.gate_order import ALEXEYAB_GRU, ALEXEYAB_LSTM, PJREDDIE_GRU, PJREDDIE_LSTM, Gate


@dataclass(frozen=True, slots=True, repr=False)
class Dialect:
    """One fork's rules for its files."""

    name: str
    version: tuple[int, int, int]  # major, minor, revision of the header that it writes
    narrow_seen_from: int | None  # if major or minor is at least this, `seen` has 4 bytes again (`load_weights_upto`)
    signed_seen: bool  # a 4-byte `seen` is read as a signed int
    gru: tuple[Gate, ...]  # in file order
    lstm: tuple[Gate, ...]  # in file order
    batchnorm: tuple[str, ...]  # the arrays that a [batchnorm] section stores
    shaped_recurrent: frozenset[str] = frozenset()  # recurrent layers that report a shape, 1 x 1 x output
    reads_first_only: frozenset[str] = frozenset()  # layers that read only the first layer of their list
    fixed_crnn: bool = False  # [crnn] convolutions are 3x3, and their width and height are swapped
    repairs_groups: bool = True  # groups < 1 means 1, and xnor=1 forces it to 1 (make_convolutional_layer)
    repairs_batch: bool = True  # a batch and a number of time steps below 1 mean 1 (parse_network_cfg_custom)
    flips_whole: bool = False  # flipped=1 turns a matrix of all input channels, also with groups
    weights_types: tuple[str, ...] = ("none",)  # of [shortcut]
    weights_normalizations: tuple[str, ...] = ()  # of a [shortcut] with weights
    commented_lists: frozenset[tuple[str, str]] = frozenset()  # sections and keys of lists that end at `#`
    strict: bool = False  # it stops at a duplicated key, or at a key that it never asks for
    asserts: bool = True  # its program is built with assertions
    schedules: frozenset[str] = frozenset({"steps"})  # policies of [net] for which it reads steps and scales
    unloadable: frozenset[str] = frozenset()  # layers whose weights it can write but not read: it crashes
    unbounded_anchors: frozenset[str] = frozenset()  # layers that accept more anchors than they have room for
    averages_images: bool = False  # parse_network_cfg divides by the number of layers wider and higher than 1
    skips_costs: bool = False  # its output is that of the last layer that is not a [cost] (get_network_output_layer)
    whole_strides: frozenset[str] = frozenset()  # last layers for which width and height must be multiples of 32

    def __repr__(self) -> str:
        return f"<Dialect: {self.name}>"


PJREDDIE = Dialect(
    name="pjreddie",
    version=(0, 2, 0),
    narrow_seen_from=1000,
    signed_seen=True,
    gru=PJREDDIE_GRU,
    lstm=PJREDDIE_LSTM,
    batchnorm=("scales", "rolling_mean", "rolling_variance"),
    reads_first_only=frozenset({"shortcut"}),
    fixed_crnn=True,
    repairs_groups=False,
    repairs_batch=False,
    flips_whole=True,
    unloadable=frozenset({"deconvolutional"}),
    unbounded_anchors=frozenset({"yolo", "region"}),
    skips_costs=True,
)

ALEXEYAB = Dialect(
    name="alexeyab",
    version=(0, 2, 5),
    narrow_seen_from=None,
    signed_seen=False,
    gru=ALEXEYAB_GRU,
    lstm=ALEXEYAB_LSTM,
    batchnorm=("biases", "scales", "rolling_mean", "rolling_variance"),
    shaped_recurrent=frozenset({"rnn", "lstm"}),
    commented_lists=frozenset(
        {("net", "steps"), ("yolo", "anchors"), ("yolo", "mask"), ("Gaussian_yolo", "mask")}
        | {("yolo", "counters_per_class"), ("Gaussian_yolo", "counters_per_class")}
    ),
    weights_types=("none", "per_feature", "per_layer", "per_channel"),
    weights_normalizations=("relu", "avg_relu", "softmax"),
    schedules=frozenset({"steps", "sgdr"}),
    unbounded_anchors=frozenset({"Gaussian_yolo"}),
    averages_images=True,
)

HANK = Dialect(
    name="hank",
    version=(0, 2, 5),
    narrow_seen_from=None,
    signed_seen=False,
    gru=(),
    lstm=ALEXEYAB_LSTM,
    batchnorm=(),
    shaped_recurrent=frozenset({"rnn", "lstm"}),
    strict=True,
    asserts=False,
    weights_types=("none", "per_feature", "per_channel"),
    weights_normalizations=("none", "relu", "avg_relu", "softmax"),
    schedules=frozenset({"steps", "sgdr"}),
    unbounded_anchors=frozenset({"yolo", "Gaussian_yolo"}),
    averages_images=True,
    whole_strides=frozenset({"yolo", "region"}),
)

# In the order in which `--dialect auto` prefers them if nothing else decides: most section types first.
DIALECTS: dict[str, Dialect] = {dialect.name: dialect for dialect in (ALEXEYAB, HANK, PJREDDIE)}


def roles(dialect: Dialect, kind: str) -> dict[str, str]:
    """Return the role of each part of a gated layer of this type, by its name; empty for any other type."""
    gates = {"gru": dialect.gru, "lstm": dialect.lstm}.get(kind, ())
    return {gate.name: gate.role for gate in gates}


AUTO = "auto"


def candidates(name: str) -> tuple[Dialect, ...]:
    """Return the dialect of this name, or all of them for `auto`; ValueError for any other name."""
    if name == AUTO:
        return tuple(DIALECTS.values())
    if name not in DIALECTS:
        raise ValueError(f"dialect {name!r}, expected one of {', '.join((AUTO, *DIALECTS))}")
    return (DIALECTS[name],)
