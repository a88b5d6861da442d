"""The request for a run: every name, count and size, checked before anything is read."""

from __future__ import annotations

import operator
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bnorm.batchnorm.arithmetic import Arithmetic, arithmetic_by_name
from bnorm.batchnorm.engine import LEAST_MEMORY, MEMORY
from bnorm.batchnorm.formulas import ROLLING as ROLLING
from bnorm.batchnorm.formulas import RollingRule, rolling_rule
from bnorm.darknet.model import Model
from bnorm.darknet.weights import Trailing, trailing_by_name
from bnorm.replay.layer import StoredLayer, layer_from_model, layer_from_params
from bnorm.tensors.open import file_of
from bnorm.tensors.tensor import check_layout


@dataclass(frozen=True, slots=True)
class ModelLayer:
    """A layer of a model, or a part of one: `wf`. `trailing`: what to do with bytes after the file's last array."""

    model: Model
    layer: int
    part: str = ""
    trailing: Trailing | str = Trailing.ERROR

    def __post_init__(self) -> None:
        trailing_by_name(self.trailing)
        if self.model.weights is None:
            raise ValueError("the model was read without weights, expected read_model(cfg, weights)")

    @property
    def default_arithmetic(self) -> str:
        """Return the name of the dialect's CPU path."""
        return self.model.dialect.name

    def files(self) -> list[Path]:
        """Return the files that are read."""
        return [path for path in (self.model.network.text.path, self.model.weights) if path]

    def read(self) -> StoredLayer:
        """Return the layer; raises `CfgError` if it does not exist or has no batch normalisation."""
        return layer_from_model(self.model, self.layer, self.part, self.trailing)


@dataclass(frozen=True, slots=True)
class ParamsFile:
    """A .npz archive of `scales`, `biases`, `rolling_mean` and `rolling_variance`."""

    path: Path

    @property
    def default_arithmetic(self) -> str:
        """Return the name of pjreddie's CPU path."""
        return "pjreddie"

    def files(self) -> list[Path]:
        """Return the file that is read."""
        return [self.path]

    def read(self) -> StoredLayer:
        """Return the layer; raises `TensorError` for any other archive."""
        return layer_from_params(self.path)


@dataclass(frozen=True, slots=True)
class Inference:
    """Normalise by the rolling statistics, and leave them as they are."""


@dataclass(frozen=True, slots=True)
class Training:
    """Normalise by each mini-batch's own moments, and update the rolling statistics.

    `rolling` is "ema", darknet's exponential average, or "average", the paper's. `keep` is the fraction of the old
    statistics that "ema" keeps, by default the arithmetic's.
    """

    rolling: str = "ema"
    keep: float | None = None

    def __post_init__(self) -> None:
        if self.rolling not in ROLLING:
            raise ValueError(f"rolling={self.rolling!r}, expected one of {', '.join(ROLLING)}")
        if self.keep is not None and not 0 <= self.keep <= 1:
            raise ValueError(f"keep={self.keep!r}, expected a fraction from 0 to 1")
        if self.keep is not None and self.rolling != "ema":
            raise ValueError(f"keep={self.keep!r} with rolling={self.rolling!r}, expected it with 'ema' only")

    def rule(self, arithmetic: Arithmetic, *, connected: bool) -> RollingRule:
        """Return the rule that updates the rolling statistics."""
        default = arithmetic.keep_connected if connected else arithmetic.keep
        return rolling_rule(self.rolling, default if self.keep is None else self.keep, arithmetic)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A layer, the tensors to run through it, and the outputs to write. Raises ValueError for an invalid combination.

    `arithmetic` is a name, None for the default of `source`; `shape` is that of raw float32 files; `output` is a
    folder or FILE.npz, None for a summary; `update_weights` is a new copy of the model's weights.
    """

    source: ModelLayer | ParamsFile
    inputs: tuple[str, ...]
    deltas: tuple[str, ...] = ()
    mode: Inference | Training = Inference()
    arithmetic: str | None = None
    stages: bool = False
    layout: str = "nchw"
    shape: tuple[int, ...] | None = None
    output: Path | None = None
    update_weights: Path | None = None
    memory: int = MEMORY

    def __post_init__(self) -> None:
        self.formulas()
        check_layout(self.layout)
        self._check_tensors()
        self._check_outputs()
        if self.memory < LEAST_MEMORY:
            raise ValueError(f"memory={self.memory}, expected at least {LEAST_MEMORY} bytes (16 MiB)")

    def _check_tensors(self) -> None:
        if not self.inputs:
            raise ValueError("no inputs, expected one tensor or more")
        if self.deltas and len(self.deltas) != len(self.inputs):
            raise ValueError(f"{len(self.deltas)} deltas, expected one for each of {len(self.inputs)} inputs, or none")
        if self.shape is not None and min(self.shape, default=0) < 0:
            raise ValueError(f"shape={self.shape}, expected no negative size")

    def _check_outputs(self) -> None:
        if self.output and self.output.suffix == ".npz" and len(self.inputs) > 1:
            raise ValueError(f"output={str(self.output)!r} for {len(self.inputs)} inputs, expected a folder")
        if self.update_weights and not (self.train and isinstance(self.source, ModelLayer)):
            raise ValueError("update_weights without training, expected train=True and a layer of a model")

    @property
    def train(self) -> bool:
        """Return whether this is training."""
        return isinstance(self.mode, Training)

    @property
    def training(self) -> Training:
        """Return the options of training; at inference the defaults, which have no effect."""
        return self.mode if isinstance(self.mode, Training) else Training()

    def formulas(self) -> Arithmetic:
        """Return the arithmetic."""
        name = self.source.default_arithmetic if self.arithmetic is None else self.arithmetic
        return arithmetic_by_name(name)

    def files_read(self) -> list[Path]:
        """Return all files that are read, and therefore must not be written."""
        return self.source.files() + [file_of(name) for name in (*self.inputs, *self.deltas)]


def parse_layer(layer: int | str | tuple[int, str]) -> tuple[int, str]:
    """Return number and part of `3`, `"3"`, `"3.wf"` or `(3, "wf")`; the part is "" for a whole layer."""
    if isinstance(layer, tuple):
        number, part = layer
        return operator.index(number), part
    match = re.fullmatch(r"([0-9]{1,9})(?:\.(.*))?", layer if isinstance(layer, str) else str(operator.index(layer)))
    if match is None:
        raise ValueError(f"layer={layer!r}, expected a layer such as 12, or a part such as '3.wf'")
    return int(match[1]), match[2] or ""


def tensor_names(tensors: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> tuple[str, ...]:
    """Return one name or several as a tuple."""
    if isinstance(tensors, (str, os.PathLike)):
        return (os.fspath(tensors),)
    return tuple(os.fspath(name) for name in tensors)
