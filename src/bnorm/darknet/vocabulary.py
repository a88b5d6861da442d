"""The names of keys and activations that each fork knows."""

from __future__ import annotations

# --- activations; pjreddie and alexeyab read any other name as relu (`activations.c: get_activation`) ----------------

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
    """Return the keys of every section type that the fork in this column of `_KEYS` asks for."""
    common = f"{_COMMON[0]} {_COMMON[column]}"
    return {
        name: frozenset(f"{row[0]} {row[column]} {'' if name == 'net' else common}".split())
        for name, row in _KEYS.items()
    }


KEYS: dict[str, dict[str, frozenset[str]]] = {"pjreddie": _keys(1), "alexeyab": _keys(2)}

KEYS["hank"] = {name: keys - _DROPPED_BY_HANK.get(name, set()) for name, keys in KEYS["alexeyab"].items()}
