"""The same bits whatever the threads, the memory, the file format and the order in memory; and how tensors are cut."""

from __future__ import annotations

import io
import threading
import time
import tracemalloc
import zipfile
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bnorm.batchnorm import tiling
from bnorm.batchnorm.arithmetic import ARITHMETICS
from bnorm.batchnorm.engine import LEAST_MEMORY, Normalisation, run_batch
from bnorm.batchnorm.engines import has_numba, kernels_of
from bnorm.batchnorm.formulas import Parameters, Rolling
from bnorm.batchnorm.threads import Team
from bnorm.batchnorm.tiling import Grouping
from bnorm.tensors import tensor
from bnorm.tensors.npy import new_npy
from bnorm.tensors.open import open_tensor
from bnorm.tensors.tensor import MemoryTensor, Span, Tensor

MIB = 1 << 20
OUTPUTS = ("y", "x_norm", "dx")


class Way(NamedTuple):
    """How a mini-batch is handed in; `memory` is in bytes, and counts only for files."""

    threads: int
    memory: int
    layout: str = "nchw"
    storage: str = "memory"
    engine: str = "numpy"


class Batch(NamedTuple):
    """A mini-batch and its layer, in training and with a delta or not."""

    x: np.ndarray
    delta: np.ndarray
    train: bool
    backward: bool
    arithmetic: str = "pjreddie"

    @property
    def layer(self) -> Normalisation:
        """One with other numbers in each channel."""
        channels = np.arange(1.0, self.x.shape[1] + 1)
        return Normalisation(
            Parameters(np.cos(channels), np.sin(channels)),
            Rolling(np.sin(3 * channels), 1 + np.cos(channels) ** 2),
            ARITHMETICS[self.arithmetic],
            self.train,
        )


def batch_of(shape: tuple[int, ...], dtype: str = "f4", train: bool = True, backward: bool = True) -> Batch:
    """Values over some orders of magnitude, so that another order of additions is another sum."""
    rng = np.random.default_rng(sum(shape))
    x, delta = ((rng.normal(0, 1, shape) * 10.0 ** rng.integers(-3, 3, shape)).astype(dtype) for _ in range(2))
    return Batch(x, delta, train, backward)


# --- handing it in ----------------------------------------------------------------------------------------------------


def laid_out(array: np.ndarray, layout: str) -> np.ndarray:
    """The array with its channels last."""
    return np.ascontiguousarray(np.moveaxis(array, 1, -1)) if layout == "nhwc" else array


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def save(folder: Path, name: str, array: np.ndarray, storage: str) -> tuple[str, tuple[int, ...] | None]:
    """The name to open it by, and the shape that must be said."""
    path = folder / f"{name}.{'npz' if storage in ('stored', 'compressed') else storage}"
    if storage == "raw":
        array.tofile(path)
        return str(path), array.shape
    if storage == "npy":
        path.write_bytes(npy(array))
        return str(path), None
    kind = zipfile.ZIP_STORED if storage == "stored" else zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(path, "w", kind) as archive:
        archive.writestr("other.npy", npy(np.zeros((3, 3))))
        archive.writestr(f"{name}.npy", npy(array))
    return f"{path}:{name}", None


def hand_in(stack: ExitStack, folder: Path, name: str, array: np.ndarray, way: Way) -> Tensor:
    """The array as a tensor to read."""
    array = laid_out(array, way.layout)
    if way.storage == "memory":
        return MemoryTensor(array, way.layout)
    return stack.enter_context(open_tensor(*save(folder, name, array, way.storage), way.layout))


def room(stack: ExitStack, folder: Path, name: str, like: Tensor, way: Way) -> tuple[Tensor, Path | np.ndarray]:
    """A tensor to write, and where its values will be."""
    if way.storage == "memory":
        array = np.full(like.shape, 7, like.dtype)
        return MemoryTensor(array, way.layout), array
    path = folder / f"out-{name}.npy"
    return new_npy(path, stack.enter_context(path.open("w+b")), like), path


def results(batch: Batch, way: Way) -> dict[str, np.ndarray]:
    """Every result of the mini-batch, its tensors with channels as the second dimension."""
    with TemporaryDirectory() as name, ExitStack() as stack, Team(way.threads) as team:
        folder = Path(name)
        x = hand_in(stack, folder, "x", batch.x, way)
        delta = hand_in(stack, folder, "delta", batch.delta, way) if batch.backward else None
        outputs = {key: room(stack, folder, key, x, way) for key in OUTPUTS[: 3 if batch.backward else 2]}
        tensors = {key: tensor for key, (tensor, _) in outputs.items()}
        kernels = kernels_of(way.engine, 0)
        found = run_batch(batch.layer, x, delta, tensors, team, way.memory, kernels=kernels)
        stack.close()
        arrays = {key: np.load(at) if isinstance(at, Path) else at for key, (_, at) in outputs.items()}
    if way.layout == "nhwc":
        arrays = {key: np.moveaxis(array, -1, 1) for key, array in arrays.items()}
    vectors = [found.gradients._asdict()] if found.gradients else []
    vectors += [{"mean": found.moments.mean, "m2": found.moments.m2}] if found.moments else []
    return {key: value for part in (arrays, *vectors) for key, value in part.items()}


def assert_same_bits(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> None:
    """Equal, a negative zero and a positive one apart."""
    assert first.keys() == second.keys()
    for key, values in first.items():
        other = second[key]
        assert (values.shape, values.dtype) == (other.shape, other.dtype)
        assert np.ascontiguousarray(values).tobytes() == np.ascontiguousarray(other).tobytes(), key


def assert_same_in_every(batch: Batch, *ways: Way) -> None:
    wanted = results(batch, Way(1, MIB))
    for way in ways:
        assert_same_bits(results(batch, way), wanted)


# --- the property -----------------------------------------------------------------------------------------------------

INSTALLED = ("numpy", "numba") if has_numba() else ("numpy",)
SMALL = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 20), st.integers(1, 20))
FLAT = st.tuples(st.integers(1, 1500), st.integers(1, 9))
PIXELS = st.tuples(st.integers(1, 1500), st.integers(1, 9), st.just(1), st.just(1))
PLANES = st.tuples(st.integers(1, 2), st.integers(1, 2), st.integers(60, 70), st.integers(60, 70))
SHAPES = st.one_of(SMALL, FLAT, PIXELS, PLANES).filter(lambda shape: np.prod(shape) > shape[1])
MEMORIES = st.one_of(st.integers(MIB, 4096 * MIB), st.integers(1 << 12, 1 << 16))  # what --memory takes, and far less


@st.composite
def batches_and_ways(draw: st.DrawFn) -> tuple[Batch, Way]:
    storage = draw(st.sampled_from(["memory", "npy", "stored", "compressed", "raw"]))
    dtype = "f4" if storage == "raw" else draw(st.sampled_from(["f2", "f4", "f8"]))
    batch = batch_of(draw(SHAPES), dtype, train=draw(st.booleans()), backward=draw(st.booleans()))
    threads, layout = draw(st.sampled_from([1, 2, 7])), draw(st.sampled_from(["nchw", "nhwc"]))
    return batch, Way(threads, draw(MEMORIES), layout, storage, draw(st.sampled_from(INSTALLED)))


@pytest.mark.slow
@settings(deadline=None, max_examples=30)
@given(batches_and_ways())
@example((batch_of((1, 3, 700, 700)), Way(7, MIB)))  # channels that are cut between threads
@example((batch_of((1, 3, 700, 700)), Way(2, 4 * MIB, "nhwc", "npy")))  # and into tiles
@example((batch_of((300, 4096)), Way(7, MIB, "nchw", "npy")))
@example((batch_of((1, 4096, 2, 2)), Way(7, MIB, "nhwc", "npy")))
@example((batch_of((2, 2, 1, 4100)), Way(2, 4096, "nchw", "npy")))  # a tile that is the short end of a plane
@example((batch_of((40, 1025, 3, 5)), Way(2, MIB, "nchw", "npy")))
def test_the_same_bits_in_every_way(drawn):
    batch, way = drawn
    assert_same_in_every(batch, way)


def test_the_sign_of_a_zero_is_the_same_in_every_way():
    """A rolling mean of −0 dominates a negative variance."""
    rolling = Rolling(np.array([-0.0, 5.0]), np.array([-1e-7, 1e-9]))
    layer = Normalisation(
        Parameters(np.array([-1.0, 1.0]), np.array([-0.0, 0.0])), rolling, ARITHMETICS["paper"], False
    )
    x, found = MemoryTensor(np.full((1, 2, 8, 8), -0.0, "f4")), set()
    for engine in INSTALLED:
        for threads in (1, 2):
            y = MemoryTensor(np.empty(x.shape, "f4"))
            with Team(threads) as team:
                run_batch(layer, x, None, {"y": y}, team, kernels=kernels_of(engine, 0))
            found.add(y.view.array.tobytes())
    assert len(found) == 1


TINY = [(2, 1), (1, 1, 1, 2), (1, 5, 3, 3), (2, 5, 1, 1), (5, 1, 3, 3), (2, 3, 2, 9)]
EDGES = [
    *[(700, 1), (2, 4096), (513, 3), (9, 300, 1, 1), (512, 2), (1025, 5), (683, 3, 2, 3)],
    *[(2, 3, 70, 71), (1, 2, 64, 64), (1, 1, 100, 100), (2, 1, 256, 256), (5, 2, 50, 60)],
]


SLOW = pytest.mark.slow  # planes of many pieces: each piece by itself, of a file with channels last, takes seconds


@pytest.mark.parametrize("shape", [*TINY, *EDGES, pytest.param((1, 3, 256, 257), marks=SLOW)], ids=str)
@pytest.mark.parametrize("train", [False, True], ids=["inference", "training"])
def test_the_same_bits_at_the_edges_of_pieces_and_tiles(shape, train):
    memories = [1, 100, 9] if shape in TINY else [1 << (19 if 4096 in shape else 14), 1 << 18, 4 * MIB]
    layouts = ["nchw", "nchw", "nhwc"]
    ways = [Way(*way) for way in zip([2, 7, 1], memories, layouts, ["npy", "raw", "stored"], strict=True)]
    least = 1 << 12 if 4096 in shape else 1  # of thousands of channels not each by itself
    engines = [Way(2, MIB, layout, engine=engine) for layout in ("nchw", "nhwc") for engine in INSTALLED]
    assert_same_in_every(batch_of(shape, train=train), *ways, Way(7, least, "nhwc"), *engines)


@pytest.mark.parametrize("arithmetic", ["pjreddie", "alexeyab-gpu", "paper"])
def test_the_same_bits_in_other_arithmetics(arithmetic):
    batch = batch_of((3, 5, 20, 21))._replace(arithmetic=arithmetic)
    engines = [Way(2, MIB, engine=engine) for engine in INSTALLED]
    assert_same_in_every(batch, Way(7, 4096, "nhwc", "npy"), Way(2, 4096, "nchw", "npy"), *engines)


def test_the_same_bits_where_values_are_not_finite():
    batch = batch_of((3, 5, 20, 21))
    batch.x[0, 1, 3, 3], batch.delta[1, 2, 1, 1] = np.nan, np.nan
    batch.x[0, 3, 0, 1], batch.x[2, 3, 0, 0] = np.inf, -np.inf  # whose sum is no number, which is no warning either
    ways = [Way(7, 4096, "nhwc", "npy"), Way(2, 4096, "nchw", "npy"), Way(7, 1, "nhwc")]
    ways += [Way(2, MIB, engine=engine) for engine in INSTALLED]
    finite = [{key: np.nan_to_num(values) for key, values in results(batch, way).items()} for way in ways]
    for found in finite[1:]:
        assert_same_bits(found, finite[0])


@pytest.mark.parametrize(
    "shape", [(3, 5, 20, 21), (700, 5), (9, 4, 3, 5), pytest.param((1, 3, 300, 301), marks=SLOW)], ids=str
)
def test_the_same_bits_where_a_mean_is_far_from_zero(shape):
    batch = batch_of(shape, "f8")
    batch.x[:, 1] += 1e7  # this channel is summed again; the others must not notice
    near, found = results(batch_of(shape, "f8"), Way(1, MIB)), results(batch, Way(1, MIB))
    others = {key: (slice(None), [0, 2]) if values.ndim > 1 else [0, 2] for key, values in near.items()}
    assert_same_bits(*({key: part[key][others[key]] for key in near} for part in (near, found)))
    # A file with channels last that is cut by channels is read value by value: not the large one.
    few, least = (4096, 1) if batch.x.size < 10_000 else (8 * MIB, 1 << 14)
    assert_same_in_every(batch, Way(7, few, "nhwc", "npy"), Way(2, 4096, "nchw", "npy"), Way(7, least, "nhwc"))


def test_a_flat_tensor_has_the_bits_of_one_with_a_place_per_image():
    flat = batch_of((900, 5))
    pixels = flat._replace(x=flat.x.reshape(900, 5, 1, 1), delta=flat.delta.reshape(900, 5, 1, 1))
    first, second = results(flat, Way(2, MIB)), results(pixels, Way(2, MIB))
    assert_same_bits({key: values.reshape(first[key].shape) for key, values in second.items()}, first)


def test_an_image_has_the_bits_of_a_batch_of_one():
    batch = batch_of((1, 5, 40, 41))
    with Team(2) as team:
        image, one = (
            run_batch(batch.layer, MemoryTensor(x), None, {}, team) for x in (batch.x[0].copy(), batch.x.copy())
        )
    assert image.moments is not None
    assert one.moments is not None
    assert np.array_equal(image.moments.mean, one.moments.mean)
    assert np.array_equal(image.moments.m2, one.moments.m2)


@pytest.mark.parametrize("memory", [1, 4096, MIB])
@pytest.mark.parametrize("shape", [(2, 3, 70, 71), (1100, 5)], ids=str)
def test_the_same_bits_from_a_file_into_memory(tmp_path, memory, shape):
    batch = batch_of(shape, backward=False)
    wanted = results(batch, Way(1, MIB))
    np.save(tmp_path / "x.npy", batch.x)
    y = np.full_like(batch.x, 7)
    with Team(2) as team, open_tensor(str(tmp_path / "x.npy")) as x:
        run_batch(batch.layer, x, None, {"y": MemoryTensor(y)}, team, memory)
    assert y.tobytes() == wanted["y"].tobytes()


def test_a_team_s_threads_work_at_a_time_and_none_is_told_of_an_overflow():
    together = threading.Barrier(3, timeout=60)

    def overflow(_item: int, _scratch: object) -> None:
        together.wait()
        assert np.isinf(np.full(9, 1e300).astype("f4")).all()

    with Team(3) as team:
        team.each(overflow, range(6))


def test_every_item_is_handed_out_once():
    taken: list[int] = []
    with Team(7) as team:
        team.each(lambda item, _scratch: taken.append(item), range(20_000))
    assert sorted(taken) == list(range(20_000))


@pytest.mark.parametrize("fails", ["caller", "worker"])
def test_after_an_error_nothing_more_is_begun(fails):
    both, done = threading.Barrier(2, timeout=60), []

    def work(item: int, _scratch: object) -> None:
        if item < 2:
            both.wait()
        if (threading.current_thread() is threading.main_thread()) == (fails == "caller"):
            raise ValueError("no")
        time.sleep(0.01)
        done.append(item)

    with Team(2) as team, pytest.raises(ValueError, match="no"):
        team.each(work, range(100))
    assert len(done) < 50


def test_fewer_threads_than_asked_for_do_the_same(monkeypatch):
    started = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        if threading.active_count() > before + 1:
            raise RuntimeError("can't start new thread")
        started(thread)

    batch, before = batch_of((3, 5, 40, 41)), threading.active_count()
    wanted = results(batch, Way(1, MIB))
    monkeypatch.setattr(threading.Thread, "start", start)
    assert_same_bits(results(batch, Way(7, MIB)), wanted)


def test_a_team_works_on_after_an_error():
    def fail(_item: int, _scratch: object) -> None:
        raise ValueError("no")

    batch = batch_of((3, 5, 40, 41))
    with Team(2) as team:
        with pytest.raises(ValueError, match="no"):
            team.each(fail, range(100))
        found = run_batch(batch.layer, MemoryTensor(batch.x), None, {}, team)
    assert found.moments is not None
    assert np.array_equal(found.moments.mean, results(batch, Way(1, MIB))["mean"])


@pytest.mark.parametrize(("shape", "train"), [((3, 5, 40, 41), True), ((3, 5, 40, 41), False), ((1, 2, 70, 71), True)])
@pytest.mark.parametrize("memory", [4096, MIB])
def test_progress_ends_with_every_value_done_once(tmp_path, shape, train, memory):
    batch, done = batch_of(shape, train=train, backward=False), []
    np.save(tmp_path / "x.npy", batch.x)
    with Team(2) as team, ExitStack() as stack:
        x = stack.enter_context(open_tensor(str(tmp_path / "x.npy")))
        y, _ = room(stack, tmp_path, "y", x, Way(2, memory, storage="npy"))
        run_batch(batch.layer, x, None, {"y": y}, team, memory, done.append)
    assert sum(done) == batch.x.size
    assert all(values > 0 for values in done)


@pytest.mark.slow
def test_memory_is_bounded_by_the_budget_and_not_by_the_file(tmp_path, tall):
    budget = LEAST_MEMORY
    with Team(2) as team, ExitStack() as stack:
        x = stack.enter_context(open_tensor(str(tall[0]), None, tall[1]))
        y, _ = room(stack, tmp_path, "y", x, Way(2, budget, storage="npy"))
        layer = batch_of((1, x.channels, 1, 2)).layer
        tracemalloc.start()
        try:
            run_batch(layer, x, None, {"y": y}, team, budget)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    # x and y have 96 MiB; two threads have three scratch blocks of 4 MiB each.
    assert peak < budget + 2 * 3 * 4 * MIB


@pytest.mark.parametrize("threads", [1, 2])
def test_a_file_with_channels_last_is_moved_in_long_pieces(monkeypatch, threads):
    moved = []

    def counting(move):
        def count(*arguments):
            moved.append(move(*arguments))
            return moved[-1]

        return count

    for name in ("read_at", "write_at"):
        monkeypatch.setattr(tensor, name, counting(getattr(tensor, name)))
    batch = batch_of((2, 32, 300, 301))
    found = results(batch, Way(threads, 256 * MIB, "nhwc", "npy"))
    assert_same_bits(found, results(batch, Way(threads, 256 * MIB, "nhwc")))
    assert sum(moved) == 5 * batch.x.nbytes  # x and delta are read once, y, x_norm and dx are written once
    assert len(moved) <= 5 * 2 * 2  # of each, two pieces of two images


@pytest.fixture(params=[((1, 1, 3072, 4096), "nchw"), ((1, 768, 1024, 16), "nhwc"), ((3072, 4096), "nchw")], ids=str)
def tall(request, tmp_path) -> tuple[Path, str]:
    """A file of zeros, 48 MiB of float32, that takes no room on the disk; and its layout."""
    shape, layout = request.param
    path = tmp_path / "x.npy"
    with path.open("w+b") as file:
        new_npy(path, file, MemoryTensor(np.broadcast_to(np.float32(0), shape), layout))
    return path, layout


# --- how tensors are cut ----------------------------------------------------------------------------------------------


def layouts(shape: tuple[int, ...]) -> st.SearchStrategy[str]:
    return st.sampled_from(["nchw", "nhwc"] if len(shape) > 2 else ["nchw"])


@st.composite
def extents(draw: st.DrawFn) -> MemoryTensor:
    shape = draw(SHAPES)
    layout = draw(layouts(shape))
    return MemoryTensor(laid_out(np.empty(shape, "f2"), layout), layout)


SIZES = st.one_of(st.integers(1, 99), st.integers(1, 99_999), st.just(1 << 40))


@settings(deadline=None, max_examples=100)
@given(extents(), SIZES, st.integers(1, 7))
@example(MemoryTensor(np.empty((2, 2, 300, 301), "f2")), 7, 2)
@example(MemoryTensor(np.empty((3, 257, 1, 1), "f2")), 3, 2)
def test_tiles_and_their_blocks_cover_every_value_exactly_once(extent, most, threads):
    times, grouping = np.zeros((extent.channels, extent.length), "u1"), Grouping(extent.places)
    for tile in (tile for group in tiling.tiles(extent, most) for tile in group):
        for block in tiling.blocks(extent.buffer(tile), grouping, threads):
            span = tile.part(block)
            times[span.channels, span.start : span.stop] += 1
    assert (times == 1).all()


@settings(deadline=None, max_examples=100)
@given(extents(), SIZES, st.integers(1, 7))
@example(MemoryTensor(np.broadcast_to(np.float16(0), (64, 64, 52, 52))), 1 << 40, 2)
@example(MemoryTensor(np.broadcast_to(np.float16(0), (64, 64, 52, 52))), 1 << 40, 64)
def test_tiles_and_blocks_are_no_larger_than_is_asked_unless_they_are_one_piece(extent, most, threads):
    """Memory is bounded by them; and with two blocks for each of several threads none waits long."""
    grouping = Grouping(extent.places)
    piece = min(grouping.piece, extent.length)
    for tile in (tile for group in tiling.tiles(extent, most) for tile in group):
        assert tile.size <= max(most, piece)
        share = tile.size // (2 * threads if threads > 1 else 1)
        for block in tiling.blocks(extent.buffer(tile), grouping, threads):
            assert block.size <= max(min(share, tiling.BLOCK, tiling.BLOCKS // threads), piece)


def test_what_fits_is_one_tile():
    extent = MemoryTensor(np.empty((3, 5, 70, 71), "f2"))
    assert tiling.tiles(extent, 1 << 40) == [[Span(0, 5, 0, 3 * 70 * 71)]]
