"""Threads that share a list of work."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import Self, TypeVar

import numpy as np

from bnorm.batchnorm.kernels import Scratch

BUFFER = 16  # values that NumPy converts or gathers at a time: rows from this length on are never copied together

Item = TypeVar("Item")


class Team:
    """Threads, each with its scratch buffers; NumPy works outside the interpreter's lock. A context manager.

    The caller's thread is one of them. Each takes the next item when it is done with one: handing every item to a
    pool would wake the caller as often, and cost more than the work.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads)
        self._scratch = [Scratch() for _ in range(threads)]

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def each(self, task: Callable[[Item, Scratch], None], items: Sequence[Item]) -> None:
        """Run the task on every item; the first error is raised, and nothing more is begun after it."""
        queue = iter(items)  # a list's iterator, which hands out each item once, whichever thread asks

        def drain(scratch: Scratch) -> None:
            try:
                with np.errstate(all="ignore"):  # which each thread has of its own
                    np.setbufsize(BUFFER)
                    for item in queue:
                        task(item, scratch)
            finally:
                _exhaust(queue)

        futures: list[Future[None]] = []
        try:
            with suppress(RuntimeError):  # the system has no more threads: fewer do the same
                futures.extend(self._pool.submit(drain, scratch) for scratch in self._scratch[1 : len(items)])
            drain(self._scratch[0])
        finally:
            _exhaust(queue)
            wait(futures)
        for future in futures:
            future.result()


def _exhaust(items: Iterator[object]) -> None:
    """Let nothing more begin."""
    for _ in items:
        pass


def processors() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
