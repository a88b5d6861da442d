"""Builders of small cfgs, of weights that fit them, and of files with a few values changed."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from bnorm.darknet.autodetect import read_model
from bnorm.darknet.model import Model
from bnorm.darknet.weights import save

BN = "batch_normalize=1"


def cfg_source(net: str, layers: str) -> str:
    """Return a cfg from `3x8x8` (channels, height, width) or `12` (inputs), and `type key=value ... | type ...`."""
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
    """Write random weights that fit the cfg, with positive scales and variances; return their path."""
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


def with_floats(data: bytes, offset: int, *values: float) -> bytes:
    """Return the bytes, with these float32 values written at the offset."""
    changed = bytearray(data)
    struct.pack_into(f"<{len(values)}f", changed, offset, *values)
    return bytes(changed)


def patch(path: Path, offset: int, *values: float) -> None:
    """Overwrite float32 values of a file at an offset."""
    path.write_bytes(with_floats(path.read_bytes(), offset, *values))


Changes = dict[tuple[int, str], dict[int, float]]  # by layer and array name: new values by index


def odd_pair(folder: Path, layers: str, changes: Changes) -> Model:
    """Write a network for alexeyab on 3x6x6 with random weights except for these values."""
    cfg = folder / "net.cfg"
    cfg.write_text(cfg_source("3x6x6", layers))
    weights = write_weights(cfg, folder / "net.weights")
    arrays = read_model(cfg, weights, "alexeyab").layout.by_name
    for name, values in changes.items():
        for index, value in values.items():
            patch(weights, arrays[name].offset + 4 * index, value)
    return read_model(cfg, weights, "alexeyab")
