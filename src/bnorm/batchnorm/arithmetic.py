"""The formulas of each fork, on the CPU and on the GPU, and of the paper: one row for each."""

from __future__ import annotations

from typing import NamedTuple

from bnorm.batchnorm.epsilon import DARKNET, RUNTIMES, Epsilon


class Arithmetic(NamedTuple):
    """The choices in which implementations of batch normalisation differ."""

    name: str
    forward: Epsilon = DARKNET  # of y and x_norm: normalize_cpu, and x_norm in normalize_delta
    backward: Epsilon = DARKNET  # of mean_delta and variance_delta
    direct: Epsilon = DARKNET  # of the term δ / deviation in dx: normalize_delta_cpu
    biased: bool = False  # the variance divides by N, not by N − 1
    unbiased_rolling: bool = False  # rolling_variance averages variance · N / (N − 1) (paper, algorithm 2)
    keep: float = 0.99  # fraction of the old rolling statistics kept: convolutions and [batchnorm]
    keep_connected: float = 0.99  # the same for connected layers, and for the parts of rnn, gru and lstm
    constant_statistics: bool = False  # backward at inference: rolling statistics do not depend on x, dx = δ · gain
    one_epsilon: bool = False  # forward, backward and direct are the same number: the gradient of y is exact
    vectors: str = "float32"  # the dtype in which results per channel are written


PJREDDIE = Arithmetic(name="pjreddie", forward=RUNTIMES["pjreddie-cpu"])

ALEXEYAB = Arithmetic(name="alexeyab", direct=Epsilon(1e-5, inside=False), keep=0.9, keep_connected=0.95)

ALEXEYAB_GPU = Arithmetic(
    name="alexeyab-gpu",
    backward=Epsilon(1e-6, inside=True),
    direct=Epsilon(1e-6, inside=False),
    biased=True,
)

PAPER = Arithmetic(
    name="paper",
    biased=True,
    unbiased_rolling=True,
    keep=0.9,
    keep_connected=0.9,
    constant_statistics=True,
    one_epsilon=True,
    vectors="float64",
)

ARITHMETICS: dict[str, Arithmetic] = {
    row.name: row
    for row in (
        PJREDDIE,
        Arithmetic(name="pjreddie-gpu"),
        ALEXEYAB,
        ALEXEYAB._replace(name="hank"),
        ALEXEYAB_GPU,
        ALEXEYAB_GPU._replace(name="hank-gpu"),
        PAPER,
    )
}


ALIASES = {"torch": "paper"}  # other names of the same rows


def arithmetic_by_name(name: str, epsilon: Epsilon | None = None) -> Arithmetic:
    """Return the row of `ARITHMETICS`, with another ε if one is given; raises ValueError for an unknown name.

    The given ε replaces that of the forward pass, as in `fold`. The forks' backward passes have their own ε, constants
    in other functions, which stay. The paper uses one ε throughout, which is replaced everywhere.
    """
    row = ARITHMETICS.get(ALIASES.get(name, name))
    if row is None:
        raise ValueError(f"arithmetic={name!r}, expected one of {', '.join((*ARITHMETICS, *ALIASES))}")
    if epsilon is None:
        return row
    if row.one_epsilon:
        return row._replace(forward=epsilon, backward=epsilon, direct=epsilon)
    return row._replace(forward=epsilon)


def default_epsilon(dialect_name: str) -> Epsilon:
    """Return the ε that a dialect's CPU path uses at inference."""
    return arithmetic_by_name(dialect_name).forward
