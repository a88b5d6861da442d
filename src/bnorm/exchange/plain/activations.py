"""The activations in the plain forward pass, in darknet's own terms (`activations.c`, `activation_layer.c`)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bnorm.exchange.plain.heads import Tensor, logistic


def _selu(x: Tensor) -> Tensor:
    return np.where(x >= 0, 1.0507 * x, 1.0507 * 1.6732 * np.expm1(np.minimum(x, 0)))


def _gelu(x: Tensor) -> Tensor:
    return np.asarray(0.5 * x * (1 + np.tanh(0.797885 * x + 0.035677 * x**3)))


def _mish(x: Tensor) -> Tensor:
    """x · tanh(log(1 + eˣ)): with n = eˣ·(eˣ + 2), tanh is n / (n + 2)."""
    power = np.exp(np.minimum(x, 40))
    n = power * (power + 2)
    return np.asarray(x * (n / (n + 2)))


def _hard_mish(x: Tensor) -> Tensor:
    return np.where(x > 0, x, np.where(x > -2, x * x / 2 + x, 0))


def _plse(x: Tensor) -> Tensor:
    return np.where(x < -4, 0.01 * (x + 4), np.where(x > 4, 0.01 * (x - 4) + 1, 0.125 * x + 0.5))


def _lhtan(x: Tensor) -> Tensor:
    return np.where(x < 0, 0.001 * x, np.where(x > 1, 0.001 * (x - 1) + 1, x))


def _stair(x: Tensor) -> Tensor:
    floor = np.floor(x)
    return np.where(floor % 2 == 0, np.floor(x / 2), x - floor + np.floor(x / 2))


def _normalize_channels(x: Tensor) -> Tensor:
    positive = np.maximum(x, 0)
    return np.asarray(positive / (1e-4 + positive.sum(axis=0)))


def _softmax_channels(x: Tensor) -> Tensor:
    return np.asarray(np.exp(x) / (1e-4 + np.exp(x).sum(axis=0)))


def _softmax_channels_maxval(x: Tensor) -> Tensor:
    powers = np.exp(x - x.max(axis=0))
    return np.asarray(powers / (1e-4 + powers.sum(axis=0)))


FORMULAS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda x: x,
    "logistic": logistic,
    "loggy": lambda x: 2 * logistic(x) - 1,
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "leaky": lambda x: np.where(x > 0, x, 0.1 * x),
    "revleaky": lambda x: np.where(x > 0, x, 0.1 * x),
    "relie": lambda x: np.where(x > 0, x, 0.01 * x),
    "ramp": lambda x: x * (x > 0) + 0.1 * x,
    "elu": lambda x: np.where(x >= 0, x, np.expm1(np.minimum(x, 0))),
    "selu": _selu,
    "gelu": _gelu,
    "tanh": np.tanh,
    "swish": lambda x: x * logistic(x),
    "mish": _mish,
    "hard_mish": _hard_mish,
    "plse": _plse,
    "lhtan": _lhtan,
    "hardtan": lambda x: np.clip(x, -1, 1),
    "stair": _stair,
    "normalize_channels": _normalize_channels,
    "normalize_channels_softmax": _softmax_channels,
    "normalize_channels_softmax_maxval": _softmax_channels_maxval,
}
