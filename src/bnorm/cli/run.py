"""`bnorm run`: one layer's batch normalisation on saved tensors, forward and backward."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from bnorm.batchnorm.arithmetic import ALIASES, ARITHMETICS
from bnorm.batchnorm.engine import LEAST_MEMORY, MEMORY
from bnorm.batchnorm.epsilon import Epsilon
from bnorm.cli import options, render, terminal
from bnorm.cli.documents import Document, ranked_arithmetic, run_document, run_result
from bnorm.cli.page import BLANK, Column, Line, Page, Records, Table
from bnorm.cli.progress import progress
from bnorm.darknet.autodetect import read_model
from bnorm.replay.job import ALL, RunReport, run
from bnorm.replay.layer import OWN_OUTPUT, OtherSize
from bnorm.replay.request import ROLLING, tensor_names
from bnorm.tensors.tensor import LAYOUTS
from bnorm.text import plural


@click.command(name="run", cls=options.Command)
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
@options.dialect_option
@options.format_option
def command(
    cfg: Path | None,
    weights: Path | None,
    layer: options.LayerPart | None,
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
    dialect: str,
    format_: str,
) -> None:
    """Run one layer's batch normalisation on saved tensors: at inference, in training, and backward.

    \b
    bnorm run net.cfg net.weights --layer 12 --input x.npy -o out
    bnorm run net.cfg net.weights --layer 3.wf --input x.npy --delta d.npy --train
    bnorm run --params p.npz --input a.npy --input b.npy --train -o out
    bnorm run net.cfg net.weights --layer 12 --input x.npy --against port.npz

    x is what the layer itself computes, before bias, normalisation and activation: not the layer's input. Tensors are
    .npy, .npz (with one array, or FILE.npz:KEY), or raw little-endian float32 with --shape; their axes are (N,C),
    (C,H,W) or (N,C,H,W), their type is float16, float32 or float64. The results are y, dx, mean, variance,
    rolling_mean, rolling_variance, scale_updates and bias_updates, as far as they apply. Neither --threads nor --memory
    changes any bit of a result.
    """
    _check_source(cfg, layer, params)
    if trailing != "error" and params:
        raise click.UsageError("--trailing needs CFG WEIGHTS")
    inputs, deltas = tensor_names(inputs), tensor_names(deltas)
    _check_tensors(inputs, deltas, output)
    _check_rolling(rolling, keep, train)
    if arithmetic == ALL and (not against or output or update_weights):
        raise click.UsageError("--arithmetic all needs --against, and writes nothing")
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
            force=force,
            against=against,
            epsilon=epsilon,
            bad_variance=bad_variance,
            update_weights=update_weights,
            trailing=trailing,
            memory=memory,
            threads=threads,
            progress=advance,
        )
    if model:
        terminal.note(model)
    if report.other_sizes:
        terminal.say(_sizes_text(report.other_sizes))
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


DIFFERENCE = (
    Column("max_rel", "max_rel", render.number, drop_order=9),  # an empty column is dropped if it may be
    Column("max_abs", "max_abs", render.number, drop_order=8),
    Column("channel", "channel", drop_order=7),
)

COLUMNS = (
    Column("result", "result", right=False),
    Column("dtype", "dtype", right=False, drop_order=1),
    Column("shape", "shape", _shape_text, drop_order=2),
    Column("min", "min", render.number),
    Column("max", "max", render.number),
    Column("not_finite", "not_finite"),
    *DIFFERENCE,
)

RANKING = (Column("arithmetic", "arithmetic", right=False), *DIFFERENCE[:2], Column("result", "result", right=False))

MOST_ROWS = 40  # of a table for people


def _page(report: RunReport) -> Page:
    results = [run_result(row) for row in report.results]
    ranking = [ranked_arithmetic(ranked) for ranked in report.ranking]
    return Page(
        document=lambda: run_document(report, results),
        records=_records(ranking or results),
        summary=(Line(None, _headline(report)), BLANK),
        table=_ranking_table(report, ranking) if ranking else _results_table(report, results),
        footer=_footer(report, hidden=0 if ranking else len(report.request.inputs) - _inputs_shown(report)),
    )


def _headline(report: RunReport) -> str:
    request = report.request
    mode = "training" if request.train else "inference"
    against = f", compared with {request.against}" if request.against else ""
    return f"{mode} in {'each arithmetic' if report.ranking else f'the arithmetic of {report.arithmetic}'}{against}"


def _inputs_shown(report: RunReport) -> int:
    """Return how many inputs a table has room for, at least the last one."""
    inputs = len(report.request.inputs)
    return min(inputs, max(1, MOST_ROWS * inputs // len(report.results)))


def _results_table(report: RunReport, results: Sequence[Document]) -> Table:
    inputs = len(report.request.inputs)
    shown = len(results) // inputs * _inputs_shown(report)
    return Table([*_input_column(report), *COLUMNS], results[-shown:])


def _ranking_table(report: RunReport, ranking: Sequence[Document]) -> Table:
    return Table([*RANKING, *_input_column(report), DIFFERENCE[2]], ranking)


def _input_column(report: RunReport) -> list[Column]:
    several = len(report.request.inputs) > 1
    return [Column("input", "input", lambda name: Path(name).name, right=False)] if several else []


def _footer(report: RunReport, *, hidden: int) -> list[Line]:
    request = report.request
    return [
        *([Line(None, f"{plural(hidden, 'input')} before: in json and csv")] if hidden else []),
        *([Line(None, f"written to {request.output}")] if request.output else []),
    ]


def _sizes_text(others: Sequence[OtherSize]) -> str:
    first, more = others[0], f" and {plural(len(others) - 1, 'more input')}" if len(others) > 1 else ""
    sizes = f"{first.size.height}x{first.size.width}, in the cfg {first.expected.height}x{first.expected.width}"
    return f"{first.input}{more}: height x width {sizes}; {OWN_OUTPUT}"


def _records(results: Sequence[Document]) -> Records:
    rows = [result | {"shape": _shape_text(result["shape"])} if "shape" in result else result for result in results]
    return Records(list(rows[0]), [list(row.values()) for row in rows])
