"""`statistics.channel_state`: the rule, channel by channel."""

from __future__ import annotations

import numpy as np
import pytest

from bnorm.statistics.channel_state import DEAD_BELOW, NEAR_DEAD, SELDOM, ChannelState, channel_states

ALIVE, NEAR, DEAD, CONSTANT = ChannelState


def state(*, rectified: bool = False, **values: float) -> ChannelState:
    """The state of one channel beside two living ones, whose median spread is 1."""
    usual = {"scale": 1.0, "bias": 0.0, "variance": 1.0, "spread": 1.0, "above_zero": 0.5}
    columns = {name: np.array([values.get(name, value), value, value]) for name, value in usual.items()}
    first, *others = channel_states(**columns, rectified=rectified).tolist()
    assert others == [ALIVE, ALIVE]
    return ChannelState(first)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, ALIVE),
        ({"spread": DEAD_BELOW * 0.9}, DEAD),
        ({"spread": DEAD_BELOW * 0.9, "bias": DEAD_BELOW}, CONSTANT),
        ({"spread": DEAD_BELOW * 0.9, "bias": -DEAD_BELOW}, CONSTANT),
        ({"spread": DEAD_BELOW * 0.9, "bias": -DEAD_BELOW, "rectified": True}, DEAD),
        ({"spread": DEAD_BELOW * 1.1}, NEAR),
        ({"spread": NEAR_DEAD * 0.9}, NEAR),
        ({"spread": NEAR_DEAD * 1.1}, ALIVE),
        ({"above_zero": SELDOM * 0.9}, ALIVE),
        ({"above_zero": SELDOM * 0.9, "rectified": True}, NEAR),
        ({"spread": 0.0, "above_zero": SELDOM * 0.9, "rectified": True}, DEAD),
        ({"spread": 0.0, "variance": 1e-6}, ALIVE),  # below ε: not conclusive
        ({"spread": 0.0, "variance": 1e-6, "scale": DEAD_BELOW * 0.9}, DEAD),
        ({"spread": np.nan, "variance": np.nan}, ALIVE),
    ],
)
def test_the_rule(values, expected):
    assert state(**values) == expected
