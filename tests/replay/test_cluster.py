"""A Dask cluster computes the moments: the same bytes, also when a worker dies, and one clear line for each fault."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

distributed = pytest.importorskip("distributed")
psutil = pytest.importorskip("psutil")  # distributed needs it

from bnorm.errors import ClusterError, TensorError  # noqa: E402
from bnorm.replay import cluster  # noqa: E402
from bnorm.replay.cluster import cluster_workers  # noqa: E402
from bnorm.replay.estimate import estimate  # noqa: E402
from bnorm.replay.moments import in_order  # noqa: E402

# Warnings of distributed itself cannot be fixed in bnorm.
pytestmark = pytest.mark.filterwarnings("ignore:::distributed", "ignore::ResourceWarning", "ignore:Port")

CHANNELS = 4
NAMES = tuple(f"x{number}.npy" for number in range(40))


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def inputs() -> None:
    rng = np.random.default_rng(3)
    for number, name in enumerate(NAMES):
        np.save(name, rng.normal(number, 2, (1 + number % 4, CHANNELS, 5, 6)).astype("f4"))
    np.savez("p.npz", **{n: np.ones(CHANNELS) for n in ("scales", "biases", "rolling_mean", "rolling_variance")})


def new_scheduler(workers: int) -> distributed.LocalCluster:
    """A scheduler that a user started, with workers in processes of their own."""
    return distributed.LocalCluster(
        n_workers=workers, threads_per_worker=1, dashboard_address=":0", silence_logs=logging.CRITICAL + 1
    )


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    with new_scheduler(workers=2) as found:
        yield found.scheduler_address


def files(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


# --- the same bytes ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("inputs")
@pytest.mark.parametrize("rule", ["ema", "average", "population"])
def test_two_workers_give_the_bytes_of_threads(scheduler, rule):
    with cluster_workers(scheduler) as workers:
        assert workers.at_once == 2
        how = {"executor": workers.executor, "workers": workers.at_once}
        estimate(params="p.npz", inputs=NAMES, rolling=rule, output="workers", **how)
    estimate(params="p.npz", inputs=NAMES, rolling=rule, output="threads")
    assert files("workers") == files("threads")


@pytest.mark.usefixtures("inputs")
def test_a_scheduler_file_is_an_address(scheduler):
    Path("s.json").write_text(json.dumps({"address": scheduler}))
    with cluster_workers("s.json") as workers:
        assert list(in_order(workers.executor, 2, abs, [-1, -2])) == [1, 2]


def test_a_cluster_that_the_user_started_keeps_running(scheduler):
    for _ in range(2):
        with cluster_workers(scheduler) as workers:
            assert workers.executor.submit(abs, -3).result() == 3


def nap_and_die(number: int) -> int:
    """Take a while, and kill this worker the first time that the argument is 5."""
    time.sleep(0.05)
    if number == 5 and not Path(os.environ["BNORM_TEST_DIED"]).exists():
        Path(os.environ["BNORM_TEST_DIED"]).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_worker_that_dies_costs_its_task_alone(folder, monkeypatch):
    monkeypatch.setenv("BNORM_TEST_DIED", str(folder / "died"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *sys.path]))
    with new_scheduler(workers=2) as own, cluster_workers(own.scheduler_address) as workers:
        assert list(in_order(workers.executor, 2, nap_and_die, range(30))) == list(range(30))
    assert (folder / "died").exists()


@pytest.mark.usefixtures("inputs")
def test_local_starts_workers_and_leaves_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr(cluster, "processors", lambda: 1)
    with cluster_workers("local") as workers:
        estimate(params="p.npz", inputs=NAMES, output="local", executor=workers.executor, workers=workers.at_once)
        pid = workers.executor.submit(os.getpid).result()
        assert list(tmp_path.glob("bnorm-*"))
    estimate(params="p.npz", inputs=NAMES, output="threads")
    assert files("local") == files("threads")
    assert not list(tmp_path.glob("bnorm-*"))
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


# --- faults -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch) -> None:
    monkeypatch.setattr(cluster, "PATIENCE", 1)


def refused(scheduler: str, message: str) -> None:
    with pytest.raises(ClusterError, match=message), cluster_workers(scheduler):
        pass


@pytest.mark.usefixtures("impatient")
def test_a_scheduler_that_is_not_there():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{unused.getsockname()[1]}"
        refused(address, f"{address}: no Dask scheduler answers, expected one within 1 seconds")


@pytest.mark.usefixtures("impatient")
def test_another_program_at_the_address():
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=lambda: server.accept()[0].sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 9)).start()
        refused(f"tcp://127.0.0.1:{server.getsockname()[1]}", "no Dask scheduler answers")


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("address", ["nonsense", "tcp://", "http://127.0.0.1:1", "tcp://127.0.0.1:port", ""])
def test_an_address_without_a_scheduler_is_refused(address):
    refused(address, "no Dask scheduler answers")


@pytest.mark.parametrize("content", ["", "hello", "[]", "{}", '{"address": 7}', "[" * 100_000])
def test_a_scheduler_file_of_another_content(content):
    Path("s.json").write_text(content)
    refused("s.json", r's\.json: has no "address"')


def test_a_scheduler_file_that_is_not_there():
    with pytest.raises(FileNotFoundError), cluster_workers("s.json"):
        pass


@pytest.mark.usefixtures("impatient")
def test_a_scheduler_without_workers():
    with new_scheduler(workers=0) as own:
        refused(own.scheduler_address, "has no worker after 1 seconds, expected one or more")


@pytest.mark.parametrize(
    ("where", "change", "message"),
    [
        ("scheduler", {"bnorm": "0.0.1"}, r"the scheduler has bnorm 0\.0\.1, expected "),
        ("scheduler", {"bnorm": None}, r"the scheduler has bnorm \(not installed\)"),
        ("workers", {"numpy": "2.0.0"}, r"tcp://worker has numpy 2\.0\.0"),
        ("workers", {"bnorm": "0.0.1"}, r"tcp://worker has bnorm 0\.0\.1"),
    ],
)
def test_other_versions_are_refused_before_any_task(where, change, message):
    same = {"packages": {"bnorm": "1", "numpy": "2"}}
    other = {"packages": same["packages"] | change}
    versions = {"client": same, "scheduler": same, "workers": {"tcp://worker": same}}
    cluster._compare("s", versions)
    versions |= {"scheduler": other} if where == "scheduler" else {"workers": {"tcp://worker": other}}
    with pytest.raises(ClusterError, match=f"s: {message}"):
        cluster._compare("s", versions)


def close_midway(own: distributed.LocalCluster) -> None:
    """Use a scheduler, and close it after the second result."""
    with cluster_workers(own.scheduler_address) as workers:
        for number in in_order(workers.executor, 1, nap, range(99)):
            if number == 1:
                own.close()


def test_a_scheduler_that_goes_away_midway():
    with pytest.raises(ClusterError, match="the scheduler stopped answering"):
        close_midway(new_scheduler(workers=1))


def nap(number: int) -> int:
    time.sleep(0.1)
    return number


@pytest.mark.usefixtures("inputs")
def test_a_worker_without_the_file(scheduler, monkeypatch):
    """The client sees the file, a worker does not: another machine, or another container."""
    with cluster_workers(scheduler) as workers:
        submit = workers.executor.submit

        def remove_first(*arguments):
            Path("x3.npy").unlink(missing_ok=True)
            return submit(*arguments)

        monkeypatch.setattr(workers.executor, "submit", remove_first)
        with pytest.raises(TensorError, match=r"x3\.npy: .*but not for a worker"):
            estimate(params="p.npz", inputs=NAMES, output="out", executor=workers.executor, workers=2)
    assert not Path("out").exists()


@pytest.mark.usefixtures("inputs")
def test_a_tensor_that_is_cut(scheduler):
    Path("x30.npy").write_bytes(Path("x30.npy").read_bytes()[:-4])
    with cluster_workers(scheduler) as workers, pytest.raises(TensorError, match=r"x30\.npy: .*bytes of values"):
        estimate(params="p.npz", inputs=NAMES, output="out", executor=workers.executor, workers=2)
    assert not Path("out").exists()


# --- as a command -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("inputs", "impatient")
def test_the_command_says_in_two_lines_that_there_is_no_scheduler(invoke):
    found = invoke("run", "--params", "p.npz", "--input", "x*.npy", "--scheduler", "tcp://127.0.0.1:9", exit_code=1)
    assert found.stdout == ""
    assert found.stderr.startswith(
        "error: tcp://127.0.0.1:9: no Dask scheduler answers, expected one within 1 seconds\n"
    )
    assert found.stderr.count("\n") == 2


@pytest.mark.usefixtures("inputs")
@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="needs process groups")
@pytest.mark.parametrize("seconds", [0, 5])  # after the first worker's process: while it starts, and while it works
def test_ctrl_c_ends_everything(seconds):
    """Ctrl-C for the whole process group, as from a terminal: exit 1, one line, no output, no process left."""
    big = np.random.default_rng(0).normal(size=(64, CHANNELS, 300, 300)).astype("f4")
    np.save("big.npy", big)
    Path("list.txt").write_text("big.npy\n" * 3000)
    command = [
        sys.executable,
        "-m",
        "bnorm",
        "run",
        "--params",
        "p.npz",
        "--inputs",
        "list.txt",
        "--scheduler",
        "local",
    ]
    process = subprocess.Popen([*command, "-o", "out"], stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not has_worker(process.pid) and process.poll() is None:
        time.sleep(0.01)
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=30)  # all of the work takes longer
    assert (process.returncode, stderr.strip()) == (1, "error: interrupted")
    assert not Path("out").exists()
    assert ended(process.pid)


def has_worker(parent: int) -> bool:
    """Return whether the process has started another one by `multiprocessing`, besides the resource tracker."""
    with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
        return any("spawn_main" in " ".join(child.cmdline()) for child in psutil.Process(parent).children())
    return False


def ended(group: int) -> bool:
    """Return whether the group has no process left, after a while: Python's resource tracker ends a moment later."""
    for _ in range(100):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False
