"""Rolling statistics of many mini-batches: the same bytes for any executor and any division of the work."""

from __future__ import annotations

import json
import os
import tracemalloc
import zipfile
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from bnorm.darknet.autodetect import read_model
from bnorm.darknet.weights import open_weights
from bnorm.errors import OutputError, TensorError
from bnorm.replay.estimate import estimate
from bnorm.replay.job import run
from bnorm.replay.moments import IN_FLIGHT, MomentsTask, in_order, moments_tasks
from bnorm.replay.moments_file import read_moments
from bnorm.replay.request import listed_names
from bnorm.tensors.npz import read_text

CHANNELS = 4  # of layer 0 of `tiny`
RULES = ("ema", "average", "population")
NAMES = tuple(f"x{number}.npy" for number in range(9))


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def inputs() -> list[np.ndarray]:
    """Nine mini-batches of several sizes, and p.npz."""
    rng = np.random.default_rng(3)
    arrays = [rng.normal(n, 1 + n, (1 + n % 4, CHANNELS, 5, 6)).astype("f4") for n in range(len(NAMES))]
    for name, array in zip(NAMES, arrays, strict=True):
        np.save(name, array)
    rows = {"scales": 2.0, "biases": -1.0, "rolling_mean": 0.5, "rolling_variance": 3.0}
    np.savez("p.npz", **{name: np.full(CHANNELS, value) for name, value in rows.items()})
    return arrays


def files(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


# --- the same bytes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("arithmetic", ["pjreddie", "alexeyab-gpu", "paper"])
def test_files_of_moments_give_the_bytes_of_a_run(inputs, rule, arithmetic):
    how = {"params": "p.npz", "rolling": rule, "arithmetic": arithmetic}
    run(inputs=NAMES, train=True, output="run", **how)
    estimate(inputs=NAMES, output="threads", **how)
    for number, part in enumerate((NAMES[:4], NAMES[4:5], NAMES[5:])):
        estimate(inputs=part, save_moments=f"m{number}.npz", **how)
    report = estimate(moments="m*.npz", output="merged", **how)
    expected = {name: Path("run", name).read_bytes() for name in ("rolling_mean.npy", "rolling_variance.npy")}
    assert files("threads") == files("merged") == expected
    assert (report.batches, report.values) == (9, sum(x.size // CHANNELS for x in inputs))


@pytest.mark.usefixtures("inputs")
def test_processes_give_the_same_bytes():
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        estimate(params="p.npz", inputs=NAMES, output="processes", executor=pool, workers=2)
    estimate(params="p.npz", inputs=NAMES, output="threads")
    assert files("processes") == files("threads")


class LastFirst(Executor):
    """An executor that runs the last task first, when a result is requested, as a cluster may."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Future, object]] = []
        self.most = 0

    def submit(self, function, /, *args):
        future: Future = Future()
        future.result = lambda timeout=None: (self.work(), Future.result(future, timeout))[1]
        self.waiting.append((future, lambda: function(*args)))
        self.most = max(self.most, len(self.waiting))
        return future

    def work(self) -> None:
        while self.waiting:
            future, call = self.waiting.pop()
            future.set_result(call())


@pytest.mark.usefixtures("inputs")
@pytest.mark.parametrize("rule", RULES)
def test_results_that_arrive_in_another_order_give_the_same_bytes(rule):
    estimate(params="p.npz", inputs=NAMES, rolling=rule, output="last", executor=LastFirst(), workers=2)
    estimate(params="p.npz", inputs=NAMES, rolling=rule, output="threads")
    assert files("last") == files("threads")


def test_the_number_of_tasks_in_flight_is_limited():
    executor = LastFirst()
    assert list(in_order(executor, 2, abs, range(-99, 0))) == list(range(99, 0, -1))
    assert executor.most == 2 * IN_FLIGHT


def test_pending_tasks_are_cancelled_after_an_error():
    with ThreadPoolExecutor(1) as pool, pytest.raises(ZeroDivisionError):
        list(in_order(pool, 1, lambda n: 1 // n, [1, 0, 2, 3, 4]))


# --- tasks ------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("inputs")
def test_files_are_grouped_in_their_order_with_some_tasks_for_each_worker():
    tasks = moments_tasks(NAMES, MomentsTask(channels=CHANNELS), workers=1)
    assert len(tasks) >= IN_FLIGHT
    assert [name for task in tasks for name in task.names] == [*NAMES]
    assert all(task.stamps[0].size == Path(task.names[0]).stat().st_size for task in tasks)


@pytest.mark.usefixtures("inputs")
def test_many_small_files_are_one_task(monkeypatch):
    monkeypatch.setattr("bnorm.replay.moments.TASK_FILES", 3)
    tasks = moments_tasks(NAMES * 100, MomentsTask(channels=CHANNELS), workers=1)
    assert {len(task.names) for task in tasks} == {3}


@pytest.mark.usefixtures("inputs")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.unlink(), "but not for a worker"),
        (lambda path: path.write_bytes(path.read_bytes() + b"1"), "bytes, expected"),
        (lambda path: os.utime(path, (1, 1)), "at another time"),
    ],
    ids=["removed", "longer", "written again"],
)
def test_a_file_that_is_another_one_for_a_worker_is_named(change, message):
    class Elsewhere(ThreadPoolExecutor):
        def submit(self, function, /, *args, **kwargs):
            if Path("x5.npy").exists():
                change(Path("x5.npy"))
            return super().submit(function, *args, **kwargs)

    with Elsewhere(1) as pool, pytest.raises(TensorError, match=f"x5.npy: .*{message}"):
        estimate(params="p.npz", inputs=NAMES, output="out", executor=pool, workers=1)
    assert not Path("out").exists()


@pytest.mark.usefixtures("inputs")
def test_a_file_that_is_cut_stops_the_estimate_and_nothing_is_written():
    Path("x7.npy").write_bytes(Path("x7.npy").read_bytes()[:-4])
    with pytest.raises(TensorError, match=r"x7\.npy: .*bytes of values"):
        estimate(params="p.npz", inputs=NAMES, output="out", save_moments="m.npz")
    assert not Path("out").exists()
    assert not Path("m.npz").exists()


# --- new weights ------------------------------------------------------------------------------------------------------


def test_new_weights_have_the_statistics_and_nothing_else_changed(inputs, tiny):
    report = estimate(*tiny, 0, inputs=NAMES, rolling="population", update_weights="new.weights")
    everything = np.concatenate([x.swapaxes(0, 1).reshape(CHANNELS, -1) for x in inputs], axis=1).astype("f8")
    with open_weights(read_model(*tiny)) as old, open_weights(read_model(tiny[0], "new.weights")) as new:
        # float32 of the file: half a unit in the last place
        np.testing.assert_allclose(new[0, "rolling_mean"], everything.mean(1), rtol=2.0**-24 + 1e-12)
        np.testing.assert_allclose(new[0, "rolling_variance"], everything.var(1), rtol=2.0**-24 + 1e-12)
        kept = [array for array in read_model(*tiny).layout.arrays if not array.name.startswith("rolling_")]
        assert all(np.array_equal(old[array.layer, array.name], new[array.layer, array.name]) for array in kept)
    assert report.rolling.mean.tolist() == pytest.approx(everything.mean(1).tolist(), rel=1e-12)


# --- files of moments that do not go together -------------------------------------------------------------------------


@pytest.fixture
def moments(inputs) -> tuple[str, str]:
    assert len(inputs) == len(NAMES)
    estimate(params="p.npz", inputs=NAMES[:4], save_moments="a.npz")
    estimate(params="p.npz", inputs=NAMES[4:], save_moments="b.npz")
    return "a.npz", "b.npz"


@pytest.mark.usefixtures("moments")
def test_numpy_reads_a_file_of_moments(inputs):
    found = np.load("a.npz")
    assert found["count"].tolist() == [x.size // CHANNELS for x in inputs[:4]]
    np.testing.assert_allclose(found["mean"][2], inputs[2].mean((0, 2, 3), dtype="f8"), rtol=1e-12)
    assert json.loads(found["inputs.json"]) == {"layer": "", "inputs": list(NAMES[:4])}


@pytest.mark.usefixtures("moments")
def test_the_same_moments_are_the_same_bytes():
    estimate(params="p.npz", inputs=NAMES[:4], save_moments="again.npz", threads=1, memory=16 << 20)
    assert Path("again.npz").read_bytes() == Path("a.npz").read_bytes()


def refused(message: str, **arguments) -> None:
    with pytest.raises(TensorError, match=message):
        estimate(**({"params": "p.npz", "output": "out"} | arguments))
    assert not Path("out").exists()


@pytest.mark.usefixtures("moments")
def test_an_input_in_two_files_is_refused():
    refused(r"a\.npz: has x0\.npy, which .*a\.npz has as well", moments=["a.npz", "a.npz"])


@pytest.mark.usefixtures("moments")
def test_another_file_of_the_same_name_is_another_input():
    np.save("x0.npy", np.load("x0.npy") + 1)  # on another machine, say
    estimate(params="p.npz", inputs="x0.npy", save_moments="c.npz")
    assert estimate(params="p.npz", moments=["a.npz", "c.npz"]).batches == 5


def test_names_in_another_order_than_the_inputs_are_refused(moments):
    refused(
        r"b\.npz: has the moments of x4\.npy as number 0, expected x0\.npy", moments=["b.npz", "a.npz"], inputs=NAMES
    )
    assert estimate(params="p.npz", moments=moments, inputs=NAMES).batches == 9


@pytest.mark.usefixtures("moments")
def test_inputs_without_moments_are_counted():
    refused(r"a\.npz: .*4 inputs.*, expected 9", moments="a.npz", inputs=NAMES)


@pytest.mark.usefixtures("moments")
def test_moments_of_another_layer_are_refused(tiny):
    estimate(*tiny, 0, inputs=NAMES[:2], save_moments="layer.npz")
    refused("is of layer 0, expected parameters", moments="layer.npz")
    with pytest.raises(TensorError, match="is of layer parameters, expected 0"):
        estimate(*tiny, 0, moments="a.npz")


@pytest.mark.usefixtures("moments")
def test_moments_of_more_channels_are_refused():
    np.save("wide.npy", np.ones((2, 6, 3, 3), "f4"))
    np.savez("wide.npz", **{n: np.ones(6) for n in ("scales", "biases", "rolling_mean", "rolling_variance")})
    estimate(params="wide.npz", inputs="wide.npy", save_moments="w.npz")
    refused("has 6 channels, expected 4", moments="w.npz")


def test_moments_are_not_saved_again(moments):
    with pytest.raises(ValueError, match="save_moments with moments"):
        estimate(params="p.npz", moments=moments, save_moments="c.npz")


@pytest.mark.usefixtures("moments")
def test_a_file_of_moments_is_never_an_output():
    with pytest.raises(OutputError, match="is an input"):
        estimate(params="p.npz", inputs=NAMES, save_moments="x3.npy", force=True)


def save_bad(arrays: dict[str, np.ndarray], text: str) -> None:
    """Write bad.npz, a file of moments."""
    np.savez("bad.npz", **arrays)
    with zipfile.ZipFile("bad.npz", "a") as archive:
        archive.writestr("inputs.json", text)


DAMAGE = {
    "negative m2": ("arrays", lambda it: it.update(m2=-it["m2"]), "m2 of x0.npy is negative"),
    "count of 1": ("arrays", lambda it: it.update(count=it["count"] * 0 + 1), "whole numbers of at least 2"),
    "count of a half": ("arrays", lambda it: it.update(count=it["count"] + 0.5), "whole numbers of at least 2"),
    "count that is NaN": ("arrays", lambda it: it.update(count=it["count"] * np.nan), "whole numbers of at least 2"),
    "count beyond 2^53": ("arrays", lambda it: it.update(count=it["count"] * 1e300), "whole numbers of at least 2"),
    "fewer counts": ("arrays", lambda it: it.update(count=it["count"][:3]), "have different inputs or channels"),
    "fewer means": ("arrays", lambda it: it.update(mean=it["mean"][:3]), "mean is float64 of the shape"),
    "float32": ("arrays", lambda it: it.update(mean=it["mean"].astype("f4")), "mean is float32"),
    "other channels": ("arrays", lambda it: it.update(m2=it["m2"][:, :2].copy()), "have different inputs or channels"),
    "no m2": ("arrays", lambda it: it.pop("m2"), "m2"),
    "no inputs": ("text", lambda it: it.pop("inputs"), "does not name"),
    "a layer that is a number": ("text", lambda it: it.update(layer=1), "does not name"),
    "names that are numbers": ("text", lambda it: it.update(inputs=[1, 2, 3, 4]), "does not name"),
}


@pytest.mark.usefixtures("moments")
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_of_moments_is_refused(damage):
    kind, change, message = DAMAGE[damage]
    arrays = dict(np.load("a.npz"))
    text = json.loads(arrays.pop("inputs.json"))
    change(text if kind == "text" else arrays)
    save_bad(arrays, json.dumps(text))
    refused(message, moments="bad.npz")


@pytest.mark.usefixtures("moments")
@pytest.mark.parametrize("text", ["", "[]", "[" * 100_000, "{}", '{"layer": "", "inputs": 7}'])
def test_any_text_in_place_of_the_names_is_refused(text):
    arrays = {name: array for name, array in np.load("a.npz").items() if name != "inputs.json"}
    save_bad(arrays, text)
    refused("does not name", moments="bad.npz")


@pytest.mark.usefixtures("moments")
def test_a_long_text_is_not_read():
    with pytest.raises(TensorError, match="of at most 10 bytes"):
        read_text(Path("a.npz"), "inputs.json", most=10)


@pytest.mark.usefixtures("moments")
def test_a_name_in_a_file_of_moments_stays_on_its_line():
    arrays = dict(np.load("a.npz"))
    text = json.loads(arrays.pop("inputs.json"))
    text["inputs"][0] = "x\nerror: \x1b[31m"
    save_bad(arrays | {"m2": -arrays["m2"]}, json.dumps(text))
    with pytest.raises(TensorError) as found:
        estimate(params="p.npz", moments="bad.npz")
    assert str(found.value).isprintable()


@pytest.mark.usefixtures("moments")
def test_a_packed_size_beyond_memory_is_not_allocated():
    """The fuzzer found it: zipfile reads a whole member by the packed size that the archive claims."""
    data = bytearray(Path("a.npz").read_bytes())
    entry = data.rindex(b"PK\x01\x02")  # of inputs.json, the last in the central directory
    data[entry + 20 : entry + 24] = b"\xfe\xff\xff\xff"  # its packed size
    Path("bad.npz").write_bytes(data)
    tracemalloc.start()
    assert read_moments(Path("bad.npz")).names == NAMES[:4]
    assert tracemalloc.get_traced_memory()[1] < 1 << 24
    tracemalloc.stop()


@pytest.mark.usefixtures("moments")
@pytest.mark.parametrize("name", ["p.npz", "x0.npy"])
def test_another_file_is_not_moments(name):
    with pytest.raises(TensorError):
        read_moments(Path(name))


# --- lists of names ---------------------------------------------------------------------------------------------------


def test_a_list_has_a_name_on_each_line():
    Path("list.txt").write_text("# saved yesterday\nx0.npy\r\n\n  x1.npz:key  \nä.npy\n", encoding="utf-8")
    assert listed_names("list.txt") == ("x0.npy", "x1.npz:key", "ä.npy")


@pytest.mark.parametrize("content", [b"", b"\n# nothing\n", b"x0.npy\0"])
def test_any_other_file_is_not_a_list(content):
    Path("list.txt").write_bytes(content)
    with pytest.raises(TensorError, match=r"list\.txt: "):
        listed_names("list.txt")
