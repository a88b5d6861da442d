"""`checks.check` and `bnorm check`: sound files, exit codes, every form, and how much is read."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import bnorm
from bnorm.checks.findings import KINDS, SEVERITIES
from bnorm.cli import main
from bnorm.darknet.autodetect import read_model
from support.builders import patch
from support.damage import (
    BAD_CFGS,
    BAD_FILES,
    BAD_VALUES,
    CFG,
    DATA,
    TEXT,
    WEIGHTS,
    findings,
    offset,
    patched,
)
from support.golden import MODELS, Golden, needs_shared

# --- sound files ------------------------------------------------------------------------------------------------------


def test_no_sound_file_has_an_error(layout_case: Golden):
    """Random values written by the reference programs, for networks that some of them cannot load."""
    for dialect in (layout_case.dialect, "auto"):
        found = findings(layout_case.cfg, layout_case.weights, dialect)
        assert {finding.id for finding in found if finding.severity != "note"} <= {"cfg-crash"}


def test_the_sample_has_no_finding():
    assert findings(CFG, WEIGHTS) == ()


@needs_shared("models")
@pytest.mark.parametrize(("name", "kinds"), [("yolo-fastest-1.1", []), ("yolo-fastest-1.1-xl", ["epsilon-sensitive"])])
def test_real_models_have_no_error(name, kinds):
    """The larger one has a channel with a variance of 4.7e-4."""
    assert [found.id for found in findings(MODELS / f"{name}.cfg", MODELS / f"{name}.weights")] == kinds


# --- arguments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", ["yolo", "", "AlexeyAB"])
def test_an_unknown_dialect_is_refused_before_a_file_is_read(tmp_path, dialect):
    with pytest.raises(ValueError, match="alexeyab, hank, pjreddie"):
        bnorm.check(tmp_path / "missing.cfg", None, dialect)


# --- printed output ---------------------------------------------------------------------------------------------------


def test_the_verdict_of_a_sound_pair(invoke, pair):
    result = invoke("check", *pair, columns="200")
    assert result.stdout == (
        f"cfg      {pair[0]}, as alexeyab reads it\n"
        f"weights  {pair[1]}\n"
        "verdict  fits: 27,560 bytes = 20 + 4 × 6,885 parameters; nothing found\n"
    )


def test_a_cfg_alone_is_checked(invoke, pair):
    assert invoke("check", pair[0]).stdout.endswith("verdict  nothing found\n")


@pytest.fixture
def damaged(pair):
    """Damage the values of the weights; return the paths of both files."""

    def run(kind: str):
        pair[1].write_bytes(BAD_VALUES[kind].data)
        return pair

    return run


@pytest.mark.parametrize(
    ("kind", "options", "code"),
    [
        ("variance-negative", [], 3),
        ("variance-negative", ["--strict"], 3),
        ("variance-zero", [], 0),
        ("variance-zero", ["--strict"], 3),
        ("dead-channels", ["--strict"], 0),
    ],
)
def test_the_exit_code_depends_on_the_severity(invoke, damaged, kind, options, code):
    assert f"[{kind}]" in invoke("check", *damaged(kind), *options, exit_code=code).stdout


@pytest.mark.parametrize("form", ["table", "json", "csv", "markdown"])
@pytest.mark.parametrize("kind", [*BAD_CFGS, *BAD_FILES])
def test_every_form_shows_every_finding(invoke, pair, form, kind):
    cfg, weights = pair
    if kind in BAD_CFGS:
        cfg.write_bytes(BAD_CFGS[kind].data)
    else:
        weights.write_bytes(BAD_FILES[kind].data)
    code = 3 if any(found.severity == "error" for found in findings(cfg, weights)) else 0
    result = invoke("check", cfg, weights, "--format", form, exit_code=code)
    assert kind in result.stdout
    assert not result.stderr or re.fullmatch(r"note: dialect [^\n]+\n", result.stderr)


def test_the_document_has_these_keys(invoke, damaged):
    cfg, weights = damaged("variance-negative")
    document = json.loads(invoke("check", cfg, weights, "--format", "json", exit_code=3).stdout)
    (found,) = findings(cfg, weights)
    finding = {"id": "variance-negative", "severity": "error", "layer": 4, "channel": 7, "line": None, "part": None}
    assert document == {
        "cfg": str(cfg),
        "weights": str(weights),
        "dialect": "alexeyab",
        "fits": True,
        "header": document["header"],
        "verified": None,
        "worst": None,
        "epsilon": None,
        "expected_bytes": 27560,
        "actual_bytes": 27560,
        "errors": 1,
        "warnings": 0,
        "notes": 0,
        "findings": [finding | {"message": found.message, "cause": found.cause}],
    }


def test_a_finding_is_printed_with_its_place_and_cause(invoke, damaged):
    cfg, weights = damaged("variance-negative")
    cfg.write_text(TEXT.replace("channels=3", "channels=3\nchanels=4"))
    numbers, text = findings(cfg, weights)
    table = invoke("check", cfg, weights, columns="300", exit_code=3).stdout
    assert f"error    layer 4: {numbers.message}; {numbers.cause} [{numbers.id}]\n" in table
    assert f"note     line 7: {text.message} [{text.id}]\n" in table
    markdown = invoke("check", cfg, weights, "--format", "markdown", exit_code=3).stdout
    assert f"* error: layer 4: {numbers.message}; {numbers.cause} [{numbers.id}]\n" in markdown


def test_a_finding_about_the_file_names_its_layer_only_once(invoke, pair):
    pair[1].write_bytes(BAD_FILES["weights-cut"].data)
    (found,) = findings(*pair)
    assert found.layer == 4
    assert f"error    {found.message}; {found.cause} " in invoke("check", *pair, columns="300", exit_code=3).stdout


def test_a_file_that_no_fork_can_read_has_null_for_unknown_values(invoke, pair):
    pair[1].write_bytes(b"")
    found = json.loads(invoke("check", *pair, "--format", "json", exit_code=3).stdout)
    assert [found[name] for name in ("dialect", "fits", "expected_bytes", "actual_bytes")] == [None] * 4


@pytest.mark.parametrize("columns", ["80", "160"])
def test_findings_are_wrapped_to_the_terminal(invoke, damaged, columns):
    lines = invoke("check", *damaged("epsilon-sensitive"), columns=columns).stdout.splitlines()
    found = lines[lines.index(next(line for line in lines if line.startswith("verdict"))) :]
    assert max(map(len, found)) <= int(columns)
    assert len(found) == {"80": 4, "160": 3}[columns]


def test_errors_come_first(pair):
    pair[0].write_text(TEXT.replace("channels=3", "channels=3\nchanels=4\nangle=\n"))
    pair[1].write_bytes(patched(4, "rolling_variance", 7, 0.0, -1.0))
    severities = [found.severity for found in findings(*pair, dialect="alexeyab")]
    assert severities == sorted(severities, key=SEVERITIES.index)
    assert set(severities) == set(SEVERITIES)


def test_the_list_has_every_kind_and_needs_no_file(invoke):
    rows = json.loads(invoke("check", "--list", "--format", "json").stdout)
    assert [row["id"] for row in rows] == list(KINDS)
    assert all(row["severity"] in SEVERITIES and row["meaning"] and row["cause"] for row in rows)
    printed = invoke("check", "--list").stdout
    assert max(map(len, printed.splitlines())) <= 80
    words = " ".join(printed.split())
    assert all(f"{row['meaning']}: {row['cause']} [{row['id']}]" in words for row in rows)


def test_a_missing_file_is_exit_code_1(invoke, pair):
    missing = pair[0].with_name("missing")
    bad = pair[0].with_name("bad.cfg")
    bad.write_bytes(BAD_CFGS["cfg-bom"].data)
    for paths in ((missing, pair[1]), (pair[0], missing), (missing,), (bad, missing)):
        error = invoke("check", *paths, exit_code=1).stderr
        assert error == f"error: {missing}: no such file or directory\n"


@pytest.mark.parametrize("arguments", [[], ["--strict"], ["a", "b", "c"], ["--dialect", "x", "a"]])
def test_a_wrong_command_line_is_exit_code_2(invoke, arguments):
    assert invoke("check", *arguments, exit_code=2).stdout == ""


def test_a_pipe_s_reader_gets_no_escape_codes(damaged):
    pair = damaged("variance-negative")
    for command in (["check"], ["inspect"], ["inspect", "--channels"]):
        arguments = [sys.executable, "-m", "bnorm", command[0], *pair, *command[1:]]
        done = subprocess.run(arguments, capture_output=True, check=False)
        assert b"\x1b" not in done.stdout
        assert done.returncode == (3 if command == ["check"] else 0)


def test_a_table_shows_the_first_of_many_findings_of_a_kind(invoke, pair):
    """All five normalised layers have one, also in csv."""
    for layer in (0, 1, 2, 4, 5):
        patch(pair[1], offset(layer, "rolling_variance", 1), 1e-4)
    output = invoke("check", *pair).stdout
    assert [layer for layer in range(9) if f"layer {layer}: gains" in output] == [0, 1, 2, 4]
    assert output.endswith("warning  1 more of these in csv and json [epsilon-sensitive]\n")
    assert len(invoke("check", *pair, "--format", "csv").stdout.splitlines()) == 6


# --- it reads no more than it needs -----------------------------------------------------------------------------------


def test_a_file_that_fits_is_read_once(pair, monkeypatch):
    """The header, a sample for text, the end and the variances are read before that: at most 64 KiB and 1 MiB."""
    read: list[tuple[int, int]] = []
    fill = bnorm.darknet.weights.Weights._fill  # what reads arrays

    def counting(self, values, start: int, array):
        read.append((start, values.size))
        return fill(self, values, start, array)

    monkeypatch.setattr(bnorm.darknet.weights.Weights, "_fill", counting)
    assert findings(*pair) == ()
    variances = {array.offset for array in read_model(*pair).layout.arrays if array.field == "rolling_variance"}
    starts = [start for start, _ in read]
    twice = {start for start in starts if starts.count(start) > 1}
    assert twice == variances
    assert sum(count for _, count in read) == 6885 + 80


# --- any damage -------------------------------------------------------------------------------------------------------

EDITS = st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=8), st.integers(0, 40)), min_size=1, max_size=4)


def edited(data: bytes, edits: list[tuple[float, bytes, int]]) -> bytes:
    """Return the data with these bytes written over the bytes at these offsets."""
    for place, new, dropped in edits:
        start = int(place * len(data))
        data = data[:start] + new + data[start + dropped :]
    return data


@settings(max_examples=150)
@given(EDITS, st.sampled_from(["cfg", "weights"]), st.sampled_from(["auto", "pjreddie", "alexeyab", "hank"]))
def test_any_damage_is_findings_and_no_traceback(tmp_path_factory, edits, which, dialect):
    folder = tmp_path_factory.mktemp("damaged")
    cfg, weights = folder / "net.cfg", folder / "net.weights"
    cfg.write_bytes(edited(TEXT.encode(), edits) if which == "cfg" else TEXT.encode())
    weights.write_bytes(edited(DATA, edits) if which == "weights" else DATA)
    result = CliRunner().invoke(main, ["check", str(cfg), str(weights), "--dialect", dialect])
    assert isinstance(result.exception, SystemExit | None)
    assert result.exit_code in (0, 3)
    assert "verdict" in result.stdout
