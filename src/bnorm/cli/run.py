"""`bnorm run`: one layer's batch normalisation on saved tensors, forward and backward."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bnorm.batchnorm.arithmetic import ARITHMETICS
from bnorm.batchnorm.engine import MEMORY
from bnorm.cli import options, render, terminal
from bnorm.cli.page import Column, Page, Table
from bnorm.darknet.autodetect import read_model
from bnorm.replay.job import ResultRow, RunReport, run
from bnorm.replay.request import ROLLING, ModelLayer
from bnorm.tensors.tensor import LAYOUTS


@click.command(name="run")
@click.argument("cfg", type=options.FILE, required=False)
@click.argument("weights", type=options.FILE, required=False)
@click.option("--layer", "place", type=options.Place(), help="The layer, or a part of it: 12, 3.wf.")
@click.option("--params", type=options.FILE, help="scales, biases, rolling_mean, rolling_variance in a .npz: no model.")
@click.option("--input", "inputs", multiple=True, required=True, help="A tensor; several are consecutive mini-batches.")
@click.option(
    "--delta", "deltas", multiple=True, help="The upstream gradient of each input, in order: run backward, too."
)
@click.option("--train", is_flag=True, help="Normalise by the mini-batch's own moments; rolling statistics move.")
@click.option("-o", "--output", type=options.FILE, help="A folder for .npy files, or FILE.npz.  [default: a summary]")
@click.option(
    "--arithmetic", type=click.Choice(list(ARITHMETICS)), help="Whose formulas.  [default: the dialect's CPU]"
)
@click.option("--rolling", type=click.Choice(ROLLING), default="ema", show_default=True, help="How they move.")
@click.option("--rolling-keep", "keep", type=float, help="What ema keeps.  [default: the arithmetic's]")
@click.option("--update-weights", type=options.FILE, help="Copy WEIGHTS with this layer's new rolling statistics.")
@click.option("--stages", is_flag=True, help="Also write x_norm, mean_delta and variance_delta.")
@click.option("--layout", type=click.Choice(LAYOUTS), default="nchw", show_default=True, help="Order of 3-D and 4-D.")
@click.option("--shape", type=options.Shape(), help="Of raw little-endian float32 files.")
@click.option("--threads", type=click.IntRange(1, 1024), help="[default: the processors that this process may use]")
@click.option("--memory", type=options.Size(), default=MEMORY, help="Working memory, as 256MiB.  [default: 256MiB]")
@options.dialect_option
@options.format_option
def command(
    cfg: Path | None,
    weights: Path | None,
    place: tuple[int, str] | None,
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
    dialect: str,
    format_: str,
) -> None:
    """Run one layer's batch normalisation on saved tensors: at inference, in training, and backward.

    \b
    bnorm run net.cfg net.weights --layer 12 --input x.npy -o out
    bnorm run net.cfg net.weights --layer 3.wf --input x.npy --delta d.npy --train
    bnorm run --params p.npz --input a.npy --input b.npy --train -o out

    Tensors: .npy, .npz (of one array, or FILE.npz:KEY), or raw with --shape; (N,C), (C,H,W) or (N,C,H,W); float16,
    float32 or float64. Written: y, dx, mean, variance, rolling_mean, rolling_variance, scale_updates, bias_updates, as
    far as they apply. Neither --threads nor --memory changes a bit of any result.
    """
    _require(
        (bool(cfg) == bool(params), "give either CFG WEIGHTS, or --params"),
        (bool(cfg) and not weights, "WEIGHTS is missing"),
        (bool(cfg) != (place is not None), "--layer belongs to CFG WEIGHTS, and CFG WEIGHTS need it"),
        (bool(deltas) and len(deltas) != len(inputs), "give one --delta for each --input"),
        (bool(update_weights) and not (cfg and train), "--update-weights needs CFG WEIGHTS and --train"),
        (keep is not None and not 0 <= keep <= 1, "--rolling-keep is a fraction from 0 to 1"),
        (rolling == "average" and keep is not None, "--rolling-keep belongs to --rolling ema"),
        ((rolling != "ema" or keep is not None) and not train, "--rolling needs --train"),
        (
            output is not None and output.suffix == ".npz" and len(inputs) > 1,
            "FILE.npz holds the results of one --input: give a folder",
        ),
    )
    model = read_model(cfg, weights, dialect) if cfg else None
    with terminal.progress("running") as progress:
        report = run(
            model,
            place,
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
            memory=memory,
            threads=threads,
            progress=progress,
        )
    if model:
        terminal.note(model)
    render.show(_page(report), format_)


def _require(*rules: tuple[bool, str]) -> None:
    """Reject contradictory options: (condition, message)."""
    for wrong, what in rules:
        if wrong:
            raise click.UsageError(what)


def _document(report: RunReport) -> dict[str, Any]:
    request = report.request
    source = request.source if isinstance(request.source, ModelLayer) else None
    return {
        "cfg": str(source.model.network.text.path) if source else None,
        "weights": str(source.model.weights) if source else None,
        "dialect": source.model.dialect.name if source else None,
        "layer": source.layer if source else None,
        "part": source.part if source else None,
        "arithmetic": report.arithmetic,
        "train": request.train,
        "output": str(request.output) if request.output else None,
        "results": [dict(zip(RECORD, _record(row), strict=True)) for row in report.results],
    }


RECORD = ("input", "result", "dtype", "shape", "min", "max", "not_finite", "path")


def _record(row: ResultRow) -> tuple[Any, ...]:
    return (row.input, row.name, row.dtype, list(row.shape), *(row.range or (None,) * 3), row.path)


def _page(report: RunReport) -> Page:
    records = [_record(row) for row in report.results]
    columns = (
        Column("result", right=False),
        Column("type", right=False),
        Column("shape", lambda shape: "x".join(map(str, shape))),
        *(Column(name, render.number) for name in ("min", "max")),
        Column("not finite"),
    )
    several = len(report.batches) > 1
    shown = [(*row[1:3], row[3], *row[4:7]) for row in records]
    if several:
        columns = (Column("input", right=False), *columns)
        shown = [(Path(row[0]).name, *cells) for row, cells in zip(records, shown, strict=True)]
    request = report.request
    mode = "training" if request.train else "inference"
    written = [f"written to {request.output}"] if request.output else []
    return Page(
        document=lambda: _document(report),
        rows=Table(columns, shown),
        records=Table(
            [Column(name) for name in RECORD], [(*row[:3], "x".join(map(str, row[3])), *row[4:]) for row in records]
        ),
        summary=(f"{mode} in the arithmetic of {report.arithmetic}", ""),
        footer=written,
    )
