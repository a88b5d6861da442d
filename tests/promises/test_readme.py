"""What README shows is what bnorm prints."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess

import pytest

from bnorm.cli import main
from support.golden import ROOT

README = (ROOT / "README.md").read_text()
CONSOLE = re.findall(r"```console\n(.*?)```", README, re.DOTALL)
SESSIONS = [
    (command, output)
    for block in CONSOLE
    for command, output in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE)
]


@pytest.fixture
def samples(tmp_path, monkeypatch):
    """The folders that README's commands work on, in an empty place."""
    for name in ("sample_cfgs", "sample_weights"):
        shutil.copytree(ROOT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    (edit,) = re.findall(r"^sed .*", README, re.MULTILINE)
    subprocess.run(edit, shell=True, check=True)


@pytest.mark.usefixtures("samples")
@pytest.mark.parametrize(("command", "output"), SESSIONS, ids=[command for command, _ in SESSIONS])
def test_a_command_prints_what_readme_shows(invoke, command, output):
    program, *arguments = shlex.split(command)
    assert program == "bnorm"
    code = 3 if arguments[0] == "check" and "\nerror " in output else 0
    assert invoke(*arguments, exit_code=code).stdout == output


@pytest.mark.usefixtures("samples")
def test_the_python_example_runs(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out


def test_readme_names_every_command_and_option():
    for name in main.list_commands(None):
        command = main.get_command(None, name)
        assert f"bnorm {name}" in README
        for parameter in command.params:
            assert parameter.opts[0].lstrip("-") in README, f"{name} {parameter.opts[0]}"


def test_readme_has_the_table_of_findings(invoke):
    assert invoke("check", "--list", "--format", "markdown").stdout in README


def test_ci_runs_the_test_command_of_readme():
    assert 'pip install -e ".[test]"' in README
    assert 'pip install -e ".[test]"' in (ROOT / ".ci/run").read_text()
