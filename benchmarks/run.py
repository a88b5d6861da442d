"""Time bnorm against what people use today, and print ratios: see README.md in this folder."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bnorm.batchnorm.arithmetic import ARITHMETICS
from bnorm.batchnorm.engine import Normalisation, run_batch
from bnorm.batchnorm.engines import Kernels, has_numba, kernels_of
from bnorm.batchnorm.formulas import Parameters, Rolling
from bnorm.batchnorm.threads import Team, processors
from bnorm.darknet.autodetect import read_model
from bnorm.darknet.weights import save
from bnorm.tensors.tensor import MemoryTensor

SHAPES = [
    (8, 32, 208, 208),
    (32, 64, 52, 52),
    (16, 512, 26, 26),
    (64, 256, 13, 13),
    (64, 1024, 13, 13),
    (1, 3, 1024, 1024),
    (4096, 1024),
]
OWN = ("numpy", "numba") if has_numba() else ("numpy",)
HAS_DASK = find_spec("distributed") is not None
REPEATS = 9
PAUSE = 0.01  # seconds in which PyTorch's threads go to sleep
LOOP = 3  # calls in a row, of which the last is timed: threads are awake then, and memory is at hand


class Row(NamedTuple):
    """One comparison: `ratio` is the other's time divided by bnorm's."""

    part: str
    what: str
    against: str
    seconds: float
    other_seconds: float
    peak_mb: float | None = None

    @property
    def ratio(self) -> float:
        return self.other_seconds / self.seconds


def in_turn(*ways: Callable[[], object], repeats: int = REPEATS, calls: int = 1) -> list[float]:
    """Median seconds of each, timed alternately, so many calls each time; the first time does not count."""
    times: list[list[float]] = [[] for _ in ways]
    for repeat in range(repeats + 1):
        for call, kept in zip(ways, times, strict=True):
            time.sleep(PAUSE)
            taken = [_seconds(call) for _ in range(calls)]
            kept.extend(taken[-1:] if repeat else [])
    return [statistics.median(kept) for kept in times]


def _seconds(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


# --- kernels ----------------------------------------------------------------------------------------------------------


class Case:
    """One shape: random data, and what bnorm, PyTorch and a textbook do with it."""

    def __init__(self, shape: tuple[int, ...], team: Team) -> None:
        rng = np.random.default_rng(sum(shape))
        self.x, self.delta = (rng.standard_normal(shape, dtype=np.float32) for _ in range(2))
        channels = shape[1]
        self.parameters = Parameters(rng.random(channels) + 0.5, rng.standard_normal(channels))
        self.axes = tuple(axis for axis in range(len(shape)) if axis != 1)
        self.wide = (1, channels, *(1,) * (len(shape) - 2))
        self.rolling = Rolling(self.x.mean(self.axes, dtype=np.float64), self.x.var(self.axes, dtype=np.float64))
        self.team = team

    def bnorm(self, mode: str, kernels: Kernels) -> np.ndarray:
        """y, or dx."""
        out = np.empty_like(self.x)
        name, arithmetic = ("dx", "pjreddie-gpu") if mode == "backward" else ("y", "paper")
        layer = Normalisation(self.parameters, self.rolling, ARITHMETICS[arithmetic], mode == "training")
        delta = MemoryTensor(self.delta) if mode == "backward" else None
        run_batch(layer, MemoryTensor(self.x), delta, {name: MemoryTensor(out)}, self.team, kernels=kernels)
        return out

    def copy(self) -> np.ndarray:
        """A copy of x, by as many threads: what moving the bytes costs."""
        out = np.empty_like(self.x)
        new, old = out.reshape(-1), self.x.reshape(-1)
        cuts = np.linspace(0, old.size, self.team.threads + 1, dtype=int).tolist()
        self.team.each(lambda part, _: np.copyto(new[part], old[part]), list(map(slice, cuts[:-1], cuts[1:])))
        return out

    def textbook(self, mode: str) -> np.ndarray:
        """The expressions that people write, in NumPy and float32."""
        x, delta = self.x, self.delta
        scales, biases = (vector.astype(np.float32).reshape(self.wide) for vector in self.parameters)
        mean, variance = (vector.astype(np.float32).reshape(self.wide) for vector in self.rolling)
        if mode == "training":
            mean, variance = x.mean(self.axes, keepdims=True), x.var(self.axes, keepdims=True)
        x_norm = (x - mean) / np.sqrt(variance + np.float32(1e-5))
        if mode != "backward":
            return scales * x_norm + biases
        along = (delta * x_norm).mean(self.axes, keepdims=True)
        inner = delta - delta.mean(self.axes, keepdims=True) - x_norm * along
        return scales / np.sqrt(variance + np.float32(1e-5)) * inner

    def torch(self, mode: str) -> Callable[[], np.ndarray]:
        """The same in PyTorch, ready to be called."""
        import torch

        x, delta = torch.from_numpy(self.x), torch.from_numpy(self.delta)
        scales, biases, mean, variance = (
            torch.from_numpy(vector.astype(np.float32)) for vector in (*self.parameters, *self.rolling)
        )
        kernels = torch.ops.aten
        _, saved_mean, saved_inverse = kernels.native_batch_norm(x, scales, biases, mean, variance, True, 0.0, 1e-5)

        def call() -> np.ndarray:
            if mode != "backward":
                train = mode == "training"
                return kernels.native_batch_norm(x, scales, biases, mean, variance, train, 0.1, 1e-5)[0].numpy()
            return kernels.native_batch_norm_backward(
                delta, x, scales, mean, variance, saved_mean, saved_inverse, True, 1e-5, [True, True, True]
            )[0].numpy()

        return call


def kernels() -> Iterator[Row]:
    """Each shape and mode with each engine against PyTorch, the textbook, and a copy of the array."""
    threads = processors()
    with_torch = _has_torch(threads)
    with Team(threads) as team:
        for shape in SHAPES:
            case = Case(shape, team)
            for mode in ("training", "inference", "backward"):
                yield from _compared(case, mode, f"{shape} {mode}", with_torch)


def _compared(case: Case, mode: str, what: str, with_torch: bool) -> Iterator[Row]:
    """Time all ways in turn, after comparing their results: those of the engines are the same bits."""
    ways: dict[str, Callable[[], np.ndarray]] = {name: partial(case.bnorm, mode, kernels_of(name, 0)) for name in OWN}
    others: dict[str, Callable[[], np.ndarray]] = {"textbook NumPy": partial(case.textbook, mode)}
    if with_torch:
        others["PyTorch"] = case.torch(mode)
    results = [way() for way in ways.values()]
    assert all(result.tobytes() == results[0].tobytes() for result in results)
    for other in others.values():
        np.testing.assert_allclose(results[0], other(), rtol=1e-3, atol=1e-4)
    others["a copy of the array"] = case.copy
    seconds = dict(zip([*ways, *others], in_turn(*ways.values(), *others.values(), calls=LOOP), strict=True))
    for way in ways:
        for other in others:
            yield Row(f"kernels, {way}", what, other, seconds[way], seconds[other])


def _has_torch(threads: int) -> bool:
    try:
        import torch
    except ImportError:
        return False
    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    return True


# --- whole processes --------------------------------------------------------------------------------------------------

BNORM = [sys.executable, "-m", "bnorm"]
ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}  # as installed
TORCH_SCRIPT = """
import numpy, sys, torch
x, p, channels = torch.from_numpy(numpy.load("x.npy")), numpy.load("p.npz"), -1 if sys.argv[1] == "nhwc" else 1
s, b, m, v = (torch.from_numpy(p[k]).float() for k in ("scales", "biases", "rolling_mean", "rolling_variance"))
y = torch.nn.functional.batch_norm(x.movedim(channels, 1), m, v, s, b, False, 0.1, 1e-5)
numpy.save("torch.npy", y.movedim(1, channels).numpy())
"""


def _call(folder: Path, *command: str) -> Callable[[], object]:
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return lambda: subprocess.run(command, cwd=folder, env=ENVIRONMENT, check=True, **silent)


def _peak_mb(folder: Path, *command: str) -> float:
    """The peak of resident memory of one command."""
    script = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=2, stderr=2);"
    script += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    done = subprocess.run(
        [sys.executable, "-c", script, *command],
        cwd=folder,
        env=ENVIRONMENT,
        check=True,
        capture_output=True,
        text=True,
    )
    return int(done.stdout) / 1000


def _save_tensor(folder: Path, shape: tuple[int, ...], channels: int) -> None:
    rng = np.random.default_rng(0)
    x = np.lib.format.open_memmap(folder / "x.npy", "w+", np.float32, shape)
    for image in x:
        image[:] = rng.standard_normal(image.shape, dtype=np.float32)
    x.flush()
    ones, zeros = np.ones(channels), np.zeros(channels)
    np.savez(folder / "p.npz", scales=ones, biases=zeros, rolling_mean=zeros, rolling_variance=ones)


def process() -> Iterator[Row]:
    """The whole of `bnorm run` on 44 MB, in both layouts."""
    if not _has_torch(processors()):
        return
    images, channels, height, width = SHAPES[0]
    for layout, shape in (("nchw", SHAPES[0]), ("nhwc", (images, height, width, channels))):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            _save_tensor(folder, shape, channels)
            options = f"--params p.npz --arithmetic paper --input x.npy --layout {layout} -o out --force"
            own = (*BNORM, "run", *options.split())
            calls = _call(folder, *own), _call(folder, sys.executable, "-c", TORCH_SCRIPT, layout)
            for call in calls:
                call()
            found, other = np.load(folder / "out/y.npy"), np.load(folder / "torch.npy")
            np.testing.assert_allclose(found, other, rtol=1e-4, atol=1e-5)
            yield Row("process", f"bnorm run, 44 MB, {layout}", "PyTorch script", *in_turn(*calls))


def stream(gigabytes: int) -> Iterator[Row]:
    """A tensor of some gigabytes in training, against a copy; both end on the disk."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _save_tensor(folder, (32 * gigabytes, 64, 512, 256), 64)
        own = (*BNORM, "run", "--params", "p.npz", "--train", "--input", "x.npy", "-o", "out", "--force")
        copy = ("sh", "-c", "cp x.npy copy.npy && sync copy.npy")
        for engine in OWN:
            chosen = (*own, "--engine", engine)
            times = in_turn(_call(folder, *chosen), _call(folder, *copy), repeats=2)
            what = f"bnorm run --train, {gigabytes} GiB, {engine}"
            yield Row("stream", what, "cp and sync", *times, _peak_mb(folder, *chosen))


def _save_model(folder: Path) -> None:
    """A network of 296 MB and 108 layers, somewhat more than YOLOv4 has: large convolutions, and many small ones."""
    section = "[convolutional]\nbatch_normalize=1\nfilters={}\nsize={}\nstride=1\npad=1\nactivation=leaky\n"
    sizes = [(64, 3), *[(1024, 3)] * 7, *[(256, 1), (128, 3)] * 50]
    (folder / "net.cfg").write_text(
        "[net]\nwidth=64\nheight=64\nchannels=3\n" + "".join(section.format(*size) for size in sizes)
    )
    model = read_model(folder / "net.cfg")
    rng = np.random.default_rng(0)
    arrays = (rng.random(array.shape, dtype=np.float32) + np.float32(0.1) for array in model.layout.arrays)
    save(folder / "net.weights", model.header, model.layout, arrays)


def fold() -> Iterator[Row]:
    """That file, against a copy of it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _save_model(folder)
        own = (*BNORM, "fold", "net.cfg", "net.weights", "-o", "out.weights", "--force")
        copy = ("sh", "-c", "cp net.weights copy.weights && sync copy.weights")
        size = (folder / "net.weights").stat().st_size / 1e6
        times = in_turn(_call(folder, *own), _call(folder, *copy))
        yield Row("fold", f"bnorm fold, {size:.0f} MB", "cp and sync", *times, _peak_mb(folder, *own))


CONVERSION = "--epsilon-from darknet --epsilon-to opencv --to pjreddie --header 16".split()


def convert() -> Iterator[Row]:
    """That file for another ε, fork and header; compared with a copy, and by function with the converted file."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _save_model(folder)
        copy = _call(folder, "sh", "-c", "cp net.weights copy.weights && sync copy.weights")
        copy()
        size = (folder / "net.weights").stat().st_size / 1e6
        function = "--cfg-b out.cfg --function --epsilon-b opencv --dialect-b pjreddie".split()
        for command in (
            ("convert", "net.cfg", "net.weights", "-o", "out.weights", "--force", *CONVERSION),
            ("diff", "net.cfg", "net.weights", "copy.weights"),
            ("diff", "net.cfg", "net.weights", "out.weights", *function),
        ):
            own = (*BNORM, *command)
            what = f"bnorm {command[0]}{' --function' * ('--function' in command)}, {size:.0f} MB"
            yield Row("convert", what, "cp and sync", *in_turn(_call(folder, *own), copy), _peak_mb(folder, *own))


EXPORTS = ("npz", "safetensors", "wts", "folder", *(["onnx"] if find_spec("onnx") else []))
IMPORTS = ("npz", "safetensors")  # what export writes and import reads


def exchange() -> Iterator[Row]:
    """That file in other formats, and back: the same bytes. C, of which there would be 1 GB, is not timed."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _save_model(folder)
        weights = (folder / "net.weights").read_bytes()
        copy = _call(folder, "sh", "-c", "cp net.weights copy.weights && sync copy.weights")
        size = f"{len(weights) / 1e6:.0f} MB"
        for suffix in EXPORTS:
            target = "out" if suffix == "folder" else f"out.{suffix}"
            # Without a run of the graph: 0.5 trillion multiplications in float64.
            own = (*BNORM, "export", "net.cfg", "net.weights", "-o", target, "--force", "--no-verify")
            times = in_turn(_call(folder, *own), copy)
            yield Row("exchange", f"bnorm export {suffix}, {size}", "cp and sync", *times, _peak_mb(folder, *own))
        for suffix in IMPORTS:
            own = (*BNORM, "import", "net.cfg", f"out.{suffix}", "-o", "back.weights", "--force")
            _call(folder, *own)()
            assert (folder / "back.weights").read_bytes()[20:] == weights[20:]
            times = in_turn(_call(folder, *own), copy)
            yield Row("exchange", f"bnorm import {suffix}, {size}", "cp and sync", *times, _peak_mb(folder, *own))


def start() -> Iterator[Row]:
    """What a short command costs."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _save_model(folder)
        imports = (sys.executable, "-c", "import numpy, click, rich.table")
        for command in (["inspect"], ["inspect", "--channels", "--top", "9"], ["check"]):
            own = (*BNORM, *command, "net.cfg", "net.weights")
            times = in_turn(_call(folder, *own), _call(folder, *imports))
            yield Row("start", f"bnorm {' '.join(command[:2])}", "imports", *times, _peak_mb(folder, *own))
        click = (sys.executable, "-c", "import click")
        yield Row(
            "start", "bnorm --help", "import click", *in_turn(_call(folder, *BNORM, "--help"), _call(folder, *click))
        )


MANY = ((400, (8, 32, 26, 26)), (40, (26, 64, 102, 102)))  # files of 0.7 MB, and of 69 MB
SPREAD = {"threads": (), "one thread": ("--threads", "1"), "a Dask cluster": ("--scheduler", "local")}


def moments() -> Iterator[Row]:
    """The moments of many files, in three ways, against a copy of the files; the results are the same bytes."""
    for count, shape in MANY:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            _save_tensors(folder, count, shape)
            own = (*BNORM, "run", "--params", "p.npz", "--inputs", "list.txt", "--force", "--moments", "m.npz")
            ways = {way: (*own, *options) for way, options in SPREAD.items() if way != "a Dask cluster" or HAS_DASK}
            results = []
            for command in ways.values():
                _call(folder, *command)()
                results.append((folder / "m.npz").read_bytes())
            assert all(result == results[0] for result in results)
            copy = _call(folder, "sh", "-c", "cp -r x copy && sync copy && rm -r copy")
            *seconds, copied = in_turn(*(_call(folder, *command) for command in ways.values()), copy, repeats=5)
            size = (folder / "x/0.npy").stat().st_size / 1e6
            for (way, command), taken in zip(ways.items(), seconds, strict=True):
                what = f"moments of {count} files of {size:.1f} MB, {way}"
                yield Row("moments", what, "cp and sync", taken, copied, _peak_mb(folder, *command))


def _save_tensors(folder: Path, count: int, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    (folder / "x").mkdir()
    for number in range(count):
        np.save(folder / f"x/{number}.npy", rng.standard_normal(shape, dtype=np.float32))
    (folder / "list.txt").write_text("".join(f"x/{number}.npy\n" for number in range(count)))
    ones, zeros = np.ones(shape[1]), np.zeros(shape[1])
    np.savez(folder / "p.npz", scales=ones, biases=zeros, rolling_mean=zeros, rolling_variance=ones)


COMPILED = """
import time
import numpy as np
from bnorm.batchnorm.arrays import batch_normalize
from bnorm.batchnorm.formulas import Parameters, Rolling
vector, begun = np.ones(8), time.perf_counter()
x, layer = np.ones((4, 8, 9, 9), "f4"), (Parameters(vector, vector), Rolling(vector, vector))
batch_normalize(x, *layer, train=True, engine="numba")
print(time.perf_counter() - begun)
"""


def compiled() -> Iterator[Row]:
    """The first call of the compiled engine in a fresh process: compiled, and from the cache."""
    if "numba" not in OWN:
        return
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"NUMBA_CACHE_DIR": cache}
        command = [sys.executable, "-c", COMPILED]
        first, cached = (
            float(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)
            for _ in range(2)
        )
        yield Row("compiled", f"first call, from the cache: {cached:.2f} s", f"compiled: {first:.1f} s", cached, first)


def described(rows: list[Row]) -> Iterator[str]:
    """The table in Markdown: the machine, the geometric means of the kernels, and a row for each comparison."""
    names = ("numpy", "numba", "torch", "click", "rich")
    versions = {name: version(name) for name in names if find_spec(name)}
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    yield f"{date.today()}, {_processor()}, {processors()} processors{load}, Python {platform.python_version()}"
    yield ", ".join(f"{name} {number}" for name, number in versions.items()) + "\n"
    for part in dict.fromkeys(row.part for row in rows if row.part.startswith("kernels")):
        for against in ("PyTorch", "textbook NumPy"):
            ratios = [row.ratio for row in rows if row.part == part and row.against == against]
            if ratios:
                mean = statistics.geometric_mean(ratios)
                yield f"{part} against {against}: geometric mean {mean:.2f}x, smallest {min(ratios):.2f}x\n"
    yield from _kernel_table([row for row in rows if row.part.startswith("kernels")])
    others = [row for row in rows if not row.part.startswith("kernels")]
    if others:
        yield "| part | what | seconds | against | ratio | peak MB |\n| --- | --- | ---: | --- | ---: | ---: |"
    for row in others:
        peak = f"{row.peak_mb:.0f}" if row.peak_mb else ""
        yield f"| {row.part} | {row.what} | {row.seconds:.4g} | {row.against} | {row.ratio:.2f} | {peak} |"


def _kernel_table(rows: list[Row]) -> Iterator[str]:
    """One row for each engine, shape and mode, with the ratio to everything that it is compared with."""
    against = list(dict.fromkeys(row.against for row in rows))
    if rows:
        yield f"| kernels | ms | {' | '.join(against)} |\n| --- | ---: |{' ---: |' * len(against)}"
    for part, what in dict.fromkeys((row.part, row.what) for row in rows):
        case = {row.against: row for row in rows if (row.part, row.what) == (part, what)}
        milliseconds = next(iter(case.values())).seconds * 1000
        ratios = " | ".join(f"{case[other].ratio:.2f}" for other in against)
        yield f"| {part.removeprefix('kernels, ')}, {what} | {milliseconds:.2f} | {ratios} |"
    if rows:
        yield ""


def _processor() -> str:
    """The processor's name."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.processor())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parts_help = "kernels, compiled, process, stream, fold, convert, exchange, moments, start; all by default"
    parser.add_argument("parts", nargs="*", help=parts_help)
    parser.add_argument("--gigabytes", type=int, default=2, help="size of the streamed tensor")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--table", type=Path, help="also write the table to this file")
    arguments = parser.parse_args()
    parts = {
        "kernels": kernels,
        "compiled": compiled,
        "process": process,
        "stream": lambda: stream(arguments.gigabytes),
        "fold": fold,
        "convert": convert,
        "exchange": exchange,
        "moments": moments,
        "start": start,
    }
    rows = [row for name in arguments.parts or parts for row in parts[name]()]
    table = "\n".join(described(rows)) + "\n"
    print(table)
    if arguments.table:
        arguments.table.write_text(table)
    if arguments.json:
        arguments.json.write_text(json.dumps([row._asdict() | {"ratio": row.ratio} for row in rows], indent=1))


if __name__ == "__main__":
    main()
