"""Names of arrays in files of other programs: one row for each family of names.

    bnorm              <layer>[.<part>].<array>, such as 0.weights or 3.wf.rolling_mean
    ultralytics        module_list.<layer>.Conv2d.weight, module_list.<layer>.BatchNorm2d.running_mean, ...
    eriklindernoren    module_list.<layer>.conv_<layer>.weight, module_list.<layer>.batch_norm_<layer>.running_mean, ...

Layers have the numbers of the cfg in each of them. With batch normalisation, scales and biases are weight and bias of
the norm, and the convolution has no bias. ultralytics stands for its archive of yolov3, yolor, PyTorch_YOLOv4 and
tanluren; both families build their modules from a cfg.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from bnorm.darknet.layout import Array

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


def array_names(arrays: tuple[Array, ...], convolutions: frozenset[int], family: str) -> dict[tuple[int, str], str]:
    """Return the name of each array in this family, by layer and name.

    `convolutions` are the layers of the type `convolutional`. ValueError for an array of another layer, for which the
    ports have no name.
    """
    if family == "bnorm":
        return {(array.layer, array.name): f"{array.layer}.{array.name}" for array in arrays}
    normalised = {array.layer for array in arrays if array.field == "scales"}
    names = {}
    for array in arrays:
        if array.layer not in convolutions:
            raise ValueError(f"layer {array.layer} has no name in the family {family}, expected convolutional layers")
        names[array.layer, array.name] = _torch_name(FAMILIES[family], array, array.layer in normalised)
    return names


def _torch_name(family: Family, array: Array, normalised: bool) -> str:
    """Return the name of a convolution's array in a state dict."""
    in_norm = normalised and array.field != "weights"
    module = (family.norm if in_norm else family.convolution).format(array.layer)
    return f"module_list.{array.layer}.{module}.{(NORM if in_norm else CONVOLUTION)[array.field]}"
