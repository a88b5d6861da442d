"""What README shows is what bnorm prints."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess

import pytest

from bnorm.cli import main
from support.golden import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
CONSOLE = re.findall(r"```console\n(.*?)```", README, re.DOTALL)
BLOCKS = [re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE) for block in CONSOLE]
SESSIONS = [(block[:number], *block[number]) for block in BLOCKS for number in range(len(block))]


@pytest.fixture
def samples(tmp_path, monkeypatch):
    """The folders that README's commands work on, in an empty place."""
    for name in ("sample_cfgs", "sample_weights"):
        shutil.copytree(ROOT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    (edit,) = re.findall(r"^sed .*", README, re.MULTILINE)
    subprocess.run(edit, shell=True, check=True)


@pytest.mark.usefixtures("samples")
@pytest.mark.parametrize(("earlier", "command", "output"), SESSIONS, ids=[command for _, command, _ in SESSIONS])
def test_a_command_prints_what_readme_shows(invoke, earlier, command, output):
    for other, _ in earlier:
        if " -o " in other:  # a later command may read what it writes
            invoke(*shlex.split(other)[1:])
    program, *arguments = shlex.split(command)
    assert program == "bnorm"
    code = 3 if arguments[0] == "check" and "\nerror " in output else 0
    assert invoke(*arguments, exit_code=code).stdout == output


@pytest.mark.usefixtures("samples")
def test_the_python_example_runs(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out


def quoted(text: str) -> list[str]:
    """Return what stands in backquotes, outside of blocks of code."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


SECTIONS = dict(re.findall(r"^## (\w+).*\n((?:(?!## ).*\n)*)", README, re.MULTILINE))
OPTIONS = [
    (name, max(parameter.opts, key=len))
    for name in main.list_commands(None)
    for parameter in main.get_command(None, name).params
    if parameter.param_type_name == "option"
]


@pytest.mark.parametrize(("command", "option"), OPTIONS)
def test_a_command_s_section_names_its_options(command, option):
    """`--dialect` and `--quiet`, which all commands have, have a section of their own."""
    words = quoted(SECTIONS["Dialects" if option in ("--dialect", "--quiet") else command])
    assert any(re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", word) for word in words)


def test_readme_has_the_table_of_findings(invoke):
    assert invoke("check", "--list", "--format", "markdown").stdout in README


def test_ci_runs_the_test_command_of_readme():
    """The lines of .ci/run that find and run it, with `printf` for `eval`."""
    (command,) = re.findall(r"^```sh\n(.*-m pytest.*)\n```$", README, re.MULTILINE)
    lines = [line for line in (ROOT / ".ci/run").read_text().splitlines() if "readme_command" in line]
    script = re.sub(r"^eval ", "printf %s ", "\n".join(lines), flags=re.MULTILINE)
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == command
