"""`bnorm run`: one layer's batch normalisation on saved tensors, forward and backward."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from bnorm.batchnorm.arithmetic import ALIASES, ARITHMETICS
from bnorm.batchnorm.batches import Progress
from bnorm.batchnorm.engine import MEMORY
from bnorm.batchnorm.engines import ENGINES
from bnorm.batchnorm.epsilon import Vector
from bnorm.batchnorm.rolling import ROLLING
from bnorm.cli import options, render, terminal
from bnorm.cli.progress import progress
from bnorm.cli.run_options import RunCommand, RunOptions
from bnorm.cli.run_page import estimate_page, layers_page, run_page, sizes_text
from bnorm.darknet.autodetect import read_model
from bnorm.darknet.model import Model
from bnorm.darknet.weights import copy
from bnorm.extras import require
from bnorm.replay.estimate import EstimateReport, estimate
from bnorm.replay.job import ALL, RunReport, run
from bnorm.tensors.tensor import LAYOUTS


@click.command(name="run", cls=RunCommand)
@click.argument("cfg", type=options.FILE, required=False)
@options.weights_argument
@click.option(
    "--layer",
    "layers",
    type=options.layer_parts,
    metavar="N[.PART]",
    help="Layer, or part of a recurrent one: 12, 3.wf. For several, 3,5,12, with {layer} in the names of all files.",
)
@click.option(
    "--params",
    type=options.FILE,
    help="Take scales, biases, rolling_mean and rolling_variance from this .npz instead of a model.",
)
@click.option(
    "--input",
    "inputs",
    metavar="TENSOR",
    multiple=True,
    help="Input tensor: the layer's own output before bias, normalisation and activation. Repeat it, or give a pattern "
    "such as 'x*.npy', for consecutive mini-batches.",
)
@click.option(
    "--inputs",
    "lists",
    type=options.FILE,
    metavar="LIST.txt",
    multiple=True,
    help="Text file of more inputs, one on each line, for thousands of them.",
)
@click.option(
    "--delta",
    "deltas",
    metavar="TENSOR",
    multiple=True,
    help="Upstream gradient, one per input in the same order; also runs backward.",
)
@click.option("--train", is_flag=True, help="Normalise by the mini-batch's own moments, and update rolling statistics.")
@click.option("-o", "--output", type=options.FILE, help="Folder for .npy files, or FILE.npz. Default: a summary.")
@options.force_option
@click.option(
    "--against",
    type=options.FILE,
    metavar="REF",
    help="Compare with these results: a folder or .npz with the names that -o writes, such as y and dx.",
)
@click.option(
    "--arithmetic",
    type=click.Choice([*ARITHMETICS, *ALIASES, ALL]),
    metavar="NAME",
    help=f"Whose formulas to use: {', '.join(ARITHMETICS)}. torch is paper; all compares each of them with --against. "
    "By default the CPU path of the dialect, with --params pjreddie's.",
)
@options.epsilon_option(None, "arithmetic")
@options.bad_variance_option
@click.option(
    "--rolling",
    type=click.Choice(ROLLING),
    default="ema",
    show_default=True,
    help="How rolling statistics are updated: darknet's exponential average (ema); the paper's average of the "
    "mini-batches' moments; or the moments of all values together (population).",
)
@click.option(
    "--rolling-keep",
    "keep",
    type=float,
    metavar="FRACTION",
    help="Fraction of the old statistics kept by ema. By default the arithmetic's.",
)
@click.option(
    "--update-weights",
    type=options.FILE,
    help="Write a copy of WEIGHTS with the layer's new rolling statistics, or with those of all layers.",
)
@click.option(
    "--moments",
    "save_moments",
    type=options.FILE,
    metavar="OUT.npz",
    help="Train, write the moments of each input and no y: for --from-moments, which merges them.",
)
@click.option(
    "--from-moments",
    "moments",
    metavar="M.npz ...",
    multiple=True,
    help="Train on the inputs whose moments these files hold, in this order.",
)
@click.option(
    "--scheduler",
    metavar="local|ADDRESS|FILE.json",
    help="Train on a Dask cluster (needs distributed), without y: a new cluster for this run, or an existing one.",
)
@click.option("--stages", is_flag=True, help="Also write x_norm, mean_delta and variance_delta.")
@click.option(
    "--layout", type=click.Choice(LAYOUTS), default="nchw", show_default=True, help="Axis order of 3-D and 4-D tensors."
)
@click.option("--shape", type=options.shape, metavar="N,C,H,W", help="Shape of raw float32 files.")
@click.option(
    "--threads",
    type=click.IntRange(1, 1024),
    metavar="N",
    help="Number of threads. By default the processors that this process may use.",
)
@click.option(
    "--memory",
    type=options.memory_size,
    metavar="SIZE",
    default=f"{MEMORY >> 20}MiB",
    show_default=True,
    help="Working memory, such as 1GiB.",
)
@options.trailing_option
@click.option(
    "--engine",
    type=click.Choice(ENGINES),
    default="auto",
    show_default=True,
    help="NumPy, or compiled loops (with Numba); auto takes the latter where they repay their start.",
)
@options.dialect_option
@options.format_option
@options.quiet_option
def command(**values: Any) -> None:
    """Run one layer's batch normalisation on saved tensors: at inference, in training, and backward.

    \b
    bnorm run net.cfg net.weights --layer 12 --input x.npy -o out
    bnorm run net.cfg net.weights --layer 3.wf --input x.npy --delta d.npy --train
    bnorm run --params p.npz --input a.npy --input b.npy --train -o out
    bnorm run net.cfg net.weights --layer 12 --input x.npy --against port.npz
    bnorm run net.cfg net.weights --layer 3,5 --input 'x{layer}.npy' -o 'y{layer}'
    bnorm run net.cfg net.weights --layer 12 --inputs list.txt --moments m.npz
    bnorm run net.cfg net.weights --layer 12 --from-moments a.npz b.npz -o out

    x is what the layer itself computes, before bias, normalisation and activation: not the layer's input. Tensors are
    .npy, .npz (with one array, or FILE.npz:KEY), or raw little-endian float32 with --shape; their axes are (N,C),
    (C,H,W) or (N,C,H,W), their type is float16, float32 or float64. The results are y, dx, mean, variance,
    rolling_mean, rolling_variance, scale_updates and bias_updates, as far as they apply. With --moments,
    --from-moments or --scheduler they are rolling_mean and rolling_variance alone. None of --threads, --memory,
    --engine and --scheduler changes any bit of a result.
    """
    asked = RunOptions(**values)
    asked.check()
    model = read_model(*options.full_pair(asked.cfg, asked.weights), asked.dialect) if asked.cfg else None
    asked.check_outputs()
    with progress("running") as advance:
        reports = [*(_estimates if asked.estimates else _runs)(asked, model, advance)]
    if model and asked.shared_weights:
        copy(model, asked.shared_weights, _arrays(reports), asked.trailing)
    if model:
        terminal.note(model)
    for report in reports:
        if isinstance(report, RunReport) and report.other_sizes:
            terminal.say(sizes_text(report.other_sizes))
    pages = [estimate_page(report) if isinstance(report, EstimateReport) else run_page(report) for report in reports]
    names = [str(layer) for layer in asked.chosen]
    render.show(layers_page(names, pages, asked.shared_weights) if len(pages) > 1 else pages[0], asked.format_)


def _runs(asked: RunOptions, model: Model | None, advance: Progress | None) -> Iterator[RunReport]:
    for layer in asked.chosen:
        yield run(model, layer, **asked.run_arguments(layer), progress=advance)


def _estimates(asked: RunOptions, model: Model | None, advance: Progress | None) -> Iterator[EstimateReport]:
    with _workers(asked.scheduler) as executor:
        for layer in asked.chosen:
            yield estimate(model, layer, **asked.estimate_arguments(layer), **executor, progress=advance)


@contextmanager
def _workers(scheduler: str | None) -> Iterator[dict[str, Any]]:
    """Yield the arguments of `estimate` for the workers of a cluster; empty without a scheduler."""
    if scheduler is None:
        yield {}
        return
    require("distributed", of=Path(scheduler))
    from bnorm.replay.cluster import cluster_workers  # takes half a second

    with cluster_workers(scheduler) as workers:
        if workers.dashboard and sys.stderr.isatty():
            terminal.say(f"dashboard {workers.dashboard}")
        yield {"executor": workers.executor, "workers": workers.at_once}


def _arrays(reports: Sequence[RunReport | EstimateReport]) -> dict[tuple[int, str], Vector]:
    """Return the rolling statistics of all layers by the names of their arrays."""
    arrays: dict[tuple[int, str], Vector] = {}
    for report in reports:
        if source := report.request.model_layer:
            arrays |= source.rolling_arrays(report.rolling)
    return arrays
