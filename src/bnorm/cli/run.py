"""`bnorm run`: one layer's batch normalisation on a saved tensor."""

from __future__ import annotations

from pathlib import Path

import click

from bnorm import tensors
from bnorm.batchnorm import ARITHMETICS
from bnorm.cli import options, render
from bnorm.engine import layer_parameters, run
from bnorm.files import check_outputs
from bnorm.model import read_model


@click.command(name="run", short_help="Run batch normalisation on a saved tensor.")
@options.cfg_argument
@options.weights_argument
@click.option("--layer", type=str, required=True, help="The layer, or its part: 12, 3.wf.")
@click.option("--input", "x", type=options.FILE, required=True, help="The tensor: .npy, (N,C,H,W), (C,H,W) or (N,C).")
@click.option("-o", "--output", type=options.FILE, required=True, help="The folder for y.npy.")
@click.option("--arithmetic", type=click.Choice(list(ARITHMETICS)), help="Whose formulas.  [default: the dialect's]")
@options.dialect_option
def command(cfg: Path, weights: Path, layer: str, x: Path, output: Path, arithmetic: str | None, dialect: str) -> None:
    """Run one layer's batch normalisation at inference on a saved tensor.

    \b
    bnorm run yolov4.cfg yolov4.weights --layer 12 --input x.npy -o out
    """
    number, _, part = layer.partition(".")
    if not number.isdecimal():
        raise click.BadParameter(f"{layer!r} is not a layer such as 12 or a part such as 3.wf", param_hint="--layer")
    model = read_model(cfg, weights, dialect)
    parameters, rolling = layer_parameters(model, int(number), part)
    y = run(tensors.read(x), x, parameters, rolling, ARITHMETICS[arithmetic or model.dialect.name])
    output.mkdir(exist_ok=True)
    check_outputs([output / "y.npy"], [cfg, weights, x])
    tensors.write(output / "y.npy", y)
    render.note(model)
    click.echo(f"{output / 'y.npy'}: {y.dtype} {y.shape}")
