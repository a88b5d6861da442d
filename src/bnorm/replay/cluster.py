"""Workers of a Dask cluster: the only file that imports `distributed`."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import tempfile
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import CancelledError, Executor
from contextlib import ExitStack, contextmanager
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, NamedTuple

import distributed

from bnorm.batchnorm.threads import processors
from bnorm.errors import ClusterError
from bnorm.files import open_regular

LOCAL = "local"

PATIENCE = 10  # seconds to wait for a scheduler's answer, and for its first worker

RETRIES = 2  # of a task whose worker died

COMPARED = ("bnorm", "numpy")  # packages that must have the same version here, on the scheduler and on the workers

MOST_FILE = 1 << 20  # bytes of a scheduler file


class Workers(NamedTuple):
    """An executor, how many tasks it computes at once, and the address of the dashboard, None without one."""

    executor: Executor
    at_once: int
    dashboard: str | None


@contextmanager
def cluster_workers(scheduler: str) -> Iterator[Workers]:
    """Yield the workers of a scheduler: "local", which starts one for each processor, an address, or FILE.json.

    Raises `ClusterError` if none answers within `PATIENCE`, if versions differ, or if it disappears later. At the end
    tasks are cancelled, and processes started here are stopped; a scheduler that the user started keeps running.
    """
    _silence()
    with ExitStack() as stack:
        client = _client(scheduler, stack)
        _wait_for_a_worker(scheduler, client)
        _compare(scheduler, client.get_versions(packages=COMPARED))
        executor = stack.enter_context(client.get_executor(pure=False, retries=RETRIES))
        at_once = sum(client.ncores().values())
        try:
            yield Workers(executor=executor, at_once=at_once, dashboard=client.dashboard_link or None)
        except CancelledError:
            raise ClusterError(scheduler, "the scheduler stopped answering, expected answers until the end") from None
        except distributed.KilledWorker as error:
            what = f"workers died {RETRIES + 1} times with the same files, expected one to finish"
            raise ClusterError(scheduler, what, cause="too little memory? --memory sets it for each worker") from error


def _silence() -> None:
    """Keep `distributed` from logging errors to stderr that are reported here."""
    for name in logging.root.manager.loggerDict:
        if name.split(".")[0] in ("distributed", "tornado", "asyncio"):
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)


def _client(scheduler: str, stack: ExitStack) -> distributed.Client:
    """Return a client, which the stack closes together with a cluster that was started here."""
    if scheduler == LOCAL:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="bnorm-"))
        where: Any = stack.enter_context(_local_cluster(folder))
    else:
        where = _address_in(Path(scheduler)) if scheduler.endswith(".json") else scheduler
        _check_answer(scheduler, where)
    return stack.enter_context(distributed.Client(where, timeout=PATIENCE, set_as_default=False))


def _check_answer(scheduler: str, address: str) -> None:
    """Raise `ClusterError` if no scheduler answers: a client without a scheduler would take longer to close."""

    async def connect() -> None:
        arguments = distributed.Security().get_connection_args("client")
        comm = await distributed.core.connect(address, timeout=PATIENCE, **arguments)
        await comm.close()

    try:
        asyncio.run(connect())
    except Exception as error:  # of any kind: another program may have answered with arbitrary bytes
        known = isinstance(error, OSError | ValueError)
        cause = str(error).partition("\n")[0] if known else "the program that answers there is not a Dask scheduler"
        what = f"no Dask scheduler answers, expected one within {PATIENCE} seconds"
        raise ClusterError(scheduler, what, cause=cause) from None


@contextmanager
def _local_cluster(folder: str) -> Iterator[distributed.LocalCluster]:
    """Start a worker for each processor; they end with the `with` statement, and write only to this folder."""
    with ExitStack() as stack:
        with _interrupted_later():
            cluster = distributed.LocalCluster(
                n_workers=processors(),
                threads_per_worker=1,
                dashboard_address=":0",
                memory_limit=0,
                local_directory=folder,
                silence_logs=logging.CRITICAL + 1,
            )
            stack.callback(_close, cluster)
        yield cluster


def _close(cluster: distributed.LocalCluster) -> None:
    """Stop the workers; half of that would make Python wait for them when it ends."""
    with _interrupted_later():
        cluster.close()


@contextmanager
def _interrupted_later() -> Iterator[None]:
    """Put off Ctrl-C to the end; threads that are started here block it, and so do their processes, for good.

    Half a cluster cannot be stopped, and a worker would print a traceback.
    """
    if threading.current_thread() is not threading.main_thread():  # only the main thread gets signals
        yield
        return
    received: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _frame: received.append(number))
    try:
        with _blocked(signal.SIGINT):
            yield
    finally:
        signal.signal(signal.SIGINT, before)
        if received:
            signal.raise_signal(signal.SIGINT)


@contextmanager
def _blocked(number: signal.Signals) -> Iterator[None]:
    """Block a signal in this thread and in what it starts; does nothing where signals cannot be blocked."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # the first process to start would start it, which unblocks the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _address_in(path: Path) -> str:
    """Return the address in a scheduler file; raises `ClusterError` for any other file."""
    with open_regular(path, ClusterError) as file:
        data = file.read(MOST_FILE)
    try:
        address = json.loads(data)["address"]
    except (ValueError, KeyError, TypeError, RecursionError):
        address = None
    if not isinstance(address, str):
        raise ClusterError(path, 'has no "address", expected a file that dask scheduler --scheduler-file wrote')
    return address


def _wait_for_a_worker(scheduler: str, client: distributed.Client) -> None:
    try:
        client.wait_for_workers(1, timeout=PATIENCE)
    except TimeoutError:
        raise ClusterError(scheduler, f"has no worker after {PATIENCE} seconds, expected one or more") from None


def _compare(scheduler: str, versions: Mapping[str, Any]) -> None:
    """Raise `ClusterError` if the scheduler or a worker has another version: bits could change, or tasks fail."""
    here = versions["client"]["packages"]
    others = {"the scheduler": versions["scheduler"], **versions["workers"]}
    for name, other in others.items():
        for package in COMPARED:
            found = other["packages"].get(package) if other else None
            if found != here[package]:
                what = f"{name} has {package} {found or '(not installed)'}, expected {here[package]}, as here"
                raise ClusterError(scheduler, what)
