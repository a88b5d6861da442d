"""Names of arrays in files of other programs: one row for each family of names.

    bnorm              <layer>[.<part>].<array>, such as 0.weights or 3.wf.rolling_mean
    ultralytics        module_list.<layer>.Conv2d.weight, module_list.<layer>.BatchNorm2d.running_mean, ...
    eriklindernoren    module_list.<layer>.conv_<layer>.weight, module_list.<layer>.batch_norm_<layer>.running_mean, ...

Layers have the numbers of the cfg in each of them. With batch normalisation, scales and biases are weight and bias of
the norm, and the convolution has no bias. ultralytics stands for its archive of yolov3, yolor, PyTorch_YOLOv4 and
tanluren; both families build their modules from a cfg.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from bnorm.darknet.layout import Array
from bnorm.darknet.network import Network

MODULES = "module_list."

NORM = {"scales": "weight", "biases": "bias", "rolling_mean": "running_mean", "rolling_variance": "running_var"}

CONVOLUTION = {"weights": "weight", "biases": "bias"}


class Family(NamedTuple):
    """A family of names: the modules of a convolution and of its norm, and the ε of its batch normalisation."""

    convolution: str
    norm: str
    epsilon: float


FAMILIES: Mapping[str, Family] = {
    "ultralytics": Family("Conv2d", "BatchNorm2d", 1e-4),
    "eriklindernoren": Family("conv_{0}", "batch_norm_{0}", 1e-5),
}

NAMES = ("bnorm", *FAMILIES)


def array_names(network: Network, arrays: Sequence[Array], family: str) -> dict[tuple[int, str], str]:
    """Return the name of each array in this family, by layer and name.

    ValueError for an array of a layer that is not convolutional: the ports have no name for it.
    """
    if family == "bnorm":
        return {(array.layer, array.name): f"{array.layer}.{array.name}" for array in arrays}
    normalised = {layer.index for layer in network.layers if layer.batch_normalize}
    names = {}
    for array in arrays:
        kind = network.layers[array.layer].type
        if kind != "convolutional":
            what = f"layer {array.layer}, [{kind}], has no name among those of {family}, expected [convolutional]"
            raise ValueError(what)
        names[array.layer, array.name] = _torch_name(FAMILIES[family], array, array.layer in normalised)
    return names


def _torch_name(family: Family, array: Array, normalised: bool) -> str:
    """Return the name of a convolution's array in a state dict."""
    in_norm = normalised and array.field != "weights"
    module = (family.norm if in_norm else family.convolution).format(array.layer)
    return f"{MODULES}{array.layer}.{module}.{(NORM if in_norm else CONVOLUTION)[array.field]}"


# --- names that are read ----------------------------------------------------------------------------------------------

IGNORED = (
    "num_batches_tracked",
    "anchors",
    "anchor_grid",
)  # the last words of names of arrays that a weights file does not store

_OWN = re.compile(rf"[0-9]+\.(\w+\.)?({'|'.join(('weights', *NORM))})")

_MODULES = {
    "ultralytics": re.compile(r"module_list\.[0-9]+\.(Conv2d|BatchNorm2d)\.\w+"),
    "eriklindernoren": re.compile(r"module_list\.[0-9]+\.(conv|batch_norm)_[0-9]+\.\w+"),
}


def is_ignored(name: str) -> bool:
    """Return whether an array of this name has no counterpart in a weights file."""
    return name.rpartition(".")[2] in IGNORED


def without_prefix(name: str) -> str:
    """Return the name from `module_list.` on, without the `model.` or `module.` that some programs put before it."""
    prefix, modules, rest = name.partition(MODULES)
    return modules + rest if modules and (not prefix or prefix.endswith(".")) else name


def family_of(names: Iterable[str]) -> str | None:
    """Return the family that all of these names belong to, or None."""
    used = [name for name in names if not is_ignored(name)]
    if used and all(_OWN.fullmatch(name) for name in used):
        return "bnorm"
    matching = (family for family in _MODULES if any(_MODULES[family].fullmatch(without_prefix(name)) for name in used))
    return next(matching, None)


ROLES = {
    "weights": ("weights",),
    "scales": ("scales", "gamma"),
    "biases": ("biases", "bias", "beta"),
    "rolling_mean": ("rolling_mean", "running_mean", "moving_mean"),
    "rolling_variance": ("rolling_variance", "running_var", "moving_variance", "running_variance"),
}


def role_of(name: str, dimensions: int) -> str | None:
    """Return the field that a name means in any program, or None; a `weight` that is a vector belongs to a norm."""
    word = re.split(r"[./:]", name.removesuffix(":0"))[-1]
    if word in ("weight", "kernel"):
        return "weights" if dimensions > 1 else "scales"
    return next((role for role, words in ROLES.items() if word in words), None)
