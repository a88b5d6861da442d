"""`bnorm.run`: one layer's batch normalisation on saved tensors, from files to files."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bnorm.batchnorm.arithmetic import ARITHMETICS
from bnorm.batchnorm.batches import Batch, Counter, Progress, run_batches
from bnorm.batchnorm.engine import MEMORY, Normalisation
from bnorm.batchnorm.engines import kernels_of
from bnorm.batchnorm.epsilon import Epsilon, as_epsilon
from bnorm.batchnorm.formulas import Rolling, quiet
from bnorm.batchnorm.threads import Team, thread_count
from bnorm.darknet.model import Model
from bnorm.darknet.model_or_paths import model_or_paths
from bnorm.darknet.weights import Trailing
from bnorm.errors import TensorError
from bnorm.files import replacing_set
from bnorm.replay.layer import OtherSize, StoredLayer, check_tensors, other_sizes
from bnorm.replay.outputs import FINAL, OutputPlan, plan_outputs
from bnorm.replay.reference import Difference, References, open_reference, read_reference, vector_difference
from bnorm.replay.request import (
    Inference,
    Request,
    TensorNames,
    Training,
    layer_source,
    optional_path,
    tensor_names,
)
from bnorm.replay.results import (
    ArchiveResults,
    Destination,
    FolderResults,
    Measured,
    MeasuredResults,
    NoResults,
    ValueRange,
    Wanted,
    value_range,
    wanted_results,
)
from bnorm.statistics.bad_variance import BadVariance, policy_by_name
from bnorm.tensors.open import open_tensor
from bnorm.tensors.tensor import FileTensor, Tensor

ALL = "all"  # as the name of an arithmetic: every arithmetic in turn


class ResultRow(NamedTuple):
    """One result of one input, or of all together. `difference` is from its reference, None without a reference."""

    input: str | None
    name: str
    dtype: str
    shape: tuple[int, ...]
    range: ValueRange
    path: str | None  # the file that holds it, or FILE.npz:NAME; None if it was not written
    difference: Difference | None = None


class RankedArithmetic(NamedTuple):
    """An arithmetic, and the result that is furthest from its reference."""

    arithmetic: str
    worst: ResultRow


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class RunReport:
    """The results of a run: a `ResultRow` for each result of each input, and the vectors of the last input.

    `other_sizes` are inputs whose height and width differ from the cfg. `ranking` has all arithmetics, nearest
    first, if they were compared; the rest of the report is then for the nearest.
    """

    request: Request
    arithmetic: str
    last: Batch
    results: tuple[ResultRow, ...]
    other_sizes: tuple[OtherSize, ...] = ()
    ranking: tuple[RankedArithmetic, ...] = ()

    @property
    def rolling(self) -> Rolling:
        """Return the rolling statistics after the last input."""
        return self.last.rolling

    @property
    def compared(self) -> tuple[ResultRow, ...]:
        """Return the results that were compared, the furthest from its reference first."""
        rows = (row for row in self.results if row.difference)
        return tuple(sorted(rows, key=_relative, reverse=True))

    def __repr__(self) -> str:
        mode = "training" if self.request.train else "inference"
        output = f", output={str(self.request.output)!r}" if self.request.output else ""
        counts = f"inputs={len(self.request.inputs)}, results={len(self.results)}"
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
    force: bool = False,
    against: str | os.PathLike[str] | None = None,
    epsilon: Epsilon | str | None = None,
    bad_variance: BadVariance | str = BadVariance.ERROR,
    trailing: Trailing | str = Trailing.ERROR,
    memory: int = MEMORY,
    threads: int | None = None,
    engine: str = "auto",
    progress: Progress | None = None,
) -> RunReport:
    """Run the batch normalisation of one layer on saved tensors: at inference, in training, and backward.

    model, layer    a model with weights, and a layer of it: 12, or the part "3.wf" or (3, "wf"); in place of the model
                    the paths of a cfg and its weights: run("net.cfg", "net.weights", 12, inputs="x.npy")
    params          instead of these, a .npz archive of scales, biases, rolling_mean and rolling_variance
    inputs          one tensor or several consecutive mini-batches: X.npy, X.npz, X.npz:KEY; raw float32 with `shape`;
                    or a pattern, x*.npy. Each is what the layer computes before bias, normalisation and activation
    deltas          ∂loss/∂y of each input, in the same order: run backward as well
    train           normalise by each mini-batch's own moments, and update the rolling statistics
    arithmetic      a name in `ARITHMETICS`; default: the CPU path of the model's dialect, or "pjreddie"; with `against`
                    also "all"
    rolling, keep   in training, "ema", with the fraction of old statistics that it keeps, or "average" or "population"
    stages          also write x_norm, mean_delta and variance_delta
    layout          "nchw" or "nhwc"
    output          a folder for .npy files, or FILE.npz; by default nothing is written
    update_weights  a new file: the model's weights with this layer's rolling statistics replaced
    force           replace outputs that exist, all results in the folder together; never an input
    against         a folder or FILE.npz of results to compare with, named as those of `output`
    epsilon         the guard of the forward normalisation, for "paper" of all of it; default: the arithmetic's
    bad_variance    a rolling variance that is bad for this ε: "error", "clamp" (take the nearest, 0 for NaN), or "skip"
                    (use it as it is)
    trailing        bytes after the weights' last array: "error", or "keep" or "drop" for update_weights
    memory          bytes of tensors in memory at a time, at least 16 MiB; no result depends on it
    threads         default: the processors that this process may use; no result depends on it
    engine          "numpy", "numba", or "auto": Numba where it is installed and there are enough
                    values; no result depends on it
    progress        called with the number of finished values, and the total

    Raises ValueError for invalid arguments and a `BnormError` for files that do not fit, before anything is written.
    """
    count = thread_count(threads)
    request = Request(
        source=layer_source(model, layer, params, trailing),
        inputs=tensor_names(inputs),
        deltas=tensor_names(deltas),
        mode=_mode(train, rolling, keep),
        arithmetic=None if arithmetic == ALL else arithmetic,
        stages=stages,
        layout=layout,
        shape=shape,
        output=optional_path(output),
        update_weights=optional_path(update_weights),
        force=force,
        against=optional_path(against),
        epsilon=None if epsilon is None else as_epsilon(epsilon),
        bad_variance=policy_by_name(bad_variance),
        memory=memory,
        engine=engine,
    )
    with Team(count) as team:
        return rank(request, team, progress) if arithmetic == ALL else execute(request, team, progress)


def _mode(train: bool, rolling: str, keep: float | None) -> Inference | Training:
    training = Training(rolling=rolling, keep=keep)
    if not train and training != Training():
        raise ValueError("rolling or keep without train, expected in training only")
    return training if train else Inference()


def rank(request: Request, team: Team, progress: Progress | None = None) -> RunReport:
    """Compare every arithmetic with the reference, and return the report of the nearest.

    The nearest has the smallest largest relative difference; if there is a tie, the second largest differences decide,
    and so on. ValueError without a reference, or with outputs.
    """
    if request.against is None or request.output or request.update_weights:
        raise ValueError(f"arithmetic={ALL!r}, expected against, and no output or update_weights")
    reports = []
    for number, name in enumerate(ARITHMETICS):
        advance = _share(progress, number, len(ARITHMETICS)) if progress else None
        reports.append(execute(replace(request, arithmetic=name), team, advance))
    reports.sort(key=lambda report: [_relative(row) for row in report.compared])
    ranking = tuple(RankedArithmetic(arithmetic=report.arithmetic, worst=report.compared[0]) for report in reports)
    return replace(reports[0], ranking=ranking)


def _share(progress: Progress, number: int, count: int) -> Progress:
    """Return the progress of one of `count` runs."""
    return lambda done, total: progress(number * total + done, count * total)


def _relative(row: ResultRow) -> float:
    return row.difference.max_rel if row.difference else 0.0


@quiet
def execute(request: Request, team: Team, progress: Progress | None = None) -> RunReport:
    """Check everything, run and write; raises a `BnormError` before any output exists if something does not fit."""
    arithmetic = request.formulas()
    wanted = wanted_results(arithmetic, train=request.train, backward=bool(request.deltas), stages=request.stages)
    plan = plan_outputs(
        request.output, request.update_weights, wanted.names, inputs=len(request.inputs), train=request.train
    )
    references = request.references(wanted.names)
    read = [*request.files_read(), *references.paths()]
    plan.check(read, force=request.force)
    stored = request.read_layer()
    layer = Normalisation(
        parameters=stored.parameters, rolling=stored.rolling, arithmetic=arithmetic, train=request.train
    )
    rule = request.training.rule(arithmetic, connected=stored.connected)
    inputs = _check(request, stored)
    vectors = _read_references(references, wanted, inputs)
    values = sum(x.channels * x.length for x in inputs)
    advance = Counter(progress, values) if progress else None
    rows: list[ResultRow] = []
    with (
        replacing_set(lock=plan.root, stale=lambda: plan.stale(read)) as outputs,
        closing(_pairs(request, inputs)) as pairs,  # closes them if the run fails
    ):
        results = MeasuredResults(wanted, _destination(plan, wanted), outputs, references)
        kernels = kernels_of(request.engine, values)
        batches = run_batches(layer, pairs, rule, results, team, request.memory, advance, kernels)
        for number, last in enumerate(batches):
            measured = [*results.tensors.items(), *_measured(wanted.select(last), vectors[number])]
            rows.extend(_row(request, plan, number, name, measures) for name, measures in measured)
        if plan.final:
            plan.write_final(outputs, [wanted.select(last)[name] for name in FINAL])
        request.write_weights(plan.updated_weights, outputs, last.rolling)
    return RunReport(
        request=request,
        arithmetic=arithmetic.name,
        last=last,
        results=tuple(rows),
        other_sizes=other_sizes(request.inputs, inputs, stored.size),
    )


def _check(request: Request, stored: StoredLayer) -> list[Tensor]:
    """Return shape, dtype and layout of each input; raises `TensorError` if an input or its delta does not fit.

    Each file is closed again: there may be more inputs than a process may have open files.
    """
    inputs: list[Tensor] = []
    for number in range(len(request.inputs)):
        with ExitStack() as stack:
            x, delta = _open(request, number, stack)
            check_tensors(x, delta, len(stored.parameters.scales), request.train)
            inputs.append(Tensor(x.shape, x.dtype, x.layout))
    return inputs


def _pairs(request: Request, checked: Sequence[Tensor]) -> Generator[tuple[FileTensor, FileTensor | None], None, None]:
    """Yield each input and its delta, open until the next pair; raises `TensorError` if one was replaced meanwhile."""
    for number, expected in enumerate(checked):
        with ExitStack() as stack:
            x, delta = _open(request, number, stack)
            if (x.shape, x.dtype) != (expected.shape, expected.dtype):
                raise TensorError(x.path, f"has the shape {x.shape}, expected {expected.shape}, as a moment before")
            yield x, delta


def _open(request: Request, number: int, stack: ExitStack) -> tuple[FileTensor, FileTensor | None]:
    """Open an input and its delta."""
    names = (request.inputs[number], request.deltas[number] if request.deltas else None)
    x, delta = (
        stack.enter_context(open_tensor(name, request.shape, request.layout)) if name else None for name in names
    )
    assert x is not None
    return x, delta


def _read_references(
    references: References, wanted: Wanted, inputs: Sequence[Tensor]
) -> list[dict[str, NDArray[np.float64]]]:
    """Check the reference of every tensor, and return the references of the vectors, for each input."""
    vectors = []
    for files, x in zip(references.files, inputs, strict=True):
        for name in wanted.tensors:
            if name in files:
                open_reference(files[name], x).close()
        held = [name for name in wanted.vectors if name in files]
        vectors.append({name: read_reference(files[name], x.channels) for name in held})
    return vectors


def _destination(plan: OutputPlan, wanted: Wanted) -> Destination:
    if plan.archive:
        return ArchiveResults(wanted=wanted, path=plan.archive)
    return FolderResults(wanted=wanted, folders=plan.folders) if plan.folders else NoResults()


def _measured(
    vectors: Mapping[str, NDArray[np.floating]], references: Mapping[str, NDArray[np.float64]]
) -> Iterator[tuple[str, Measured]]:
    """Yield the name and the measures of each vector."""
    for name, values in vectors.items():
        difference = vector_difference(values, references[name]) if name in references else None
        yield name, Measured(values.dtype, values.shape, value_range(values), difference)


def _row(request: Request, plan: OutputPlan, number: int, name: str, measures: Measured) -> ResultRow:
    return ResultRow(
        input=request.inputs[number],
        name=name,
        dtype=str(measures.dtype),
        shape=measures.shape,
        range=measures.range,
        path=plan.path_of(number, name),
        difference=measures.difference,
    )
