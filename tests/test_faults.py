"""Kills and full disks: each output is absent, old or complete, and a pair is never mixed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bnorm.files import MARK
from conftest import cfg_source, write_weights

KILLS = int(os.environ.get("BNORM_KILLS", "6"))  # of each kind; more in a long run


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> tuple[Path, Path]:
    """A model whose folding takes a while: 14 MB."""
    folder = tmp_path_factory.mktemp("pair")
    cfg = folder / "net.cfg"
    cfg.write_text(cfg_source("64x8x8", " | ".join(["convolutional batch_normalize=1 filters=256 size=3 pad=1"] * 6)))
    return cfg, write_weights(cfg, folder / "net.weights")


def fold(pair: tuple[Path, Path], folder: Path) -> list[str]:
    return [sys.executable, "-m", "bnorm", "fold", *map(str, pair), "-o", str(folder / "out.weights"), "--force"]


@pytest.fixture(scope="module")
def expected(pair, tmp_path_factory) -> tuple[dict[str, bytes], float]:
    """What folding writes, and how long it takes."""
    folder = tmp_path_factory.mktemp("expected")
    subprocess.run(fold(pair, folder), check=True, capture_output=True)
    begun = time.monotonic()
    subprocess.run(fold(pair, folder), check=True, capture_output=True)
    return {path.name: path.read_bytes() for path in folder.iterdir()}, time.monotonic() - begun


OLD = {"out.weights": b"old weights", "out.cfg": b"old cfg"}


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda kind: kind.name)
@pytest.mark.parametrize("old", [{}, OLD], ids=["absent", "old"])
def test_a_killed_fold_leaves_no_half_file_and_no_mixed_pair(pair, expected, tmp_path, kind, old):
    new, duration = expected
    chance = random.Random(kind)
    outcomes = set()
    for number in range(KILLS):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name, data in old.items():
            (folder / name).write_bytes(data)
        process = subprocess.Popen(fold(pair, folder), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        # Half of the kills come near the end, where files are renamed.
        time.sleep(duration * (chance.uniform(0, 1.1) if number % 2 else chance.uniform(0.8, 1.05)))
        process.send_signal(kind)
        process.communicate(timeout=60)
        found = {path.name: path.read_bytes() for path in folder.iterdir()}
        left = [found.pop(name) for name in list(found) if MARK in name]
        assert not left or kind == signal.SIGKILL
        for name, data in found.items():
            assert data in (old.get(name), new[name])
        if "out.cfg" in found:  # a cfg that exists belongs to the weights that exist
            assert found in (old, new)
        outcomes.add(tuple(sorted(found)))
        subprocess.run(fold(pair, folder), check=True, capture_output=True)  # what was left is not in the way
        assert {name: (folder / name).read_bytes() for name in new} == new
    assert outcomes


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True)
    if done.returncode:
        pytest.skip("no right to mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("old", [{}, OLD], ids=["absent", "old"])
def test_a_full_disk_is_one_line_and_leaves_what_was_there(pair, small_disk, old):
    for name, data in old.items():
        (small_disk / name).write_bytes(data)
    done = subprocess.run(fold(pair, small_disk), capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"error: {small_disk}/out.weights: cannot be written: no space left on device\n"
    assert {path.name: path.read_bytes() for path in small_disk.iterdir()} == old


def test_an_input_that_vanishes_is_one_line(pair, tmp_path):
    missing = tmp_path / "gone.weights"
    done = subprocess.run(fold((pair[0], missing), tmp_path), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, f"error: {missing}: no such file or directory\n")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_may_not_be_written_to_is_one_line(pair):
    done = subprocess.run(fold(pair, Path("/proc")), capture_output=True, text=True)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: /proc/out.weights: cannot be written: ")
