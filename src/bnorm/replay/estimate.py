"""`bnorm.estimate`: only the rolling statistics after training on many saved mini-batches."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import chain
from pathlib import Path

from bnorm.batchnorm.batches import Progress
from bnorm.batchnorm.engine import LEAST_MEMORY, MEMORY
from bnorm.batchnorm.epsilon import Epsilon, as_epsilon
from bnorm.batchnorm.formulas import PartialMoments, Rolling, quiet
from bnorm.batchnorm.rolling import Estimator, Seen
from bnorm.batchnorm.threads import thread_count
from bnorm.darknet.model import Model
from bnorm.darknet.model_or_paths import model_or_paths
from bnorm.darknet.weights import Trailing
from bnorm.errors import TensorError
from bnorm.files import Outputs, replacing_set
from bnorm.replay.job import ResultRow
from bnorm.replay.layer import StoredLayer
from bnorm.replay.moments import MomentsTask, in_order, moments_tasks, task_moments
from bnorm.replay.moments_file import MomentsFile, MomentsWriter, read_moments
from bnorm.replay.outputs import FINAL, OutputPlan, final_files
from bnorm.replay.request import Request, TensorNames, Training, layer_source, optional_path, tensor_names
from bnorm.replay.results import value_range
from bnorm.statistics.bad_variance import BadVariance, policy_by_name
from bnorm.text import plural, printable


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class EstimateReport:
    """The rolling statistics, and how many mini-batches, and values per channel, they were estimated from.

    `results` has a row for each of the two, as they are written.
    """

    request: Request
    arithmetic: str
    moments: tuple[Path, ...]  # the files of moments that were read
    save_moments: Path | None
    batches: int
    values: int
    rolling: Rolling
    results: tuple[ResultRow, ...]

    def __repr__(self) -> str:
        mode = self.request.training.rolling
        return f"<EstimateReport: {mode}, {self.arithmetic}, batches={self.batches}, values={self.values}>"


@model_or_paths
def estimate(
    model: Model | None = None,
    layer: int | str | tuple[int, str] | None = None,
    *,
    params: str | os.PathLike[str] | None = None,
    inputs: TensorNames = (),
    moments: TensorNames = (),
    save_moments: str | os.PathLike[str] | None = None,
    arithmetic: str | None = None,
    rolling: str = "ema",
    keep: float | None = None,
    layout: str = "nchw",
    shape: tuple[int, ...] | None = None,
    output: str | os.PathLike[str] | None = None,
    update_weights: str | os.PathLike[str] | None = None,
    force: bool = False,
    epsilon: Epsilon | str | None = None,
    bad_variance: BadVariance | str = BadVariance.ERROR,
    trailing: Trailing | str = Trailing.ERROR,
    memory: int = MEMORY,
    threads: int | None = None,
    engine: str = "auto",
    executor: Executor | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> EstimateReport:
    """Return the rolling statistics after training on the mini-batches, bit for bit as `run` does, without computing y.

    model, layer, params, inputs, arithmetic, layout, shape, update_weights, force, epsilon, bad_variance, trailing,
    memory, threads, engine: as in `run`

    moments         files that `save_moments` wrote, in the order of their mini-batches, in place of inputs; with
                    inputs as well, the names in the files must be these, in this order
    save_moments    a new file: count, mean and sum of squared deviations of each input
    rolling, keep   "ema", with the fraction of old statistics that it keeps; "average", the mean of the mini-batches'
                    means and unbiased variances; "population", the moments of all values together
    output          a folder for rolling_mean.npy and rolling_variance.npy; by default these are not written
    executor        any `concurrent.futures.Executor` whose workers have bnorm and see the inputs under the same paths:
                    processes, a Dask client's `get_executor()`; by default threads. No result depends on it
    workers         how many tasks the executor computes at once; default: `threads`
    progress        called with the number of finished inputs, and the total

    Raises ValueError for invalid arguments and a `BnormError` for files that do not fit, before anything is written;
    any exception of the executor.
    """
    count = thread_count(threads)
    files = [read_moments(Path(name)) for name in tensor_names(moments)]
    request = Request(
        source=layer_source(model, layer, params, trailing),
        inputs=tensor_names(inputs) or tuple(chain.from_iterable(file.names for file in files)),
        mode=Training(rolling=rolling, keep=keep),
        arithmetic=arithmetic,
        layout=layout,
        shape=shape,
        output=optional_path(output),
        update_weights=optional_path(update_weights),
        force=force,
        epsilon=None if epsilon is None else as_epsilon(epsilon),
        bad_variance=policy_by_name(bad_variance),
        memory=memory,
        engine=engine,
    )
    if files and save_moments is not None:
        raise ValueError("save_moments with moments, expected inputs")
    plan = _plan(request, optional_path(save_moments))
    plan.check([*request.files_read(), *(file.path for file in files)], force=force)
    stored = request.read_layer()
    if files:
        _check(files, request, stored)
        partials = _distinct(files)
    else:
        partials = _computed(request, stored, executor, workers, count)
    with closing(partials):
        seen, final = _estimated(request, plan, stored, partials, progress)
    return EstimateReport(
        request=request,
        arithmetic=request.formulas().name,
        moments=tuple(file.path for file in files),
        save_moments=plan.moments,
        batches=seen.batches,
        values=seen.together.count,
        rolling=final,
        results=tuple(_results(request, plan, final)),
    )


def _results(request: Request, plan: OutputPlan, rolling: Rolling) -> Iterator[ResultRow]:
    for number, (name, vector) in enumerate(zip(FINAL, _as_written(request, rolling), strict=True)):
        yield ResultRow(
            input=None,
            name=name,
            dtype=str(vector.dtype),
            shape=vector.shape,
            range=value_range(vector),
            path=str(plan.final[number]) if plan.final else None,
        )


@quiet
def _as_written(request: Request, rolling: Rolling) -> Rolling:
    """Return the statistics in the dtype of the arithmetic's vectors."""
    return Rolling(*(vector.astype(request.formulas().vectors) for vector in rolling))


def _plan(request: Request, save_moments: Path | None) -> OutputPlan:
    return OutputPlan(
        root=request.output,
        final=final_files(request.output) if request.output else (),
        updated_weights=request.update_weights,
        moments=save_moments,
    )


# --- moments from files -----------------------------------------------------------------------------------------------


def _check(files: Sequence[MomentsFile], request: Request, stored: StoredLayer) -> None:
    """Raise `TensorError` for moments of another layer, or of other inputs than those named in the request."""
    layer, channels = request.source.name, len(stored.parameters.scales)
    for file in files:
        if file.layer != layer:
            what = f"is of layer {file.layer or 'parameters'}, expected {layer or 'parameters'}"
            raise TensorError(file.path, what)
        if file.channels != channels:
            raise TensorError(file.path, f"has {file.channels} channels, expected {channels}, as the layer has")
    held = [(file.path, name) for file in files for name in file.names]
    for number, ((path, name), expected) in enumerate(zip(held, request.inputs, strict=False)):
        if name != expected:
            what = f"has the moments of {printable(name)} as number {number}, expected {expected}"
            raise TensorError(path, what, cause="names and order have to be those of the inputs")
    if len(held) != len(request.inputs):
        what = f"{plural(len(held), 'input')} up to here, expected {len(request.inputs)}"
        raise TensorError(files[-1].path, what)


def _distinct(files: Sequence[MomentsFile]) -> Generator[PartialMoments, None, None]:
    """Yield the moments of each input; raises `TensorError` for an input that is in two of the files."""
    earlier: dict[tuple[str, bytes], Path] = {}
    for file in files:
        own = {}
        for name, moments in zip(file.names, file.rows(), strict=True):
            key = (name, sha256(moments.mean.tobytes() + moments.m2.tobytes()).digest())
            if key in earlier:
                cause = "each mini-batch is merged once"
                raise TensorError(file.path, f"has {printable(name)}, which {earlier[key]} has as well", cause=cause)
            own[key] = file.path
            yield moments
        earlier |= own


# --- moments from tensors ---------------------------------------------------------------------------------------------


def _computed(
    request: Request, stored: StoredLayer, executor: Executor | None, workers: int | None, threads: int
) -> Generator[PartialMoments, None, None]:
    """Yield the moments of each input, computed by the executor or by threads of this process."""
    task = MomentsTask(
        channels=len(stored.parameters.scales),
        layout=request.layout,
        shape=request.shape,
        memory=request.memory,
        engine=request.engine,
    )
    workers = workers or threads
    # A worker elsewhere may run in another folder; here an error names the file as it was given.
    names = request.inputs if executor is None else [str(Path(name).absolute()) for name in request.inputs]
    tasks = moments_tasks(names, task, workers)
    with ExitStack() as stack:
        if executor is None:
            workers = min(workers, len(tasks), request.memory // LEAST_MEMORY)
            executor = stack.enter_context(ThreadPoolExecutor(workers))
            tasks = [replace(task, threads=threads // workers, memory=request.memory // workers) for task in tasks]
        yield from chain.from_iterable(in_order(executor, workers, task_moments, tasks))


# --- the statistics ---------------------------------------------------------------------------------------------------


@quiet
def _estimated(
    request: Request,
    plan: OutputPlan,
    stored: StoredLayer,
    partials: Iterable[PartialMoments],
    progress: Progress | None,
) -> tuple[Seen, Rolling]:
    """Apply the rule to the moments in order, and write the planned outputs."""
    arithmetic = request.formulas()
    rule = request.training.rule(arithmetic, connected=stored.connected)
    estimator = Estimator(stored.rolling, rule, arithmetic)
    with replacing_set(lock=plan.root, stale=lambda: plan.stale(request.files_read())) as outputs:
        with _saving(request, plan, outputs, len(stored.parameters.scales)) as save:
            for done, moments in enumerate(partials, 1):
                estimator.add(moments)
                save(moments)
                if progress:
                    progress(done, len(request.inputs))
        assert estimator.seen  # there is at least one input
        if plan.root:
            outputs.make_folder(plan.root)
            plan.write_final(outputs, _as_written(request, estimator.rolling))
        request.write_weights(plan.updated_weights, outputs, estimator.rolling)
    return estimator.seen, estimator.rolling


@contextmanager
def _saving(
    request: Request, plan: OutputPlan, outputs: Outputs, channels: int
) -> Iterator[Callable[[PartialMoments], None]]:
    """Yield a function that writes the moments of the next input, or does nothing if they were not requested."""
    if plan.moments is None:
        yield lambda _moments: None
        return
    with outputs.open(plan.moments) as (file,):
        writer = MomentsWriter(plan.moments, file, request.source.name, request.inputs, channels)
        yield writer.add
        writer.finish()
