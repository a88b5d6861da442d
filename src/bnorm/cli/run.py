"""`bnorm run`: one layer's batch normalisation on saved tensors, forward and backward."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from bnorm.batchnorm.arithmetic import ARITHMETICS
from bnorm.batchnorm.engine import LEAST_MEMORY, MEMORY
from bnorm.cli import options, render, terminal
from bnorm.cli.documents import Document, run_document, run_result
from bnorm.cli.page import BLANK, Column, Line, Page, Records, Table
from bnorm.cli.progress import progress
from bnorm.darknet.autodetect import read_model
from bnorm.replay.job import RunReport, run
from bnorm.replay.request import ROLLING
from bnorm.tensors.tensor import LAYOUTS


@click.command(name="run")
@click.argument("cfg", type=options.FILE, required=False)
@options.weights_argument
@click.option(
    "--layer", type=options.layer_part, metavar="N[.PART]", help="Layer, or part of a recurrent one: 12, 3.wf."
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
    help="Input tensor; repeat it for consecutive mini-batches.",
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
@click.option(
    "--arithmetic",
    type=click.Choice(list(ARITHMETICS)),
    help="Whose formulas to use. By default the CPU path of the dialect, with --params pjreddie's.",
)
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
@options.dialect_option
@options.format_option
@options.quiet_option
def command(
    cfg: Path | None,
    weights: Path | None,
    layer: options.LayerPart | None,
    params: Path | None,
    inputs: tuple[str, ...],
    deltas: tuple[str, ...],
    train: bool,
    output: Path | None,
    arithmetic: str | None,
    rolling: str,
    keep: float | None,
    update_weights: Path | None,
    stages: bool,
    layout: str,
    shape: tuple[int, ...] | None,
    threads: int | None,
    memory: int,
    trailing: str,
    dialect: str,
    format_: str,
) -> None:
    """Run one layer's batch normalisation on saved tensors: at inference, in training, and backward.

    \b
    bnorm run net.cfg net.weights --layer 12 --input x.npy -o out
    bnorm run net.cfg net.weights --layer 3.wf --input x.npy --delta d.npy --train
    bnorm run --params p.npz --input a.npy --input b.npy --train -o out

    Tensors are .npy, .npz (with one array, or FILE.npz:KEY), or raw little-endian float32 with --shape; their axes are
    (N,C), (C,H,W) or (N,C,H,W), their type is float16, float32 or float64. The results are y, dx, mean, variance,
    rolling_mean, rolling_variance, scale_updates and bias_updates, as far as they apply. Neither --threads nor --memory
    changes any bit of a result.
    """
    _check_source(cfg, layer, params)
    if trailing != "error" and params:
        raise click.UsageError("--trailing needs CFG WEIGHTS")
    _check_tensors(inputs, deltas, output)
    _check_rolling(rolling, keep, train)
    if memory < LEAST_MEMORY:
        raise click.UsageError(f"--memory is {memory:,} bytes, expected at least {LEAST_MEMORY >> 20}MiB")
    if update_weights and not (cfg and train):
        raise click.UsageError("--update-weights needs CFG WEIGHTS and --train")
    model = read_model(*options.full_pair(cfg, weights), dialect) if cfg else None
    with progress("running") as advance:
        report = run(
            model,
            layer,
            params=params,
            inputs=inputs,
            deltas=deltas,
            train=train,
            arithmetic=arithmetic,
            rolling=rolling,
            keep=keep,
            stages=stages,
            layout=layout,
            shape=shape,
            output=output,
            update_weights=update_weights,
            trailing=trailing,
            memory=memory,
            threads=threads,
            progress=advance,
        )
    if model:
        terminal.note(model)
    render.show(_page(report), format_)


def _check_source(cfg: Path | None, layer: options.LayerPart | None, params: Path | None) -> None:
    if bool(cfg) == bool(params):
        raise click.UsageError("expected either CFG WEIGHTS or --params")
    if cfg and layer is None:
        raise click.UsageError("Missing option '--layer', which CFG WEIGHTS need.")
    if params and layer is not None:
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


# --- what it prints ---------------------------------------------------------------------------------------------------


def _shape_text(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


COLUMNS = (
    Column("result", "result", right=False),
    Column("type", "dtype", right=False),
    Column("shape", "shape", _shape_text),
    Column("min", "min", render.number),
    Column("max", "max", render.number),
    Column("not finite", "not_finite"),
)


def _page(report: RunReport) -> Page:
    request = report.request
    results = [run_result(row) for row in report.results]
    by_input = [Column("input", "input", lambda name: Path(name).name, right=False)] if len(request.inputs) > 1 else []
    mode = "training" if request.train else "inference"
    return Page(
        document=lambda: run_document(report, results),
        records=_records(results),
        summary=(Line(None, f"{mode} in the arithmetic of {report.arithmetic}"), BLANK),
        table=Table([*by_input, *COLUMNS], results),
        footer=[Line(None, f"written to {request.output}")] if request.output else (),
    )


def _records(results: Sequence[Document]) -> Records:
    rows = [result | {"shape": _shape_text(result["shape"])} for result in results]
    return Records(list(rows[0]), [list(row.values()) for row in rows])
