"""Whose formulas apply: one row for each fork, on the CPU and on the GPU, and for the paper."""

from __future__ import annotations

from typing import NamedTuple

from bnorm.batchnorm.epsilon import DARKNET, RUNTIMES, Epsilon


class Arithmetic(NamedTuple):
    """Whose formulas apply."""

    name: str
    forward: Epsilon = DARKNET  # of y and x_norm: normalize_cpu, normalize_delta's x_norm
    backward: Epsilon = DARKNET  # of mean_delta and variance_delta
    direct: Epsilon = DARKNET  # of the term δ / deviation in dx: normalize_delta_cpu
    biased: bool = False  # the variance divides by N, not by N − 1
    unbiased_rolling: bool = False  # the rolling variance takes variance · N / (N − 1) (paper, algorithm 2)
    keep: float = 0.99  # what rolling keeps of its old value: convolutions and [batchnorm]
    keep_connected: float = 0.99  # the same for connected layers and the matrices of rnn, gru and lstm
    constant_statistics: bool = False  # backward at inference: rolling statistics do not depend on x, dx = δ · gain
    vectors: str = "float32"  # the type of results per channel


ARITHMETICS: dict[str, Arithmetic] = {
    row.name: row
    for row in (
        Arithmetic("pjreddie", forward=RUNTIMES["pjreddie-cpu"]),
        Arithmetic("pjreddie-gpu"),
        *(
            Arithmetic(name, direct=Epsilon(1e-5, inside=False), keep=0.9, keep_connected=0.95)
            for name in ("alexeyab", "hank")
        ),
        *(
            Arithmetic(name, backward=Epsilon(1e-6, inside=True), direct=Epsilon(1e-6, inside=False), biased=True)
            for name in ("alexeyab-gpu", "hank-gpu")
        ),
        Arithmetic(
            "paper",
            biased=True,
            unbiased_rolling=True,
            keep=0.9,
            keep_connected=0.9,
            constant_statistics=True,
            vectors="float64",
        ),
    )
}


def default_epsilon(dialect_name: str) -> Epsilon:
    """Return the ε that a dialect's CPU path uses at inference."""
    return ARITHMETICS[dialect_name].forward
