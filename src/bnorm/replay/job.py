"""A run from files to files: what `bnorm run` is asked for, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bnorm.batchnorm.arithmetic import ARITHMETICS, Arithmetic
from bnorm.batchnorm.batches import Batch, Progress, Sink, run
from bnorm.batchnorm.engine import MEMORY, Layer
from bnorm.batchnorm.formulas import RollingRule, average, exponential
from bnorm.batchnorm.threads import Team
from bnorm.darknet.model import Model
from bnorm.errors import OutputError
from bnorm.files import check_folder, check_outputs, replacing
from bnorm.replay import results
from bnorm.replay.layer import Source, check_tensors, from_model, from_params, update_weights
from bnorm.replay.results import Summary, Wanted
from bnorm.tensors.npy import write_npy
from bnorm.tensors.open import file_of, open_tensor
from bnorm.tensors.tensor import FileTensor, Tensor


class Request(NamedTuple):
    """What to run, on what, and where the results go.

    `place` is a layer's number and the name of a part or "", in `model`; or `params` names a .npz archive. `keep`
    overrides what the exponential average, `rolling="ema"`, keeps; "average" is the paper's.
    """

    inputs: tuple[str, ...]
    deltas: tuple[str, ...] = ()
    model: Model | None = None
    place: tuple[int, str] = (0, "")
    params: Path | None = None
    train: bool = False
    arithmetic: str | None = None
    rolling: str = "ema"
    keep: float | None = None
    stages: bool = False
    layout: str = "nchw"
    shape: tuple[int, ...] | None = None
    output: Path | None = None
    update_weights: Path | None = None
    memory: int = MEMORY

    def formulas(self) -> Arithmetic:
        """Those asked for, else the dialect's on the CPU, else pjreddie's."""
        return ARITHMETICS[self.arithmetic or (self.model.dialect.name if self.model else "pjreddie")]

    def archived(self) -> bool:
        """Whether the results go into one .npz archive."""
        return self.output is not None and self.output.suffix == ".npz"

    def folder(self, number: int) -> Path | None:
        """Where the results of one input go: the output itself, or with several inputs a folder in it."""
        return self.output / f"{number:03}" if self.output and len(self.inputs) > 1 else self.output

    def files_read(self) -> list[Path]:
        """All that is read, and so must not be written."""
        model = [self.model.network.text.path, self.model.weights] if self.model else []
        return [path for path in (*model, self.params) if path] + [file_of(name) for name in self.inputs + self.deltas]


class Outcome(NamedTuple):
    """What came of a request, in the order of the inputs; `summaries` only where nothing was written."""

    request: Request
    wanted: Wanted
    inputs: Sequence[Tensor]
    batches: Sequence[Batch]
    summaries: Sequence[Summary]


@np.errstate(all="ignore")  # a file may hold any number, signalling NaN too: no news to the user
def execute(request: Request, team: Team, progress: Progress = None) -> Outcome:
    """Read, check everything, run, write. A `BnormError` before any output exists where something does not fit."""
    source = from_model(request.model, *request.place) if request.model else from_params(request.params or Path())
    layer = Layer(source.parameters, source.rolling, request.formulas(), request.train)
    with ExitStack() as stack:
        inputs, deltas = (
            [stack.enter_context(open_tensor(name, request.shape, request.layout)) for name in names]
            for names in (request.inputs, request.deltas)
        )
        return _run(request, source, layer, inputs, deltas, team, progress)


def _run(
    request: Request,
    source: Source,
    layer: Layer,
    inputs: Sequence[FileTensor],
    deltas: Sequence[FileTensor],
    team: Team,
    progress: Progress,
) -> Outcome:
    check_tensors(inputs, deltas, len(source.parameters.scales), request.train)
    wanted = Wanted.of(layer.arithmetic, train=request.train, backward=bool(deltas), stages=request.stages)
    _check_outputs(request, wanted)
    summaries: list[Summary] = []

    def sink(number: int, x: Tensor) -> AbstractContextManager[Sink]:
        target = request.folder(number)
        if target is None:
            summaries.append(Summary.of(wanted, x))
            return nullcontext(summaries[-1])
        return (results.archive if request.archived() else results.folder)(target, wanted, x)

    batches = run(layer, inputs, deltas, _rule(request, source), sink, team, request.memory, progress)
    _write_final(request, wanted, batches[-1])
    return Outcome(request, wanted, inputs, batches, summaries)


def _rule(request: Request, source: Source) -> RollingRule:
    if request.rolling == "average":
        return average
    arithmetic = request.formulas()
    kept = arithmetic.keep_connected if source.connected else arithmetic.keep
    return exponential(kept if request.keep is None else request.keep, arithmetic)


FINAL = ("rolling_mean", "rolling_variance")


def _check_outputs(request: Request, wanted: Wanted) -> None:
    """Results replace older ones, but nothing that is read; the updated weights replace nothing at all."""
    read = request.files_read()
    updated = [request.update_weights] if request.update_weights else []
    check_outputs(updated, read)
    folders = _folders(request, wanted)
    check_outputs([*_targets(request, folders), *updated], read, force=True)
    for path in updated:
        if path.resolve() in [folder.resolve() for folder in folders]:
            raise OutputError(path, "is the folder for the results, expected another name for the weights")


def _folders(request: Request, wanted: Wanted) -> dict[Path, tuple[str, ...]]:
    """The folders that results go into, and what goes into each."""
    if request.output is None or request.archived():
        return {}
    names = (*wanted.tensors, *wanted.vectors)
    if len(request.inputs) == 1:
        return {request.output: names}
    numbered = {folder: names for number in range(len(request.inputs)) if (folder := request.folder(number))}
    return {request.output: FINAL if request.train else (), **numbered}


def _targets(request: Request, folders: dict[Path, tuple[str, ...]]) -> list[Path]:
    """The files that results go into, in folders that exist already; a new folder holds nothing to check."""
    if request.output and request.archived():
        return [request.output]
    for folder in folders:
        check_folder(folder, new_parent=folder != request.output)
    return [folder / f"{name}.npy" for folder, names in folders.items() if folder.is_dir() for name in names]


def _write_final(request: Request, wanted: Wanted, last: Batch) -> None:
    """The statistics that several mini-batches leave, and the weights that hold them."""
    if request.output and request.train and len(request.inputs) > 1:
        with replacing(*(request.output / f"{name}.npy" for name in FINAL)) as files:
            vectors = wanted.select(last)
            for file, name in zip(files, FINAL, strict=True):
                write_npy(file, vectors[name])
    if request.model and request.update_weights:
        update_weights(request.model, *request.place, last.rolling, request.update_weights)
