"""Without the system calls that Windows lacks, and under its rules for open files, commands write the same bytes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from support.builders import TINY, write_weights

MODEL = "net.cfg net.weights"
TENSORS = "--input x.npy --delta d.npy --train --threads 4 --memory 16MiB"
COMMANDS = {
    "inspect": f"inspect {MODEL} --channels --format csv -o out.csv",
    "check": f"check {MODEL} --format json",
    "fold": f"fold {MODEL} -o out.weights --format json",
    "fold over an old one": f"fold {MODEL} -o out.weights --force --layer 1",
    "convert": f"convert {MODEL} -o out.weights --to pjreddie --header 16 --unfold --format json --force",
    "diff": f"diff {MODEL} net.weights --all --function --format json",
    "folder": f"run {MODEL} --layer 0 {TENSORS} --stages -o folder",
    "folders": f"run {MODEL} --layer 0 {TENSORS} --input packed.npz --delta stored.npz:d --rolling average -o folders",
    "archive": f"run {MODEL} --layer 0 {TENSORS} -o out.npz",
    "old archive": f"run {MODEL} --layer 0 --input packed.npz -o out.npz --force",
    "summary": f"run {MODEL} --layer 0 {TENSORS} --format json",
    "update": f"run {MODEL} --layer 0 {TENSORS} --update-weights updated.weights",
    "raw": f"run {MODEL} --layer 0 --input x.raw --shape 8,40,40,4 --layout nhwc -o raw",
    "export": f"export {MODEL} -o arrays.npz --names ultralytics --format json",
    "export to safetensors": f"export {MODEL} -o arrays.safetensors --names eriklindernoren",
    "export to a folder": f"export {MODEL} -o raw_values --fold --dtype int8",
    "export to c": f"export {MODEL} -o net.h",
    "import": "import net.cfg arrays.npz -o imported.weights --epsilon ultralytics",
    "import from safetensors": "import net.cfg arrays.safetensors -o imported.weights --force",
    "a folder as input": "inspect . net.weights",
    "missing": "check net.cfg missing.weights",
}

RUN = """
import json, sys
from bnorm.cli import main
for words in json.loads(sys.argv[1]):
    try:
        main(words, prog_name="bnorm")
    except SystemExit as end:
        print("exit code", end.code, flush=True)
        print("exit code", end.code, file=sys.stderr, flush=True)
"""

WINDOWS = """
import errno, os, signal, stat, sys, tempfile

MISSING = {
    os: "preadv pwritev pread pwrite sched_getaffinity O_DIRECTORY O_TMPFILE mkfifo fchmod",
    signal: "SIGKILL SIGPIPE SIGHUP",
}
for module, names in MISSING.items():
    for name in set(names.split()) & set(dir(module)):
        delattr(module, name)
sys.modules |= dict.fromkeys(["fcntl", "resource", "termios", "pwd", "grp"])
tempfile.TemporaryFile = tempfile.NamedTemporaryFile


def refuse(path):
    raise PermissionError(errno.EACCES, "Access is denied", str(path))


def without_folders(function, is_folder):
    return lambda first, *rest: refuse(first) if is_folder(first) else function(first, *rest)


def is_open(path):
    try:
        status = os.stat(path, follow_symlinks=False)
    except OSError:
        return False
    for descriptor in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else ():
        try:
            if os.path.samestat(os.fstat(int(descriptor)), status):
                return True
        except OSError:
            pass  # that of the list itself
    return False


def closed_alone(function):
    def change(*paths):
        for path in paths:
            if is_open(path):
                refuse(path)
        return function(*paths)

    return change


os.open = without_folders(os.open, os.path.isdir)
os.fsync = without_folders(os.fsync, lambda descriptor: stat.S_ISDIR(os.fstat(descriptor).st_mode))
os.replace, os.rename, os.unlink, os.remove = map(closed_alone, (os.replace, os.rename, os.unlink, os.remove))
"""


def outcome(folder: Path, code: str) -> tuple[bytes, bytes, dict[str, bytes]]:
    """Run all commands in a folder with new inputs; return their output, and every file that is there at the end."""
    (folder / "net.cfg").write_text(TINY)
    write_weights(folder / "net.cfg", folder / "net.weights")
    rng = np.random.default_rng(0)
    x, d = rng.standard_normal((2, 8, 4, 40, 40), dtype="f4")
    np.save(folder / "x.npy", x)
    np.save(folder / "d.npy", d)
    x.tofile(folder / "x.raw")
    np.savez_compressed(folder / "packed.npz", x=x)
    np.savez(folder / "stored.npz", d=d, x=x)
    words = json.dumps([command.split() for command in COMMANDS.values()])
    process = subprocess.run([sys.executable, "-c", code, words], capture_output=True, cwd=folder)
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return process.stdout, process.stderr, files


pytestmark = pytest.mark.slow  # every command twice, in new processes


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """Return the outcomes on this system, and on one with only the system calls of Windows."""
    return [outcome(tmp_path_factory.mktemp("inputs"), code) for code in (RUN, WINDOWS + RUN)]


def test_every_command_has_the_same_outcome_as_elsewhere(outcomes):
    (here, *_), (there, errors, _) = outcomes
    assert here == there, errors.decode()
    codes = [line.split()[-1] for line in there.decode().splitlines() if line.startswith("exit code")]
    expected = dict.fromkeys(COMMANDS, "0") | {"a folder as input": "1", "missing": "1"}
    assert dict(zip(COMMANDS, codes, strict=True)) == expected


def test_errors_and_notes_are_the_same(outcomes):
    (_, here, _), (_, there, _) = outcomes
    assert here.decode() == there.decode()


def test_every_output_has_the_same_bytes_and_nothing_else_is_left(outcomes):
    (*_, here), (*_, there) = outcomes
    assert here.keys() == there.keys()
    assert [name for name, data in here.items() if there[name] != data] == []
    assert {"out.csv", "out.weights", "out.cfg", "out.npz", "updated.weights", "folders/001/y.npy"} <= there.keys()
