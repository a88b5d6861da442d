"""The arithmetic of every name: against what the C programs computed, the plain formulas, PyTorch, and derivatives."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import bnorm
from bnorm.batchnorm.arithmetic import ARITHMETICS
from bnorm.batchnorm.batches import run_batches
from bnorm.batchnorm.engine import Normalisation
from bnorm.batchnorm.engines import has_numba, kernels_of
from bnorm.batchnorm.formulas import Parameters, Rolling
from bnorm.batchnorm.rolling import average, exponential, population
from bnorm.batchnorm.threads import Team
from bnorm.tensors.tensor import MemoryTensor
from support import oracle
from support.golden import GOLDEN

# Both sides compute in float64; they add up in other orders, which for the few thousand values here costs some 1e-13
# of the largest term.
FLOAT64 = 1e-11

every_arithmetic = pytest.mark.parametrize("name", oracle.NAMES)
at_inference_and_in_training = pytest.mark.parametrize("train", [False, True], ids=["inference", "training"])


class Case(NamedTuple):
    """A layer and its mini-batches: x and delta of shape (steps, N, C, ...)."""

    x: np.ndarray
    delta: np.ndarray
    scales: np.ndarray
    biases: np.ndarray
    rolling_mean: np.ndarray
    rolling_variance: np.ndarray

    def vectors(self) -> dict[str, np.ndarray]:
        """The layer, by the oracle's names."""
        return {name: np.asarray(value, "f8") for name, value in self._asdict().items() if name not in ("x", "delta")}


INSTALLED = ("numpy", "numba") if has_numba() else ("numpy",)


class Results:
    """A sink that keeps every mini-batch's tensors."""

    def __init__(self) -> None:
        self.steps: list[dict[str, np.ndarray]] = []
        self.tensors: dict[str, MemoryTensor] = {}

    def open(self, _number: int, x: MemoryTensor):
        self.steps.append({name: np.full(x.shape, 7, x.dtype) for name in ("y", "x_norm", "dx")})
        self.tensors = {name: MemoryTensor(array) for name, array in self.steps[-1].items()}
        return nullcontext(self)

    def finish(self, batch) -> None:
        self.steps[-1] |= batch.vectors()


def compute(case: Case, name: str, train: bool, rule=None) -> list[dict[str, np.ndarray]]:
    """Every result of every mini-batch, which are the same with each engine that is installed."""
    found, *others = (compute_with(engine, case, name, train, rule) for engine in INSTALLED)
    for steps in others:
        for step, other in zip(found, steps, strict=True):
            assert step.keys() == other.keys()
            for key, values in step.items():
                np.testing.assert_array_equal(values, other[key], strict=True)
    return found


def compute_with(engine: str, case: Case, name: str, train: bool, rule=None) -> list[dict[str, np.ndarray]]:
    """The same with one engine."""
    arithmetic, vectors, results = ARITHMETICS[name], case.vectors(), Results()
    layer = Normalisation(
        Parameters(vectors["scales"], vectors["biases"]),
        Rolling(vectors["rolling_mean"], vectors["rolling_variance"]),
        arithmetic,
        train,
    )
    inputs, deltas = ([MemoryTensor(np.ascontiguousarray(part)) for part in parts] for parts in (case.x, case.delta))
    rule, kernels = rule or exponential(arithmetic.keep, arithmetic), kernels_of(engine, 0)
    with Team(2) as team:
        list(run_batches(layer, zip(inputs, deltas, strict=True), rule, results, team, kernels=kernels))
    return results.steps


def expected(case: Case, name: str, train: bool) -> list[dict[str, np.ndarray]]:
    """The same by the plain formulas."""
    layer, steps = case.vectors(), []
    for x, delta in zip(case.x, case.delta, strict=True):
        steps.append(oracle.step(name, x, delta, **layer, train=train, keep=oracle.kept(name)))
        layer |= {key: steps[-1][key] for key in ("rolling_mean", "rolling_variance") if train}
    return steps


def random_case(shape: tuple[int, ...], seed: int = 0, size: float = 1.0, dtype: str = "f8", steps: int = 2) -> Case:
    """Values with their mean and deviation around `size`: the smaller, the more ε and its place count."""
    rng, channels = np.random.default_rng(seed), shape[1]
    return Case(
        x=rng.normal(size, size, (steps, *shape)).astype(dtype),
        delta=rng.normal(0, 1, (steps, *shape)).astype(dtype),
        scales=rng.uniform(-2, 2, channels),
        biases=rng.normal(0, 1, channels),
        rolling_mean=rng.normal(0, size, channels),
        rolling_variance=rng.uniform(0.5, 2, channels) * size**2,
    )


def assert_close(found: np.ndarray, wanted: np.ndarray, tolerance: float) -> None:
    """Within this part of the largest value."""
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance * np.abs(wanted).max(initial=1e-30))


# --- what the C programs computed -------------------------------------------------------------------------------------

# darknet keeps float32 and adds N values one after the other: at worst each addition loses 2^-24 of the sum so far,
# (N + 8) · 2^-24 of the sum of magnitudes in all, with 8 for the roundings beside the sum. What that does to each
# result follows below: `mean` is off by that much, and what is computed from it in turn.
ROUNDING = 2.0**-24


class Drift(NamedTuple):
    """How far the C program's mean and variance can be off, and the variance relatively; and the loss of a sum."""

    mean: np.ndarray
    variance: np.ndarray
    relative: np.ndarray
    sum: float


def drift_of(x: np.ndarray, found: dict[str, np.ndarray]) -> Drift:
    """Σ(x − mean')² with a mean' that is off by e is off by N·e²: this is what ruins the case `offset`."""
    loss = (oracle.count(x) + 8) * ROUNDING
    if "mean" not in found:  # at inference nothing is summed
        none = np.zeros(x.shape[1])
        return Drift(none, none, none + 8 * ROUNDING, loss)
    mean = loss * oracle.sum_channels(np.abs(x)) / oracle.count(x)
    variance = loss * found["variance"] + 2 * mean**2
    return Drift(mean, variance, variance / found["variance"] + 8 * ROUNDING, loss)


def forward_bounds(name: str, x, case: Case, found, drift: Drift, variance) -> dict[str, np.ndarray]:
    """A deviation that is off by half of the variance's relative error, and a mean that is off by itself."""
    gain = np.abs(case.scales) / oracle.forward_deviation(name, variance)
    biases = np.abs(oracle.per_channel(case.biases, x))
    shift, relative = (oracle.per_channel(vector, x) for vector in (gain * drift.mean, drift.relative))
    return {"y": shift + (np.abs(found["y"]) + biases) * relative}


def backward_bounds(name: str, x, delta, case: Case, found, drift: Drift, mean, variance) -> dict[str, np.ndarray]:
    """The sums of magnitudes of what each result adds up, times the loss of a sum and of the deviation's power."""
    n, delta = oracle.count(x), np.abs(delta)
    centred = np.abs(x - oracle.per_channel(mean, x))
    scales, deviation = np.abs(case.scales), oracle.backward_deviation(name, variance)
    total, along = oracle.sum_channels(delta), oracle.sum_channels(delta * centred)
    along_drift = drift.mean * total
    mean_delta = scales * total / deviation * (drift.sum + drift.relative)
    power = 0.5 * scales / deviation**3
    variance_delta = power * (along * (drift.sum + 2 * drift.relative) + along_drift)
    scaled = (along * (drift.sum + drift.relative) + along_drift) / oracle.forward_deviation(name, variance)
    slope = np.abs(found["variance_delta"])
    direct = delta * oracle.per_channel(scales / oracle.direct_deviation(name, variance) * drift.relative, x)
    along_x = centred * oracle.per_channel(variance_delta + slope * drift.relative, x)
    constant = mean_delta + 2 * slope * drift.mean + np.abs(found["mean_delta"]) * drift.relative
    return {
        "bias_updates": total * drift.sum,
        "scale_updates": scaled,
        "mean_delta": mean_delta,
        "variance_delta": variance_delta,
        "dx": direct + (2 * along_x + oracle.per_channel(constant, x)) / n,
    }


def bounds(name: str, case: Case, number: int, found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """How far each result of the C program can be off."""
    x, delta = (np.asarray(values[number], "f8") for values in (case.x, case.delta))
    drift = drift_of(x, found)
    mean, variance = (found.get(moment, case.vectors()[f"rolling_{moment}"]) for moment in ("mean", "variance"))
    return {
        "mean": drift.mean,
        "variance": drift.variance,
        # Rolling statistics hold the drift of the worst mini-batch so far: the moments of all here are alike.
        "rolling_mean": 2 * drift.mean + 8 * ROUNDING * np.abs(mean),
        "rolling_variance": 2 * drift.variance + 8 * ROUNDING * np.abs(variance),
        **forward_bounds(name, x, case, found, drift, variance),
        **backward_bounds(name, x, delta, case, found, drift, mean, variance),
    }


GOLDEN_CASES = sorted((GOLDEN / "batchnorm").glob("*.npz"))
every_golden_case = pytest.mark.parametrize("path", GOLDEN_CASES, ids=lambda path: path.stem)
INPUTS = {"x", "delta", "scales", "biases", "initial_rolling_mean", "initial_rolling_variance", "train"}


def golden_case(path: Path) -> tuple[Case, bool, dict[str, np.ndarray]]:
    """The layer, whether it trained, and what the program computed."""
    with np.load(path) as data:
        arrays = dict(data)
    case = Case(*(arrays[key] for key in ("x", "delta", "scales", "biases")), *(arrays[key] for key in INITIAL))
    return case, bool(arrays["train"]), {key: array for key, array in arrays.items() if key not in INPUTS}


INITIAL = ("initial_rolling_mean", "initial_rolling_variance")


def test_there_are_cases_of_both_forks():
    assert {path.suffixes[0] for path in GOLDEN_CASES} == {".pjreddie", ".alexeyab"}


@every_golden_case
def test_every_array_is_what_the_c_program_computed(path):
    case, train, arrays = golden_case(path)
    name = path.suffixes[0][1:]
    rolling = {key: case.vectors()[key] for key in ("rolling_mean", "rolling_variance")}  # unchanged at inference
    for number, found in enumerate(compute(case, name, train)):
        allowed = bounds(name, case, number, found)
        for key, array in arrays.items():
            error = np.abs((rolling | found)[key] - array[number])
            assert (error <= allowed[key]).all(), f"{key} of step {number}: {error.max()}"


@pytest.mark.parametrize("name", ["pjreddie", "alexeyab"])
def test_the_tolerance_tells_one_arithmetic_from_another(name):
    case, train, arrays = golden_case(GOLDEN / "batchnorm" / f"flat.{name}.npz")
    for other in {*oracle.NAMES} - {name, "hank" if name == "alexeyab" else ""}:  # hank's is the same as alexeyab's
        found = compute(case, other, train)[-1]
        allowed = bounds(other, case, -1, found)
        errors = [np.abs(found[key] - array[-1]) > allowed[key] for key, array in arrays.items()]
        assert any(error.any() for error in errors), other


# --- the plain formulas -----------------------------------------------------------------------------------------------

SHAPES = [(3, 5, 4, 6), (2, 3, 70, 61), (9, 7), (600, 4), (2, 1, 3, 3), (1, 6, 5, 5), (5, 2, 1, 1)]


@every_arithmetic
@at_inference_and_in_training
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_result_is_the_formula_s(name, train, shape):
    case = random_case(shape)
    for found, wanted in zip(compute(case, name, train), expected(case, name, train), strict=True):
        assert found.keys() == wanted.keys()
        for key, values in wanted.items():
            assert_close(found[key], values, FLOAT64)


@every_arithmetic
@at_inference_and_in_training
@pytest.mark.parametrize("size", [1e-2, 1e-3, 1e-6])
def test_the_place_of_epsilon_is_the_formula_s_where_it_counts(name, train, size):
    case = random_case((3, 4, 5, 5), size=size)
    for found, wanted in zip(compute(case, name, train), expected(case, name, train), strict=True):
        for key, values in wanted.items():
            assert_close(found[key], values, FLOAT64)


def test_the_arithmetics_have_the_documented_names():
    assert sorted(ARITHMETICS) == sorted(oracle.NAMES)


@pytest.mark.parametrize("fork", ["", "-gpu"])
def test_hank_computes_what_alexeyab_computes(fork):
    case = random_case((3, 4, 5, 5))
    first, second = (compute(case, name + fork, True)[-1] for name in ("alexeyab", "hank"))
    assert all(np.array_equal(first[key], second[key]) for key in first)


@every_arithmetic
def test_connected_layers_keep_what_the_fork_says(name):
    row = ARITHMETICS[name]
    assert (row.keep, row.keep_connected) == (oracle.kept(name), oracle.kept(name, connected=True))


@every_arithmetic
def test_per_channel_results_are_float64_in_the_paper_s_arithmetic_alone(name):
    assert ARITHMETICS[name].vectors == ("float64" if name == "paper" else "float32")


# --- the paper --------------------------------------------------------------------------------------------------------


@at_inference_and_in_training
@pytest.mark.parametrize("shape", [(3, 5, 4, 6), (2, 3, 70, 61), (9, 7), (1, 6, 5, 5)], ids=str)
def test_the_paper_s_arithmetic_is_pytorch_s(train, shape):
    torch = pytest.importorskip("torch")
    case = random_case(shape)
    tensors = {name: torch.tensor(vector) for name, vector in case.vectors().items()}
    rolling = [tensors[name] for name in ("rolling_mean", "rolling_variance")]
    weights = [tensors[name].requires_grad_() for name in ("scales", "biases")]
    for found, x, delta in zip(compute(case, "paper", train), case.x, case.delta, strict=True):
        x = torch.tensor(x, requires_grad=True)
        y = torch.nn.functional.batch_norm(x, *rolling, *weights, training=train, momentum=0.1, eps=1e-5)
        gradients = torch.autograd.grad(y, [x, *weights], torch.tensor(delta))
        wanted = dict(zip(["y", "dx", "scale_updates", "bias_updates"], [y, *gradients], strict=True))
        wanted |= dict(zip(["rolling_mean", "rolling_variance"], rolling, strict=True)) if train else {}
        for key, values in wanted.items():
            assert_close(found[key], values.detach().numpy(), 1e-6)


@at_inference_and_in_training
def test_the_paper_s_gradient_is_the_derivative(train):
    case = random_case((3, 2, 2, 2), steps=1)
    step = 1e-5  # central differences: their error is step², and rounding's is 1e-16 / step

    def loss(changed: Case) -> float:
        return float((compute(changed, "paper", train)[0]["y"] * case.delta[0]).sum())

    def derivative(field: str, index: int) -> float:
        moved = []
        for sign in (step, -step):
            values = getattr(case, field).copy()
            values.flat[index] += sign
            moved.append(loss(case._replace(**{field: values})))
        return (moved[0] - moved[1]) / (2 * step)

    found = compute(case, "paper", train)[0]
    for key, field in {"dx": "x", "scale_updates": "scales", "bias_updates": "biases"}.items():
        numeric = [derivative(field, index) for index in range(getattr(case, field).size)]
        assert_close(found[key].reshape(-1), np.array(numeric), 1e-8)


def test_the_average_is_the_paper_s_algorithm_2():
    case = random_case((4, 3, 5, 5), steps=6)
    values = np.moveaxis(case.x, 2, 0).reshape(3, 6, -1)  # channel, mini-batch, value
    for name in oracle.NAMES:  # whatever the arithmetic, and whatever the statistics were before
        found = compute(case, name, True, rule=average)[-1]
        assert_close(found["rolling_mean"], values.mean(axis=2).mean(axis=1), FLOAT64)
        assert_close(found["rolling_variance"], values.var(axis=2, ddof=1).mean(axis=1), FLOAT64)


def test_the_average_of_one_mini_batch_is_its_moments():
    case = random_case((4, 3, 5, 5), steps=1)
    found = compute(case, "paper", True, rule=average)[0]
    assert np.array_equal(found["rolling_mean"], found["mean"])
    assert_close(found["rolling_variance"], found["variance"] * 100 / 99, FLOAT64)


@pytest.mark.parametrize("keep", [0.0, 0.25, 1.0])
def test_the_exponential_average_keeps_what_it_is_told_to(keep):
    case = random_case((4, 3, 5, 5), steps=1)
    found = compute(case, "pjreddie", True, rule=exponential(keep, ARITHMETICS["pjreddie"]))[0]
    wanted = keep * case.rolling_variance + (1 - keep) * found["variance"]
    assert_close(found["rolling_variance"], wanted, FLOAT64)


# --- digits -----------------------------------------------------------------------------------------------------------


@every_arithmetic
@pytest.mark.parametrize("shape", [(4, 3, 60, 70), (3000, 5)], ids=str)
def test_a_mean_far_from_zero_costs_the_variance_no_digits(name, shape):
    rng = np.random.default_rng(0)
    case = random_case(shape, steps=1)._replace(x=rng.normal(1e4, 1, (1, *shape)).astype("f4"))
    found = compute(case, name, True)[0]
    np.testing.assert_allclose(found["variance"], oracle.moments(name, case.x[0])[1], rtol=1e-6)
    wanted = expected(case, name, True)[0]
    for key in ("y", "dx"):
        assert_close(found[key], wanted[key], 2**-23)  # as exact as float32 holds them


@every_arithmetic
@pytest.mark.parametrize("mean", [1e2, 1e4, -1e7])
@pytest.mark.parametrize("shape", [(4, 3, 60, 70), (3000, 5), (8, 3, 7, 7), (2, 3, 300, 300)], ids=str)
def test_float64_values_far_from_zero_cost_no_digits_that_they_have(name, mean, shape):
    rng = np.random.default_rng(0)
    case = random_case(shape, steps=1)._replace(x=rng.normal(mean, 1, (1, *shape)))
    found, wanted = compute(case, name, True)[0], expected(case, name, True)[0]
    lost = np.spacing(abs(mean))  # which the oracle's mean may be off by
    np.testing.assert_allclose(found["variance"], wanted["variance"], rtol=1e-12)
    for key in ("y", "x_norm", "dx", "scale_updates"):
        assert_close(found[key], wanted[key], 1e-11 + 100 * lost)


@pytest.mark.parametrize("outlier", [1e6, -1e8])
def test_a_first_value_far_from_the_others_costs_the_variance_no_digits(outlier):
    case = random_case((4, 3, 60, 70), steps=1)
    case.x[0, 0, :, 0, 0] = outlier
    found = compute(case, "paper", True)[0]
    np.testing.assert_allclose(found["variance"], oracle.moments("paper", case.x[0])[1], rtol=1e-9)


@every_arithmetic
@at_inference_and_in_training
@pytest.mark.parametrize("shape", [(8, 16, 40, 40), (500, 600)], ids=str)
def test_y_is_rounded_once(name, train, shape):
    case = random_case(shape, steps=1, dtype="f4")
    found = compute(case, name, train)[0]["y"]
    wanted = expected(case, name, train)[0]["y"].astype("f4")
    # The oracle's own float64 sums and quotients are rounded, too: where the result lies within some 1e-15 of the
    # middle between two float32, one in 10^7 or so, either neighbour is right.
    different = found != wanted
    assert different.mean() <= 1e-4
    assert (np.abs(found - wanted)[different] <= np.spacing(np.abs(wanted))[different]).all()


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@at_inference_and_in_training
def test_tensors_have_the_type_of_the_input_and_one_rounding_of_it(dtype, train):
    case = random_case((4, 3, 9, 9), steps=1, dtype=dtype)
    found, wanted = compute(case, "paper", train)[0], expected(case, "paper", train)[0]
    for key in ("y", "x_norm", "dx"):
        assert found[key].dtype == dtype
        # Half a unit in the last place of each value, and what float64 itself loses.
        allowed = 0.50001 * np.spacing(np.abs(wanted[key]).astype(dtype)).astype("f8") + 1e-13
        assert (np.abs(found[key] - wanted[key]) <= allowed).all()
    assert_close(found["scale_updates"], wanted["scale_updates"], FLOAT64)


def test_a_delta_of_another_type_than_x_is_taken_as_it_is():
    case = random_case((4, 3, 9, 9), dtype="f4")
    mixed = case._replace(delta=case.delta.astype("f8"))
    first, second = compute(case, "paper", True)[-1], compute(mixed, "paper", True)[-1]
    assert all(np.array_equal(first[key], second[key]) for key in first)


# --- channels that are odd --------------------------------------------------------------------------------------------


@every_arithmetic
@pytest.mark.parametrize("value", [0.1, -3e4, 1e-30, 0.0])
@pytest.mark.parametrize("shape", [(3, 3, 50, 50), (700, 3)], ids=str)
def test_a_constant_channel_has_no_variance_and_gives_its_bias(name, value, shape):
    case = random_case(shape, steps=1, dtype="f4")
    case.x[0, :, 1] = value
    found = compute(case, name, True)[0]
    assert found["variance"][1] == 0
    assert found["mean"][1] == np.float32(value)
    assert (found["x_norm"][:, 1] == 0).all()
    assert (found["y"][:, 1] == np.float32(case.biases[1])).all()
    assert np.isfinite(found["dx"]).all()


@every_arithmetic
def test_a_variance_of_zero_at_inference_divides_by_epsilon_alone(name):
    case = random_case((2, 3, 4, 4), steps=1)
    case.rolling_variance[1] = 0
    found, wanted = compute(case, name, False)[0], expected(case, name, False)[0]
    gain = case.scales[1] / (1e-6 if name == "pjreddie" else 1e-5**0.5)
    assert_close(found["y"][:, 1], gain * (case.x[0, :, 1] - case.rolling_mean[1]) + case.biases[1], FLOAT64)
    for key, values in wanted.items():
        assert_close(found[key], values, FLOAT64)


def assert_only_channel_1_differs(case: Case, changed: Case, train: bool) -> dict[str, np.ndarray]:
    """The results of the changed case, whose other channels must be the same to the bit."""
    sound, found = compute(case, "paper", train)[0], compute(changed, "paper", train)[0]
    for key, values in found.items():
        others = (slice(None), [0, 2]) if values.ndim > 1 else [0, 2]
        assert np.array_equal(values[others], sound[key][others]), key
        assert np.isfinite(values[others]).all()
    return found


@at_inference_and_in_training
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 5, -1])
@pytest.mark.parametrize("shape", [(4, 3, 5, 5), (30, 3)], ids=str)
def test_nan_and_infinity_stay_in_their_channel(train, value, place, shape):
    case = random_case(shape, steps=1)
    x = case.x.copy()
    x[0, :, 1].flat[place] = value
    found = assert_only_channel_1_differs(case, case._replace(x=x), train)
    spoilt = ~np.isfinite(found["y"][:, 1])
    assert spoilt.all() if train else spoilt.sum() == 1


@pytest.mark.parametrize("field", ["scales", "biases", "rolling_mean", "rolling_variance"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinity_in_the_layer_stay_in_their_channel(field, value):
    case = random_case((4, 3, 5, 5), steps=1)
    vector = getattr(case, field).copy()
    vector[1] = value
    assert_only_channel_1_differs(case, case._replace(**{field: vector}), train=False)


def test_a_negative_variance_gives_nan_in_its_channel():
    case = random_case((4, 3, 5, 5), steps=1)
    vector = case.rolling_variance.copy()
    vector[1] = -1
    found = assert_only_channel_1_differs(case, case._replace(rolling_variance=vector), train=False)
    assert np.isnan(found["y"][:, 1]).all()


@pytest.mark.parametrize(
    "rule", [average, population, exponential(0.0, ARITHMETICS["paper"])], ids=["average", "population", "ema"]
)
def test_rolling_statistics_that_are_not_finite_stay_in_their_channel(rule):
    case = random_case((4, 3, 5, 5))
    case.x[:, 0, 1, 2, 2] = np.inf  # in both mini-batches: infinity less infinity is no number, and no warning
    case.rolling_mean[1] = np.inf
    found = compute(case, "paper", True, rule)[-1]
    for key in ("rolling_mean", "rolling_variance"):
        assert np.isfinite(found[key]).tolist() == [True, False, True]


def test_nan_in_delta_stays_in_its_channel_and_out_of_y():
    case = random_case((4, 3, 5, 5), steps=1)
    delta = case.delta.copy()
    delta[0, 0, 1, 2, 2] = np.nan
    found = assert_only_channel_1_differs(case, case._replace(delta=delta), train=True)
    assert np.isfinite(found["y"]).all()
    assert np.isnan(found["dx"][:, 1]).all()


def test_a_rolling_mean_far_from_zero_costs_no_digits():
    rng = np.random.default_rng(0)
    x, delta = 1e7 + rng.normal(0, 0.1, (10_000, 1)), rng.normal(0, 1, (10_000, 1))
    parameters, rolling = bnorm.Parameters(np.ones(1), np.zeros(1)), bnorm.Rolling(np.array([1e7]), np.array([0.01]))
    found = bnorm.batch_normalize(x, parameters, rolling, arithmetic="paper", delta=delta)
    wanted = oracle.step("paper", x, delta, *parameters, *rolling, False, 0.9)
    np.testing.assert_allclose(found.y, wanted["y"], rtol=0, atol=1e-13)  # of about 1: a few roundings of float64
    np.testing.assert_allclose(found.gradients.scale_updates, wanted["scale_updates"], rtol=1e-12)


@pytest.mark.parametrize("value", [1e-160, 1e160, -1e300, 65504.0])
def test_constants_have_no_variance_even_where_their_squares_are_no_numbers(value):
    layer = bnorm.Parameters(np.ones(1), np.zeros(1)), bnorm.Rolling(np.zeros(1), np.ones(1))
    found = bnorm.batch_normalize(np.full((8, 1), value), *layer, train=True)
    assert (found.moments.mean[0], found.moments.variance[0]) == (value, 0)
    assert (found.y == 0).all()
