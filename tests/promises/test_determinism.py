"""The same command gives the same bytes: in any encoding and folder, whatever the order of sets and the threads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.golden import ROOT, sample

MODEL, OTHER = (tuple(map(str, sample(name))) for name in ("digits", "recurrent"))
X, DELTA = (str(ROOT / "sample_weights" / f"digits_{name}.npy") for name in ("x", "delta"))
RUN = ("run", *MODEL, "--layer", "3", "--input", X, "--delta", DELTA, "--train", "--stages")
COMMANDS = {
    "inspect": ("inspect", *MODEL),
    "inspect to json": ("inspect", *OTHER, "--channels", "--format", "json"),
    "inspect to csv": ("inspect", *OTHER, "--channels", "--sort", "gain", "--format", "csv"),
    "inspect to a figure": ("inspect", *MODEL, "--plot", "out.svg"),
    "check": ("check", *MODEL, "--format", "json"),
    "check of a pair that does not fit": ("check", MODEL[0], OTHER[1]),
    "fold": ("fold", *MODEL, "-o", "out.weights"),
    "fold of recurrent layers": ("fold", *OTHER, "-o", "out.weights", "--format", "markdown"),
    "convert": ("convert", *MODEL, "-o", "out.weights", "--epsilon-from", "darknet", "--epsilon-to", "opencv"),
    "convert of recurrent layers": (
        "convert",
        *OTHER,
        "-o",
        "out.weights",
        "--to",
        "alexeyab",
        "--header",
        "16",
        "--unfold",
    ),
    "diff": ("diff", *MODEL, MODEL[1], "--all"),
    "diff by function": ("diff", *MODEL, MODEL[1], "--function", "--epsilon-b", "keras", "--format", "json"),
    "export": ("export", *MODEL, "-o", "out.npz"),
    "export of integers": ("export", *MODEL, "-o", "out", "--fold", "--dtype", "int8"),
    "export to c": ("export", *MODEL, "-o", "out.h", "--format", "json"),
    "export to onnx": ("export", *MODEL, "-o", "out.onnx", "--no-verify"),
    "export to safetensors": ("export", *OTHER, "-o", "out.safetensors"),
    "run": (*RUN, "--update-weights", "out.weights"),
    "run to a folder": (*RUN, "-o", "out"),
    "run to an archive": (*RUN, "-o", "out.npz", "--format", "json"),
}
EXTRAS = {"figure": "matplotlib", "onnx": "onnx"}  # the commands with this word need this package
pytestmark = pytest.mark.slow
PLACES = [
    {"PYTHONHASHSEED": "0", "LC_ALL": "C"},
    {"PYTHONHASHSEED": "1", "LC_ALL": "C.UTF-8", "TZ": "Asia/Tokyo"},
    {"PYTHONHASHSEED": "2", "LC_ALL": "POSIX", "PYTHONUTF8": "1", "HOME": "/nowhere"},
]


def outcome(
    arguments: tuple[str, ...], folder: Path, place: dict[str, str]
) -> tuple[int, bytes, bytes, dict[str, bytes]]:
    """Return what a command prints and writes, run in this folder."""
    folder.mkdir(parents=True)
    environment = {**os.environ, "COLUMNS": "80", **place}
    done = subprocess.run(
        [sys.executable, "-m", "bnorm", *arguments], cwd=folder, env=environment, capture_output=True, check=False
    )
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return done.returncode, done.stdout, done.stderr, files


@pytest.mark.parametrize("name", COMMANDS)
def test_the_same_bytes_in_every_environment(tmp_path, name):
    for word, package in EXTRAS.items():
        if word in name:
            pytest.importorskip(package)
    folders = (tmp_path / "a", tmp_path / "b c" / "d", tmp_path / "é")
    first, *others = [outcome(COMMANDS[name], *pair) for pair in zip(folders, PLACES, strict=True)]
    assert first[0] in (0, 3), first
    for other in others:
        assert other == first


@pytest.mark.parametrize("name", [name for name, words in COMMANDS.items() if words[0] == "run"])
def test_the_same_bytes_on_any_number_of_threads(tmp_path, name):
    first, *others = [
        outcome((*COMMANDS[name], "--threads", threads, "--memory", memory), tmp_path / threads, {})
        for threads, memory in (("1", "16MiB"), ("2", "4GiB"), ("7", "64MiB"))
    ]
    assert first[0] == 0
    for other in others:
        assert other == first
