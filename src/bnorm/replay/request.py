"""The request for a run: every name, count and size, checked before anything is read."""

from __future__ import annotations

import glob
import operator
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from bnorm.batchnorm.arithmetic import Arithmetic, arithmetic_by_name
from bnorm.batchnorm.engine import LEAST_MEMORY, MEMORY
from bnorm.batchnorm.engines import check_engine
from bnorm.batchnorm.epsilon import Epsilon, Vector
from bnorm.batchnorm.formulas import Rolling
from bnorm.batchnorm.rolling import ROLLING, RollingRule, rolling_rule
from bnorm.darknet.model import Model
from bnorm.darknet.parts import array_name
from bnorm.darknet.weights import Trailing, copy_to, trailing_by_name
from bnorm.errors import BnormError, TensorError, WeightsError
from bnorm.files import Outputs, open_regular
from bnorm.replay.layer import StoredLayer, judged, layer_from_model, layer_from_params, rolling_arrays
from bnorm.replay.reference import References, find_references
from bnorm.statistics.bad_variance import BadVariance
from bnorm.tensors.open import file_of
from bnorm.tensors.tensor import check_layout

TensorNames = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


@dataclass(frozen=True, slots=True)
class ModelLayer:
    """A layer of a model, or a part of a layer: `wf`. `trailing` decides about bytes after the file's last array."""

    model: Model
    layer: int
    part: str = ""
    trailing: Trailing | str = Trailing.ERROR

    def __post_init__(self) -> None:
        trailing_by_name(self.trailing)
        if self.model.weights is None:
            raise ValueError("the model was read without weights, expected read_model(cfg, weights)")

    @property
    def name(self) -> str:
        """Return `12`, or `3.wf` for a part."""
        return f"{self.layer}.{self.part}" if self.part else str(self.layer)

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

    def rolling_arrays(self, rolling: Rolling) -> dict[tuple[int, str], Vector]:
        """Return rolling statistics by the names of the layer's arrays in the weights file."""
        return rolling_arrays(self.model, self.layer, self.part, rolling)

    def error(self, what: str, cause: str) -> BnormError:
        """Return the error of one of the layer's arrays."""
        array = f"layer {self.layer} {array_name(self.part, what)}"
        return WeightsError(self.model.weights or Path(), array, cause=cause)


@dataclass(frozen=True, slots=True)
class ParamsFile:
    """A .npz archive of `scales`, `biases`, `rolling_mean` and `rolling_variance`."""

    path: Path

    name = ""  # it is not a layer of a model

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

    def error(self, what: str, cause: str) -> BnormError:
        """Return the error of one of the arrays."""
        return TensorError(self.path, what, cause=cause)


def optional_path(path: str | os.PathLike[str] | None) -> Path | None:
    """Return the path of an argument that may be None."""
    return None if path is None else Path(path)


def layer_source(
    model: Model | None,
    layer: int | str | tuple[int, str] | None,
    params: str | os.PathLike[str] | None,
    trailing: Trailing | str,
) -> ModelLayer | ParamsFile:
    """Return the layer of a model, or the file of parameters; ValueError unless exactly one is given."""
    trailing_by_name(trailing)
    if params is not None and model is None and layer is None:
        return ParamsFile(Path(params))
    if params is not None or model is None or layer is None:
        raise ValueError("expected a model and a layer, or params alone")
    return ModelLayer(model, *parse_layer(layer), trailing)


@dataclass(frozen=True, slots=True)
class Inference:
    """Normalise by the rolling statistics, and leave them unchanged."""


@dataclass(frozen=True, slots=True)
class Training:
    """Normalise by each mini-batch's own moments, and update the rolling statistics.

    `rolling` is "ema", darknet's exponential average, "average", the paper's, or "population", the moments of all
    values together. `keep` is the fraction of the old statistics that "ema" keeps, by default the arithmetic's.
    """

    rolling: str = "ema"
    keep: float | None = None

    def __post_init__(self) -> None:
        if self.rolling not in ROLLING:
            raise ValueError(f"rolling={self.rolling!r}, expected one of {', '.join(ROLLING)}")
        if self.keep is not None and not 0 <= self.keep <= 1:
            raise ValueError(f"keep={self.keep!r}, expected a fraction from 0 to 1")
        if self.keep is not None and self.rolling != "ema":
            raise ValueError(f"keep={self.keep!r} with rolling={self.rolling!r}, expected keep only with 'ema'")

    @property
    def forgets(self) -> bool:
        """Return whether the new rolling statistics are independent of the old ones."""
        return self.rolling != "ema" or self.keep == 0

    def rule(self, arithmetic: Arithmetic, *, connected: bool) -> RollingRule:
        """Return the rule that updates the rolling statistics."""
        default = arithmetic.keep_connected if connected else arithmetic.keep
        return rolling_rule(self.rolling, default if self.keep is None else self.keep, arithmetic)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A layer, the tensors to run through it, and the outputs to write. Raises ValueError for an invalid combination.

    `arithmetic` is a name, None for the default of `source`; `shape` is that of raw float32 files; `output` is a
    folder or FILE.npz, None for a summary; `update_weights` is a new copy of the model's weights; `force` allows
    both to exist. `against` holds results to compare with; `epsilon` replaces that of the arithmetic, see
    `arithmetic_by_name`.
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
    force: bool = False
    against: Path | None = None
    epsilon: Epsilon | None = None
    bad_variance: BadVariance = BadVariance.ERROR
    memory: int = MEMORY
    engine: str = "auto"

    def __post_init__(self) -> None:
        self.formulas()
        check_layout(self.layout)
        check_engine(self.engine)
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
    def model_layer(self) -> ModelLayer | None:
        """Return the layer of a model, None for parameters from a file."""
        return self.source if isinstance(self.source, ModelLayer) else None

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
        return arithmetic_by_name(name, self.epsilon)

    def guards(self) -> tuple[Epsilon, ...]:
        """Return every ε that the layer's rolling variances are used with; empty if they are not used."""
        arithmetic = self.formulas()
        if self.train:
            return () if self.training.forgets else (arithmetic.forward,)
        return (arithmetic.forward, arithmetic.backward, arithmetic.direct) if self.deltas else (arithmetic.forward,)

    def files_read(self) -> list[Path]:
        """Return all files that are read, and therefore must not be written."""
        return self.source.files() + [file_of(name) for name in (*self.inputs, *self.deltas)]

    def write_weights(self, path: Path | None, outputs: Outputs, rolling: Rolling) -> None:
        """Write a copy of the model's weights with new rolling statistics, unless `path` is None."""
        source = self.model_layer
        if path and source:
            with outputs.open(path) as (file,):
                copy_to(file, source.model, source.rolling_arrays(rolling), source.trailing)

    def references(self, names: tuple[str, ...]) -> References:
        """Return the results to compare with; raises `TensorError` if none has one of these names."""
        if self.against is None:
            return References(path=Path(), files=({},) * len(self.inputs))
        references = find_references(self.against, len(self.inputs))
        references.require(names)
        return references

    def read_layer(self) -> StoredLayer:
        """Return the layer to run; raises a `BnormError` for bad variances, unless `bad_variance` allows them."""
        guards = self.guards()
        stored = self.source.read()
        layer = judged(stored, self.bad_variance, guards) if guards else stored
        if isinstance(layer, StoredLayer):
            return layer
        raise self.source.error(
            f"{layer}, expected finite values ≥ 0", "--bad-variance clamp or skip runs it anyway; bnorm check says more"
        )


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
    """Return the names of one tensor or several; a pattern such as `x*.npy` becomes the files that it matches.

    Numbers in names sort by value: x2.npy comes before x10.npy. Raises `TensorError` for a pattern that
    matches nothing.
    """
    names = (tensors,) if isinstance(tensors, (str, os.PathLike)) else tensors
    return tuple(chain.from_iterable(_matches(os.fspath(name)) for name in names))


MOST_LIST = 64 << 20  # bytes of a list of names


def listed_names(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Return the names in a text file, one per line; empty lines and lines that begin with # are skipped.

    Raises `TensorError` for a file that is not a list of names.
    """
    path = Path(path)
    with open_regular(path, TensorError) as file:
        data = file.read(MOST_LIST + 1)
    if len(data) > MOST_LIST or b"\0" in data:
        raise TensorError(path, "is not a list of names, expected a text of up to 64 MiB, one name on each line")
    lines = (line.strip() for line in os.fsdecode(data).splitlines())
    names = tuple(line for line in lines if line and not line.startswith("#"))
    if not names:
        raise TensorError(path, "names no file, expected one name on each line")
    return names


def _matches(name: str) -> list[str]:
    file = str(file_of(name))
    if glob.escape(file) == file or os.path.lexists(file):
        return [name]
    if not (matches := glob.glob(file)):  # noqa: PTH207  # Path.glob takes no absolute pattern
        raise TensorError(Path(file), "matches no file, expected one or more")
    return [match + name.removeprefix(file) for match in sorted(matches, key=_natural)]


def _natural(name: str) -> list[tuple[int, str]]:
    """Return a key that sorts numbers by their values."""
    pieces = re.split("([0-9]+)", name)
    return [(int(piece), "") if piece.isdecimal() else (-1, piece) for piece in pieces]
