"""`bnorm run --moments`, `--from-moments`, `--inputs` and `--scheduler` as commands."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest

from bnorm.cli.run_options import _repeated
from bnorm.darknet.autodetect import read_model
from bnorm.darknet.weights import open_weights
from support.golden import sample

CFG, WEIGHTS = sample("digits")
LAYERS = {"0": 16, "1": 32, "3": 32}  # channels


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def lists() -> dict[str, np.ndarray]:
    """Write three mini-batches for each layer; return the lists of names, and all values by layer."""
    rng, values = np.random.default_rng(5), {}
    for layer, channels in LAYERS.items():
        parts = [rng.normal(number, 2, (2, channels, 4, 4)).astype("f4") for number in range(3)]
        for number, part in enumerate(parts):
            np.save(f"x{layer}_{number}.npy", part)
        Path(f"{layer}.txt").write_text("".join(f"x{layer}_{number}.npy\n" for number in range(3)))
        values[layer] = np.concatenate(parts)
    return values


def test_several_layers_go_into_one_weights_file(lists, invoke):
    how = ("--layer", "0,1,3", "--inputs", "{layer}.txt", "--moments", "m{layer}.npz", "--rolling", "population")
    output = invoke("run", CFG, WEIGHTS, *how, "--update-weights", "new.weights", columns="120").stdout
    assert output.count("rolling_variance") == 3
    assert output.splitlines()[-1] == "written to new.weights"
    with open_weights(read_model(CFG, "new.weights")) as new:
        for layer, values in lists.items():
            # float32 of the file: half a unit in the last place
            tolerance = {"rtol": 2.0**-24 + 1e-12}
            np.testing.assert_allclose(new[int(layer), "rolling_mean"], values.mean((0, 2, 3), dtype="f8"), **tolerance)
            variance = values.astype("f8").var((0, 2, 3))
            np.testing.assert_allclose(new[int(layer), "rolling_variance"], variance, **tolerance)


@pytest.mark.usefixtures("lists")
def test_one_weights_file_of_several_layers_that_train_as_well(invoke):
    how = ("--layer", "0,1", "--inputs", "{layer}.txt", "--update-weights", "new.weights")
    invoke("run", CFG, WEIGHTS, *how, "--train")
    run = Path("new.weights").read_bytes()
    invoke("run", CFG, WEIGHTS, *how, "--moments", "m{layer}.npz", "--force")
    assert Path("new.weights").read_bytes() == run


@pytest.mark.usefixtures("lists")
def test_an_old_weights_file_is_not_replaced_and_nothing_else_is_written(invoke):
    Path("new.weights").touch()
    how = ("--layer", "0,1", "--inputs", "{layer}.txt", "--moments", "m{layer}.npz", "--update-weights", "new.weights")
    assert "exists already" in invoke("run", CFG, WEIGHTS, *how, exit_code=1).stderr
    assert not list(Path().glob("m*.npz"))


@pytest.mark.usefixtures("lists")
def test_from_moments_takes_several_files_after_one_option(invoke):
    for number in range(3):
        invoke("run", CFG, WEIGHTS, "--layer", "0", "--input", f"x0_{number}.npy", "--moments", f"m{number}.npz")
    files = ("m0.npz", "m1.npz", "m2.npz")
    invoke("run", "--from-moments", *files, CFG, WEIGHTS, "--layer", "0", "-o", "one")
    invoke("run", CFG, WEIGHTS, "--layer", "0", "--from-moments", "m*.npz", "-o", "two")
    invoke("run", CFG, WEIGHTS, "--layer", "0", "--inputs", "0.txt", "--train", "-o", "three")
    for name in ("rolling_mean.npy", "rolling_variance.npy"):
        assert len({Path(folder, name).read_bytes() for folder in ("one", "two", "three")}) == 1


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ("--from-moments a.npz b.npz net.cfg", "--from-moments a.npz --from-moments b.npz net.cfg"),
        ("--from-moments a b.npz c", "--from-moments a --from-moments b.npz c"),
        ("--from-moments a.npz --params p.npz", "--from-moments a.npz --params p.npz"),
        ("x.npz --from-moments a.npz", "x.npz --from-moments a.npz"),
        ("--from-moments a.npz c.cfg b.npz", "--from-moments a.npz c.cfg b.npz"),
        ("--from-moments", "--from-moments"),
    ],
)
def test_the_option_is_repeated_for_each_file(args, expected):
    assert " ".join(_repeated(args.split(), "--from-moments", ".npz")) == expected


@pytest.mark.usefixtures("lists")
def test_the_document_counts_batches_and_values(invoke):
    how = ("--layer", "0", "--inputs", "0.txt", "--input", "x0_0.npy", "--moments", "m.npz", "--rolling", "average")
    found = json.loads(invoke("run", CFG, WEIGHTS, *how, "--format", "json").stdout)
    assert {key: found[key] for key in ("rolling", "batches", "values", "moments", "from_moments", "train")} == {
        "rolling": "average",
        "batches": 4,
        "values": 4 * 32,
        "moments": "m.npz",
        "from_moments": [],
        "train": True,
    }
    assert [row["result"] for row in found["results"]] == ["rolling_mean", "rolling_variance"]
    rows = list(csv.DictReader(io.StringIO(invoke("run", CFG, WEIGHTS, *how, "--format", "csv", "--force").stdout)))
    assert [row["result"] for row in rows] == ["rolling_mean", "rolling_variance"]


USAGE = {
    "--moments m.npz --from-moments a.npz": "--from-moments reads moments",
    "--scheduler local --from-moments a.npz": "--from-moments reads moments",
    "--moments m.npz": "Missing option '--input', or '--inputs'",
    "--moments m.npz --input x.npy --delta d.npy": "--delta needs y",
    "--moments m.npz --input x.npy --against ref": "--against needs y",
    "--moments m.npz --input x.npy --stages": "--stages needs y",
    "--moments m.npz --input x.npy -o out.npz": "-o must be a folder here",
    "--moments m.npz --input x.npy --rolling population --rolling-keep 0.5": "--rolling-keep needs --rolling ema",
    "--input x.npy --rolling population": "need --train",
    "--input x.npy --update-weights w": "--update-weights needs CFG WEIGHTS",
}


@pytest.mark.parametrize("options", USAGE)
def test_options_that_do_not_go_together(options, invoke):
    message = invoke("run", "--params", "p.npz", *options.split(), exit_code=2).stderr
    assert USAGE[options] in " ".join(message.split())


@pytest.mark.usefixtures("lists")
def test_a_scheduler_without_the_extra_names_the_package_to_install(invoke, monkeypatch):
    monkeypatch.setattr("bnorm.extras.find_spec", lambda _name: None)
    how = ("--layer", "0", "--inputs", "0.txt", "--scheduler", "local", "--engine", "numpy")
    assert "pip install 'distributed>=" in invoke("run", CFG, WEIGHTS, *how, exit_code=1).stderr


@pytest.mark.usefixtures("lists")
def test_a_list_that_is_a_tensor_is_refused(invoke):
    how = ("--layer", "0", "--inputs", "x0_0.npy", "--moments", "m.npz")
    assert "x0_0.npy: is not a list of names" in invoke("run", CFG, WEIGHTS, *how, exit_code=1).stderr


@pytest.mark.usefixtures("lists")
@pytest.mark.parametrize("source", [("--inputs", "{layer}.txt"), ("--input", "x{layer}_0.npy")])
def test_the_weights_file_of_several_layers_is_none_of_their_inputs(source, invoke):
    before = Path("x1_0.npy").read_bytes()
    how = ("--layer", "0,1", *source, "--train", "--update-weights", "x1_0.npy", "--force")
    assert "x1_0.npy: is an input" in invoke("run", CFG, WEIGHTS, *how, exit_code=1).stderr
    assert Path("x1_0.npy").read_bytes() == before


@pytest.mark.usefixtures("lists")
@pytest.mark.parametrize("layers", ["0", "0,1"])
@pytest.mark.parametrize("output", [("--moments", "{layer}.txt"), ("--train", "--update-weights", "{layer}.txt")])
def test_a_list_of_inputs_is_not_an_output(output, layers, invoke):
    before = Path("0.txt").read_bytes()
    how = ("--layer", layers, "--inputs", "{layer}.txt", *output, "--force")
    assert "0.txt: is an input" in invoke("run", CFG, WEIGHTS, *how, exit_code=1).stderr
    assert Path("0.txt").read_bytes() == before


@pytest.mark.usefixtures("lists")
def test_an_empty_scheduler_is_not_a_run_without_one(invoke):
    result = invoke("run", CFG, WEIGHTS, "--layer", "0", "--input", "x0_0.npy", "--scheduler", "", exit_code=2)
    assert "--scheduler is empty" in result.stderr


def test_several_files_follow_from_moments_with_an_equals_sign():
    given = ["n.cfg", "--from-moments=a.npz", "b.npz", "-o", "out"]
    assert [*_repeated(given, "--from-moments", ".npz")] == [
        "n.cfg",
        "--from-moments=a.npz",
        "--from-moments",
        "b.npz",
        "-o",
        "out",
    ]
