"""Print how far results lie from sums in long double: bnorm's, PyTorch's and darknet's own, on the same data.

The largest relative error of any channel, per quantity. Data: N(mean, 1), rounded to float32 first: all have the
same input. darknet's own is its C code in NumPy's float32: one value added after the other (`blas.c: mean_cpu,
variance_cpu`; `batchnorm_layer.c: backward_bias, backward_scale_cpu`).
"""

from __future__ import annotations

import argparse
from typing import NamedTuple

import numpy as np

from bnorm.batchnorm.arithmetic import ARITHMETICS
from bnorm.batchnorm.engine import Normalisation, run_batch
from bnorm.batchnorm.formulas import Parameters, Rolling
from bnorm.batchnorm.threads import Team, processors
from bnorm.tensors.tensor import MemoryTensor

SHAPE = (16, 8, 52, 52)
MEANS = (0.0, 1.0, 100.0, 1e4)
QUANTITIES = ("mean", "variance", "bias_updates", "scale_updates")


class Data(NamedTuple):
    """A mini-batch, its channels first: (C, N)."""

    x: np.ndarray
    delta: np.ndarray

    @property
    def tensors(self) -> tuple[np.ndarray, np.ndarray]:
        """x and delta as they are handed in."""
        images, channels, height, width = SHAPE
        return tuple(
            np.ascontiguousarray(array.reshape(channels, images, height, width).swapaxes(0, 1)) for array in self
        )


def data(mean: float) -> Data:
    rng = np.random.default_rng(int(mean))
    size = (SHAPE[1], SHAPE[0] * SHAPE[2] * SHAPE[3])
    return Data(rng.normal(mean, 1, size).astype("f4"), rng.normal(0.1, 1, size).astype("f4"))


def exact(batch: Data, epsilon: float = 1e-5) -> dict[str, np.ndarray]:
    """Two passes in long double."""
    x, delta = (array.astype(np.longdouble) for array in batch)
    mean = x.mean(1, keepdims=True)
    variance = ((x - mean) ** 2).mean(1)
    x_norm = (x - mean) / np.sqrt(variance + epsilon)[:, np.newaxis]
    return dict(zip(QUANTITIES, (mean[:, 0], variance, delta.sum(1), (delta * x_norm).sum(1)), strict=True))


def bnorm(batch: Data) -> dict[str, np.ndarray]:
    ones, zeros = np.ones(SHAPE[1]), np.zeros(SHAPE[1])
    layer = Normalisation(Parameters(ones, zeros), Rolling(zeros, ones), ARITHMETICS["paper"], train=True)
    x, delta = batch.tensors
    with Team(processors()) as team:
        found = run_batch(layer, MemoryTensor(x), MemoryTensor(delta), {}, team)
    assert found.moments
    assert found.gradients
    values = (found.moments.mean, found.moments.variance, found.gradients.bias_updates, found.gradients.scale_updates)
    return dict(zip(QUANTITIES, values, strict=True))


def pytorch(batch: Data) -> dict[str, np.ndarray]:
    import torch

    x, delta = (torch.from_numpy(array) for array in batch.tensors)
    ones, zeros = torch.ones(SHAPE[1]), torch.zeros(SHAPE[1])
    kernels = torch.ops.aten
    _, mean, inverse = kernels.native_batch_norm(x, ones, zeros, None, None, True, 0.0, 1e-5)
    _, scale, bias = kernels.native_batch_norm_backward(
        delta, x, ones, None, None, mean, inverse, True, 1e-5, [True, True, True]
    )
    variance = inverse.numpy().astype("f8") ** -2 - 1e-5
    return dict(zip(QUANTITIES, (mean.numpy(), variance, bias.numpy(), scale.numpy()), strict=True))


def darknet(batch: Data) -> dict[str, np.ndarray]:
    """The C code's float32 sums, in its order; the divisor of the variance is N here, as in the others."""
    x, delta = batch
    count = np.float32(x.shape[1])
    mean = in_order(x) * (np.float32(1) / count)
    centred = x - mean[:, np.newaxis]
    variance = in_order(centred * centred) * (np.float32(1) / count)
    x_norm = centred / (np.sqrt(variance) + np.float32(1e-6))[:, np.newaxis]
    return dict(zip(QUANTITIES, (mean, variance, in_order(delta), in_order(delta * x_norm)), strict=True))


def in_order(values: np.ndarray) -> np.ndarray:
    """Sums of the last axis in float32, one value after the other."""
    return np.add.accumulate(values, axis=1, dtype=np.float32)[:, -1]


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    print("| mean / deviation | quantity | bnorm | PyTorch | darknet |\n| ---: | --- | ---: | ---: | ---: |")
    for mean in MEANS:
        batch = data(mean)
        wanted = exact(batch)
        found = [way(batch) for way in (bnorm, pytorch, darknet)]
        for name in QUANTITIES:
            errors = [np.abs((values[name] - wanted[name]) / wanted[name]).max() for values in found]
            print(f"| {mean:g} | {name} |", " | ".join(f"{float(error):.1e}" for error in errors), "|")


if __name__ == "__main__":
    main()
