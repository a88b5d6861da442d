"""Threads that share a list of work."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from threading import Lock
from typing import Generic, Self, TypeVar

import numpy as np

from bnorm.batchnorm.kernels import Scratch

BUFFER = 16  # values that NumPy converts or gathers at a time: longer rows are never copied together

Item = TypeVar("Item")


class _Queue(Generic[Item]):
    """Items for several threads: each item is handed out once.

    The lock is for interpreters without a global lock, where threads must not share an iterator.
    """

    def __init__(self, items: Sequence[Item]) -> None:
        self._items, self._next, self._lock = items, 0, Lock()

    def __iter__(self) -> Iterator[Item]:
        while (number := self._take()) < len(self._items):
            yield self._items[number]

    def _take(self) -> int:
        with self._lock:
            number = self._next
            self._next += 1
        return number

    def stop(self) -> None:
        """Hand out no more items."""
        with self._lock:
            self._next = len(self._items)


class Team:
    """Threads, each with its scratch buffers; a context manager.

    NumPy releases the interpreter's lock while it computes. The caller's thread is one of them. Each takes the next
    item when it has finished one: submitting every item to a pool would wake the caller for each, which costs more than
    the work (see benchmarks/README.md).
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
        """Run the task on every item. After an error nothing more is started, and the first error is raised."""
        queue = _Queue(items)
        futures: list[Future[None]] = []
        try:
            with suppress(RuntimeError):  # the system has no more threads: fewer give the same results
                futures.extend(self._pool.submit(_drain, queue, task, own) for own in self._scratch[1 : len(items)])
            _drain(queue, task, self._scratch[0])
        finally:
            queue.stop()
            wait(futures)
        for future in futures:
            future.result()


def _drain(queue: _Queue[Item], task: Callable[[Item, Scratch], None], scratch: Scratch) -> None:
    """Run the task on items of the queue until it is empty."""
    try:
        with np.errstate(all="ignore"):  # both settings are per thread
            np.setbufsize(BUFFER)
            for item in queue:
                task(item, scratch)
    finally:
        queue.stop()


def thread_count(threads: int | None) -> int:
    """Return the number of threads to use, by default one per processor; ValueError below 1."""
    if threads is not None and threads < 1:
        raise ValueError(f"threads={threads}, expected at least 1")
    return threads or processors()


def processors() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
