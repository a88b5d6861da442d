"""`bnorm run`: one layer's batch normalisation on saved tensors, forward and backward."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import click

from bnorm.batchnorm.arithmetic import ALIASES, ARITHMETICS
from bnorm.batchnorm.engine import LEAST_MEMORY, MEMORY
from bnorm.batchnorm.engines import ENGINES, has_numba
from bnorm.batchnorm.epsilon import Epsilon
from bnorm.cli import options, render, terminal
from bnorm.cli.progress import progress
from bnorm.cli.run_page import layers_page, run_page, sizes_text
from bnorm.darknet.autodetect import read_model
from bnorm.replay.job import ALL, run
from bnorm.replay.request import ROLLING, tensor_names
from bnorm.tensors.tensor import LAYOUTS


@click.command(name="run", cls=options.Command)
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
    required=True,
    help="Input tensor: the layer's own output before bias, normalisation and activation. Repeat it, or give a pattern "
    "such as 'x*.npy', for consecutive mini-batches.",
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
    help="How rolling statistics are updated: darknet's exponential average, or the paper's average.",
)
@click.option(
    "--rolling-keep",
    "keep",
    type=float,
    metavar="FRACTION",
    help="Fraction of the old statistics kept by ema. By default the arithmetic's.",
)
@click.option(
    "--update-weights", type=options.FILE, help="Write a copy of WEIGHTS with the layer's new rolling statistics."
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
    help="NumPy, or compiled loops (bnorm[fast]); auto takes the latter where they repay their start.",
)
@options.dialect_option
@options.format_option
@options.quiet_option
def command(
    cfg: Path | None,
    weights: Path | None,
    layers: Sequence[options.LayerPart] | None,
    params: Path | None,
    inputs: tuple[str, ...],
    deltas: tuple[str, ...],
    train: bool,
    output: Path | None,
    force: bool,
    against: Path | None,
    arithmetic: str | None,
    epsilon: Epsilon | None,
    bad_variance: str,
    rolling: str,
    keep: float | None,
    update_weights: Path | None,
    stages: bool,
    layout: str,
    shape: tuple[int, ...] | None,
    threads: int | None,
    memory: int,
    trailing: str,
    engine: str,
    dialect: str,
    format_: str,
) -> None:
    """Run one layer's batch normalisation on saved tensors: at inference, in training, and backward.

    \b
    bnorm run net.cfg net.weights --layer 12 --input x.npy -o out
    bnorm run net.cfg net.weights --layer 3.wf --input x.npy --delta d.npy --train
    bnorm run --params p.npz --input a.npy --input b.npy --train -o out
    bnorm run net.cfg net.weights --layer 12 --input x.npy --against port.npz
    bnorm run net.cfg net.weights --layer 3,5 --input 'x{layer}.npy' -o 'y{layer}'

    x is what the layer itself computes, before bias, normalisation and activation: not the layer's input. Tensors are
    .npy, .npz (with one array, or FILE.npz:KEY), or raw little-endian float32 with --shape; their axes are (N,C),
    (C,H,W) or (N,C,H,W), their type is float16, float32 or float64. The results are y, dx, mean, variance,
    rolling_mean, rolling_variance, scale_updates and bias_updates, as far as they apply. None of --threads, --memory
    and --engine changes any bit of a result.
    """
    _check_source(cfg, layers, params)
    if trailing != "error" and params:
        raise click.UsageError("--trailing needs CFG WEIGHTS")
    _check_rolling(rolling, keep, train)
    if arithmetic == ALL and (not against or output or update_weights):
        raise click.UsageError("--arithmetic all needs --against, and writes nothing")
    if memory < LEAST_MEMORY:
        raise click.UsageError(f"--memory is {memory:,} bytes, expected at least {LEAST_MEMORY >> 20}MiB")
    if engine == "numba" and not has_numba():
        raise click.ClickException("--engine numba needs Numba: install bnorm[fast]")
    if update_weights and not (cfg and train):
        raise click.UsageError("--update-weights needs CFG WEIGHTS and --train")
    model = read_model(*options.full_pair(cfg, weights), dialect) if cfg else None
    chosen: Sequence[options.LayerPart | None] = layers or (None,)
    if len(chosen) > 1:
        _check_patterns([*inputs, *deltas, *(str(path) for path in (output, update_weights, against) if path)])
    runs = [_named(layer, inputs, deltas, output, update_weights, against) for layer in chosen]
    for each in runs:
        _check_tensors(each.inputs, each.deltas, each.output)
    with progress("running") as advance:
        reports = [
            run(
                model,
                layer,
                params=params,
                train=train,
                arithmetic=arithmetic,
                rolling=rolling,
                keep=keep,
                stages=stages,
                layout=layout,
                shape=shape,
                force=force,
                epsilon=epsilon,
                bad_variance=bad_variance,
                trailing=trailing,
                memory=memory,
                threads=threads,
                engine=engine,
                progress=advance,
                **each._asdict(),
            )
            for layer, each in zip(chosen, runs, strict=True)
        ]
    if model:
        terminal.note(model)
    for report in reports:
        if report.other_sizes:
            terminal.say(sizes_text(report.other_sizes))
    page = layers_page([str(layer) for layer in chosen], reports) if len(chosen) > 1 else run_page(reports[0])
    render.show(page, format_)


LAYER = "{layer}"  # in a name, replaced by the layer or part


class Names(NamedTuple):
    """The names of what a run reads and writes, for one layer."""

    inputs: tuple[str, ...]
    deltas: tuple[str, ...]
    output: Path | None
    update_weights: Path | None
    against: Path | None


def _named(layer: options.LayerPart | None, inputs: Sequence[str], deltas: Sequence[str], *paths: Path | None) -> Names:
    """Return the names with the layer filled in, and patterns as the files that they match."""
    name = str(layer)
    inputs, deltas = (tensor_names([text.replace(LAYER, name) for text in texts]) for texts in (inputs, deltas))
    return Names(inputs, deltas, *(Path(str(path).replace(LAYER, name)) if path else None for path in paths))


def _check_patterns(names: Sequence[str]) -> None:
    """Refuse names that are the same for several layers."""
    for name in names:
        if LAYER not in name:
            raise click.UsageError(f"{name}: expected {LAYER} in it, which becomes the number of each --layer")


def _check_source(cfg: Path | None, layers: Sequence[options.LayerPart] | None, params: Path | None) -> None:
    if bool(cfg) == bool(params):
        raise click.UsageError("expected either CFG WEIGHTS or --params")
    if cfg and not layers:
        raise click.UsageError("Missing option '--layer', which CFG WEIGHTS need.")
    if params and layers:
        raise click.UsageError("--layer needs CFG WEIGHTS; --params are those of one layer")


def _check_tensors(inputs: Sequence[str], deltas: Sequence[str], output: Path | None) -> None:
    if deltas and len(deltas) != len(inputs):
        raise click.UsageError(f"expected one --delta per --input, got {len(deltas)} for {len(inputs)}")
    if output and output.suffix == ".npz" and len(inputs) > 1:
        raise click.UsageError("a .npz output holds the results of one --input; give a folder for several")


def _check_rolling(rolling: str, keep: float | None, train: bool) -> None:
    if keep is not None and not 0 <= keep <= 1:
        raise click.UsageError(f"--rolling-keep is {keep}, expected a fraction from 0 to 1")
    if rolling == "average" and keep is not None:
        raise click.UsageError("--rolling-keep needs --rolling ema")
    if (rolling != "ema" or keep is not None) and not train:
        raise click.UsageError("--rolling and --rolling-keep need --train")
