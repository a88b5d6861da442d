"""Batch normalisation as in the papers and the C sources, in plain float64 NumPy: the reference for bnorm.

Tensors have channels as their second dimension: (N, C), (N, C, L) or (N, C, H, W). Nothing here is fast, and nothing
is taken from bnorm.
"""

from __future__ import annotations

import numpy as np

CPU = ("pjreddie", "alexeyab", "hank")
GPU = ("pjreddie-gpu", "alexeyab-gpu", "hank-gpu")
NAMES = (*CPU, *GPU, "paper")

# Relative tolerances.
ONE_ROUNDING = 2**-23  # of a float64 to float32, where the order of the operations before it may differ
EXACT = 1e-12  # float64 arithmetic in another order


def per_channel(vector, x):
    """A vector of one value per channel, shaped to broadcast over a tensor."""
    return np.reshape(np.asarray(vector, "f8"), (1, -1) + (1,) * (x.ndim - 2))


def sum_channels(x):
    """The sum over all values of each channel."""
    return x.sum(axis=(0, *range(2, x.ndim)))


def count(x) -> int:
    """Return the number of values of a channel: N = batch · height · width."""
    return x.size // x.shape[1]


def forward_deviation(name: str, variance):
    """Return the divisor of x − mean: pjreddie's CPU adds 1e-6 to the root, all others add 1e-5 to the variance."""
    if name == "pjreddie":
        return np.sqrt(variance) + 1e-6
    return np.sqrt(variance + 1e-5)


def backward_deviation(name: str, variance):
    """The deviation in mean_delta and variance_delta."""
    if name in ("alexeyab-gpu", "hank-gpu"):
        return np.sqrt(variance + 1e-6)
    return np.sqrt(variance + 1e-5)


def direct_deviation(name: str, variance):
    """The deviation in the direct term of dx."""
    if name in ("alexeyab", "hank"):
        return np.sqrt(variance) + 1e-5
    if name in ("alexeyab-gpu", "hank-gpu"):
        return np.sqrt(variance) + 1e-6
    return np.sqrt(variance + 1e-5)


def divisor(name: str, n: int) -> int:
    """Return the divisor of the sum of squares in the variance."""
    return n if name in ("alexeyab-gpu", "hank-gpu", "paper") else n - 1


def kept(name: str, connected: bool = False) -> float:
    """Return the fraction of the old rolling statistics that a mini-batch keeps."""
    if name in ("alexeyab", "hank"):
        return 0.95 if connected else 0.9
    return 0.9 if name == "paper" else 0.99


def moments(name: str, x):
    """Mean and variance of one mini-batch, in two passes."""
    x = np.asarray(x, "f8")
    mean = sum_channels(x) / count(x)
    return mean, sum_channels((x - per_channel(mean, x)) ** 2) / divisor(name, count(x))


def normalised(name: str, x, mean, variance):
    """x_norm."""
    x = np.asarray(x, "f8")
    return (x - per_channel(mean, x)) / per_channel(forward_deviation(name, np.asarray(variance, "f8")), x)


def forward(name: str, x, scales, biases, mean, variance):
    """y, normalised by these statistics."""
    x_norm = normalised(name, x, mean, variance)
    return per_channel(scales, x_norm) * x_norm + per_channel(biases, x_norm)


def backward(name: str, x, delta, scales, mean, variance, train: bool) -> dict:
    """Return dx and the gradients per channel for these statistics; `train` says whether they depend on x."""
    x, delta, variance = (np.asarray(values, "f8") for values in (x, delta, variance))
    scaled = delta * per_channel(scales, x)
    centred = x - per_channel(mean, x)
    deviation = backward_deviation(name, variance)
    mean_delta = -sum_channels(scaled) / deviation
    variance_delta = -0.5 * sum_channels(scaled * centred) / deviation**3
    dx = scaled / per_channel(direct_deviation(name, variance), x)
    if name != "paper" or train:
        dx = dx + (per_channel(variance_delta, x) * 2 * centred + per_channel(mean_delta, x)) / count(x)
    return {
        "dx": dx,
        "scale_updates": sum_channels(delta * normalised(name, x, mean, variance)),
        "bias_updates": sum_channels(delta),
        "mean_delta": mean_delta,
        "variance_delta": variance_delta,
    }


def rolled(name: str, rolling_mean, rolling_variance, mean, variance, n: int, keep: float):
    """The rolling statistics after a mini-batch of n values per channel; the paper's take the unbiased variance."""
    taken = variance * n / (n - 1) if name == "paper" else variance
    return keep * rolling_mean + (1 - keep) * mean, keep * rolling_variance + (1 - keep) * taken


def step(name: str, x, delta, scales, biases, rolling_mean, rolling_variance, train: bool, keep: float) -> dict:
    """All results of one mini-batch, by bnorm's names."""
    mean, variance = moments(name, x) if train else (rolling_mean, rolling_variance)
    results = {"y": forward(name, x, scales, biases, mean, variance), "x_norm": normalised(name, x, mean, variance)}
    results |= backward(name, x, delta, scales, mean, variance, train)
    if train:
        means, variances = rolled(name, rolling_mean, rolling_variance, mean, variance, count(x), keep)
        results |= {"mean": mean, "variance": variance, "rolling_mean": means, "rolling_variance": variances}
    return results
