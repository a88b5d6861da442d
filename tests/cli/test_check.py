"""`bnorm check` as a command line: exit codes, formats and widths (bnorm.cli.check)."""

from __future__ import annotations

import csv
import json

import pytest

from bnorm.checks.findings import KINDS, Finding
from support.builders import TINY, patch

VARIANCE = 20 + 4 * 12  # offset of the tiny model's first rolling variance


@pytest.fixture
def bad(tiny):
    """The tiny model with a negative variance: an error."""
    patch(tiny[1], VARIANCE, -1.0)
    return tiny


@pytest.fixture
def doubtful(tiny):
    """The tiny model with a small variance: a warning."""
    patch(tiny[1], VARIANCE, 1e-4)
    return tiny


@pytest.mark.parametrize("form", ["table", "json", "csv", "markdown"])
def test_an_error_is_exit_code_3_in_every_format(invoke, bad, form):
    assert "variance-negative" in invoke("check", *bad, "--format", form, exit_code=3).stdout


def test_a_warning_is_exit_code_3_only_if_strict(invoke, doubtful):
    invoke("check", *doubtful)
    invoke("check", *doubtful, "--strict", exit_code=3)


def test_nothing_found_is_exit_code_0(invoke, tiny):
    assert invoke("check", *tiny, "--strict").stdout.splitlines()[-1].endswith("; nothing found")
    assert invoke("check", tiny[0]).stdout.splitlines()[-1] == "verdict  nothing found"


def test_the_verdict_counts(invoke, bad):
    lines = invoke("check", *bad, exit_code=3, columns="160").stdout.splitlines()
    (verdict,) = [line for line in lines if line.startswith("verdict")]
    assert verdict.startswith("verdict  fits: ")
    assert verdict.endswith("; 1 error")


def test_the_verdict_of_a_pair_that_does_not_fit(invoke, tiny):
    tiny[1].write_bytes(tiny[1].read_bytes()[:-4])
    lines = invoke("check", *tiny, exit_code=3).stdout.splitlines()
    assert "verdict  does not fit; 1 error" in lines


@pytest.mark.parametrize("columns", ["60", "80", "160"])
def test_findings_fit_the_terminal(invoke, bad, columns):
    lines = invoke("check", *bad, exit_code=3, columns=columns).stdout.splitlines()
    verdict = next(number for number, line in enumerate(lines) if line.startswith("verdict"))
    assert max(map(len, lines[verdict:])) <= int(columns)


def test_csv_has_a_row_per_finding(invoke, bad):
    rows = list(csv.DictReader(invoke("check", *bad, "--format", "csv", exit_code=3).stdout.splitlines()))
    assert [(row["id"], row["layer"], row["channel"]) for row in rows] == [("variance-negative", "0", "0")]
    assert tuple(rows[0]) == Finding._fields


@pytest.mark.parametrize("columns", ["80", "160"])
def test_the_list_needs_no_file_and_has_every_kind(invoke, columns):
    printed = invoke("check", "--list", columns=columns).stdout
    assert max(map(len, printed.splitlines())) <= int(columns)
    assert all(f"[{kind}]" in printed for kind in KINDS)
    assert [row["id"] for row in json.loads(invoke("check", "--list", "--format", "json").stdout)] == list(KINDS)


@pytest.mark.parametrize(
    "arguments", [[], ["--strict"], ["a", "b", "c"], ["--dialect", "x", "a"], ["a", "--layer", "3"]]
)
def test_a_wrong_command_line_is_exit_code_2(invoke, arguments):
    assert invoke("check", *arguments, exit_code=2).stdout == ""


def test_the_choice_of_a_dialect_is_a_note_on_stderr(invoke, tiny):
    tiny[0].write_text(TINY + "colour=red\n")  # hank refuses it
    result = invoke("check", *tiny, "--format", "json")
    assert result.stderr.startswith("note: dialect alexeyab: ")
    assert "note: dialect" not in result.stdout
    assert invoke("check", *tiny, "--dialect", "alexeyab").stderr == ""
