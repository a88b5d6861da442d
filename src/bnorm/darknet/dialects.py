"""The three forks of darknet, as data: what each knows, in which order it stores, which header it writes.

`pjreddie` is pjreddie/darknet f6afaabc, `alexeyab` AlexeyAB/darknet 59596d78, `hank` hank-ai/darknet f684e1d7. The
section and key names are those that `parser.c` (hank: `darknet_cfg.cpp`) asks for. A dialect reads no other key.
"""

from __future__ import annotations

from dataclasses import dataclass

from bnorm.darknet.gates import _GRU_SINCE_ALEXEYAB, _LSTM_SINCE_ALEXEYAB, Gate, _gates


@dataclass(frozen=True, slots=True)
class Dialect:
    """One fork's rules for files."""

    name: str
    version: tuple[int, int, int]  # major, minor, revision of the header that it writes
    narrow_seen_from: int | None  # from this major or minor on, `seen` has 4 bytes again (PJ load_weights_upto)
    signed_seen: bool  # a 4-byte `seen` is read as a signed int
    gru: tuple[Gate, ...]  # in file order
    lstm: tuple[Gate, ...]  # in file order
    batchnorm: tuple[str, ...]  # the arrays that a [batchnorm] section stores
    shaped_recurrent: frozenset[str] = frozenset()  # recurrent layers that report a shape, 1 x 1 x output
    shortcut_lists: bool = True  # [shortcut] from= may name several layers, whose sizes must agree
    fixed_crnn: bool = False  # [crnn] convolutions are 3x3, and it hands width and height over swapped
    repairs_groups: bool = True  # groups < 1 means 1, and xnor=1 forces it to 1 (make_convolutional_layer)
    flips_whole: bool = False  # flipped=1 turns a matrix of all input channels, whatever the groups
    weights_types: tuple[str, ...] = ("none",)  # of [shortcut]
    weights_normalizations: tuple[str, ...] = ()  # of a [shortcut] with weights
    commented_lists: frozenset[tuple[str, str]] = frozenset()  # sections and keys of lists that end at `#`
    strict: bool = False  # a duplicated key, or one that it never asks for, ends the program
    schedules: frozenset[str] = frozenset({"steps"})  # policies of [net] with which it looks at steps and scales
    unloadable: frozenset[str] = frozenset()  # layers whose weights it writes, and crashes when it reads them
    unbounded_anchors: frozenset[str] = frozenset()  # layers that take more anchors than they have room for
    averages_images: bool = False  # parse_network_cfg divides by the number of layers wider and higher than 1
    whole_strides: bool = False  # a network that ends in [yolo] or [region] must be multiples of 32 wide and high


PJREDDIE = Dialect(
    name="pjreddie",
    version=(0, 2, 0),
    narrow_seen_from=1000,
    signed_seen=True,
    gru=_gates("wz wr wh", "uz ur uh"),
    lstm=_gates("wi wf wo wg", "ui uf uo ug"),
    batchnorm=("scales", "rolling_mean", "rolling_variance"),
    shortcut_lists=False,
    fixed_crnn=True,
    repairs_groups=False,
    flips_whole=True,
    unloadable=frozenset({"deconvolutional"}),
    unbounded_anchors=frozenset({"yolo", "region"}),
)

ALEXEYAB = Dialect(
    name="alexeyab",
    version=(0, 2, 5),
    narrow_seen_from=None,
    signed_seen=False,
    gru=_GRU_SINCE_ALEXEYAB,
    lstm=_LSTM_SINCE_ALEXEYAB,
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
    lstm=_LSTM_SINCE_ALEXEYAB,
    batchnorm=(),
    shaped_recurrent=frozenset({"rnn", "lstm"}),
    strict=True,
    weights_types=("none", "per_feature", "per_channel"),
    weights_normalizations=("none", "relu", "avg_relu", "softmax"),
    schedules=frozenset({"steps", "sgdr"}),
    unbounded_anchors=frozenset({"yolo", "Gaussian_yolo"}),
    averages_images=True,
    whole_strides=True,
)

# In the order of preference of `--dialect auto`: where nothing decides, the one that knows the most.
DIALECTS: dict[str, Dialect] = {dialect.name: dialect for dialect in (ALEXEYAB, HANK, PJREDDIE)}
