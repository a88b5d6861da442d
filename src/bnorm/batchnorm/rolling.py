"""Rules that turn the moments of consecutive mini-batches into rolling statistics: darknet's, and two like the paper's.

For mini-batches 1 to k with n values per channel each, nᵢ, mean mᵢ, and M2ᵢ = Σ(x − mᵢ)²:

    ema          rolling = keep · rolling + (1 − keep) · moment, after each mini-batch
    average      mean = Σmᵢ / k                     variance = Σ(M2ᵢ / (nᵢ − 1)) / k
    population   mean = Σnᵢmᵢ / Σnᵢ                 variance = M2 / Σnᵢ,  M2 = Σ(x − mean)² over all values together

`average` is the paper's estimate (arXiv:1502.03167, algorithm 2, step 10) and PyTorch's `momentum=None`: the mean of
the mini-batches' variances. It leaves out the variance of their means, so the variance of all values is larger:

    M2 = Σ M2ᵢ + Σ nᵢ(mᵢ − mean)²

A rule is a function of the statistics so far, the moments of this mini-batch, and the mini-batches seen so far,
including this one. It is applied in the order of the inputs, not in the order in which their moments arrive.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from bnorm.batchnorm.arithmetic import Arithmetic
from bnorm.batchnorm.formulas import Moments, PartialMoments, Rolling, quiet


@quiet
def merge(first: PartialMoments, second: PartialMoments) -> PartialMoments:
    """Return the moments of the values of both.

    Chan, Golub, LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances" (1979), with
    δ = mean₂ − mean₁ and n = n₁ + n₂:

        mean = mean₁ + δ · n₂ / n        m2 = m2₁ + m2₂ + δ² · n₁ · n₂ / n
    """
    count, difference = first.count + second.count, second.mean - first.mean
    return PartialMoments(
        count=count,
        mean=first.mean + difference * (second.count / count),
        m2=first.m2 + second.m2 + difference * difference * (first.count * second.count / count),
    )


class Seen(NamedTuple):
    """The mini-batches so far: how many, and the moments of all their values together, merged in their order."""

    batches: int
    together: PartialMoments

    def and_then(self, moments: PartialMoments) -> Seen:
        """Return what was seen after one more mini-batch."""
        return Seen(batches=self.batches + 1, together=merge(self.together, moments))


RollingRule = Callable[[Rolling, Moments, Seen], Rolling]  # (rolling so far, this mini-batch, all so far) -> rolling


def exponential(keep: float, arithmetic: Arithmetic) -> RollingRule:
    """Return darknet's rule: rolling = keep · rolling + (1 − keep) · moment.

    pjreddie `forward_batchnorm_layer`: scal_cpu, axpy_cpu.
    """

    @quiet
    def rule(rolling: Rolling, moments: Moments, _seen: Seen) -> Rolling:
        variance = moments.unbiased if arithmetic.unbiased_rolling else moments.variance
        return Rolling(
            mean=keep * rolling.mean + (1 - keep) * moments.mean,
            variance=keep * rolling.variance + (1 - keep) * variance,
        )

    return rule


@quiet
def average(rolling: Rolling, moments: Moments, seen: Seen) -> Rolling:
    """Return the mean of all mini-batches' means and of their unbiased variances."""
    if seen.batches == 1:
        return Rolling(mean=moments.mean, variance=moments.unbiased)
    return Rolling(
        mean=rolling.mean + (moments.mean - rolling.mean) / seen.batches,
        variance=rolling.variance + (moments.unbiased - rolling.variance) / seen.batches,
    )


@quiet
def population(_rolling: Rolling, _moments: Moments, seen: Seen) -> Rolling:
    """Return mean and variance of all values of all mini-batches together."""
    return Rolling(mean=seen.together.mean, variance=seen.together.m2 / seen.together.count)


RULES: dict[str, Callable[[float, Arithmetic], RollingRule]] = {
    "ema": exponential,
    "average": lambda _keep, _arithmetic: average,
    "population": lambda _keep, _arithmetic: population,
}

ROLLING = tuple(RULES)  # the names of the rules


def rolling_rule(name: str, keep: float, arithmetic: Arithmetic) -> RollingRule:
    """Return the rule of this name; ValueError for another name. Only "ema" uses `keep`, the fraction that it keeps."""
    if name not in RULES:
        raise ValueError(f"rule={name!r}, expected one of {', '.join(RULES)}")
    return RULES[name](keep, arithmetic)


class Estimator:
    """Rolling statistics, updated by a rule for one mini-batch after the other.

    `rolling` is the current state, `seen` is None before the first mini-batch.
    """

    def __init__(self, rolling: Rolling, rule: RollingRule, arithmetic: Arithmetic) -> None:
        self.rolling = rolling
        self.seen: Seen | None = None
        self._rule, self._arithmetic = rule, arithmetic

    def add(self, partial: PartialMoments) -> Rolling:
        """Return the statistics after one more mini-batch."""
        self.seen = self.seen.and_then(partial) if self.seen else Seen(batches=1, together=partial)
        self.rolling = self._rule(self.rolling, partial.moments(self._arithmetic), self.seen)
        return self.rolling
