"""The gates of [gru] and [lstm], which are their parts, in each fork's file order (`load_weights_upto`).

The parts of the other recurrent layers, [conv_lstm] among them, have one order in all forks: see `parts`.
"""

from __future__ import annotations

from typing import NamedTuple


class Gate(NamedTuple):
    """One fully connected part of a gated recurrent layer, named by its field in the fork's C struct.

    `gate` is the gate that it computes, by the same word in every fork: with `on_state` it identifies the part.
    """

    name: str
    gate: str
    on_state: bool  # multiplies the previous state (out x out), not the input (in x out)

    @property
    def role(self) -> str:
        """Return the role of the part, the same text in every fork: `forget of state`."""
        return f"{self.gate} of {'state' if self.on_state else 'input'}"


GATES = {"z": "update", "r": "reset", "h": "candidate", "i": "input", "f": "forget", "g": "cell", "o": "output"}


def _gates(names: str, *, on_state: bool) -> tuple[Gate, ...]:
    """Return the gates of these names; the letter of a name, `f` of `wf` and `z` of `input_z_layer`, is its gate."""
    letters = {name: name.split("_")[1] if "_" in name else name[-1] for name in names.split()}
    return tuple(Gate(name=name, gate=GATES[letter], on_state=on_state) for name, letter in letters.items())


def _on_state(names: str) -> tuple[Gate, ...]:
    return _gates(names, on_state=True)


def _on_input(names: str) -> tuple[Gate, ...]:
    return _gates(names, on_state=False)


PJREDDIE_GRU = _on_state("wz wr wh") + _on_input("uz ur uh")

ALEXEYAB_GRU = _on_input("input_z_layer input_r_layer input_h_layer") + _on_state(
    "state_z_layer state_r_layer state_h_layer"
)

PJREDDIE_LSTM = _on_state("wi wf wo wg") + _on_input("ui uf uo ug")

ALEXEYAB_LSTM = _on_state("wf wi wg wo") + _on_input("uf ui ug uo")  # and hank's
