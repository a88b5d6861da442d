"""The three forks of darknet, as data: what each knows, in which order it stores, which header it writes.

`pjreddie` is pjreddie/darknet f6afaabc, `alexeyab` AlexeyAB/darknet 59596d78, `hank` hank-ai/darknet f684e1d7. The
section and key names are those that `parser.c` (hank: `darknet_cfg.cpp`) asks for. A dialect reads no other key.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Gate(NamedTuple):
    """One fully-connected part of a gated recurrent layer, by its field in the fork's C struct."""

    name: str
    on_state: bool  # multiplies the previous state (out x out), not the input (in x out)


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


def _gates(states: str, inputs: str, *, inputs_first: bool = False) -> tuple[Gate, ...]:
    state = tuple(Gate(name, True) for name in states.split())
    fed = tuple(Gate(name, False) for name in inputs.split())
    return fed + state if inputs_first else state + fed


_LSTM_SINCE_ALEXEYAB = _gates("wf wi wg wo", "uf ui ug uo")
_GRU_SINCE_ALEXEYAB = _gates(
    "state_z_layer state_r_layer state_h_layer", "input_z_layer input_r_layer input_h_layer", inputs_first=True
)

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


# --- section names: every spelling and darknet's long name for it, by the forks that know it --------------------------

_SPELLINGS = {
    "net": "network",
    "convolutional": "conv",
    "deconvolutional": "deconv",
    "connected": "conn",
    "maxpool": "max",
    "avgpool": "avg",
    "local_avgpool": "local_avg",
    "softmax": "soft",
    "normalization": "lrn",
    "empty": "silence",
}
_EVERYWHERE = """net convolutional connected maxpool avgpool softmax route shortcut upsample dropout cost region yolo
    crnn rnn lstm"""
_PJREDDIE_ALEXEYAB = "local gru batchnorm activation crop detection normalization reorg"
_ALEXEYAB_HANK = "local_avgpool reorg3d Gaussian_yolo scale_channels sam contrastive"


def _sections(types: str) -> dict[str, str]:
    names = {name: name for name in types.split()}
    return names | {_SPELLINGS[name]: name for name in names if name in _SPELLINGS}


SECTIONS: dict[str, dict[str, str]] = {
    "pjreddie": _sections(f"{_EVERYWHERE} {_PJREDDIE_ALEXEYAB} deconvolutional logistic l2norm iseg"),
    "alexeyab": _sections(f"{_EVERYWHERE} {_PJREDDIE_ALEXEYAB} {_ALEXEYAB_HANK} conv_lstm history implicit empty"),
    "hank": _sections(f"{_EVERYWHERE} {_ALEXEYAB_HANK}"),
}


# --- activations; pjreddie and alexeyab take any other name for relu (`activations.c: get_activation`) ----------------

_ACTIVATIONS = "elu hardtan leaky lhtan linear logistic loggy plse ramp relie relu selu stair tanh"
_ACTIVATIONS_ALEXEYAB = f"""{_ACTIVATIONS} gelu hard_mish mish normalize_channels normalize_channels_softmax
    normalize_channels_softmax_maxval relu6 revleaky swish"""
ACTIVATIONS: dict[str, frozenset[str]] = {
    "pjreddie": frozenset(_ACTIVATIONS.split()),
    "alexeyab": frozenset(_ACTIVATIONS_ALEXEYAB.split()),
    "hank": frozenset(_ACTIVATIONS_ALEXEYAB.split()),
}


# --- keys: (asked for by pjreddie and alexeyab, by pjreddie alone, by alexeyab alone) ---------------------------------

_COMMON = (
    "onlyforward stopbackward dontload dontloadscales learning_rate",
    "truth dontsave numload smooth",
    "clip dont_update burnin_update train_only_bn",
)
_CONVOLUTION = "filters size stride pad padding activation batch_normalize"
_BOXES = "classes num mask max jitter ignore_thresh truth_thresh random map anchors"
_BOXES_ALEXEYAB = """max_delta counters_per_class label_smooth_eps scale_x_y objectness_smooth iou_normalizer
    obj_normalizer cls_normalizer delta_normalizer iou_loss iou_thresh_kind beta_nms nms_kind resize iou_thresh"""
_REORG = "stride reverse"
_KEYS: dict[str, tuple[str, str, str]] = {
    "net": (
        """batch learning_rate momentum decay subdivisions time_steps adam B1 B2 eps height width channels inputs
        max_crop min_crop angle aspect saturation exposure hue policy burn_in power step scale steps scales gamma
        max_batches""",
        "notruth random max_ratio min_ratio center clip",
        """learning_rate_min sgdr_cycle sgdr_mult track augment_speed sequential_subdivisions try_fix_nan
        weights_reject_freq equidistant_point badlabels_rejection_percentage num_sigmas_reject_badlabels ema_alpha
        use_cuda_graph loss_scale dynamic_minibatch optimized_memory workspace_size_limit_MB flip blur gaussian_noise
        mixup cutmix mosaic letter_box mosaic_bound contrastive contrastive_jit_flip contrastive_color unsupervised
        label_smooth_eps resize_step attention adversarial_lr max_chart_loss seq_scales show_receptive_field""",
    ),
    "convolutional": (
        f"{_CONVOLUTION} groups binary xnor flipped dot",
        "",
        """stride_x stride_y dilation antialiasing assisted_excitation share_index cbn bin_output sway rotate stretch
        stretch_sway angle grad_centr reverse coordconv stream wait_stream""",
    ),
    "deconvolutional": ("", _CONVOLUTION, ""),
    "local": ("filters size stride pad activation", "", ""),
    "connected": ("output activation batch_normalize", "", ""),
    "crnn": (
        "activation batch_normalize shortcut",
        "output_filters hidden_filters",
        "size stride dilation pad padding output hidden groups xnor",
    ),
    "rnn": ("output activation batch_normalize shortcut", "", "hidden logistic"),
    "gru": ("output batch_normalize", "tanh", ""),
    "lstm": ("output batch_normalize", "", ""),
    "conv_lstm": (
        "",
        "",
        """size stride dilation pad padding output groups activation batch_normalize xnor peephole bottleneck
        state_constrain shortcut lstm_activation time_normalizer""",
    ),
    "maxpool": (
        "stride size padding",
        "",
        "stride_x stride_y maxpool_depth out_channels antialiasing maxpool_zero_nonmax",
    ),
    "local_avgpool": ("", "", "stride stride_x stride_y size padding"),
    "avgpool": ("", "", ""),
    "upsample": ("stride scale", "", ""),
    "route": ("layers", "", "groups group_id stream wait_stream"),
    "shortcut": ("from activation", "alpha beta", "weights_type weights_normalization"),
    "scale_channels": ("", "", "from scale_wh activation"),
    "sam": ("", "", "from activation"),
    "implicit": ("", "", "mean std filters atoms"),
    "history": ("", "", "history_size"),
    "reorg": (_REORG, "flatten extra", ""),
    "reorg3d": ("", "", _REORG),
    "crop": ("crop_height crop_width flip angle saturation exposure noadjust shift", "", ""),
    "dropout": ("probability", "", "dropblock dropblock_size_rel dropblock_size_abs"),
    "normalization": ("alpha beta kappa size", "", ""),
    "batchnorm": ("", "", ""),
    "activation": ("activation", "", ""),
    "logistic": ("", "", ""),
    "l2norm": ("", "", ""),
    "empty": ("", "", ""),
    "softmax": ("groups temperature tree spatial noloss", "", ""),
    "cost": ("type scale ratio", "noobj thresh", ""),
    "contrastive": ("", "", "classes yolo_layer temperature cls_normalizer max_delta contrastive_neg_max"),
    "detection": (
        """coords classes rescore num side softmax sqrt max coord_scale forced object_scale noobject_scale class_scale
        jitter random reorg""",
        "",
        "resize",
    ),
    "region": (
        """coords classes num log sqrt softmax max jitter rescore thresh classfix absolute random coord_scale
        object_scale noobject_scale mask_scale class_scale bias_match tree map anchors""",
        "background",
        "focal_loss resize",
    ),
    "yolo": (
        _BOXES,
        "",
        f"""{_BOXES_ALEXEYAB} show_details new_coords focal_loss track_history_size sim_thresh dets_for_track
        dets_for_show track_ciou_norm embedding_layer""",
    ),
    "Gaussian_yolo": ("", "", f"{_BOXES} {_BOXES_ALEXEYAB} uc_normalizer yolo_point"),
    "iseg": ("", "classes ids", ""),
}
_DROPPED_BY_HANK = {"net": {"max_crop", "min_crop", "unsupervised"}, "yolo": {"show_details"}}


def _keys(column: int) -> dict[str, frozenset[str]]:
    """The keys of every section type that the fork in this column of `_KEYS` asks for."""
    common = f"{_COMMON[0]} {_COMMON[column]}"
    return {
        name: frozenset(f"{row[0]} {row[column]} {'' if name == 'net' else common}".split())
        for name, row in _KEYS.items()
    }


KEYS: dict[str, dict[str, frozenset[str]]] = {"pjreddie": _keys(1), "alexeyab": _keys(2)}
KEYS["hank"] = {name: keys - _DROPPED_BY_HANK.get(name, set()) for name, keys in KEYS["alexeyab"].items()}
