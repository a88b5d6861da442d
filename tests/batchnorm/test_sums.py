"""Sums are added in the drawn order, to the last bit, by every engine: compared with plain Python."""

from __future__ import annotations

import numpy as np
import pytest

from bnorm.batchnorm.arithmetic import ARITHMETICS
from bnorm.batchnorm.engine import Normalisation, run_batch
from bnorm.batchnorm.engines import Kernels, kernels_of
from bnorm.batchnorm.formulas import Parameters, Rolling
from bnorm.batchnorm.threads import Team
from bnorm.tensors.tensor import MemoryTensor
from support.sums import sum_of

SHAPES = [
    *[(2, 1), (2, 3), (2500, 2), (1030, 5), (9, 300)],
    *[(1, 2, 1, 3), (7, 3, 2, 1), (600, 2, 13, 13), (5, 3, 13, 13), (20, 2, 52, 52), (9, 2, 64, 64)],
    *[
        (2, 2, 1, 4097),
        (1, 3, 1, 4608),
        (3, 2, 1, 32768),
        (2, 2, 1, 33000),
        (2, 1, 208, 208),
        (1, 2, 1, 140001),
        (2, 2, 1, 65536),
    ],
]


def values_of(shape: tuple[int, ...]) -> np.ndarray:
    """Values over some orders of magnitude, so that another order of additions is another sum."""
    rng = np.random.default_rng(sum(shape))
    return (rng.normal(0, 1, shape) * 10.0 ** rng.integers(-3, 3, shape)).astype("f4")


@pytest.fixture(scope="module", params=["numpy", "numba"])
def kernels(request) -> Kernels:
    """Each engine, as far as it is installed."""
    if request.param == "numba":
        pytest.importorskip("numba")
    return kernels_of(request.param, 0)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sums_are_added_in_the_drawn_order(shape, kernels):
    x, delta = values_of(shape), values_of(shape)[::-1].copy()
    channels = shape[1]
    zeros, ones = np.zeros(channels), np.ones(channels)
    layer = Normalisation(Parameters(ones, zeros), Rolling(zeros, ones), ARITHMETICS["paper"], train=False)
    with Team(2) as team:
        gradients = run_batch(layer, MemoryTensor(x), MemoryTensor(delta), {}, team, kernels=kernels).gradients
    assert gradients is not None
    # At inference with the mean 0 the sums of delta and delta · x are what the gradients are made of.
    d, dx = (np.asarray(array, "f8").swapaxes(0, 1) for array in (delta, delta * x.astype("f8")))
    if channels == 1:  # all images are contiguous, and are one plane
        d, dx = d.reshape(1, 1, -1), dx.reshape(1, 1, -1)
    d, dx = (array.reshape(channels, array.shape[1], -1) for array in (d, dx))
    assert gradients.bias_updates.tolist() == [sum_of(values) for values in d]
    deviation = layer.arithmetic.forward.deviation(1.0)
    assert gradients.scale_updates.tolist() == [sum_of(values) / deviation for values in dx]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_moments_come_from_sums_in_the_drawn_order(shape, kernels):
    x = values_of(shape)
    channels = shape[1]
    zeros, ones = np.zeros(channels), np.ones(channels)
    layer = Normalisation(Parameters(ones, zeros), Rolling(zeros, ones), ARITHMETICS["paper"], train=True)
    with Team(2) as team:
        moments = run_batch(layer, MemoryTensor(x), None, {}, team, kernels=kernels).moments
    assert moments is not None
    planes = x.astype("f8").swapaxes(0, 1).reshape((channels, *((1, -1) if channels == 1 else (len(x), -1))))
    sums = np.array([sum_of(values) for values in planes])
    squares = np.array([sum_of(values * values) for values in planes])
    count = x.size // channels
    assert moments.mean.tolist() == (sums / count).tolist()
    assert moments.m2.tolist() == np.maximum(squares - sums * (sums / count), 0).tolist()


def test_a_sum_of_negative_zeros_is_zero(kernels):
    x = np.full((3, 2, 2, 2), -0.0, "f4")
    layer = Normalisation(
        *(pair(np.ones(2), np.ones(2)) for pair in (Parameters, Rolling)), ARITHMETICS["paper"], False
    )
    with Team(1) as team:
        gradients = run_batch(layer, MemoryTensor(x), MemoryTensor(x), {}, team, kernels=kernels).gradients
    assert gradients is not None
    assert not np.signbit(gradients.bias_updates).any()
