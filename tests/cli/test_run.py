"""`bnorm run` as a command line: exit codes, formats and widths (bnorm.cli.run)."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from bnorm.batchnorm.engines import has_numba
from bnorm.extras import installation
from support.builders import TINY, cfg_source, write_weights

pytestmark = pytest.mark.usefixtures("tiny")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder with p.npz, x.npy and d.npy, to which `tiny` adds its pair."""
    monkeypatch.chdir(tmp_path)
    names = ("scales", "biases", "rolling_mean", "rolling_variance")
    np.savez("p.npz", **dict.fromkeys(names, np.ones(4)))
    for name in ("x.npy", "d.npy"):
        np.save(name, np.arange(2 * 4 * 3 * 3, dtype="f4").reshape(2, 4, 3, 3))


MODEL = "tiny.cfg tiny.weights --layer 0 --input x.npy"
PARAMS = "--params p.npz --input x.npy"


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("--input x.npy", "--params"),
        (f"tiny.cfg tiny.weights --layer 0 {PARAMS}", "--params"),
        ("tiny.cfg --layer 0 --input x.npy", "WEIGHTS"),
        ("tiny.cfg tiny.weights --input x.npy", "--layer"),
        (f"{PARAMS} --layer 0", "--layer"),
        ("--params p.npz", "--input"),
        (f"{PARAMS} --input x.npy --delta d.npy", "--delta"),
        (f"{PARAMS} --update-weights new.weights --train", "--update-weights"),
        (f"{MODEL} --update-weights new.weights", "--update-weights"),
        (f"{PARAMS} --train --rolling-keep 1.5", "--rolling-keep"),
        (f"{PARAMS} --train --rolling-keep nan", "--rolling-keep"),
        (f"{PARAMS} --train --rolling-keep .5 --rolling average", "--rolling-keep"),
        (f"{PARAMS} --rolling-keep .5", "--train"),
        (f"{PARAMS} --rolling average", "--train"),
        (f"{PARAMS} --input x.npy -o out.npz", ".npz"),
        (f"{PARAMS} --threads 0", "--threads"),
        (f"{PARAMS} --memory 16777215", "--memory"),
        (f"{PARAMS} --memory much", "--memory"),
        (f"{PARAMS} --shape 3x3", "--shape"),
    ],
)
def test_a_wrong_command_line_is_exit_code_2_and_names_the_problem(invoke, line, named):
    before = sorted(Path().iterdir())
    result = invoke("run", *line.split(), exit_code=2)
    assert named in result.stderr.splitlines()[0]
    assert result.stdout == ""
    assert sorted(Path().iterdir()) == before


@pytest.mark.parametrize("form", ["table", "json", "csv", "markdown"])
def test_every_format_has_every_result(invoke, form):
    printed = invoke("run", *PARAMS.split(), "--train", "--format", form).stdout
    assert all(name in printed for name in ("y", "mean", "variance", "rolling_mean", "rolling_variance"))


def test_csv_has_a_row_per_input_and_result(invoke):
    printed = invoke("run", *PARAMS.split(), "--input", "d.npy", "--format", "csv").stdout
    rows = list(csv.DictReader(printed.splitlines()))
    assert list(rows[0]) == ["input", "result", "dtype", "shape", "min", "max", "not_finite", "path", *COMPARED]
    assert [(row["input"], row["result"], row["shape"]) for row in rows] == [
        ("x.npy", "y", "2x4x3x3"),
        ("d.npy", "y", "2x4x3x3"),
    ]


COMPARED = ["max_abs", "max_rel", "channel"]


def heading(printed: str) -> list[str]:
    return printed.splitlines()[2].split()


def test_the_table_names_the_input_if_there_are_several(invoke):
    assert heading(invoke("run", *PARAMS.split()).stdout)[0] == "result"
    assert heading(invoke("run", *PARAMS.split(), "--input", "d.npy").stdout)[:2] == ["input", "result"]


def test_the_written_files_are_named(invoke):
    printed = invoke("run", *PARAMS.split(), "-o", "out", "--format", "csv").stdout
    (row,) = csv.DictReader(printed.splitlines())
    assert Path(row["path"]) == Path("out", "y.npy")
    assert Path(row["path"]).exists()
    assert invoke("run", *PARAMS.split(), "-o", "out", "--force").stdout.splitlines()[-1] == "written to out"
    printed = invoke("run", *PARAMS.split(), "-o", "out.npz", "--format", "csv").stdout
    assert next(csv.DictReader(printed.splitlines()))["path"] == "out.npz:y"


@pytest.mark.parametrize("columns", ["80", "160"])
def test_the_output_fits_the_terminal(invoke, columns):
    line = [*PARAMS.split(), "--delta", "d.npy", "--train", "--stages"]
    printed = invoke("run", *line, columns=columns).stdout.splitlines()
    assert max(map(len, printed)) <= int(columns)


@pytest.mark.skipif(not has_numba(), reason="needs Numba")
def test_both_engines_write_the_same_bytes(invoke):
    for engine in ("numpy", "numba"):
        invoke("run", *f"{PARAMS} --train --delta d.npy --engine {engine} -o {engine}".split())
    written = {path.name: path.read_bytes() for path in Path("numpy").iterdir()}
    assert written == {path.name: path.read_bytes() for path in Path("numba").iterdir()}


def test_a_missing_engine_is_named_with_the_package_to_install(invoke, monkeypatch):
    monkeypatch.setattr("bnorm.cli.run_options.has_numba", lambda: False)
    result = invoke("run", *f"{PARAMS} --engine numba".split(), exit_code=1)
    assert installation("numba") in result.stderr


def test_a_tensor_that_does_not_fit_is_exit_code_1(invoke):
    np.save("x.npy", np.ones((2, 5, 3, 3)))
    assert invoke("run", *PARAMS.split(), exit_code=1).stderr.startswith("error: x.npy: ")


def test_the_choice_of_a_dialect_is_a_note_on_stderr(invoke):
    Path("tiny.cfg").write_text(TINY + "colour=red\n")  # hank refuses it
    assert invoke("run", *MODEL.split(), "--format", "json").stderr.startswith("note: dialect alexeyab: ")


def test_several_layers_have_names_of_their_own(invoke):
    sections = "convolutional batch_normalize=1 filters=4 size=1 | convolutional batch_normalize=1 filters=4 size=1"
    Path("two.cfg").write_text(cfg_source("3x3x3", sections))
    write_weights(Path("two.cfg"), Path("two.weights"))
    for layer in (0, 1):
        np.save(f"x{layer}.npy", np.full((2, 4, 3, 3), layer, "f4"))
        invoke("run", "two.cfg", "two.weights", "--layer", layer, "--input", f"x{layer}.npy", "-o", f"alone{layer}")
    arguments = ["run", "two.cfg", "two.weights", "--layer", "0,1", "--input", "x{layer}.npy"]
    lines = invoke(*arguments, "-o", "y{layer}").stdout.splitlines()
    assert [line.split()[:2] for line in lines[4:6]] == [["0", "y"], ["1", "y"]]
    for layer in (0, 1):
        assert Path(f"y{layer}/y.npy").read_bytes() == Path(f"alone{layer}/y.npy").read_bytes()
    document = json.loads(invoke(*arguments, "--format", "json").stdout)
    assert [run["layer"] for run in document["runs"]] == [0, 1]
    assert "{layer}" in invoke(*arguments, "-o", "out", exit_code=2).stderr
