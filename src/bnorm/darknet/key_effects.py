"""Keys and activations that have a meaning in only some forks, and whether they change a layer."""

from __future__ import annotations

import re
from collections.abc import Mapping

from bnorm.darknet.cfg import Option, Section
from bnorm.darknet.dialects import Dialect
from bnorm.darknet.vocabulary import ACTIVATIONS

Neutral = float | str | None

# Keys that not every fork asks for, and that change what a layer computes or what its file holds: each with the value
# that has the same effect as leaving the line out; None if there is none. Other keys that differ concern training.
_EVERYWHERE: dict[str, Neutral] = {"numload": 0}

_COMPUTES: dict[str, dict[str, Neutral]] = {
    "convolutional": {
        "stride_x": None,
        "stride_y": None,
        "dilation": 1,
        "antialiasing": 0,
        "share_index": -1_000_000_000,
        "cbn": 0,
        "bin_output": 0,
        "sway": 0,
        "rotate": 0,
        "stretch": 0,
        "stretch_sway": 0,
        "reverse": 0,
        "coordconv": 0,
    },
    "rnn": {"hidden": None, "logistic": 0},
    "crnn": {"size": 3, "stride": 1, "dilation": 1, "pad": 1, "groups": 1, "xnor": 0}
    | dict.fromkeys(("padding", "output", "hidden", "output_filters", "hidden_filters")),
    "gru": {"tanh": 0},
    "maxpool": {
        "stride_x": None,
        "stride_y": None,
        "maxpool_depth": 0,
        "out_channels": None,
        "antialiasing": 0,
        "maxpool_zero_nonmax": 0,
    },
    "route": {"groups": 1, "group_id": 0},
    "shortcut": {"alpha": 1, "beta": 1, "weights_type": "none", "weights_normalization": "none"},
    "reorg": {"flatten": 0, "extra": 0},
    "yolo": {"scale_x_y": 1, "new_coords": 0, "embedding_layer": 999_999},
    "region": {"background": 0},
}


def effects(kind: str) -> Mapping[str, Neutral]:
    """Return the keys of a section type that not every fork asks for and that change a layer, with neutral values."""
    return _COMPUTES.get(kind, {}) | _EVERYWHERE


def is_neutral(section: Section, option: Option, neutral: Neutral) -> bool:
    """Return whether an option has the value that has the same effect as leaving the line out."""
    value = option.value
    if value is None or value == neutral:
        return True
    if option.key in ("stride_x", "stride_y") and not section.knows(option.key):
        neutral = float(section.integer("stride", 1))
    if not isinstance(neutral, int | float):
        return False
    match = re.match(r"\s*[-+]?(\d+\.?\d*|\.\d+)", value)
    return (float(match[0]) if match else 0.0) == neutral


def computed_activation(name: str, dialect: Dialect) -> str:
    """Return the activation that a fork computes for this name: relu for every name that it does not know."""
    return name if name in ACTIVATIONS[dialect.name] else "relu"
