"""What docs/recipes.md shows runs, and prints what is shown, block after block in one folder."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from support.golden import ROOT

PAGE = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w[^\n]*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
NOT_TRIED = ("c darknet", "python keras")  # parts of other programs
TRIED_APART = (
    "python opencv",  # in tests/exchange/test_onnx_recipes.py
    "python onnxruntime",
    "console digits",  # in tests/replay/test_estimate_recipe.py
    "python digits",
)
PROGRAMS = ("torch", "safetensors", "cv2")


@pytest.fixture
def samples(tmp_path, monkeypatch):
    """A folder with the samples."""
    for name in ("sample_cfgs", "sample_weights"):
        shutil.copytree(ROOT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)


def try_python(code, names):
    exec(compile(code, "recipes.md", "exec"), names)


def try_c(code):
    if compiler := shutil.which("gcc"):
        Path("main.c").write_text(code)
        flags = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic"]
        subprocess.run([compiler, *flags, "main.c", "digits.c", "-o", "program"], check=True)
        float(subprocess.run(["./program"], capture_output=True, text=True, check=True).stdout)


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # open() without with, for short examples
@pytest.mark.usefixtures("samples")
def test_the_recipes_work_one_after_the_other(invoke):
    cv2, *_ = [pytest.importorskip(name) for name in reversed(PROGRAMS)]
    if not hasattr(cv2.dnn, "readNetFromDarknet"):
        pytest.skip("OpenCV 5 has no importer for darknet")
    names = {}
    for kind, text in BLOCKS:
        if kind == "console":
            for command, output in re.findall(r"^\$ bnorm (.*)\n((?:(?!\$ ).*\n)*)", text, re.MULTILINE):
                assert invoke(*shlex.split(command)).stdout == output
        elif kind == "python":
            try_python(text, names)
        elif kind == "c":
            try_c(text)
        else:
            assert kind in NOT_TRIED + TRIED_APART
