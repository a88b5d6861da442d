"""The gates of gated recurrent layers, in the order in which each fork stores them."""

from __future__ import annotations

from typing import NamedTuple


class Gate(NamedTuple):
    """One fully-connected part of a gated recurrent layer, by its field in the fork's C struct."""

    name: str
    on_state: bool  # multiplies the previous state (out x out), not the input (in x out)


def _gates(states: str, inputs: str, *, inputs_first: bool = False) -> tuple[Gate, ...]:
    state = tuple(Gate(name, True) for name in states.split())
    fed = tuple(Gate(name, False) for name in inputs.split())
    return fed + state if inputs_first else state + fed


_LSTM_SINCE_ALEXEYAB = _gates("wf wi wg wo", "uf ui ug uo")

_GRU_SINCE_ALEXEYAB = _gates(
    "state_z_layer state_r_layer state_h_layer", "input_z_layer input_r_layer input_h_layer", inputs_first=True
)
