"""Kills, full disks, odd targets, changing inputs: each output is absent, old or complete, and no set is mixed."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import bnorm
from bnorm.cli import main
from bnorm.files import MARK
from support.builders import cfg_source, write_weights
from support.runner import runner

pytestmark = pytest.mark.slow
KILLS = int(os.environ.get("BNORM_KILLS", "1"))  # of each command, signal and state; more in a long run


class Work(NamedTuple):
    """A command that writes: its arguments and its outputs; each output belongs to the first one."""

    arguments: tuple[str, ...]
    outputs: tuple[str, ...]


# Inputs are named from the folder of the models, outputs from the folder of the run.
MODEL = ("net.cfg", "net.weights")
TENSOR = ("--params", "p.npz", "--input", "x.npy")
LAYER = ("--layer", "1", "--input", "x.npy", "--train")
OTHERS = ("--epsilon-from", "darknet", "--epsilon-to", "opencv", "--to", "pjreddie")
RESULTS = tuple(f"out/{name}.npy" for name in ("y", "mean", "variance", "rolling_mean", "rolling_variance"))
BINS = ("out/layout.json", "out/weights.bin", "out/biases.bin")
WORKS = {
    "fold": Work(("fold", *MODEL, "-o", "out.weights", "--force"), ("out.weights", "out.cfg")),
    "convert": Work(("convert", *MODEL, *OTHERS, "-o", "out.weights", "--force"), ("out.weights", "out.cfg")),
    "export": Work(("export", *MODEL, "-o", "out.npz", "--force"), ("out.npz",)),
    "folder": Work(("export", *MODEL, "-o", "out", "--fold", "--force"), BINS),
    "c": Work(("export", *MODEL, "-o", "out.h", "--layer", "0", "--force"), ("out.h", "out.c")),
    "import": Work(("import", "net.cfg", "net.safetensors", "-o", "out.weights", "--force"), ("out.weights",)),
    "run": Work(("run", *TENSOR, "--train", "-o", "out", "--force"), RESULTS),
    "archive": Work(("run", *TENSOR, "-o", "out.npz", "--force"), ("out.npz",)),
    "update": Work(("run", *MODEL, *LAYER, "--update-weights", "out.weights", "--force"), ("out.weights",)),
    "inspect": Work(("inspect", *MODEL, "--channels", "--format", "csv", "-o", "out.csv", "--force"), ("out.csv",)),
}
if find_spec("onnx"):  # an extra
    WORKS["onnx"] = Work(("export", *MODEL, "-o", "out.onnx", "--force"), ("out.onnx",))
every_work = pytest.mark.parametrize("name", WORKS)
every_state = pytest.mark.parametrize(
    ("name", "state"), [(name, state) for name in WORKS for state in ("absent", "old")]
)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """A folder with a model and a tensor that take a while."""
    folder = tmp_path_factory.mktemp("models")
    layers = " | ".join(["convolutional batch_normalize=1 filters=256 size=3 pad=1"] * 6)
    (folder / "net.cfg").write_text(cfg_source("64x8x8", layers))
    write_weights(folder / "net.cfg", folder / "net.weights")
    bnorm.export(bnorm.read_model(folder / "net.cfg", folder / "net.weights"), folder / "net.safetensors")
    rng = np.random.default_rng(0)
    np.save(folder / "x.npy", rng.standard_normal((8, 256, 24, 24), dtype="f4"))
    ones, zeros = np.ones(256), np.zeros(256)
    np.savez(folder / "p.npz", scales=ones, biases=zeros, rolling_mean=zeros, rolling_variance=ones)
    return folder


def command(work: Work, models: Path, folder: Path) -> list[str]:
    """The command line, with the paths of its files."""
    places = dict.fromkeys((path.name for path in models.iterdir()), models)
    places |= dict.fromkeys((output.split("/")[0] for output in work.outputs), folder)
    return [str(places[word] / word) if word in places else word for word in work.arguments]


def start(work: Work, models: Path, folder: Path) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "bnorm", *command(work, models, folder)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def found(folder: Path) -> dict[str, bytes]:
    """Every file below the folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def before(name: str, state: str, folder: Path) -> dict[str, bytes]:
    """Return the files at the output paths, by the state."""
    files = {output: f"old {output}".encode() for output in WORKS[name].outputs if state == "old"}
    for output, data in files.items():
        (folder / output).parent.mkdir(exist_ok=True)
        (folder / output).write_bytes(data)
    return files


Expected = Callable[[Work], tuple[dict[str, bytes], float]]


@pytest.fixture(scope="module")
def expected(models, tmp_path_factory) -> Expected:
    """The files that a command writes, and how long it takes."""
    known: dict[Work, tuple[dict[str, bytes], float]] = {}

    def of(work: Work) -> tuple[dict[str, bytes], float]:
        if work not in known:
            folder = tmp_path_factory.mktemp("expected")
            begun = time.monotonic()
            _, errors = start(work, models, folder).communicate(timeout=60)
            known[work] = found(folder), time.monotonic() - begun
            assert known[work][0].keys() == set(work.outputs), errors
        return known[work]

    return of


# --- kills ------------------------------------------------------------------------------------------------------------


@every_state
@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda kind: kind.name)
def test_a_killed_command_leaves_no_half_file_and_no_mixed_set(models, expected, tmp_path, kind, name, state):
    work = WORKS[name]
    new, duration = expected(work)
    chance = random.Random(f"{name} {state} {kind.name}")
    for number in range(KILLS):
        folder = tmp_path / str(number)
        folder.mkdir()
        old = before(name, state, folder)
        process = start(work, models, folder)
        # Half of the kills are near the end, when files are renamed.
        time.sleep(duration * (chance.uniform(0, 1.1) if chance.random() < 0.5 else chance.uniform(0.8, 1.05)))
        process.send_signal(kind)
        process.communicate(timeout=60)
        left = found(folder)
        temporary = [left.pop(path) for path in list(left) if MARK in path]
        assert len(temporary) <= (len(work.outputs) if kind == signal.SIGKILL else 0)
        assert left.items() <= old.items() or left.items() <= new.items()
        assert work.outputs[0] in left or not left  # what belongs to the first output never stands without it
        start(work, models, folder).communicate(timeout=60)  # what was left is not in the way
        assert {path: data for path, data in found(folder).items() if MARK not in path} == new


@every_work
def test_of_two_processes_with_the_same_outputs_one_writes_all(models, expected, tmp_path, name):
    work = WORKS[name]
    others = {
        "fold": ("--layer", "0-2"),
        "convert": ("--seen", "0"),
        "export": ("--fold",),
        "folder": ("--epsilon", "keras"),
        "c": ("--epsilon", "keras"),
        "import": ("--epsilon", "keras"),
        "run": ("--arithmetic", "paper"),
        "archive": ("--arithmetic", "paper"),
        "onnx": ("--epsilon", "keras"),
    }
    works = work, work._replace(arguments=work.arguments + others.get(name, ()))
    for process in [start(each, models, tmp_path) for each in works]:
        process.communicate(timeout=60)
    assert found(tmp_path) in [expected(each)[0] for each in works]


# --- disks ------------------------------------------------------------------------------------------------------------


@contextmanager
def file_size(most: int) -> Iterator[None]:
    """Let no file grow beyond a number of bytes, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@every_state
def test_a_disk_that_is_full_at_some_byte_leaves_the_old_files(models, expected, tmp_path, name, state):
    sizes = sorted(len(data) for data in expected(WORKS[name])[0].values())
    old = before(name, state, tmp_path)
    for most in sorted({0, 1, sizes[0] - 1, sizes[0], sizes[-1] // 2, sizes[-1] - 1} - {sizes[-1]}):
        with file_size(most):
            result = runner().invoke(main, command(WORKS[name], models, tmp_path))
        assert result.exit_code == 1, most
        assert result.stderr.splitlines()[-1].endswith("file too large"), most
        assert found(tmp_path) == old, most


@pytest.fixture
def mounted(tmp_path) -> Iterator[Callable[[str], Path]]:
    """A file system in memory, with these options."""
    folder = tmp_path / "mounted"
    folder.mkdir()

    def mount(options: str) -> Path:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True)
        if done.returncode:
            pytest.skip("no right to mount a file system")
        return folder

    yield mount
    subprocess.run(["umount", str(folder)], capture_output=True)


@every_state
def test_a_small_disk_leaves_the_old_files(invoke, models, mounted, name, state):
    disk = mounted("size=64k")
    old = before(name, state, disk)
    result = invoke(*command(WORKS[name], models, disk), exit_code=1)
    assert result.stderr.splitlines()[-1].endswith("no space left on device")
    assert found(disk) == old


@every_work
def test_a_disk_that_may_only_be_read_is_one_error(invoke, models, mounted, name):
    result = invoke(*command(WORKS[name], models, mounted("ro")), exit_code=1)
    assert result.stderr.splitlines()[-1].endswith("read-only file system")


# --- odd targets ------------------------------------------------------------------------------------------------------


def link_to(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


@every_work
@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, link_to("/dev/full"), link_to(".")])
def test_a_target_that_is_not_a_file_stays(invoke, models, tmp_path, name, make):
    output = tmp_path / WORKS[name].outputs[0]
    output.parent.mkdir(exist_ok=True)
    make(output)
    result = invoke(*command(WORKS[name], models, tmp_path), exit_code=1)
    assert "is not a regular file" in result.stderr
    assert [path.name for path in output.parent.iterdir()] == [output.name]


@every_work
def test_a_link_to_an_input_is_refused(invoke, models, tmp_path, name):
    work = WORKS[name]
    output = tmp_path / work.outputs[0]
    output.parent.mkdir(exist_ok=True)
    source = next(models / word for word in work.arguments if (models / word).exists())
    output.symlink_to(source)
    data = source.read_bytes()
    assert "is an input" in invoke(*command(work, models, tmp_path), exit_code=1).stderr
    assert output.is_symlink()
    assert source.read_bytes() == data


@every_work
@pytest.mark.parametrize("target", [b"another file", None], ids=["a file", "nothing"])
def test_a_link_is_replaced_and_its_target_stays(invoke, models, tmp_path, name, target):
    work, other = WORKS[name], tmp_path / "other"
    output = tmp_path / work.outputs[0]
    output.parent.mkdir(exist_ok=True)
    output.symlink_to(other)
    if target:
        other.write_bytes(target)
    invoke(*command(work, models, tmp_path))
    assert not output.is_symlink()
    assert not target or other.read_bytes() == target


# --- inputs that change -----------------------------------------------------------------------------------------------


def at_read(monkeypatch, number: int, change: Callable[[int], None]) -> None:
    """Call a function before the read of this number, with the file descriptor."""
    original, calls = os.preadv, count(1)

    def preadv(descriptor: int, *arguments):
        if next(calls) == number:
            change(descriptor)
        return original(descriptor, *arguments)

    monkeypatch.setattr(os, "preadv", preadv)


@pytest.fixture
def copies(models, tmp_path) -> Path:
    """The models' folder, to be changed."""
    return Path(shutil.copytree(models, tmp_path / "copies"))


@every_work
@pytest.mark.parametrize("number", [1, 2, 4])
def test_an_input_that_is_cut_while_it_is_read_is_an_error(invoke, copies, tmp_path, monkeypatch, name, number):
    at_read(monkeypatch, number, lambda descriptor: os.truncate(f"/proc/self/fd/{descriptor}", 200))
    folder = tmp_path / "outputs"
    folder.mkdir()
    result = invoke(*command(WORKS[name], copies, folder), exit_code=1)
    assert " cut" in result.stderr
    assert list(folder.iterdir()) == []


@every_work
def test_an_input_that_is_replaced_while_it_is_read_never_mixes_with_the_new_one(
    invoke, copies, expected, tmp_path, monkeypatch, name
):
    def replace(descriptor: int) -> None:
        (copies / "new").write_bytes(b"\0" * 999)
        (copies / "new").replace(Path(f"/proc/self/fd/{descriptor}").readlink())

    at_read(monkeypatch, 2, replace)
    folder = tmp_path / "outputs"
    folder.mkdir()
    # If everything is copied at once, the size is compared again, which is then an error.
    invoke(*command(WORKS[name], copies, folder), exit_code=1 if name == "update" else 0)
    assert found(folder) == ({} if name == "update" else expected(WORKS[name])[0])


def test_an_input_that_vanishes_is_one_line(invoke, models, tmp_path):
    missing = tmp_path / "gone.weights"
    result = invoke("fold", models / "net.cfg", missing, "-o", tmp_path / "out.weights", exit_code=1)
    assert result.stderr == f"error: {missing}: no such file or directory\n"
    assert list(tmp_path.iterdir()) == []
