"""The recipe of docs/recipes.md for new rolling statistics: lost, estimated again, as accurate as before."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.golden import ROOT

PAGE = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(console|python) digits\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def printed(command: str, invoke) -> str:
    program, *arguments = shlex.split(command)
    if program == "bnorm":
        return invoke(*arguments).stdout
    done = subprocess.run([sys.executable, *arguments], check=True, capture_output=True, text=True, encoding="utf-8")
    return done.stdout


@pytest.mark.slow  # 180 MB of activations, and a cluster
@pytest.mark.filterwarnings("ignore:::distributed", "ignore::ResourceWarning")
def test_statistics_that_were_lost_are_estimated_again(tmp_path, monkeypatch, invoke):
    pytest.importorskip("sklearn")
    pytest.importorskip("distributed")
    for name in ("sample_cfgs", "sample_weights"):
        shutil.copytree(ROOT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert len(BLOCKS) == 5
    for kind, text in BLOCKS:
        if kind == "python":
            exec(compile(text, "recipes.md", "exec"), {})
            continue
        for command, output in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", text, re.MULTILINE):
            assert printed(command, invoke) == output
    assert Path("merged.weights").read_bytes() == Path("cluster.weights").read_bytes()
