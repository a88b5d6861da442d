"""`run --against`: results compared with those of another program, and the nearest arithmetic."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import bnorm
from bnorm.batchnorm.arithmetic import ARITHMETICS
from bnorm.errors import OutputError, TensorError

NAMES = ("scales", "biases", "rolling_mean", "rolling_variance")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    np.savez("p.npz", **{name: rng.uniform(0.5, 2, 4) for name in NAMES})
    for name in ("x", "d", "x2"):
        np.save(f"{name}.npy", rng.normal(1, 2, (3, 4, 5, 6)).astype("f4"))
    return tmp_path


def run(*inputs: str, **options) -> bnorm.RunReport:
    return bnorm.run(params="p.npz", inputs=inputs or "x.npy", **options)


def differences(report: bnorm.RunReport) -> dict[str, object]:
    return {row.name: row.difference for row in report.results}


@pytest.mark.parametrize("output", ["ref", "ref.npz"])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_the_same_results_do_not_differ(output, layout):
    if layout == "nhwc":
        for name in ("x.npy", "d.npy"):
            np.save(name, np.ascontiguousarray(np.moveaxis(np.load(name), 1, -1)))
    options = {"deltas": "d.npy", "train": True, "stages": True, "layout": layout}
    run(output=output, **options)
    found = differences(run(against=output, **options))
    assert len(found) == 11
    assert {(each.max_abs, each.max_rel) for each in found.values()} == {(0, 0)}


def test_the_worst_channel_is_the_one_that_differs_most_in_relation_to_its_values():
    run(output="ref")
    y = np.load("ref/y.npy")
    y[1, 2, 3, 4] += 0.5
    y[0, 1, 0, 0] += 0.25
    y[:, 1] /= 8
    np.save("ref/y.npy", y)
    run(output="new")
    new = np.load("new/y.npy").astype("f8")
    difference = np.abs(new - y)
    relative = (difference.max(axis=(0, 2, 3)) / np.abs(y).max(axis=(0, 2, 3))).astype("f8")
    found = differences(run(against="ref"))["y"]
    assert found.channel == relative.argmax() == 1
    assert (found.max_abs, found.max_rel) == pytest.approx((difference.max(), relative.max()))


def test_a_value_that_is_not_finite_on_one_side_is_infinitely_far():
    run(output="ref")
    y = np.load("ref/y.npy")
    y[0, 3, 0, 0] = np.nan
    np.save("ref/y.npy", y)
    assert differences(run(against="ref"))["y"] == (np.inf, np.inf, 3)
    x = np.load("x.npy")
    x[0, 3, 0, 0] = np.nan
    np.save("x.npy", x)
    assert differences(run(against="ref"))["y"].max_abs == 0  # NaN on both sides


def test_only_results_in_the_reference_are_compared():
    run(output="ref", train=True)
    Path("ref/mean.npy").unlink()
    found = differences(run(against="ref", train=True))
    assert {name for name, difference in found.items() if difference} == {"y", "variance", *NAMES[2:]}


def test_several_inputs_are_compared_with_their_own_folders():
    run("x.npy", "x2.npy", output="ref", train=True)
    y = np.load("ref/001/y.npy")
    np.save("ref/001/y.npy", y + 1)
    report = run("x.npy", "x2.npy", against="ref", train=True)
    assert [(row.input, row.name) for row in report.compared if row.difference.max_abs] == [("x2.npy", "y")]


@pytest.mark.parametrize("name", ARITHMETICS)
def test_the_nearest_arithmetic_is_the_one_that_made_the_reference(name):
    np.save("x.npy", np.load("x.npy") * np.float32(0.01))  # so small that ε counts
    run(output="ref", deltas="d.npy", train=True, arithmetic=name)
    report = run(against="ref", deltas="d.npy", train=True, arithmetic="all")
    nearest = report.ranking[0]
    same = {name, name.replace("hank", "alexeyab")}  # two forks with one arithmetic
    assert nearest.arithmetic in same
    assert report.arithmetic == nearest.arithmetic
    assert nearest.worst.difference.max_abs == 0
    errors = [ranked.worst.difference.max_rel for ranked in report.ranking]
    assert errors == sorted(errors)
    assert {ranked.arithmetic for ranked in report.ranking} == set(ARITHMETICS)


@pytest.mark.parametrize(
    ("array", "name"),
    [
        (np.zeros((3, 4, 5, 7), "f4"), "y"),
        (np.zeros(5), "mean"),
        (np.zeros((4, 1)), "mean"),
        (np.zeros(4, "i4"), "mean"),
    ],
)
@pytest.mark.parametrize("reference", ["ref", "ref.npz"])
def test_a_reference_of_another_shape_is_refused_before_anything_is_written(array, name, reference):
    Path("ref").mkdir()
    np.save(f"ref/{name}.npy", array)
    np.savez("ref.npz", **{name: array})
    with pytest.raises(TensorError):
        run(against=reference, train=True, output="out")
    assert not Path("out").exists()


def test_a_reference_without_results_is_refused():
    Path("ref").mkdir()
    np.savez("ref.npz", output=np.zeros(3))
    for reference in ("ref", "ref.npz"):
        with pytest.raises(TensorError):
            run(against=reference)
    with pytest.raises(FileNotFoundError):
        run(against="missing")


def test_a_reference_is_never_an_output():
    run(output="ref")
    before = Path("ref/y.npy").read_bytes()
    with pytest.raises(OutputError):
        run(against="ref", output="ref", force=True, arithmetic="paper")
    assert Path("ref/y.npy").read_bytes() == before


def test_the_command_shows_a_row_for_each_arithmetic_nearest_first(invoke):
    run(output="ref", deltas="d.npy", train=True, arithmetic="torch")
    arguments = "run --params p.npz --input x.npy --delta d.npy --train --against ref --arithmetic all"
    lines = invoke(*arguments.split()).stdout.splitlines()
    assert lines[2].split() == ["arithmetic", "max_rel", "max_abs", "result", "channel"]
    assert lines[4].startswith("paper ")
    assert len(lines[4:]) == len(ARITHMETICS)


def test_the_command_shows_the_difference_of_each_result(invoke):
    run(output="ref", train=True)
    Path("ref/mean.npy").unlink()
    arguments = "run --params p.npz --input x.npy --train --against ref"
    lines = invoke(*arguments.split(), columns="120").stdout.splitlines()
    assert lines[2].split()[-3:] == ["max_rel", "max_abs", "channel"]
    cells = {line.split()[0]: line.split()[6:] for line in lines[4:]}
    assert cells["y"] == ["0", "0", "0"]
    assert cells["mean"] == []
