"""`bnorm fold` as a command line: exit codes, formats and widths (bnorm.cli.fold)."""

from __future__ import annotations

import csv

import pytest

import bnorm
from bnorm.batchnorm.epsilon import RUNTIMES
from support.builders import BN, odd_pair
from support.golden import sample


def test_it_needs_an_output_or_a_dry_run(invoke, tiny):
    assert "'-o'" in invoke("fold", *tiny, exit_code=2).stderr
    invoke("fold", *tiny, "--dry-run")


def test_an_output_that_exists_is_exit_code_1_without_force(invoke, tiny, tmp_path):
    output = tmp_path / "out.weights"
    output.write_bytes(b"old")
    invoke("fold", *tiny, "-o", output, exit_code=1)
    assert output.read_bytes() == b"old"
    invoke("fold", *tiny, "-o", output, "--force")
    assert output.read_bytes() != b"old"


def test_the_headline_names_the_written_files(invoke, tiny, tmp_path):
    output = tmp_path / "out.weights"
    headline, *_ = invoke("fold", *tiny, "-o", output).stdout.splitlines()
    assert headline == f"folded 1 layer into {output} and {output.with_suffix('.cfg')}"
    headline, *_ = invoke("fold", *tiny, "--dry-run").stdout.splitlines()
    assert headline == "would fold 1 layer; a dry run writes nothing"


@pytest.mark.parametrize(
    ("columns", "runtimes"),
    [
        ("80", ["pjreddie-cpu", "opencv", "ultralytics", "keras"]),
        ("72", ["pjreddie-cpu", "opencv", "ultralytics"]),
        ("66", ["pjreddie-cpu", "opencv"]),
        ("54", ["pjreddie-cpu"]),
        ("40", []),
    ],
)
def test_runtimes_are_dropped_from_the_last_one_on(invoke, columns, runtimes):
    printed = invoke("fold", *sample("digits"), "--dry-run", "--runtimes", columns=columns).stdout
    (heading,) = [line for line in printed.splitlines() if line.startswith("layer ")]
    assert [name for name in RUNTIMES if name in heading.split()] == runtimes


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_chosen_runtime_has_no_column(invoke, tiny, runtime):
    printed = invoke("fold", *tiny, "--dry-run", "--runtimes", "--epsilon", runtime).stdout
    (heading,) = [line for line in printed.splitlines() if line.startswith("layer ")]
    assert [name for name in RUNTIMES if name in heading.split()] == [name for name in RUNTIMES if name != runtime]


def test_other_runtimes_are_shown_only_on_request(invoke, tiny):
    lines = invoke("fold", *tiny, "--dry-run").stdout.splitlines()
    assert [line.split() for line in lines if line.startswith("layer ")] == [
        ["layer", "type", "max", "abs", "max", "rel"]
    ]
    assert not [line for line in lines if line.startswith("runtimes")]


@pytest.mark.parametrize(("option", "word"), [((), "proven:"), (("--no-verify",), "not")])
def test_the_verdict_and_epsilon_come_before_the_table(invoke, tiny, option, word):
    lines = [line.split() for line in invoke("fold", *tiny, "--dry-run", *option).stdout.splitlines()]
    labels = [words[0] for words in lines if words]
    assert labels.index("verdict") == 1
    assert labels.index("ε") < labels.index("layer")
    assert lines[1][1] == word


def test_the_verdict_counts_channels_that_were_not_compared(invoke, tmp_path):
    model = odd_pair(tmp_path, f"convolutional filters=2 {BN}", {(0, "rolling_mean"): {1: float("nan")}})
    assert "1 channel" in invoke("fold", model.network.text.path, model.weights, "--dry-run").stdout


def test_layers_that_were_not_selected_are_counted(invoke):
    pair = sample("digits")
    kept = [line for line in invoke("fold", *pair, "--dry-run", "--layer", "1").stdout.splitlines() if "kept" in line]
    assert kept == ["kept     2 layers that were not selected"]
    report = bnorm.fold(bnorm.read_model(*pair), None, dry_run=True, layers=[1])
    assert [layer.selected for layer in report.layers] == [False, True, False]


@pytest.mark.parametrize("columns", ["60", "80", "160"])
def test_the_output_fits_the_terminal(invoke, columns):
    printed = invoke("fold", *sample("batchnorm"), "--dry-run", columns=columns).stdout.splitlines()
    assert max(map(len, printed)) <= int(columns)


def test_kept_layers_say_why(invoke):
    lines = invoke("fold", *sample("batchnorm"), "--dry-run", columns="200").stdout.splitlines()
    assert [line.split()[:3] for line in lines if line.startswith(("folded", "kept"))] == [
        ["folded", "layer", "0"],
        ["folded", "layer", "2"],
        ["kept", "layer", "6"],
    ]


def test_csv_has_a_row_per_normalised_part(invoke, tiny):
    (row,) = csv.DictReader(invoke("fold", *tiny, "--dry-run", "--format", "csv").stdout.splitlines())
    fields = ["index", "type", "part", "folded", "reason", "max_abs_error", "max_rel_error"]
    assert list(row) == [*fields, *(f"gain_change_{name}" for name in RUNTIMES)]
    assert (row["index"], row["type"], row["folded"]) == ("0", "convolutional", "1")


@pytest.mark.parametrize(
    "option",
    [["--epsilon", "torch"], ["--layer", "9"], ["--bad-variance", "errror"], ["--format", "xml"]],
    ids=" ".join,
)
def test_a_wrong_option_is_exit_code_2_and_writes_nothing(invoke, tiny, tmp_path, option):
    result = invoke("fold", *tiny, "-o", tmp_path / "out.weights", *option, exit_code=2)
    assert option[0] in result.stderr
    assert not (tmp_path / "out.weights").exists()
