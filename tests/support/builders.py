"""Builders of small cfgs and of weights that fit them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bnorm.darknet.autodetect import read_model
from bnorm.darknet.weights import save


def cfg_source(net: str, layers: str) -> str:
    """A cfg from one line: `3x8x8` (channels, height, width) or `12` (inputs), and `type key=value ... | type ...`."""
    sizes = net.split("x")
    keys = ("inputs",) if len(sizes) == 1 else ("channels", "height", "width")
    lines = ["[net]", *(f"{key}={size}" for key, size in zip(keys, sizes, strict=True))]
    for layer in layers.split(" | "):
        name, *options = layer.split()
        lines += [f"[{name}]", *options]
    return "\n".join(lines) + "\n"


TINY = """\
[net]
width=8
height=8
channels=3
batch=4

[convolutional]
batch_normalize=1
filters=4
size=3
pad=1
activation=leaky

[convolutional]
filters=2
size=1
activation=linear
"""


def write_weights(cfg: Path, path: Path, dialect: str = "alexeyab", seed: int = 0) -> Path:
    """A weights file of random numbers that fits the cfg; variances and scales are positive."""
    model = read_model(cfg, None, dialect)
    rng = np.random.default_rng(seed)
    values = [rng.normal(0, 1, array.shape).astype("f4") for array in model.layout.arrays]
    positive = ("rolling_variance", "scales")
    arrays = [
        abs(value) + np.float32(0.1) if array.field in positive else value
        for array, value in zip(model.layout.arrays, values, strict=True)
    ]
    save(path, model.header._replace(seen=12345), model.layout, arrays)
    return path
