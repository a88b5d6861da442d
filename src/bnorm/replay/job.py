"""`bnorm.run`: saved tensors through one layer, from files to files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bnorm.batchnorm.batches import Batch, Progress, Results, run_batches
from bnorm.batchnorm.engine import MEMORY, Normalisation
from bnorm.batchnorm.formulas import Rolling, quiet
from bnorm.batchnorm.threads import Team, thread_count
from bnorm.darknet.model import Model
from bnorm.darknet.model_or_paths import model_or_paths
from bnorm.darknet.weights import Trailing, trailing_by_name
from bnorm.files import replacing
from bnorm.replay.layer import StoredLayer, check_tensors, update_weights
from bnorm.replay.outputs import FINAL, OutputPlan, plan_outputs
from bnorm.replay.request import Inference, ModelLayer, ParamsFile, Request, Training, parse_layer, tensor_names
from bnorm.replay.results import (
    ArchiveResults,
    FolderResults,
    Summaries,
    ValueRange,
    Wanted,
    value_range,
    wanted_results,
)
from bnorm.tensors.npy import write_npy
from bnorm.tensors.open import open_tensor
from bnorm.tensors.tensor import FileTensor, Tensor

TensorNames = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


class ResultRow(NamedTuple):
    """One result of one input. `range` is None for a tensor that was written, which is not read again."""

    input: str
    name: str
    dtype: str
    shape: tuple[int, ...]
    range: ValueRange | None
    path: str | None  # the file that holds it, or FILE.npz:NAME


@dataclass(frozen=True, slots=True, repr=False)
class RunReport:
    """The results of a run: a `Batch` of vectors for each input, and a `ResultRow` for each result of each input."""

    request: Request
    arithmetic: str
    batches: tuple[Batch, ...]
    results: tuple[ResultRow, ...]

    @property
    def model_layer(self) -> ModelLayer | None:
        """Return the layer of a model that was run, None for parameters from a file."""
        return self.request.source if isinstance(self.request.source, ModelLayer) else None

    @property
    def rolling(self) -> Rolling:
        """Return the rolling statistics after the last input."""
        return self.batches[-1].rolling

    def __repr__(self) -> str:
        mode = "training" if self.request.train else "inference"
        output = f", output={str(self.request.output)!r}" if self.request.output else ""
        counts = f"inputs={len(self.batches)}, results={len(self.results)}"
        return f"<RunReport: {mode}, {self.arithmetic}, {counts}{output}>"


@model_or_paths
def run(
    model: Model | None = None,
    layer: int | str | tuple[int, str] | None = None,
    *,
    params: str | os.PathLike[str] | None = None,
    inputs: TensorNames,
    deltas: TensorNames = (),
    train: bool = False,
    arithmetic: str | None = None,
    rolling: str = "ema",
    keep: float | None = None,
    stages: bool = False,
    layout: str = "nchw",
    shape: tuple[int, ...] | None = None,
    output: str | os.PathLike[str] | None = None,
    update_weights: str | os.PathLike[str] | None = None,
    trailing: Trailing | str = Trailing.ERROR,
    memory: int = MEMORY,
    threads: int | None = None,
    progress: Progress | None = None,
) -> RunReport:
    """Run the batch normalisation of one layer on saved tensors: at inference, in training, and backward.

    model, layer    a model with weights, and a layer of it: 12, or the part "3.wf" or (3, "wf"); in place of the model
                    the paths of a cfg and its weights: run("net.cfg", "net.weights", 12, inputs="x.npy")
    params          instead of these, a .npz archive of scales, biases, rolling_mean and rolling_variance
    inputs          one tensor or several consecutive mini-batches: X.npy, X.npz, X.npz:KEY; raw float32 with `shape`
    deltas          ∂loss/∂y of each input, in the same order: run backward as well
    train           normalise by each mini-batch's own moments, and update the rolling statistics
    arithmetic      a name in `ARITHMETICS`; default: the CPU path of the model's dialect, or "pjreddie"
    rolling, keep   in training, "ema", with the fraction of the old statistics that it keeps, or "average"
    stages          also write x_norm, mean_delta and variance_delta
    layout          "nchw" or "nhwc"
    output          a folder for .npy files, or FILE.npz; by default nothing is written, and ranges are reported
    update_weights  a new file: the model's weights with this layer's rolling statistics replaced
    trailing        bytes after the weights' last array: "error", or "keep" or "drop" for update_weights
    memory          bytes of tensors in memory at a time, at least 16 MiB; no result depends on it
    threads         default: the processors that this process may use; no result depends on it
    progress        called with the number of finished values, and the total

    Raises ValueError for invalid arguments and a `BnormError` for files that do not fit, before anything is written.
    """
    count = thread_count(threads)
    request = Request(
        source=_source(model, layer, params, trailing),
        inputs=tensor_names(inputs),
        deltas=tensor_names(deltas),
        mode=_mode(train, rolling, keep),
        arithmetic=arithmetic,
        stages=stages,
        layout=layout,
        shape=shape,
        output=None if output is None else Path(output),
        update_weights=None if update_weights is None else Path(update_weights),
        memory=memory,
    )
    with Team(count) as team:
        return execute(request, team, progress)


def _source(
    model: Model | None,
    layer: int | str | tuple[int, str] | None,
    params: str | os.PathLike[str] | None,
    trailing: Trailing | str,
) -> ModelLayer | ParamsFile:
    trailing_by_name(trailing)
    if params is not None and model is None and layer is None:
        return ParamsFile(Path(params))
    if params is not None or model is None or layer is None:
        raise ValueError("expected a model and a layer, or params alone")
    return ModelLayer(model, *parse_layer(layer), trailing)


def _mode(train: bool, rolling: str, keep: float | None) -> Inference | Training:
    training = Training(rolling=rolling, keep=keep)
    if not train and training != Training():
        raise ValueError("rolling or keep without train, expected in training only")
    return training if train else Inference()


@quiet
def execute(request: Request, team: Team, progress: Progress | None = None) -> RunReport:
    """Check everything, run, write; raises a `BnormError` before any output exists if something does not fit."""
    arithmetic = request.formulas()
    wanted = wanted_results(arithmetic, train=request.train, backward=bool(request.deltas), stages=request.stages)
    plan = plan_outputs(
        request.output, request.update_weights, wanted.names, inputs=len(request.inputs), train=request.train
    )
    plan.check(request.files_read())
    stored = request.source.read()
    layer = Normalisation(
        parameters=stored.parameters, rolling=stored.rolling, arithmetic=arithmetic, train=request.train
    )
    results = _results(plan, wanted)
    with ExitStack() as stack:
        inputs, deltas = _open(request, stored, stack)
        rule = request.training.rule(arithmetic, connected=stored.connected)
        batches = run_batches(layer, inputs, deltas, rule, results, team, request.memory, progress)
        _write_final(request, plan, wanted.select(batches[-1]), batches[-1].rolling)
    rows = tuple(_rows(request, plan, wanted, inputs, batches, results))
    return RunReport(request=request, arithmetic=arithmetic.name, batches=tuple(batches), results=rows)


def _open(request: Request, stored: StoredLayer, stack: ExitStack) -> tuple[list[FileTensor], list[FileTensor]]:
    """Open inputs and deltas, and check that they fit the layer."""
    inputs, deltas = (
        [stack.enter_context(open_tensor(name, request.shape, request.layout)) for name in names]
        for names in (request.inputs, request.deltas)
    )
    check_tensors(inputs, deltas, len(stored.parameters.scales), request.train)
    return inputs, deltas


def _results(plan: OutputPlan, wanted: Wanted) -> FolderResults | ArchiveResults | Summaries:
    if plan.archive:
        return ArchiveResults(wanted=wanted, path=plan.archive)
    return FolderResults(wanted=wanted, folders=plan.folders) if plan.folders else Summaries(wanted)


def _write_final(request: Request, plan: OutputPlan, last: dict[str, NDArray[np.floating]], rolling: Rolling) -> None:
    """Write the rolling statistics after several mini-batches, and the weights that hold them."""
    if plan.final:
        with replacing(*plan.final) as files:
            for file, name in zip(files, FINAL, strict=True):
                write_npy(file, last[name])
    source = request.source
    if plan.updated_weights and isinstance(source, ModelLayer):
        update_weights(source.model, source.layer, source.part, rolling, plan.updated_weights, source.trailing)


def _rows(
    request: Request,
    plan: OutputPlan,
    wanted: Wanted,
    inputs: Sequence[Tensor],
    batches: Sequence[Batch],
    results: Results,
) -> Iterator[ResultRow]:
    """Yield the results of each input: its tensors, then its vectors."""
    summaries = results.summaries if isinstance(results, Summaries) else []
    for number, (x, batch) in enumerate(zip(inputs, batches, strict=True)):
        source = request.inputs[number]
        for name in wanted.tensors:
            seen = summaries[number].tensors[name].range() if summaries else None
            path = plan.path_of(number, name)
            yield ResultRow(input=source, name=name, dtype=str(x.dtype), shape=x.shape, range=seen, path=path)
        for name, values in wanted.select(batch).items():
            yield ResultRow(
                input=source,
                name=name,
                dtype=str(values.dtype),
                shape=values.shape,
                range=value_range(values),
                path=plan.path_of(number, name),
            )
