"""Run bnorm on damaged files, and check that each gives a result or one of bnorm's own errors.

    python tests/fuzz/fuzz.py --runs 1000000                    # all targets in turn
    python tests/fuzz/fuzz.py cfg npy --runs 10000 --seed 7     # some of them

A case of `cases.py` is some files and a command line; without one, every dialect builds the cfg and plans its file. A
crash is an exception that the command does not turn into a message, a Python warning, an error of more than two lines,
an input that has changed, an output that a failed command leaves or a damaged one that it calls done, an answer that
takes more than `SLOW` seconds, or more memory than `MEMORY`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
from cases import TARGETS, Case, cases
from click.testing import CliRunner

from bnorm.checks.cfg_rules import cfg_findings
from bnorm.cli import main as command_line
from bnorm.darknet.autodetect import read_model
from bnorm.darknet.cfg import parse
from bnorm.darknet.dialects import DIALECTS
from bnorm.darknet.edit import references
from bnorm.darknet.header import written_by
from bnorm.darknet.layout import plan
from bnorm.darknet.network import build
from bnorm.errors import BnormError
from bnorm.files import MARK

SLOW = 2.0  # seconds
MEMORY = 500_000_000  # bytes of address space in addition to what the process had before the case


class Crash(Exception):
    """A case in which bnorm broke its promises."""


def try_one(case: Case, folder: Path) -> float:
    """Run one case in an empty folder, and return the seconds that it took; raise `Crash` with the reason."""
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for name, data in case.files.items():
        (folder / name).write_bytes(data)
    begun = time.process_time()
    try:
        with warnings.catch_warnings(action="error"), chdir(folder):
            answer(case)
    except Exception as error:
        raise Crash(traceback.format_exc()) from error
    return time.process_time() - begun


STOPPED = 143  # the exit code after SIGTERM, which is meant for the fuzzer then
OUTPUTS = ("-o", "--output", "--output-cfg", "--plot", "--update-weights", "--moments")


def answer(case: Case) -> None:
    """Run the command, and check its messages and its outputs."""
    if not case.command:
        every_dialect(case.files["net.cfg"])
        return
    result = CliRunner().invoke(command_line, case.command)
    if result.exit_code == STOPPED:
        sys.exit(STOPPED)
    if not isinstance(result.exception, SystemExit | None):
        raise result.exception
    assert result.exit_code in (0, 1, 2, 3), result.exit_code
    said("".join(line for line in result.stderr.splitlines(keepends=True) if not line.startswith("note: ")))
    left = {path.name for path in Path().rglob("*")} - set(case.files)
    assert not any(MARK in name for name in left), left
    assert result.exit_code == 0 or not left, left
    written = {name for option, name in pairwise(case.command) if option in OUTPUTS and case.command.count(name) == 1}
    for name in case.files.keys() - written:
        assert Path(name).read_bytes() == case.files[name], f"{name} has changed"
    if result.exit_code in (0, 3):
        look_at(case, result.stdout)


def said(error: str) -> None:
    """An error is one or two lines."""
    assert len(error.splitlines()) <= 2, error


def look_at(case: Case, text: str) -> None:
    """Check that the outputs of a successful command are readable: JSON, the folded pair, the updated weights."""
    if ("--format", "json") in pairwise(case.command) and text and not {"-h", "--help"} & set(case.command):
        json.loads(text)
    if "out.weights" in case.command and "fold" in case.command:
        dialect = dict(pairwise(case.command)).get("--dialect", "auto")
        assert read_model("out.cfg", "out.weights", dialect).fits
    if "out.weights" in case.command and case.command[:3] == ("convert", "net.cfg", "net.weights"):
        converted = dict(pairwise(case.command))
        read = read_model("out.cfg", "out.weights", converted.get("--to", converted.get("--dialect", "auto")))
        assert read.fits, "the converted pair does not fit"
    if "out.weights" in case.command and "import" in case.command:
        dialect = dict(pairwise(case.command)).get("--dialect", "auto")
        assert read_model("net.cfg", "out.weights", dialect).fits
    if "new.weights" in case.command:
        assert Path("new.weights").stat().st_size == len(case.files["net.weights"])
    if case.command[0] == "run":
        for path in Path().glob("out/*.npy"):
            np.load(path)
        for path in Path().glob("out.npz"):
            dict(np.load(path))


def every_dialect(cfg: bytes) -> None:
    """Build the network, the plan and the findings in every dialect."""
    for dialect in DIALECTS.values():
        try:
            network = build(parse(Path("net.cfg"), cfg), dialect)
            plan(network, written_by(network.dialect))
            _ = cfg_findings(network), references(network)
        except BnormError as error:
            said(str(error))


@contextmanager
def limited_memory() -> Iterator[None]:
    """Let a huge allocation fail instead of slowing the machine down."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def keep(case: Case, folder: Path) -> None:
    """Keep a case that crashed: its files, and its command line."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in case.files.items():
        (folder / name).write_bytes(data)
    (folder / "command.json").write_text(json.dumps(case.command))


def main() -> None:
    """Run the targets named on the command line, print a summary of each, and keep every case that crashed."""
    parser = argparse.ArgumentParser(description="Feed bnorm with damaged files.")
    parser.add_argument("targets", nargs="*", help=f"{', '.join(TARGETS)}; all by default")
    parser.add_argument("--runs", type=int, default=100_000, help="cases in all (default: 100000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("crashes"), help="where cases that crash are kept")
    arguments = parser.parse_args()
    names, home = arguments.targets or list(TARGETS), arguments.keep.absolute()
    os.environ.pop("COLUMNS", None)
    crashes = 0
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        for name in names:
            begun = time.monotonic()
            for case in cases(name, arguments.seed, arguments.runs // len(names)):
                try:
                    with limited_memory():
                        took = try_one(case, Path(folder))
                    if took > SLOW:
                        raise Crash(f"took {took:.1f} s")
                except Crash as crash:
                    crashes += 1
                    keep(case, home / f"{name}-{crashes}")
                    print(f"{name}-{crashes}: {crash}", flush=True)
            print(f"{name}: {arguments.runs // len(names)} cases in {time.monotonic() - begun:.0f} s", flush=True)
    print(f"{crashes} crashes")
    sys.exit(bool(crashes))


if __name__ == "__main__":
    main()
