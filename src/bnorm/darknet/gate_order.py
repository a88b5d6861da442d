"""The parts of [gru] and [lstm], their gates, in the order in which each fork stores them (`load_weights_upto`).

The parts of the other recurrent layers, [conv_lstm] among them, have one order in all forks: see `parts`.
"""

from __future__ import annotations

from typing import NamedTuple


class Gate(NamedTuple):
    """One fully connected part of a gated recurrent layer, named by its field in the fork's C struct."""

    name: str
    on_state: bool  # multiplies the previous state (out x out), not the input (in x out)


def _on_state(names: str) -> tuple[Gate, ...]:
    return tuple(Gate(name=name, on_state=True) for name in names.split())


def _on_input(names: str) -> tuple[Gate, ...]:
    return tuple(Gate(name=name, on_state=False) for name in names.split())


PJREDDIE_GRU = _on_state("wz wr wh") + _on_input("uz ur uh")

ALEXEYAB_GRU = _on_input("input_z_layer input_r_layer input_h_layer") + _on_state(
    "state_z_layer state_r_layer state_h_layer"
)

PJREDDIE_LSTM = _on_state("wi wf wo wg") + _on_input("ui uf uo ug")

ALEXEYAB_LSTM = _on_state("wf wi wg wo") + _on_input("uf ui ug uo")  # and hank's
