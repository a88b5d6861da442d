"""The command itself: help, version, unknown commands, errors and exit codes (bnorm.cli)."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from bnorm import __version__
from bnorm.cli import COMMANDS


def test_bnorm_alone_prints_its_help(invoke):
    alone = invoke()
    assert alone.stdout == invoke("--help").stdout
    assert alone.stderr == ""


@pytest.mark.parametrize("option", ["-h", "--help"])
@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_begins_with_examples(invoke, name, option):
    usage, _, examples, *_ = (part.strip() for part in invoke(name, option).stdout.split("\n\n"))
    assert f" {name} " in usage
    assert all(line.split()[:2] == ["bnorm", name] for line in examples.splitlines())


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_shows_defaults_and_metavars_as_a_user_types_them(invoke, name):
    text = " ".join(invoke(name, "--help").stdout.split())
    assert "[default: (" not in text
    for word in ("INTEGER", "FLOAT", "FUNCTION", "TEXT", "LAYER_RANGE", "SORTING"):
        assert word not in text


@pytest.mark.parametrize("columns", ["80", "160"])
@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_fits_the_terminal(invoke, name, columns):
    assert max(map(len, invoke(name, "--help", columns=columns).stdout.splitlines())) <= int(columns)


def test_the_version(invoke):
    assert invoke("--version").stdout.split()[-1] == __version__


@pytest.mark.parametrize(("name", "near"), [("inspct", "inspect"), ("folds", "fold"), ("checkk", "check")])
def test_a_misspelt_command_is_answered_with_the_nearest_one(invoke, name, near):
    result = invoke(name, "a.cfg", exit_code=2)
    assert f"Did you mean {near}?" in result.stderr
    assert result.stdout == ""


def test_a_command_that_resembles_no_other_gets_no_suggestion(invoke):
    assert "Did you mean" not in invoke("xyz", exit_code=2).stderr


@pytest.mark.parametrize("arguments", [["inspect"], ["fold"], ["fold", "a.cfg"], ["check"], ["run"], ["--frobnicate"]])
def test_a_usage_error_is_two_lines_on_stderr(invoke, arguments):
    result = invoke(*arguments, exit_code=2)
    message, hint = result.stderr.splitlines()
    assert message.startswith("error: ")
    assert hint.endswith("--help")
    assert result.stdout == ""


@pytest.mark.parametrize("option", ["-q", "--quiet"])
@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in ("diff", "import")])
def test_notes_are_left_out_on_request(invoke, tiny, tmp_path, name, option):
    """Every command that takes one pair notes swapped arguments."""
    np.save(tmp_path / "x.npy", np.ones((2, 4, 8, 8), "f4"))
    needed = {
        "fold": ["--dry-run"],
        "convert": ["--seen", 0, "--dry-run"],
        "run": ["--layer", 0, "--input", tmp_path / "x.npy"],
        "export": ["--force", "-o", tmp_path / "out.npz"],
    }
    options = needed.get(name, [])
    assert invoke(name, *reversed(tiny), *options).stderr.startswith("note: ")
    assert invoke(name, *reversed(tiny), *options, option).stderr == ""


def test_errors_are_not_left_out(invoke):
    assert invoke("inspect", "no.cfg", "-q", exit_code=1).stderr.startswith("error: ")


def test_a_missing_argument_is_named(invoke):
    assert "'CFG'" in invoke("fold", exit_code=2).stderr
    assert "'WEIGHTS'" in invoke("fold", "a.cfg", exit_code=2).stderr


@pytest.mark.parametrize("name", ["inspect", "check"])
def test_a_missing_file_is_exit_code_1_and_one_line(invoke, tmp_path, name):
    path = tmp_path / "missing.cfg"
    assert invoke(name, path, exit_code=1).stderr == f"error: {path}: no such file or directory\n"


def loaded(*arguments: str) -> set[str]:
    """Return the packages that a fresh interpreter has loaded after this command."""
    code = "import sys\nfrom bnorm.cli import main\ntry:\n    main(sys.argv[1:])\nfinally:\n    print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    return {name.partition(".")[0] for name in done.stdout.splitlines()[-1].split()}


@pytest.mark.parametrize("arguments", [[], ["--help"], ["--version"], ["inspct"]])
def test_help_and_version_need_nothing_but_click(arguments):
    assert not loaded(*arguments) & {"numpy", "rich", "matplotlib"}


@pytest.mark.parametrize("arguments", [["inspect"], ["check"], ["fold", "--dry-run"]])
def test_a_pipe_needs_no_rich(tiny, arguments):
    name, *options = arguments
    assert "rich" not in loaded(name, *map(str, tiny), *options)


@pytest.mark.parametrize("arguments", [["inspect"], ["check"], ["fold", "--dry-run"]])
def test_a_json_document_is_all_of_stdout(tiny, arguments):
    name, *options = arguments
    command = [sys.executable, "-m", "bnorm", name, *tiny, *options, "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, encoding="utf-8")
    assert json.loads(done.stdout)


def completions(*words: str) -> str:
    """Return the completions that bash gets for the last of these words."""
    variables = {"_BNORM_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
    code = "from bnorm.cli import main; main(prog_name='bnorm')"
    environment = {**os.environ, **variables}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize(
    ("arguments", "code"), [(["inspect"], 0), (["check", "--strict"], 0), (["fold", "--dry-run"], 0)]
)
def test_a_process_without_stdout_does_its_work(tiny, arguments, code):
    """A service may be started with its stdout closed: only the exit code is left."""
    command, *options = arguments
    words = " ".join([command, *map(str, tiny), *options])
    process = subprocess.run(["sh", "-c", f'"$0" -m bnorm {words} >&-', sys.executable], capture_output=True)
    assert (process.returncode, b"Traceback" in process.stderr) == (code, False)


def test_completion_offers_commands_and_options():
    assert set(completions("bnorm", "").splitlines()) == {f"plain,{name}" for name in COMMANDS}
    assert "plain,--dialect" in completions("bnorm", "inspect", "--dia").splitlines()
    assert not completions("bnorm", "xyz", "--dia").strip()
