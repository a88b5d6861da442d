"""`bnorm run`: one layer's batch normalisation on saved tensors, forward and backward."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bnorm.batchnorm.arithmetic import ARITHMETICS
from bnorm.batchnorm.engine import MEMORY
from bnorm.batchnorm.threads import Team, processors
from bnorm.cli import options, render, terminal
from bnorm.cli.page import Column, Page, Table
from bnorm.darknet.autodetect import read_model
from bnorm.replay.job import Outcome, Request, execute
from bnorm.replay.results import Range
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
@click.option(
    "--rolling", type=click.Choice(["ema", "average"]), default="ema", show_default=True, help="How they move."
)
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
    cfg: Path | None, weights: Path | None, threads: int | None, dialect: str, format_: str, **given: Any
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
    _check_usage(cfg, weights, given)
    model = read_model(cfg, weights, dialect) if cfg else None
    request = Request(model=model, **given | {"place": given["place"] or (0, "")})
    with Team(threads or processors()) as team, terminal.progress("running") as advance:
        outcome = execute(request, team, advance)
    if model:
        terminal.note(model)
    render.show(_page(outcome), format_)


def _check_usage(cfg: Path | None, weights: Path | None, given: dict[str, Any]) -> None:
    """What no combination of options can mean, as (is it so, what to say)."""
    rules = (
        (bool(cfg) == bool(given["params"]), "give either CFG WEIGHTS, or --params"),
        (bool(cfg) and not weights, "WEIGHTS is missing"),
        (bool(cfg) != (given["place"] is not None), "--layer belongs to CFG WEIGHTS, and CFG WEIGHTS need it"),
        (given["deltas"] and len(given["deltas"]) != len(given["inputs"]), "give one --delta for each --input"),
        (given["update_weights"] and not (cfg and given["train"]), "--update-weights needs CFG WEIGHTS and --train"),
        (given["keep"] is not None and not 0 <= given["keep"] <= 1, "--rolling-keep is a fraction from 0 to 1"),
        (given["rolling"] == "average" and given["keep"] is not None, "--rolling-keep belongs to --rolling ema"),
        ((given["rolling"] != "ema" or given["keep"] is not None) and not given["train"], "--rolling needs --train"),
        (
            given["output"] and given["output"].suffix == ".npz" and len(given["inputs"]) > 1,
            "FILE.npz holds the results of one --input: give a folder",
        ),
    )
    for wrong, what in rules:
        if wrong:
            raise click.UsageError(what)


def _document(outcome: Outcome) -> dict[str, Any]:
    request = outcome.request
    return {
        "cfg": str(request.model.network.text.path) if request.model else None,
        "weights": str(request.model.weights) if request.model else None,
        "dialect": request.model.dialect.name if request.model else None,
        "layer": request.place[0] if request.model else None,
        "part": request.place[1] if request.model else None,
        "arithmetic": request.formulas().name,
        "train": request.train,
        "output": str(request.output) if request.output else None,
        "results": [dict(zip(RECORD, row, strict=True)) for row in _records(outcome)],
    }


RECORD = ("input", "result", "dtype", "shape", "min", "max", "not_finite", "path")


def _records(outcome: Outcome) -> list[tuple[Any, ...]]:
    """A row per input and result; a tensor that was written is not looked at again."""
    rows: list[tuple[Any, ...]] = []
    for number, (name, x, batch) in enumerate(
        zip(outcome.request.inputs, outcome.inputs, outcome.batches, strict=True)
    ):
        folder = outcome.request.folder(number)
        for tensor in outcome.wanted.tensors:
            found = outcome.summaries[number].tensors[tensor].range() if outcome.summaries else None
            rows.append((name, tensor, str(x.dtype), list(x.shape), *_range(found), _path(outcome, folder, tensor)))
        for vector, values in outcome.wanted.select(batch).items():
            found, shape = Range.of(values), list(values.shape)
            rows.append((name, vector, str(values.dtype), shape, *_range(found), _path(outcome, folder, vector)))
    return rows


def _range(found: Range | None) -> tuple[float | None, ...]:
    return tuple(found) if found else (None,) * 3


def _path(outcome: Outcome, folder: Path | None, name: str) -> str | None:
    if folder is None:
        return None
    return f"{folder}:{name}" if outcome.request.archived() else str(folder / f"{name}.npy")


def _page(outcome: Outcome) -> Page:
    records = _records(outcome)
    columns = (
        Column("result", right=False),
        Column("type", right=False),
        Column("shape", lambda shape: "x".join(map(str, shape))),
        *(Column(name, render.number) for name in ("min", "max")),
        Column("not finite"),
    )
    several = len(outcome.inputs) > 1
    shown = [(*row[1:3], row[3], *row[4:7]) for row in records]
    if several:
        columns = (Column("input", right=False), *columns)
        shown = [(Path(row[0]).name, *cells) for row, cells in zip(records, shown, strict=True)]
    request = outcome.request
    mode = "training" if request.train else "inference"
    written = [f"written to {request.output}"] if request.output else []
    return Page(
        document=lambda: _document(outcome),
        rows=Table(columns, shown),
        records=Table(
            [Column(name) for name in RECORD], [(*row[:3], "x".join(map(str, row[3])), *row[4:]) for row in records]
        ),
        summary=(f"{mode} in the arithmetic of {request.formulas().name}", ""),
        footer=written,
    )
