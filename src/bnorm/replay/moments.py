"""The moments of many saved mini-batches, computed by any executor, and returned in the order of the inputs."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

from bnorm.batchnorm.engine import MEMORY, batch_moments
from bnorm.batchnorm.engines import kernels_of
from bnorm.batchnorm.formulas import PartialMoments
from bnorm.batchnorm.threads import Team
from bnorm.errors import TensorError
from bnorm.replay.layer import check_tensors
from bnorm.tensors.open import file_of, open_tensor

TASK_BYTES = 64 << 20  # total size of the files of one task: about 0.1 s of work, where a scheduler needs 4 ms per task

TASK_FILES = 256  # the limit for small files: opening a file takes about as long as reading 100 kB

IN_FLIGHT = 4  # tasks per worker that have been sent, and whose results have not been fetched yet

Task = TypeVar("Task")

Answer = TypeVar("Answer")


class Stamp(NamedTuple):
    """The stamp of a file, which changes with its content: size in bytes, and time of writing in nanoseconds."""

    size: int
    written: int

    @classmethod
    def of(cls, name: str) -> Stamp:
        """Return the stamp of the file of a tensor's name; OSError if there is none."""
        status = os.stat(file_of(name))  # noqa: PTH116  # half the time of Path.stat, for thousands of names
        return cls(size=status.st_size, written=status.st_mtime_ns)


@dataclass(frozen=True, slots=True, kw_only=True)
class MomentsTask:
    """Some inputs of one layer, for one worker: only text and numbers, so that it can be sent to another process.

    `threads` work on each input; `stamps` are the stamps of the files when the task was made.
    """

    channels: int
    names: tuple[str, ...] = ()
    stamps: tuple[Stamp, ...] = ()
    layout: str = "nchw"
    shape: tuple[int, ...] | None = None
    memory: int = MEMORY
    threads: int = 1
    engine: str = "auto"


def task_moments(task: MomentsTask) -> list[PartialMoments]:
    """Return the moments of each input of the task.

    Raises `TensorError` for a tensor that does not fit the layer, and for a file that is missing or differs from
    `task.stamps`; OSError for a file that cannot be read.
    """
    with Team(task.threads) as team:
        return [_input_moments(name, stamp, task, team) for name, stamp in zip(task.names, task.stamps, strict=True)]


def _input_moments(name: str, stamp: Stamp, task: MomentsTask, team: Team) -> PartialMoments:
    _check_stamp(name, stamp)
    with open_tensor(name, task.shape, task.layout) as x:
        check_tensors(x, None, task.channels, train=True)
        kernels = kernels_of(task.engine, x.channels * x.length)
        moments = batch_moments(x, team, task.memory, kernels)
    _check_stamp(name, stamp)
    return moments


def _check_stamp(name: str, expected: Stamp) -> None:
    """Raise `TensorError` for a file that is missing, or whose stamp is another one."""
    path = file_of(name)
    try:
        found = Stamp.of(name)
    except FileNotFoundError:
        cause = "every worker needs the files under the same paths"
        raise TensorError(path, "exists here, but not for a worker", cause=cause) from None
    cause = "it was changed, or a worker has another file of this name"
    if found.size != expected.size:
        what = f"has {found.size:,} bytes, expected {expected.size:,}, as when the run began"
        raise TensorError(path, what, cause=cause)
    if found.written != expected.written:
        raise TensorError(path, "was written at another time than when the run began", cause=cause)


def moments_tasks(names: Sequence[str], like: MomentsTask, workers: int) -> list[MomentsTask]:
    """Return tasks for the inputs in order: copies of `like` with names and stamps. OSError for a missing file.

    The files of a task have at most `TASK_BYTES` together (or are a single file), less if workers would otherwise
    have fewer than `IN_FLIGHT` tasks each.
    """
    stamps = [Stamp.of(name) for name in names]
    most = min(TASK_BYTES, sum(stamp.size for stamp in stamps) // (IN_FLIGHT * workers))
    return [
        replace(like, names=tuple(names[start:stop]), stamps=tuple(stamps[start:stop]))
        for start, stop in _groups(stamps, most)
    ]


def _groups(stamps: Sequence[Stamp], most: int) -> Iterator[tuple[int, int]]:
    """Yield the range of consecutive files of each task."""
    start, size = 0, 0
    for number, stamp in enumerate(stamps):
        if number > start and (size + stamp.size > most or number - start >= TASK_FILES):
            yield start, number
            start, size = number, 0
        size += stamp.size
    yield start, len(stamps)


def in_order(
    executor: Executor, workers: int, function: Callable[[Task], Answer], tasks: Iterable[Task]
) -> Iterator[Answer]:
    """Yield the result of the function for each task, in the order of the tasks.

    The executor has `IN_FLIGHT` tasks for each worker at a time; after an error, pending tasks are cancelled.
    """
    sent: deque[Future[Answer]] = deque()
    try:
        for task in tasks:
            sent.append(executor.submit(function, task))
            if len(sent) == IN_FLIGHT * workers:
                yield sent.popleft().result()
        while sent:
            yield sent.popleft().result()
    finally:
        for future in sent:
            future.cancel()
