"""The options of `bnorm run` together: valid combinations, and the names of files for each layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import click

from bnorm.batchnorm.engine import LEAST_MEMORY
from bnorm.batchnorm.engines import has_numba
from bnorm.batchnorm.epsilon import Epsilon
from bnorm.cli import options
from bnorm.extras import installation
from bnorm.files import FORCE, check_outputs
from bnorm.replay.job import ALL
from bnorm.replay.request import listed_names, tensor_names
from bnorm.tensors.open import file_of

LAYER = "{layer}"  # in a name, replaced by the layer or part


class RunCommand(options.Command):
    """A command whose `--from-moments` takes several files: `--from-moments a.npz b.npz`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, [*_repeated(args, "--from-moments", ".npz")])


def _repeated(args: Sequence[str], option: str, suffix: str) -> Iterator[str]:
    """Yield the arguments, with the option repeated before each following value that has this suffix."""
    follows = False
    for before, arg in zip(["", *args], args, strict=False):
        if follows and before != option and arg.endswith(suffix):
            yield option
        follows = (
            arg == option or arg.startswith(f"{option}=") or (follows and (before == option or arg.endswith(suffix)))
        )
        yield arg


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """The values of all options, named as the parameters of the command."""

    cfg: Path | None
    weights: Path | None
    layers: Sequence[options.LayerPart] | None
    params: Path | None
    inputs: tuple[str, ...]
    lists: tuple[Path, ...]
    deltas: tuple[str, ...]
    train: bool
    output: Path | None
    force: bool
    against: Path | None
    arithmetic: str | None
    epsilon: Epsilon | None
    bad_variance: str
    rolling: str
    keep: float | None
    update_weights: Path | None
    save_moments: Path | None
    moments: tuple[str, ...]
    scheduler: str | None
    stages: bool
    layout: str
    shape: tuple[int, ...] | None
    threads: int | None
    memory: int
    trailing: str
    engine: str
    dialect: str
    format_: str

    @property
    def estimates(self) -> bool:
        """Return whether only rolling statistics are requested."""
        return bool(self.save_moments or self.moments or self.scheduler is not None)

    @property
    def chosen(self) -> Sequence[options.LayerPart | None]:
        """Return the layers to run; a single None for the layer of `--params`."""
        return self.layers or (None,)

    @property
    def shared_weights(self) -> Path | None:
        """Return the new weights file that several layers share; None if each layer has its own, or there is none."""
        path = self.update_weights
        return path if path and len(self.chosen) > 1 and LAYER not in str(path) else None

    def check(self) -> None:
        """Raise click.UsageError for options that do not go together."""
        self._check_source()
        self._check_training()
        self._check_estimate()
        self._check_names()
        if self.arithmetic == ALL and (not self.against or self.output or self.update_weights):
            raise click.UsageError("--arithmetic all needs --against, and writes nothing")
        if self.memory < LEAST_MEMORY:
            raise click.UsageError(f"--memory is {self.memory:,} bytes, expected at least {LEAST_MEMORY >> 20}MiB")
        if self.engine == "numba" and not has_numba():
            raise click.ClickException(f"--engine numba needs Numba: {installation('numba')}")

    def _check_source(self) -> None:
        if bool(self.cfg) == bool(self.params):
            raise click.UsageError("expected either CFG WEIGHTS or --params")
        if self.cfg and not self.layers:
            raise click.UsageError("Missing option '--layer', which CFG WEIGHTS need.")
        if self.params and self.layers:
            raise click.UsageError("--layer needs CFG WEIGHTS; --params holds the arrays of one layer")
        if self.params and self.trailing != "error":
            raise click.UsageError("--trailing needs CFG WEIGHTS")

    def _check_training(self) -> None:
        train = self.train or self.estimates
        if self.keep is not None and not 0 <= self.keep <= 1:
            raise click.UsageError(f"--rolling-keep is {self.keep}, expected a fraction from 0 to 1")
        if self.rolling != "ema" and self.keep is not None:
            raise click.UsageError("--rolling-keep needs --rolling ema")
        if (self.rolling != "ema" or self.keep is not None) and not train:
            raise click.UsageError("--rolling and --rolling-keep need --train")
        if self.update_weights and not (self.cfg and train):
            raise click.UsageError("--update-weights needs CFG WEIGHTS and --train")

    def _check_estimate(self) -> None:
        if self.scheduler == "":
            raise click.UsageError("--scheduler is empty, expected local, ADDRESS or FILE.json")
        if self.moments and (self.save_moments or self.scheduler is not None):
            raise click.UsageError("--from-moments reads moments; --moments and --scheduler compute them from inputs")
        if not self.estimates:
            return
        for name, given in (("--delta", self.deltas), ("--against", self.against), ("--stages", self.stages)):
            if given:
                raise click.UsageError(
                    f"{name} needs y, which --moments, --from-moments and --scheduler do not compute"
                )
        if self.output and self.output.suffix == ".npz":
            raise click.UsageError("-o must be a folder here, for rolling_mean.npy and rolling_variance.npy")

    def _check_names(self) -> None:
        if not (self.inputs or self.lists or self.moments):
            raise click.UsageError("Missing option '--input', or '--inputs'.")
        if len(self.chosen) == 1:
            return
        own_weights = None if self.shared_weights else self.update_weights
        files = (self.output, own_weights, self.against, self.save_moments, *self.lists)
        for name in (*self.inputs, *self.deltas, *self.moments, *(str(path) for path in files if path)):
            if LAYER not in name:
                raise click.UsageError(f"{name}: expected {LAYER} in it, which becomes the number of each --layer")

    def check_outputs(self) -> None:
        """Raise `OutputError` for a file that must not be written, of those that `run` and `estimate` cannot know of.

        They know the files of their own layer, but not a list of inputs, nor the weights file that layers share.
        """
        read = [Path(self._named(layer, str(path))) for layer in self.chosen for path in self.lists]
        own = (None if self.shared_weights else self.update_weights, self.save_moments)
        for layer in self.chosen:
            check_outputs([path for name in own if (path := self._path(layer, name))], read, force=True)
        if self.shared_weights:
            read += [path for path in (self.cfg, self.weights) if path]
            for layer in self.chosen:
                tensors = (*self._layer_inputs(layer), *self._tensors(layer, (*self.deltas, *self.moments)))
                read += map(file_of, tensors)
            check_outputs([self.shared_weights], read, force=self.force, cause=FORCE)

    def _layer_inputs(self, layer: options.LayerPart | None) -> tuple[str, ...]:
        """Return the names of a layer's inputs: those given, then those in lists."""
        listed = chain.from_iterable(listed_names(self._named(layer, path)) for path in map(str, self.lists))
        return (*self._tensors(layer, self.inputs), *listed)

    def arguments(self, layer: options.LayerPart | None) -> dict[str, Any]:
        """Return the arguments that `run` and `estimate` share, for one layer."""
        return {
            "params": self.params,
            "inputs": self._layer_inputs(layer),
            "arithmetic": self.arithmetic,
            "rolling": self.rolling,
            "keep": self.keep,
            "layout": self.layout,
            "shape": self.shape,
            "output": self._path(layer, self.output),
            "update_weights": None if self.shared_weights else self._path(layer, self.update_weights),
            "force": self.force,
            "epsilon": self.epsilon,
            "bad_variance": self.bad_variance,
            "trailing": self.trailing,
            "memory": self.memory,
            "threads": self.threads,
            "engine": self.engine,
        }

    def run_arguments(self, layer: options.LayerPart | None) -> dict[str, Any]:
        """Return the arguments of `run` for one layer; click.UsageError for files that do not go together."""
        arguments = self.arguments(layer)
        inputs, deltas = arguments["inputs"], self._tensors(layer, self.deltas)
        if deltas and len(deltas) != len(inputs):
            raise click.UsageError(f"expected one --delta per --input, got {len(deltas)} for {len(inputs)}")
        if self.output and self.output.suffix == ".npz" and len(inputs) > 1:
            raise click.UsageError("a .npz output holds the results of one --input; give a folder for several")
        against = self._path(layer, self.against)
        return arguments | {"deltas": deltas, "train": self.train, "stages": self.stages, "against": against}

    def estimate_arguments(self, layer: options.LayerPart | None) -> dict[str, Any]:
        """Return the arguments of `estimate` for one layer."""
        moments, save_moments = self._tensors(layer, self.moments), self._path(layer, self.save_moments)
        return self.arguments(layer) | {"moments": moments, "save_moments": save_moments}

    def _tensors(self, layer: options.LayerPart | None, names: Sequence[str]) -> tuple[str, ...]:
        """Return the names with the layer filled in, and patterns as the files that they match."""
        return tensor_names([self._named(layer, name) for name in names])

    def _path(self, layer: options.LayerPart | None, path: Path | None) -> Path | None:
        return Path(self._named(layer, str(path))) if path else None

    def _named(self, layer: options.LayerPart | None, name: str) -> str:
        return name.replace(LAYER, str(layer))
