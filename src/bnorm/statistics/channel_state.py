"""The states of a channel: dead, near-dead, constant or alive.

A channel is dead if its output does not depend on its input. Its rolling statistics predict an output with the
standard deviation spread = |gain| · √variance. With a unit Gaussian z as the normalised input:

    dead        spread < DEAD_BELOW
    constant    dead, and its output is not 0 (|bias| ≥ DEAD_BELOW; before a relu: bias ≥ DEAD_BELOW), so that it acts
                as a bias of the next layer
    near-dead   not dead, and spread < NEAR_DEAD · median(spread of the part's channels that are not dead),
                or a relu follows and P(scale · z + bias > 0) < SELDOM
    alive       everything else

A spread that is small only because the variance is below ε is not conclusive, since another input may still drive the
channel: with variance < ε, only |scale| < DEAD_BELOW makes a channel dead or near-dead by its spread.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from bnorm.batchnorm.epsilon import DARKNET, Vector
from bnorm.darknet.network import Layer
from bnorm.darknet.vocabulary import ACTIVATIONS
from bnorm.statistics.quantiles import median

DEAD_BELOW = 1e-6

NEAR_DEAD = 0.01

SELDOM = 1e-3

RECTIFIERS = frozenset({"relu", "relu6"})  # activations that are 0 below 0

Mask = NDArray[np.bool_]  # one per channel, shape (C,)

States = NDArray[np.uint8]  # a `ChannelState` for each channel, shape (C,)


class ChannelState(IntEnum):
    """The state of one channel. A constant channel is dead as well."""

    ALIVE = 0
    NEAR_DEAD = 1
    DEAD = 2
    CONSTANT = 3


def channel_states(
    *, scale: Vector, bias: Vector, variance: Vector, spread: Vector, above_zero: Vector, rectified: bool
) -> States:
    """Return the state of each channel of a part, from vectors of shape (C,); `rectified`: a relu follows."""
    with np.errstate(all="ignore"):
        conclusive = (np.abs(scale) < DEAD_BELOW) | (variance >= DARKNET.value)
        dead = conclusive & (spread < DEAD_BELOW)
        usual = median(spread[(spread >= DEAD_BELOW) & np.isfinite(spread)])
        faint = conclusive & (spread < NEAR_DEAD * usual)
        near_dead = faint | (rectified & (above_zero < SELDOM))
        constant = (bias if rectified else np.abs(bias)) >= DEAD_BELOW
    states = np.full(scale.shape, ChannelState.ALIVE, np.uint8)
    states[near_dead] = ChannelState.NEAR_DEAD
    states[dead] = ChannelState.DEAD
    states[dead & constant] = ChannelState.CONSTANT
    return states


def is_rectified(layer: Layer, part: str) -> bool:
    """Return whether only a relu comes between these channels and the next layer.

    The fork computes a relu for an activation that it does not know, and logistic for a missing one.
    """
    activation = layer.section.text("activation", "logistic")
    relu = activation in RECTIFIERS or activation not in ACTIVATIONS[layer.section.dialect.name]
    return not part and layer.type != "batchnorm" and relu
