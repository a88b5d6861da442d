"""Feed bnorm with damaged files, and insist that it answers each with a result or an error of its own.

    python tests/fuzz/fuzz.py --runs 1000000                    # all targets in turn
    python tests/fuzz/fuzz.py cfg npy --runs 10000 --seed 7     # some of them

A target takes the bytes of one damaged file and uses them as a user's command would. Whatever it raises but
`BnormError`, `OSError` or click's own errors is a crash; so is a Python warning, an error of more than two lines, an
answer that takes longer than `SLOW` seconds or more memory than `MEMORY`. Inputs begin as the golden networks and the
samples; they are cut, joined, overwritten and filled with the words and numbers that their format is made of. The same
seed gives the same inputs.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import resource
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from click.testing import CliRunner

from bnorm.cfg import parse
from bnorm.cli import main as command_line
from bnorm.dialects import DIALECTS, KEYS, SECTIONS
from bnorm.engine import Team
from bnorm.errors import BnormError
from bnorm.folding import fold
from bnorm.inspection import inspect
from bnorm.job import Request, execute
from bnorm.layout import plan
from bnorm.model import read_model
from bnorm.network import build
from bnorm.npy import open_tensor

ROOT = Path(__file__).parents[2]
LAYOUTS = ROOT / "tests" / "golden" / "layouts"
SLOW = 2.0  # seconds
MEMORY = 2 << 30  # bytes of address space beyond what the process had at the start
NUMBERS = (
    0,
    1,
    -1,
    2,
    7,
    8,
    255,
    256,
    32767,
    65536,
    2**24 + 1,
    2**31 - 1,
    2**31,
    -(2**31),
    2**32,
    2**63,
    10**12,
    10**40,
)

Draw = random.Random
Target = Callable[[bytes, Path], None]


class Kind(NamedTuple):
    """What is fuzzed: how an input comes to be, and what is done with it."""

    make: Callable[[Draw], bytes]
    use: Target


# --- inputs -----------------------------------------------------------------------------------------------------------

CFGS = [path.read_bytes() for folder in (LAYOUTS, ROOT / "sample_cfgs") for path in sorted(folder.glob("*.cfg"))]
WORDS = [
    *("[" + name + "]" for names in SECTIONS.values() for name in names),
    *{key for tables in KEYS.values() for keys in tables.values() for key in keys},
    *"= # ; , - . + e [ ] \t \r \n \0 linear leaky none relu per_channel per_feature softmax 1e5 0x10 nan inf".split(
        " "
    ),
]


def damaged(draw: Draw, data: bytes, words: list[bytes]) -> bytes:
    """The bytes after some accidents."""
    found = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 3, 5, 9))):
        place = draw.randrange(len(found) + 1)
        end = min(place + draw.choice((0, 1, 2, 4, 8, 30, 200)), len(found))
        kind = draw.randrange(5)
        if kind == 0:
            del found[place:end]
        elif kind == 1:
            found[place:end] = draw.choice(words)
        elif kind == 2:
            found[place:place] = found[place:end] * draw.choice((1, 1, 2, 50))
        elif kind == 3:
            found[place:end] = draw.randbytes(end - place)
        else:
            del found[place:]
            if draw.random() < 0.8:
                found += draw.choice((data, data[place // 2 :]))
        del found[1 << 17 :]
    return bytes(found)


def number(draw: Draw) -> str:
    return str(draw.choice(NUMBERS)) if draw.random() < 0.3 else str(draw.randint(-3, 40))


def any_cfg(draw: Draw) -> bytes:
    """Damaged as bytes, or as text: a value changed, a line moved, a line of the grammar put in."""
    if draw.random() < 0.4:
        return damaged(draw, draw.choice(CFGS), [word.encode() for word in WORDS])
    lines = draw.choice(CFGS).decode().splitlines()
    for _ in range(draw.choice((1, 1, 2, 4, 8))):
        place = draw.randrange(len(lines))
        key, equals, _ = lines[place].partition("=")
        kind = draw.randrange(5)
        if kind == 0 and equals:
            lines[place] = f"{key}={number(draw)}"
        elif kind == 1:
            lines.insert(
                place, f"{draw.choice(WORDS)}={','.join(number(draw) for _ in range(draw.choice((1, 1, 2, 5))))}"
            )
        elif kind == 2:
            lines.insert(place, draw.choice(WORDS))
        elif kind == 3:
            lines.insert(place, lines.pop(draw.randrange(len(lines))))
        elif len(lines) > 1:
            del lines[place]
    return draw.choice(("\n", "\n", "\r\n")).join(lines).encode()


PAIRS = [
    (path, ROOT / "sample_weights" / f"{path.stem}.weights") for path in sorted((ROOT / "sample_cfgs").glob("*.cfg"))
]
PAIRS = [pair for pair in PAIRS if pair[1].stat().st_size < 10_000]
FLOATS = [struct.pack("<f", value) for value in (0, -1, 1e-38, 3e38, float("nan"), float("inf"), -1e-6)]
HEADERS = [
    struct.pack("<iii", *version) for version in ((0, 1, 0), (0, 2, 0), (0, 2, 5), (1, 0, 0), (2000, 0, 0), (-1, 9, 9))
]


def any_pair(draw: Draw) -> bytes:
    """The number of a sample pair, and its weights, damaged or not; two in three have a damaged cfg besides."""
    chosen = draw.randrange(len(PAIRS))
    cfg, weights = (path.read_bytes() for path in PAIRS[chosen])
    weights = damaged(draw, weights, FLOATS + HEADERS) if draw.random() < 0.7 else weights
    if draw.random() < 0.3:
        cfg = damaged(draw, cfg, [word.encode() for word in WORDS])
    return struct.pack("<I", len(cfg)) + cfg + weights


def array_file(draw: Draw) -> bytes:
    """A .npy file as NumPy writes it, of some type, order and version."""
    types = ["f2", "f4", "f8", ">f4", "i4", "c8", "O", "U3", "V8", "f4,i4"]
    shape = [draw.randint(0, 4) for _ in range(draw.randint(0, 5))]
    array = np.zeros(shape, draw.choice(types[:3] if draw.random() < 0.6 else types))
    file = io.BytesIO()
    order = np.asfortranarray(array) if draw.random() < 0.2 else array
    np.lib.format.write_array(file, order, version=draw.choice(((1, 0), (2, 0), (3, 0))), allow_pickle=True)
    return file.getvalue()


SHAPES = [
    f"({', '.join(map(str, sizes))},)".encode()
    for sizes in ((2**62, 4), (10**30,), (2**31, 2**31), (0, 5), (-1, 3), (1,) * 40)
]
HEAD_WORDS = [
    b"'descr'",
    b"'<f4'",
    b"'|O'",
    b"'>f8'",
    b"True",
    b"(",
    b")",
    b"{",
    b"}",
    b"__import__('os')",
    b"'\\x00'",
    *SHAPES,
]


def any_npy(draw: Draw) -> bytes:
    """A .npy file, mostly damaged in its header."""
    data = array_file(draw)
    if draw.random() < 0.1:
        return data
    head = draw.choice((80, 128, len(data)))
    return damaged(draw, data[:head], HEAD_WORDS) + data[head:]


def any_npz(draw: Draw) -> bytes:
    """An archive of some of them, stored or packed, damaged inside or outside; some unpack to more than they say."""
    file = io.BytesIO()
    method = draw.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
    with zipfile.ZipFile(file, "w", method) as archive:
        for name in ("a.npy", "b.npy", "scales.npy", "notes.txt")[: draw.randint(0, 4)]:
            data = any_npy(draw) if draw.random() < 0.5 else array_file(draw)
            archive.writestr(name, data + bytes(draw.choice((0, 0, 0, 1 << 20))))
    data = file.getvalue()
    return (
        damaged(draw, data, [b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06", b"\xff\xff\xff\xff"])
        if draw.random() < 0.7
        else data
    )


OPTIONS = [
    "--layer",
    "--dialect",
    "--format",
    "--epsilon",
    "--bad-variance",
    "--memory",
    "--threads",
    "--shape",
    "--layout",
]
OPTIONS += [
    "--input",
    "--delta",
    "--arithmetic",
    "--rolling",
    "--rolling-keep",
    "--train",
    "--stages",
    "--dry-run",
    "-h",
]
VALUES = [
    "0",
    "1-2",
    "3.wf",
    "9" * 30,
    "1e-5:outside",
    "alexeyab",
    "json",
    "csv",
    "markdown",
    "1MiB",
    "1,2,3",
    "nhwc",
    "-",
    "",
]


def any_arguments(draw: Draw) -> bytes:
    """A command line, its words apart by zero bytes."""
    words = [
        draw.choice(("inspect", "fold", "run", "check", "none")),
        *(["CFG", "WEIGHTS"][: draw.choice((0, 1, 2, 2, 2))]),
    ]
    for _ in range(draw.randint(0, 5)):
        words.append(draw.choice(OPTIONS))
        if draw.random() < 0.8:
            value = draw.choice(VALUES)
            words.append(damaged(draw, value.encode(), [b"-", b"0", b"\xc3\xa9", b",", b"."]).decode(errors="replace"))
    return "\0".join(word.replace("\0", "") for word in words).encode()


# --- what is done with them -------------------------------------------------------------------------------------------


def use_cfg(data: bytes, folder: Path) -> None:
    """Every dialect's network, its plan, and what is odd in it."""
    for dialect in DIALECTS.values():
        try:
            network = build(parse(folder / "net.cfg", data), dialect)
            plan(network, 20)
            _ = network.remarks
        except BnormError:
            continue


def use_pair(data: bytes, folder: Path) -> None:
    """Inspect, check and fold it."""
    cfg, weights = folder / "net.cfg", folder / "net.weights"
    (length,) = struct.unpack_from("<I", data)
    cfg.write_bytes(data[4 : 4 + length])
    weights.write_bytes(data[4 + length :])
    runner = CliRunner()
    check = runner.invoke(command_line, ["check", str(cfg), str(weights), "--format", "json"])
    assert check.exit_code in (0, 1, 2, 3), check.exception
    model = read_model(cfg, weights)
    inspect(model)
    fold(model, None, dry_run=True, bad_variance="clamp")
    report = fold(model, folder / "out.weights", bad_variance="skip", force=True)
    assert (folder / "out.weights").stat().st_size == report.bytes_after


def use_tensor(data: bytes, folder: Path) -> None:
    """Open it, and run batch normalisation on it."""
    path = folder / "x.npy"
    path.write_bytes(data)
    with open_tensor(str(path)) as tensor:
        channels = tensor.channels
    if channels > 64:
        return
    ones, zeros = np.ones(channels), np.zeros(channels)
    np.savez(folder / "p.npz", scales=ones, biases=zeros, rolling_mean=zeros, rolling_variance=ones)
    with Team(1) as team:
        execute(Request((str(path),), params=folder / "p.npz"), team)


def use_params(data: bytes, folder: Path) -> None:
    """The same archive as a tensor and as parameters."""
    (folder / "p.npz").write_bytes(data)
    np.save(folder / "y.npy", np.zeros((2, 3), "f4"))
    with Team(1) as team:
        for name in ("p.npz", "p.npz:a"):
            try:
                execute(Request((str(folder / name),), params=folder / "p.npz"), team)
            except BnormError:
                execute(Request((str(folder / "y.npy"),), params=folder / "p.npz"), team)


def use_arguments(data: bytes, folder: Path) -> None:
    """Any command line ends with a known exit code."""
    (folder / "CFG").write_bytes(PAIRS[0][0].read_bytes())
    (folder / "WEIGHTS").write_bytes(PAIRS[0][1].read_bytes())
    arguments = [str(folder / word) if word in ("CFG", "WEIGHTS") else word for word in data.decode().split("\0")]
    here = Path.cwd()
    os.chdir(folder)
    try:
        result = CliRunner().invoke(command_line, arguments)
    finally:
        os.chdir(here)
    assert isinstance(result.exception, SystemExit | None), result.exception
    assert result.exit_code in (0, 1, 2, 3)


TARGETS = {
    "cfg": Kind(any_cfg, use_cfg),
    "pair": Kind(any_pair, use_pair),
    "npy": Kind(any_npy, use_tensor),
    "npz": Kind(any_npz, use_params),
    "arguments": Kind(any_arguments, use_arguments),
}


# --- the loop ---------------------------------------------------------------------------------------------------------


class Crash(Exception):
    """An input that bnorm did not answer as it promises."""


def try_one(name: str, data: bytes, folder: Path) -> None:
    """Use one input; `Crash` with the reason."""
    begun = time.process_time()
    try:
        with warnings.catch_warnings(action="error"):
            TARGETS[name].use(data, folder)
    except (BnormError, OSError) as error:
        if len(str(error).splitlines()) > 2:
            raise Crash(f"an error of more than two lines: {error}") from error
    except Exception as error:
        raise Crash(traceback.format_exc()) from error
    if (took := time.process_time() - begun) > SLOW:
        raise Crash(f"took {took:.1f} s")


def inputs(name: str, seed: int, runs: int) -> Iterator[bytes]:
    """The target's inputs for this seed."""
    for run in range(runs):
        yield TARGETS[name].make(Draw(f"{name} {seed} {run}"))


def limit_memory() -> None:
    """Let a huge allocation fail instead of making the machine suffer."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def main() -> None:
    """Run the targets that the command line names, print what each did, and keep every input that crashed."""
    parser = argparse.ArgumentParser(description="Feed bnorm with damaged files.")
    parser.add_argument("targets", nargs="*", help=f"{', '.join(TARGETS)}; all by default")
    parser.add_argument("--runs", type=int, default=100_000, help="inputs in all (default: 100000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("crashes"), help="where inputs that crash are kept")
    arguments = parser.parse_args()
    names = arguments.targets or list(TARGETS)
    limit_memory()
    crashes = 0
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        for name in names:
            begun = time.monotonic()
            for data in inputs(name, arguments.seed, arguments.runs // len(names)):
                try:
                    try_one(name, data, Path(folder))
                except Crash as crash:
                    crashes += 1
                    arguments.keep.mkdir(exist_ok=True)
                    (arguments.keep / f"{name}-{crashes}").write_bytes(data)
                    print(f"{name}-{crashes}: {crash}", flush=True)
            print(f"{name}: {arguments.runs // len(names)} inputs in {time.monotonic() - begun:.0f} s", flush=True)
    print(f"{crashes} crashes")
    sys.exit(bool(crashes))


if __name__ == "__main__":
    main()
