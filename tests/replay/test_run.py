"""`bnorm run` from files to files: every option, the outputs, and the refusals before anything is written."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

import bnorm
from bnorm.darknet.autodetect import read_model
from bnorm.darknet.weights import open_weights
from support import oracle
from support.builders import TINY, cfg_source, write_weights
from support.descriptors import open_files
from support.golden import GOLDEN, sample
from support.oracle import ONE_ROUNDING

SAMPLE, SAMPLE_WEIGHTS = sample("detector")

TENSORS = {"y", "x_norm", "dx"}
MOMENTS = {"mean", "variance", "rolling_mean", "rolling_variance"}
UPDATES = {"scale_updates", "bias_updates"}
DELTAS = {"mean_delta", "variance_delta"}
CHANNELS = 4  # of the layers `params` and 0 of `tiny`


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """The current folder, so that names on the command line are short."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def save(name: str, shape: tuple[int, ...], seed: int = 0, dtype: str = "f4", mean: float = 1.0) -> np.ndarray:
    """Write a .npy file of normally distributed values, and return the values."""
    array = np.random.default_rng(seed).normal(mean, 2, shape).astype(dtype)
    np.save(name, array)
    return array


def save_params() -> dict[str, np.ndarray]:
    """Write p.npz, and return its layer by the oracle's names."""
    rng = np.random.default_rng(7)
    layer = {name: rng.normal(0, 1, CHANNELS) for name in ("scales", "biases", "rolling_mean")}
    layer["rolling_variance"] = rng.uniform(0.5, 2, CHANNELS)
    np.savez("p.npz", **layer)
    return layer


@pytest.fixture
def params() -> dict[str, np.ndarray]:
    """The layer of the existing p.npz."""
    return save_params()


@pytest.fixture
def run(invoke):
    """Run the layer of p.npz, or, with `model`, a layer of a network."""

    def run(*arguments: object, model: tuple[object, ...] = (), exit_code: int = 0):
        source = model or ("--params", "p.npz")
        return invoke("run", *source, *arguments, exit_code=exit_code)

    return run


def results_in(folder: Path | str) -> dict[str, np.ndarray]:
    """Return the arrays of a folder by name; it must not contain anything else."""
    assert all(path.suffix == ".npy" and not path.name.startswith(".") for path in Path(folder).iterdir())
    return {path.stem: np.load(path) for path in Path(folder).iterdir()}


def files() -> dict[str, bytes]:
    """Every file below the current folder."""
    return {str(path): path.read_bytes() for path in sorted(Path().rglob("*")) if path.is_file()}


def assert_results(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    """Assert that the written results are those of the plain formulas, rounded once."""
    for name, values in found.items():
        assert values.shape == wanted[name].shape
        atol = ONE_ROUNDING * np.abs(wanted[name]).max()
        np.testing.assert_allclose(values, wanted[name], rtol=0, atol=atol, err_msg=name)


def step(layer: dict, name: str, x: np.ndarray, delta: np.ndarray | None = None, **options: object) -> dict:
    """One mini-batch by the plain formulas."""
    settings = {"train": False, "keep": oracle.kept(name)} | options
    return oracle.step(name, x, np.zeros_like(x) if delta is None else delta, **layer, **settings)


# --- written files ----------------------------------------------------------------------------------------------------


def test_inference_writes_y_alone(run, params):
    x = save("x.npy", (2, 4, 3, 5))
    run("--input", "x.npy", "-o", "out")
    found = results_in("out")
    assert found.keys() == {"y"}
    assert_results(found, step(params, "pjreddie", x))


def test_backward_at_inference_writes_dx_and_the_updates(run, params):
    x, delta = save("x.npy", (2, 4, 3, 5)), save("d.npy", (2, 4, 3, 5), 1)
    run("--input", "x.npy", "--delta", "d.npy", "-o", "out")
    found = results_in("out")
    assert found.keys() == {"y", "dx"} | UPDATES
    assert_results(found, step(params, "pjreddie", x, delta))


def test_training_writes_the_moments_and_the_new_rolling_statistics(run, params):
    x = save("x.npy", (2, 4, 3, 5))
    run("--input", "x.npy", "--train", "-o", "out")
    found = results_in("out")
    assert found.keys() == {"y"} | MOMENTS
    assert_results(found, step(params, "pjreddie", x, train=True))


def test_training_and_backward_write_everything(run, params):
    x, delta = save("x.npy", (2, 4, 3, 5)), save("d.npy", (2, 4, 3, 5), 1)
    run("--input", "x.npy", "--delta", "d.npy", "--train", "-o", "out")
    found = results_in("out")
    assert found.keys() == {"y", "dx"} | MOMENTS | UPDATES
    assert_results(found, step(params, "pjreddie", x, delta, train=True))


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ([], {"y", "x_norm"}),
        (["--train"], {"y", "x_norm"} | MOMENTS),
        (["--delta", "d.npy"], TENSORS | UPDATES | DELTAS),
        (["--train", "--delta", "d.npy"], TENSORS | MOMENTS | UPDATES | DELTAS),
    ],
)
def test_stages_are_the_intermediate_values(run, params, options, names):
    x, delta = save("x.npy", (2, 4, 3, 5)), save("d.npy", (2, 4, 3, 5), 1)
    run("--input", "x.npy", "--stages", "-o", "out", *options)
    found = results_in("out")
    assert found.keys() == names
    assert_results(found, step(params, "pjreddie", x, delta, train="--train" in options))


@pytest.mark.parametrize("name", oracle.NAMES)
def test_the_requested_arithmetic_is_used(run, params, name):
    x, delta = save("x.npy", (2, 4, 3, 5)), save("d.npy", (2, 4, 3, 5), 1)
    run("--input", "x.npy", "--delta", "d.npy", "--train", "--stages", "--arithmetic", name, "-o", "out")
    found = results_in("out")
    assert_results(found, step(params, name, x, delta, train=True))
    expected = {key: "f4" if key in TENSORS or name != "paper" else "f8" for key in found}
    assert {key: values.dtype for key, values in found.items()} == expected


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_y_and_dx_have_the_type_of_the_input(run, params, dtype):
    x, delta = save("x.npy", (2, 4, 3, 5), dtype=dtype), save("d.npy", (2, 4, 3, 5), 1, dtype)
    run("--input", "x.npy", "--delta", "d.npy", "--train", "-o", "out")
    found, wanted = results_in("out"), step(params, "pjreddie", x, delta, train=True)
    assert {key: values.dtype for key, values in found.items()} == {
        key: dtype if key in TENSORS else "f4" for key in found
    }
    for key in ("y", "dx"):
        atol = np.finfo(dtype).eps * 4 * np.abs(wanted[key]).max()  # float64 sums differ in their last bits
        np.testing.assert_allclose(found[key], wanted[key], rtol=0, atol=atol)


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        (["x.npy"], ["x.npy", "--train"]),
        (["x.npy", "--delta", "x.npy", "--stages", "--arithmetic", "paper"], ["x.npy"]),
        (["x.npy", "--input", "x.npy", "--input", "x.npy", "--train"], ["x.npy", "--input", "x.npy"]),
        (["x.npy", "--input", "x.npy", "--train"], ["x.npy"]),
        (["x.npy"], ["x.npy", "--input", "x.npy"]),
    ],
)
@pytest.mark.usefixtures("params")
def test_results_replace_those_of_an_earlier_run_as_a_whole(run, earlier, later):
    save("x.npy", (2, 4, 3, 5))
    run("--input", *later, "-o", "alone")
    run("--input", *earlier, "-o", "out")
    Path("out/notes.txt").write_text("mine")
    before = files()
    assert "--force" in run("--input", *later, "-o", "out", exit_code=1).stderr
    assert files() == before
    run("--input", *later, "-o", "out", "--force")
    assert Path("out/notes.txt").read_text() == "mine"
    Path("out/notes.txt").unlink()
    found = {name: data for name, data in files().items() if name.startswith("out")}
    assert found == {name.replace("alone", "out"): files()[name] for name in files() if name.startswith("alone")}


@pytest.mark.parametrize("output", ["-o", "--update-weights"])
def test_a_file_that_exists_is_replaced_by_force_alone(run, tiny, output):
    save("x.npy", (2, 4, 8, 8))
    name = {"-o": "new.npz", "--update-weights": "new.weights"}[output]
    Path(name).write_text("mine")
    arguments = ["--input", "x.npy", "--train", output, name]
    assert "exists already" in run(*arguments, model=(*tiny, "--layer", "0"), exit_code=1).stderr
    assert Path(name).read_text() == "mine"
    run(*arguments, "--force", model=(*tiny, "--layer", "0"))
    assert Path(name).stat().st_size > 100


@pytest.mark.usefixtures("params")
def test_a_folder_without_results_needs_no_force(run):
    save("x.npy", (2, 4, 3, 5))
    Path("out").mkdir()
    Path("out/notes.txt").write_text("mine")
    run("--input", "x.npy", "-o", "out")
    assert Path("out/y.npy").is_file()


@pytest.mark.usefixtures("params")
def test_inputs_are_not_modified_and_nothing_else_is_left(run):
    save("x.npy", (2, 4, 3, 5))
    save("d.npy", (2, 4, 3, 5), 1)
    before = files()
    run("--input", "x.npy", "--delta", "d.npy", "--train", "-o", "out")
    run("--input", "x.npy", "--delta", "d.npy", "--train", "-o", "out.npz")
    after = files()
    assert {name: after[name] for name in before} == before
    written = {f"out/{name}.npy" for name in {"y", "dx"} | MOMENTS | UPDATES}
    assert after.keys() - before.keys() == written | {"out.npz"}


# --- several mini-batches ---------------------------------------------------------------------------------------------


def several(params: dict, count: int = 3) -> tuple[list[str], list[dict[str, np.ndarray]]]:
    """Options for consecutive mini-batches in training, and the results of the plain formulas for each."""
    options, wanted, layer = ["--train"], [], dict(params)
    for number in range(count):
        shape = (number + 1, 4, 3, 5)
        x, delta = save(f"x{number}.npy", shape, number), save(f"d{number}.npy", shape, number + 10)
        wanted.append(step(layer, "pjreddie", x, delta, train=True))
        layer |= {key: wanted[-1][key] for key in ("rolling_mean", "rolling_variance")}
        options += ["--input", f"x{number}.npy", "--delta", f"d{number}.npy"]
    return options, wanted


def test_several_inputs_are_consecutive_mini_batches(run, params):
    options, wanted = several(params)
    run(*options, "-o", "out")
    for number, results in enumerate(wanted):
        found = results_in(f"out/{number:03}")
        assert found.keys() == {"y", "dx"} | MOMENTS | UPDATES
        assert_results(found, results)


def test_the_final_rolling_statistics_are_next_to_the_folders(run, params):
    options, wanted = several(params)
    run(*options, "-o", "out")
    assert sorted(path.name for path in Path("out").iterdir()) == [
        *["000", "001", "002", "rolling_mean.npy", "rolling_variance.npy"]
    ]
    final = {name: np.load(f"out/{name}.npy") for name in ("rolling_mean", "rolling_variance")}
    assert_results(final, wanted[-1])


def test_several_inputs_at_inference_do_not_depend_on_each_other(run, params):
    first, second = save("a.npy", (2, 4, 3, 5)), save("b.npy", (3, 4), 1)
    run("--input", "a.npy", "--input", "b.npy", "-o", "out")
    assert sorted(path.name for path in Path("out").iterdir()) == ["000", "001"]
    for number, x in enumerate([first, second]):
        assert_results(results_in(f"out/{number:03}"), step(params, "pjreddie", x))


def test_the_rolling_average_is_the_paper_s(run, params):
    options, wanted = several(params)
    run(*options, "--rolling", "average", "-o", "out")
    mean = np.mean([results["mean"] for results in wanted], axis=0)
    variance = np.mean([results["variance"] for results in wanted], axis=0)  # pjreddie's are the unbiased ones
    found = {name: np.load(f"out/{name}.npy") for name in ("rolling_mean", "rolling_variance")}
    assert_results(found, {"rolling_mean": mean, "rolling_variance": variance})


def test_the_kept_fraction_can_be_given(run, params):
    x = save("x.npy", (2, 4, 3, 5))
    for keep in (0, 0.25, 1):
        run("--input", "x.npy", "--train", "--rolling-keep", keep, "-o", "out", "--force")
        assert_results(results_in("out"), step(params, "pjreddie", x, train=True, keep=keep))


# --- archives, and the same bytes -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("params")
def test_an_archive_holds_the_same_as_a_folder(run):
    save("x.npy", (2, 4, 3, 5))
    save("d.npy", (2, 4, 3, 5), 1)
    options = ["--input", "x.npy", "--delta", "d.npy", "--train", "--stages"]
    run(*options, "-o", "out")
    run(*options, "-o", "out.npz")
    with np.load("out.npz") as archive:
        held = dict(archive)
    found = results_in("out")
    assert held.keys() == found.keys() == TENSORS | MOMENTS | UPDATES | DELTAS
    for name, values in found.items():
        assert held[name].dtype == values.dtype
        assert np.array_equal(held[name], values)
    with zipfile.ZipFile("out.npz") as archive:
        assert archive.testzip() is None
        assert {name: archive.read(f"{name}.npy") for name in found} == {
            name: Path(f"out/{name}.npy").read_bytes() for name in found
        }


@pytest.mark.usefixtures("params")
@pytest.mark.parametrize("output", ["out", "out.npz"])
def test_a_second_run_writes_the_same_bytes(run, output, monkeypatch):
    save("x.npy", (2, 4, 90, 100))
    runs = []
    for options in ([], ["--threads", 1], ["--threads", 7, "--memory", "16MiB"], ["--memory", "4GiB"]):
        run("--input", "x.npy", "--train", "-o", output, "--force", *options)
        runs.append(files())
        monkeypatch.setattr("time.time", lambda: 2e9)  # an archive of another day
    assert all(found == runs[0] for found in runs)


# --- tensors ----------------------------------------------------------------------------------------------------------


def test_three_dimensions_are_one_image(run, params):
    x = save("x.npy", (4, 3, 5))
    run("--input", "x.npy", "--train", "-o", "out")
    found, wanted = results_in("out"), step(params, "pjreddie", x[np.newaxis], train=True)
    assert found["y"].shape == (4, 3, 5)
    assert_results(found, wanted | {"y": wanted["y"][0]})


def test_two_dimensions_are_rows(run, params):
    x = save("x.npy", (9, 4))
    run("--input", "x.npy", "--train", "-o", "out")
    assert_results(results_in("out"), step(params, "pjreddie", x, train=True))


@pytest.mark.usefixtures("params")
@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (3, 5, 4), (9, 4)], ids=str)
def test_channels_last_give_the_bytes_of_channels_first(run, shape):
    x, delta = save("x.npy", shape), save("d.npy", shape, 1)
    moved = len(shape) > 2
    for name, array in {"x2.npy": x, "d2.npy": delta}.items():
        np.save(name, np.ascontiguousarray(np.moveaxis(array, -1, -3)) if moved else array)
    run("--input", "x.npy", "--delta", "d.npy", "--train", "--layout", "nhwc", "-o", "last")
    run("--input", "x2.npy", "--delta", "d2.npy", "--train", "-o", "first")
    last, first = results_in("last"), results_in("first")
    assert last["y"].shape == shape
    for name, values in first.items():
        same = np.moveaxis(last[name], -1, -3) if moved and name in TENSORS else last[name]
        assert np.array_equal(same, values)


@pytest.mark.usefixtures("params")
def test_every_format_gives_the_same_y(run):
    x = save("x.npy", (2, 4, 3, 5))
    x.astype("<f4").tofile("x.bin")
    np.savez("one.npz", x=x)
    np.savez_compressed("two.npz", x=x, other=x[0])
    written = []
    for name, *options in (["x.npy"], ["one.npz"], ["two.npz:x"], ["x.bin", "--shape", "2,4,3,5"]):
        run("--input", name, *options, "-o", "out", "--force")
        written.append(Path("out/y.npy").read_bytes())
    assert len(set(written)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("memory", ["16MiB", "256MiB"])
def test_a_tensor_larger_than_the_budget_is_the_same(run, params, memory):
    x = save("x.npy", (3, 4, 700, 700))
    run("--input", "x.npy", "--train", "--memory", memory, "-o", "out")
    assert_results(results_in("out"), step(params, "pjreddie", x, train=True))


# --- layers of a network ----------------------------------------------------------------------------------------------


def stored(cfg: Path, weights: Path, dialect: str, layer: int, part: str = "") -> dict[str, np.ndarray]:
    """A layer's or a part's normalisation as the file has it; missing biases are 0."""
    with open_weights(read_model(cfg, weights, dialect)) as opened:
        arrays = {a.field: opened.read(a) for a in opened.layout.arrays if (a.layer, a.part) == (layer, part)}
    arrays.setdefault("biases", np.zeros_like(arrays["scales"]))
    return {name: arrays[name].astype("f8") for name in ("scales", "biases", "rolling_mean", "rolling_variance")}


def golden_model(name: str, dialect: str) -> tuple[Path, Path]:
    return GOLDEN / "layouts" / f"{name}.cfg", GOLDEN / "layouts" / f"{name}.{dialect}.weights"


@pytest.mark.parametrize(
    ("name", "dialect", "place", "keep"),
    [
        *[("conv", dialect, "0", keep) for dialect, keep in (("pjreddie", 0.99), ("alexeyab", 0.9), ("hank", 0.9))],
        ("connected", "pjreddie", "1", 0.99),
        ("connected", "alexeyab", "1", 0.95),
        ("connected", "hank", "1", 0.95),
        ("batchnorm", "alexeyab", "2", 0.9),
        ("batchnorm", "pjreddie", "2", 0.99),
        *[("lstm", "alexeyab", f"0.{part}", 0.95) for part in ("wf", "wg", "ui", "uo")],
        ("lstm", "pjreddie", "0.wf", 0.99),
        ("gru", "pjreddie", "0.uz", 0.99),
        ("rnn", "pjreddie", "0.self_layer", 0.99),
        ("crnn_ab", "alexeyab", "0.self_layer", 0.9),
        ("conv_lstm", "alexeyab", "0.wf", 0.9),
    ],
)
def test_a_layer_s_or_a_part_s_own_numbers_are_used(run, name, dialect, place, keep):
    pair = golden_model(name, dialect)
    layer = stored(*pair, dialect, int(place[0]), place[2:])
    x = save("x.npy", (6, len(layer["scales"])))
    model = (*pair, "--layer", place, "--dialect", dialect)
    run("--input", "x.npy", "-o", "inference", model=model)
    run("--input", "x.npy", "--train", "-o", "training", model=model)
    assert_results(results_in("inference"), step(layer, dialect, x))
    assert_results(results_in("training"), step(layer, dialect, x, train=True, keep=keep))


def test_a_connected_layer_keeps_0_99_in_alexeyab_s_gpu_arithmetic(run):
    pair = golden_model("connected", "alexeyab")
    x = save("x.npy", (6, 11))
    model = (*pair, "--layer", "1", "--arithmetic", "alexeyab-gpu")
    run("--input", "x.npy", "--train", "-o", "out", model=model)
    wanted = step(stored(*pair, "alexeyab", 1), "alexeyab-gpu", x, train=True, keep=0.99)
    assert_results(results_in("out"), wanted)


def test_pjreddie_s_batchnorm_stores_no_biases_and_adds_none(run):
    pair = golden_model("batchnorm", "pjreddie")
    x = save("x.npy", (2, 3, 7, 7))
    run("--input", "x.npy", "-o", "out", model=(*pair, "--layer", "0", "--dialect", "pjreddie"))
    layer = stored(*pair, "pjreddie", 0)
    assert not layer["biases"].any()
    assert_results(results_in("out"), step(layer, "pjreddie", x))


@pytest.mark.parametrize("dialect", ["pjreddie", "alexeyab", "hank"])
def test_the_default_arithmetic_is_the_dialect_s_cpu_path(run, dialect):
    Path("net.cfg").write_text(cfg_source("3x8x8", "convolutional batch_normalize=1 filters=4 size=1"))
    write_weights(Path("net.cfg"), Path("net.weights"), dialect)
    x = save("x.npy", (2, 4, 3, 5)) * np.float32(1e-3)
    np.save("x.npy", x)  # so small that ε counts
    model = ("net.cfg", "net.weights", "--layer", "0", "--dialect", dialect)
    run("--input", "x.npy", "--train", "-o", "out", model=model)
    layer = stored(Path("net.cfg"), Path("net.weights"), dialect, 0)
    assert_results(results_in("out"), step(layer, dialect, x, train=True))


def test_updated_weights_differ_in_two_arrays_alone(run, tiny):
    cfg, weights = tiny
    save("a.npy", (2, 4, 8, 8))
    save("b.npy", (3, 4, 8, 8), 1)
    before = weights.read_bytes()
    model = (cfg, weights, "--layer", "0")
    options = ["--input", "a.npy", "--input", "b.npy", "--train", "--update-weights", "new.weights", "-o", "out"]
    run(*options, model=model)
    # The header has 20 bytes; 4 biases and 4 scales come before the rolling statistics.
    new = np.load("out/rolling_mean.npy"), np.load("out/rolling_variance.npy")
    replaced = b"".join(array.astype("<f4").tobytes() for array in new)
    assert Path("new.weights").read_bytes() == before[:52] + replaced + before[84:]
    assert weights.read_bytes() == before


def test_a_part_s_updated_weights_differ_in_its_own_two_arrays_alone(run):
    cfg, weights = golden_model("lstm", "alexeyab")
    save("x.npy", (6, 5))
    model = (cfg, weights, "--layer", "0.wg", "--dialect", "alexeyab")
    run("--input", "x.npy", "--train", "--update-weights", "new.weights", "-o", "out", model=model)
    layers = json.loads((GOLDEN / "layouts" / "lstm.alexeyab.json").read_text())
    wanted = bytearray(weights.read_bytes())
    for array in layers["arrays"]:
        if array["layer"] == 0 and array["name"] in ("wg.rolling_mean", "wg.rolling_variance"):
            values = np.load(f"out/{array['name'][3:]}.npy").astype("<f4").tobytes()
            wanted[array["offset"] : array["offset"] + 20] = values
    assert Path("new.weights").read_bytes() == wanted


def test_updated_weights_keep_the_bits_of_nan(run, tiny):
    cfg, weights = tiny
    save("x.npy", (2, 4, 8, 8))
    data = bytearray(weights.read_bytes())
    data[84:92] = b"\x01\x00\xa0\x7f\xff\xff\xff\xff"  # two NaN, one of them a signalling one, among the weights
    weights.write_bytes(data)
    run("--input", "x.npy", "--train", "--update-weights", "new.weights", model=(cfg, weights, "--layer", "0"))
    assert Path("new.weights").read_bytes()[84:] == data[84:]


def convolve(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """A convolution with stride 1 and no padding, in groups where the weights have fewer channels than x."""
    channels, size = weights.shape[1:3]
    groups = x.shape[1] // channels
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(2, 3))
    parts = zip(np.split(windows, groups, axis=1), np.split(weights, groups), strict=True)
    return np.concatenate([np.einsum("nchwij,fcij->nfhw", *part) for part in parts], axis=1)


@pytest.mark.parametrize(("layer", "channels"), [(0, 3), (1, 8), (2, 8), (4, 16), (5, 32)])
def test_a_folded_convolution_is_the_convolution_and_its_normalisation(run, invoke, layer, channels):
    invoke("fold", SAMPLE, SAMPLE_WEIGHTS, "-o", "folded.weights")
    with open_weights(read_model(SAMPLE, SAMPLE_WEIGHTS)) as opened:
        weights = opened[layer, "weights"].astype("f8")
    with open_weights(read_model(Path("folded.cfg"), Path("folded.weights"))) as opened:
        folded, biases = (opened[layer, name].astype("f8") for name in ("weights", "biases"))
    x = np.random.default_rng(layer).normal(0, 1, (2, channels, 7, 7))
    np.save("x.npy", convolve(x, weights))
    run("--input", "x.npy", "-o", "out", model=(SAMPLE, SAMPLE_WEIGHTS, "--layer", layer))
    biases = biases[:, np.newaxis, np.newaxis]
    # Each folded value is rounded to float32 once, by 2^-24 of itself at most: the sum may be off by that much.
    allowed = 2**-24 * (convolve(abs(x), abs(folded)) + abs(biases)) * 1.001
    assert (abs(np.load("out/y.npy") - (convolve(x, folded) + biases)) <= allowed).all()


# --- printed output ---------------------------------------------------------------------------------------------------


def rejected_constant(name: str):
    raise AssertionError(f"{name} is no JSON")


def document(result) -> dict:
    """Return the JSON document, which must be all of stdout and must not contain NaN or Infinity."""
    return json.loads(result.stdout, parse_constant=rejected_constant)


def test_without_output_a_summary_shows_the_results(run, params):
    x = save("x.npy", (2, 4, 3, 5))
    before = files()
    lines = run("--input", "x.npy", "--train").stdout.splitlines()
    assert files() == before
    wanted = step(params, "pjreddie", x, train=True)
    rows = {line.split()[0]: line.split()[1:] for line in lines if line and line.split()[0] in wanted}
    assert rows.keys() == {"y"} | MOMENTS
    assert rows["y"][:2] == ["float32", "2x4x3x5"]
    assert rows["mean"][:2] == ["float32", "4"]
    assert [float(cell) for cell in rows["y"][2:4]] == pytest.approx(
        [wanted["y"].min(), wanted["y"].max()],
        rel=0.05,  # two digits
        abs=0.05,
    )


def test_the_document_has_the_exact_figures(run, params):
    x, delta = save("x.npy", (2, 4, 3, 5)), save("d.npy", (2, 4, 3, 5), 1)
    found = document(run("--input", "x.npy", "--delta", "d.npy", "--train", "--format", "json"))
    wanted = step(params, "pjreddie", x, delta, train=True)
    assert {row["result"] for row in found["results"]} == {"y", "dx"} | MOMENTS | UPDATES
    for row in found["results"]:
        values = wanted[row["result"]]
        figures = [values.min(), values.max()]
        close = pytest.approx(figures, rel=1e-6, abs=1e-6 * np.abs(values).max())  # float32 values
        assert [row["min"], row["max"]] == close
        assert (row["input"], row["shape"], row["not_finite"]) == ("x.npy", list(values.shape), 0)


def test_the_document_has_the_path_of_each_result(run, tiny):
    tiny[0].write_text(TINY + "colour=red\n")  # hank refuses it
    save("x.npy", (2, 4, 8, 8))
    result = run("--input", "x.npy", "-o", "out", "--format", "json", model=(*tiny, "--layer", "0"))
    found = document(result)
    assert found["output"] == "out"
    assert [row["path"] for row in found["results"]] == ["out/y.npy"]
    assert (found["dialect"], found["arithmetic"], found["layer"]) == ("alexeyab", "alexeyab", 0)
    assert result.stderr.startswith("note: dialect alexeyab: ")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.usefixtures("params")
def test_the_document_counts_values_that_are_not_finite(run):
    x = save("x.npy", (2, 4, 3, 5))
    x[0, 1, 0, 0], x[1, 1, 2, 2] = np.nan, np.inf
    np.save("x.npy", x)
    (row,) = document(run("--input", "x.npy", "--format", "json"))["results"]
    assert row["not_finite"] == 2
    assert np.isfinite([row["min"], row["max"]]).all()


@pytest.mark.usefixtures("params")
def test_the_document_has_strings_for_numbers_that_json_cannot_hold(run):
    np.save("x.npy", np.full((2, 4, 3, 5), np.nan, "f4"))
    (row,) = document(run("--input", "x.npy", "--format", "json"))["results"]
    assert (row["min"], row["max"], row["not_finite"]) == ("nan", "nan", 120)


@pytest.mark.usefixtures("params")
@pytest.mark.parametrize("options", [["--threads", 1], ["--threads", 7, "--memory", "16MiB"], ["--memory", "4GiB"]])
def test_the_summary_does_not_depend_on_threads_and_memory(run, options):
    save("x.npy", (2, 4, 200, 200))
    wanted = run("--input", "x.npy", "--train", "--format", "json").stdout
    assert run("--input", "x.npy", "--train", "--format", "json", *options).stdout == wanted


@pytest.mark.usefixtures("params")
def test_csv_has_a_row_per_input_and_result(run):
    save("a.npy", (2, 4, 3, 5))
    save("b.npy", (3, 4), 1)
    output = run("--input", "a.npy", "--input", "b.npy", "--train", "--format", "csv").stdout
    rows = [(row["input"], row["result"]) for row in csv.DictReader(io.StringIO(output))]
    assert sorted(rows) == sorted((name, key) for name in ("a.npy", "b.npy") for key in {"y"} | MOMENTS)


# --- usage errors -----------------------------------------------------------------------------------------------------

MODEL = ["tiny.cfg", "tiny.weights", "--layer", "0"]
PARAMS = ["--params", "p.npz"]
USAGE = {
    "neither model nor params": ["--input", "x.npy"],
    "both model and params": [*MODEL, *PARAMS, "--input", "x.npy"],
    "no weights": ["tiny.cfg", "--layer", "0", "--input", "x.npy"],
    "no layer": ["tiny.cfg", "tiny.weights", "--input", "x.npy"],
    "a layer of params": [*PARAMS, "--layer", "0", "--input", "x.npy"],
    "a layer that is no number": ["tiny.cfg", "tiny.weights", "--layer", "first", "--input", "x.npy"],
    "a negative layer": ["tiny.cfg", "tiny.weights", "--layer", "-1", "--input", "x.npy"],
    "no input": [*PARAMS],
    "fewer deltas": [*PARAMS, "--input", "x.npy", "--input", "x.npy", "--delta", "d.npy"],
    "more deltas": [*PARAMS, "--input", "x.npy", "--delta", "d.npy", "--delta", "d.npy"],
    "an unknown arithmetic": [*PARAMS, "--input", "x.npy", "--arithmetic", "float16"],
    "an unknown rolling": [*PARAMS, "--input", "x.npy", "--train", "--rolling", "median"],
    "a kept fraction over 1": [*PARAMS, "--input", "x.npy", "--train", "--rolling-keep", "1.5"],
    "a kept fraction that is no number": [*PARAMS, "--input", "x.npy", "--train", "--rolling-keep", "nan"],
    "a kept fraction of the average": [*PARAMS, *"--input x.npy --train --rolling average --rolling-keep 0.9".split()],
    "rolling without training": [*PARAMS, "--input", "x.npy", "--rolling", "average"],
    "a kept fraction without training": [*PARAMS, "--input", "x.npy", "--rolling-keep", "0.9"],
    "weights of params": [*PARAMS, "--input", "x.npy", "--train", "--update-weights", "new.weights"],
    "weights without training": [*MODEL, "--input", "x.npy", "--update-weights", "new.weights"],
    "several inputs in one archive": [*PARAMS, "--input", "x.npy", "--input", "x.npy", "-o", "out.npz"],
    "an unknown layout": [*PARAMS, "--input", "x.npy", "--layout", "chwn"],
    "a shape that is none": [*PARAMS, "--input", "x.npy", "--shape", "2,4,x"],
    "a negative shape": [*PARAMS, "--input", "x.npy", "--shape", "2,-4"],
    "no threads": [*PARAMS, "--input", "x.npy", "--threads", "0"],
    "too little memory": [*PARAMS, "--input", "x.npy", "--memory", "1000"],
    "memory that is none": [*PARAMS, "--input", "x.npy", "--memory", "much"],
    "an unknown format": [*PARAMS, "--input", "x.npy", "--format", "xml"],
    "an unknown dialect": [*MODEL, "--input", "x.npy", "--dialect", "darknet"],
}


@pytest.fixture
def everything(tiny) -> tuple[Path, Path]:
    """A model, a layer in p.npz, and tensors that fit both."""
    save_params()
    save("x.npy", (2, 4, 8, 8))
    save("d.npy", (2, 4, 8, 8), 1)
    return tiny


@pytest.mark.usefixtures("everything")
@pytest.mark.parametrize("case", USAGE)
def test_a_wrong_command_line_writes_nothing(invoke, case):
    before = files()
    output = [] if "-o" in USAGE[case] else ["-o", "out"]
    result = invoke("run", *USAGE[case], *output, exit_code=2)
    assert files() == before
    assert not Path("out").exists()
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 2


# --- inputs that do not fit -------------------------------------------------------------------------------------------


@pytest.fixture
def refuse(invoke):
    """Run a command that must fail without writing anything; return its message of one or two lines."""

    def refuse(*arguments: object) -> str:
        before = files()
        result = invoke("run", *arguments, exit_code=1)
        assert files() == before
        assert result.stdout == ""
        assert result.stderr.startswith("error: ")
        assert 1 <= len(result.stderr.splitlines()) <= 2
        return result.stderr

    return refuse


@pytest.mark.usefixtures("everything")
@pytest.mark.parametrize("source", [PARAMS, MODEL], ids=["params", "model"])
@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (2, 8, 8, 4), (8, 8, 4), (4, 3), (1, 5)], ids=str)
def test_another_number_of_channels_is_refused(refuse, source, shape):
    save("y.npy", shape)
    error = refuse(*source, "--input", "y.npy", "-o", "out")
    assert error.startswith("error: y.npy: ")
    assert "expected 4" in error


@pytest.mark.usefixtures("everything")
def test_the_second_input_is_checked_before_the_first_is_run(refuse):
    save("y.npy", (2, 3, 8, 8))
    assert refuse(*PARAMS, "--input", "x.npy", "--input", "y.npy", "-o", "out").startswith("error: y.npy: ")
    assert not Path("out").exists()


@pytest.mark.usefixtures("everything")
@pytest.mark.parametrize("shape", [(2, 4, 8, 7), (4, 8, 8), (1, 4, 8, 8), (128, 4), (2, 8, 8, 4)], ids=str)
def test_a_delta_of_another_shape_is_refused(refuse, shape):
    save("e.npy", shape)
    error = refuse(*PARAMS, "--input", "x.npy", "--delta", "e.npy", "-o", "out")
    assert error.startswith("error: e.npy: has the shape")
    assert "(2, 4, 8, 8)" in error


@pytest.mark.usefixtures("everything")
@pytest.mark.parametrize("shape", [(1, 4), (4, 1, 1), (1, 4, 1, 1)], ids=str)
def test_one_value_per_channel_has_no_variance(refuse, run, shape):
    save("one.npy", shape)
    assert "one value has no variance" in refuse(*PARAMS, "--input", "one.npy", "--train", "-o", "out")
    run("--input", "one.npy", "-o", "out")  # at inference it needs none


@pytest.mark.usefixtures("everything")
@pytest.mark.parametrize("shape", [(0, 4, 8, 8), (2, 4, 0, 8), (0, 4)], ids=str)
def test_an_empty_batch_is_refused(refuse, shape):
    save("none.npy", shape)
    assert refuse(*PARAMS, "--input", "none.npy", "--train", "-o", "out").startswith("error: none.npy: has the shape")


@pytest.mark.usefixtures("everything")
@pytest.mark.parametrize("dtype", ["i4", ">f4", "c8", "O"])
def test_another_type_is_refused(refuse, dtype):
    np.save("y.npy", np.ones((2, 4, 8, 8)).astype(dtype))
    assert refuse(*PARAMS, "--input", "y.npy", "-o", "out").startswith("error: y.npy: holds ")
    assert refuse(*PARAMS, "--input", "x.npy", "--delta", "y.npy", "-o", "out").startswith("error: y.npy: holds ")


@pytest.mark.usefixtures("everything")
@pytest.mark.parametrize("option", ["--input", "--delta", "--params"])
def test_a_file_that_is_missing_or_a_folder_is_refused(refuse, option):
    Path("folder").mkdir()
    for name in ("missing.npy", "folder"):
        given = {"--input": "x.npy", "--delta": "d.npy", "--params": "p.npz"} | {option: name}
        assert refuse(*(value for pair in given.items() for value in pair), "-o", "out").startswith(f"error: {name}: ")


@pytest.mark.usefixtures("everything")
def test_a_raw_file_without_its_shape_is_refused(refuse):
    np.load("x.npy").tofile("x.bin")
    assert "raw float32 needs --shape" in refuse(*PARAMS, "--input", "x.bin", "-o", "out")
    error = refuse(*PARAMS, "--input", "x.bin", "--shape", "2,4,8,9", "-o", "out")
    assert "expected 2,304 bytes of values, got 2,048" in error


@pytest.mark.usefixtures("everything")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("scales", np.ones(3)),
        ("rolling_mean", np.ones((4, 1))),
        ("biases", np.ones(4, "i4")),
        ("rolling_variance", None),
    ],
)
def test_params_that_do_not_fit_are_refused(refuse, params, name, value):
    changed = params | {name: value}
    np.savez("q.npz", **{key: vector for key, vector in changed.items() if vector is not None})
    error = refuse("--params", "q.npz", "--input", "x.npy", "-o", "out")
    assert error.startswith("error: q.npz: ")


@pytest.mark.usefixtures("everything")
@pytest.mark.parametrize("place", ["1", "0.wf", "2", "999999999"])
def test_a_layer_or_a_part_without_normalisation_is_refused(refuse, place):
    error = refuse("tiny.cfg", "tiny.weights", "--layer", place, "--input", "x.npy", "-o", "out")
    assert "tiny.cfg" in error


@pytest.mark.parametrize("place", ["0", "0.wz", "1.wf", "0.wf.wf"])
def test_a_part_that_does_not_exist_is_refused(refuse, place):
    save("x.npy", (6, 5))
    error = refuse(*golden_model("lstm", "alexeyab"), "--layer", place, "--input", "x.npy", "-o", "out")
    assert "lstm.cfg:" in error
    assert place[0] != "0" or all(part in error for part in ("wf", "ug"))


@pytest.mark.usefixtures("everything")
def test_weights_that_do_not_fit_are_refused(refuse):
    data = Path("tiny.weights").read_bytes()
    Path("tiny.weights").write_bytes(data[:-4])
    assert "tiny.weights: ends inside layer 1" in refuse(*MODEL, "--input", "x.npy", "-o", "out")


# --- outputs that are refused -----------------------------------------------------------------------------------------


def inside(name: str, source: str = "x.npy") -> str:
    """Copy a tensor to the path of a result."""
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_bytes(Path(source).read_bytes())
    return name


@pytest.mark.usefixtures("everything")
@pytest.mark.parametrize("name", ["out/y.npy", "./out/../out/y.npy"])
def test_an_input_that_a_result_would_replace_is_refused(refuse, name):
    inside("out/y.npy")
    assert "is an input" in refuse(*PARAMS, "--input", name, "-o", "out")


@pytest.mark.usefixtures("everything")
def test_a_delta_that_a_result_would_replace_is_refused(refuse):
    inside("out/dx.npy", "d.npy")
    assert "is an input" in refuse(*PARAMS, "--input", "x.npy", "--delta", "out/dx.npy", "-o", "out")


@pytest.mark.usefixtures("everything")
@pytest.mark.parametrize("link", ["symlink_to", "hardlink_to"])
def test_an_input_that_a_result_would_replace_through_a_link_is_refused(refuse, link):
    Path("out").mkdir()
    getattr(Path("out/y.npy"), link)(Path("x.npy").resolve())
    assert "is an input" in refuse(*PARAMS, "--input", "x.npy", "-o", "out")


@pytest.mark.usefixtures("everything")
@pytest.mark.parametrize(
    "name", ["out/000/y.npy", "out/001/mean.npy", "out/rolling_mean.npy", "out/rolling_variance.npy"]
)
def test_one_of_several_inputs_that_a_result_would_replace_is_refused(refuse, name):
    inside(name)
    assert "is an input" in refuse(*PARAMS, "--train", "--input", name, "--input", "x.npy", "-o", "out")


@pytest.mark.usefixtures("everything")
def test_an_input_beside_the_results_is_none_of_them(run):
    inside("out/dx.npy")
    run("--input", "out/dx.npy", "-o", "out")  # without a delta there is no dx
    assert Path("out/dx.npy").read_bytes() == Path("x.npy").read_bytes()


@pytest.mark.usefixtures("everything")
def test_an_input_beside_the_folders_of_several_is_none_of_the_results(run):
    inside("out/y.npy")
    run("--input", "out/y.npy", "--input", "x.npy", "-o", "out")  # y goes to out/000 and out/001
    assert Path("out/y.npy").read_bytes() == Path("x.npy").read_bytes()


@pytest.mark.usefixtures("everything")
def test_an_archive_that_is_an_input_is_refused(refuse):
    np.savez("x.npz", x=np.load("x.npy"))
    assert "is an input" in refuse(*PARAMS, "--input", "x.npz", "-o", "x.npz")
    assert "is an input" in refuse(*PARAMS, "--input", "x.npz:x", "-o", "x.npz")
    assert "is an input" in refuse(*PARAMS, "--input", "x.npy", "-o", "p.npz")


@pytest.mark.usefixtures("everything")
@pytest.mark.parametrize("name", ["tiny.weights", "tiny.cfg", "x.npy", "d.npy"])
def test_updated_weights_replace_no_input(refuse, name):
    options = ["--input", "x.npy", "--delta", "d.npy", "--train", "--update-weights", name]
    assert "is an input" in refuse(*MODEL, *options, "-o", "out")


@pytest.mark.usefixtures("everything")
def test_updated_weights_replace_no_file(refuse):
    Path("new.weights").write_text("mine")
    options = ["--input", "x.npy", "--train", "--update-weights", "new.weights", "-o", "out"]
    assert "exists already" in refuse(*MODEL, *options)


@pytest.mark.usefixtures("everything")
@pytest.mark.parametrize(("output", "weights"), [("o.npz", "o.npz"), ("out", "out/y.npy"), ("out", "out")])
def test_updated_weights_replace_no_other_output(refuse, output, weights):
    if weights != "out":
        Path("out").mkdir()
    refuse(*MODEL, "--input", "x.npy", "--train", "--update-weights", weights, "-o", output)


@pytest.mark.usefixtures("everything")
@pytest.mark.parametrize("output", ["missing/out", "missing/out.npz", "x.npy", "x.npy/out", "folder.npz"])
def test_an_output_that_cannot_be_is_refused(refuse, output):
    Path("folder.npz").mkdir()
    refuse(*PARAMS, "--input", "x.npy", "-o", output)


@pytest.mark.usefixtures("everything")
@pytest.mark.parametrize("name", ["out/000", "out/001"])
def test_a_file_where_a_folder_must_be_is_refused(refuse, name):
    Path("out").mkdir()
    Path(name).write_text("mine")
    refuse(*PARAMS, "--input", "x.npy", "--input", "x.npy", "-o", "out")


@pytest.mark.usefixtures("everything")
@pytest.mark.parametrize("name", ["out/y.npy", "out/mean.npy"])
def test_a_folder_where_a_result_must_be_is_refused(refuse, name):
    Path(name).mkdir(parents=True)
    refuse(*PARAMS, "--input", "x.npy", "--train", "-o", "out")


# --- failures midway --------------------------------------------------------------------------------------------------

OUTPUTS = pytest.mark.parametrize("output", ["out", "out.npz"])


@pytest.fixture
def long() -> list[str]:
    """Options for a tensor that takes many reads."""
    save_params()
    save("x.npy", (2, 4, 700, 700))
    return [*PARAMS, "--input", "x.npy", "--train", "--memory", "16MiB"]


def fail_at(monkeypatch, name: str, number: int, failure) -> list[int]:
    """From the numbered call of a function of `os` on, call `failure` instead; the list grows with each such call."""
    calls, failed, original = [0], [], getattr(os, name)

    def replacement(*arguments):
        calls[0] += 1
        if calls[0] < number:
            return original(*arguments)
        failed.append(calls[0])
        return failure()

    monkeypatch.setattr(os, name, replacement)
    return failed


def full_disk():
    raise OSError(28, "No space left on device")


def interrupted():
    raise KeyboardInterrupt


@OUTPUTS
def test_an_input_that_ends_midway_leaves_the_old_results(refuse, invoke, long, output, monkeypatch):
    save("old.npy", (2, 4, 3, 5))
    invoke("run", *PARAMS, "--input", "old.npy", "--train", "-o", output)
    failed = fail_at(monkeypatch, "preadv", 3, lambda: 0)
    assert refuse(*long, "-o", output, "--force").startswith("error: x.npy: ended while it was read")
    assert failed


@OUTPUTS
def test_an_input_that_ends_midway_leaves_nothing(refuse, long, output, monkeypatch):
    fail_at(monkeypatch, "preadv", 3, lambda: 0)
    refuse(*long, "-o", output)


@OUTPUTS
@pytest.mark.parametrize("name", ["pwritev", "fsync"])
def test_a_full_disk_leaves_nothing(refuse, long, output, name, monkeypatch):
    failed = fail_at(monkeypatch, name, 1, full_disk)
    assert "no space left" in refuse(*long, "-o", output)
    assert failed


@OUTPUTS
def test_an_interruption_leaves_nothing(invoke, long, output, monkeypatch):
    before = files()
    failed = fail_at(monkeypatch, "preadv", 3, interrupted)
    result = invoke("run", *long, "-o", output, exit_code=1)
    assert "Traceback" not in result.stderr
    assert files() == before
    assert failed


def test_an_input_that_ends_midway_leaves_no_results_of_those_before(invoke, long, monkeypatch):
    save("a.npy", (2, 4, 3, 5))
    before = files()
    fail_at(monkeypatch, "preadv", 12, lambda: 0)  # a.npy takes a few reads for each thread, x.npy more
    invoke("run", *PARAMS, "--input", "a.npy", *long[2:], "-o", "out", exit_code=1)
    assert files() == before
    assert not Path("out").exists()


@pytest.mark.parametrize("output", [["-o", "out"], ["-o", "out.npz"]])
@pytest.mark.usefixtures("params")
def test_a_disk_that_fills_up_is_blamed_on_the_output(run, monkeypatch, output):
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    save("x.npy", (2, 4, 3, 5))
    before = files()
    monkeypatch.setattr(os, "pwritev", full)
    assert run("--input", "x.npy", *output, exit_code=1).stderr == f"error: {output[1]}: no space left on device\n"
    assert files() == before


@pytest.mark.usefixtures("params")
def test_an_input_that_cannot_be_read_on_is_named(run, monkeypatch):
    def broken(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    save("x.npy", (2, 4, 3, 5))
    monkeypatch.setattr(os, "preadv", broken)
    for output in ([], ["-o", "out"]):
        assert run("--input", "x.npy", *output, exit_code=1).stderr == "error: x.npy: input/output error\n"


# --- obstacles that users met -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("output", [[], ["-o", "out"], ["-o", "out.npz"]])
def test_ranges_are_shown_whether_results_are_written_or_not(run, params, output):
    x = save("x.npy", (2, 4, 3, 5))
    x[0, 1, 2, 3] = np.nan
    np.save("x.npy", x)
    (y,) = document(run("--input", "x.npy", *output, "--format", "json"))["results"]
    wanted = step(params, "pjreddie", x)["y"]
    assert (y["min"], y["max"], y["not_finite"]) == (
        pytest.approx(np.nanmin(wanted)),
        pytest.approx(np.nanmax(wanted)),
        1,
    )


def bad_params(variance: float) -> None:
    layer = save_params()
    layer["rolling_variance"][2] = variance
    np.savez("p.npz", **layer)


@pytest.mark.parametrize("variance", [-1.0, np.nan, np.inf])
@pytest.mark.parametrize("mode", [[], ["--train"]])
def test_a_bad_variance_is_an_error(run, variance, mode):
    save("x.npy", (2, 4, 3, 5))
    bad_params(variance)
    error = run("--input", "x.npy", *mode, "-o", "out", exit_code=1).stderr
    assert error.startswith("error: p.npz: rolling_variance is ")
    assert "channel 2" in error
    assert not Path("out").exists()


def test_a_bad_variance_of_a_model_is_an_error_too(run, tiny):
    save("x.npy", (2, 4, 8, 8))
    data = np.fromfile(tiny[1], "<f4")
    data[5 + 3 * 4 + 2] = -1  # after the header: biases, scales, rolling_mean, 4 each
    data.tofile(tiny[1])
    error = run("--input", "x.npy", model=(*tiny, "--layer", "0"), exit_code=1).stderr
    assert "layer 0 rolling_variance is -1 in channel 2" in error


def test_a_bad_variance_is_clamped_or_left(run):
    x = save("x.npy", (2, 4, 3, 5))
    bad_params(-1.0)
    run("--input", "x.npy", "--bad-variance", "clamp", "-o", "clamped")
    run("--input", "x.npy", "--bad-variance", "skip", "-o", "left")
    clamped, left = np.load("clamped/y.npy"), np.load("left/y.npy")
    assert np.isfinite(clamped).all()
    assert [bool(np.isnan(left[:, channel]).all()) for channel in range(4)] == [False, False, True, False]
    layer = save_params()
    layer["rolling_variance"][2] = 0
    assert_results({"y": clamped}, step(layer, "pjreddie", x))


@pytest.mark.parametrize("options", [["--rolling", "average"], ["--rolling-keep", "0"]])
def test_a_bad_variance_that_is_not_used_is_accepted(run, options):
    save("x.npy", (2, 4, 3, 5))
    bad_params(-1.0)
    run("--input", "x.npy", "--train", *options)


@pytest.mark.parametrize(
    ("layer", "shape", "layout", "noted"),
    [
        ("0", (2, 4, 8, 8), "nchw", False),
        ("0", (2, 4, 8, 7), "nchw", True),
        ("0", (4, 16, 16), "nchw", True),
        ("0", (2, 8, 8, 4), "nhwc", False),
        ("0", (2, 8, 7, 4), "nhwc", True),
        ("0", (2, 4), "nchw", True),
        ("1", (2, 5), "nchw", False),
        ("1", (2, 5, 1, 1), "nchw", False),
        ("1", (2, 5, 2, 2), "nchw", True),
    ],
)
def test_a_tensor_of_another_height_and_width_than_the_layer_s_is_noted(run, layer, shape, layout, noted):
    sections = "convolutional batch_normalize=1 filters=4 size=1 | connected batch_normalize=1 output=5"
    Path("net.cfg").write_text(cfg_source("3x8x8", sections))
    write_weights(Path("net.cfg"), Path("net.weights"))
    save("x.npy", shape)
    model = ("net.cfg", "net.weights", "--layer", layer, "--dialect", "alexeyab")
    result = run("--input", "x.npy", "--layout", layout, "--format", "json", model=model)
    assert [other["input"] for other in document(result)["other_sizes"]] == ["x.npy"] * noted
    assert ("note: x.npy" in result.stderr) == noted


def test_epsilon_is_the_guard_of_the_forward_normalisation(run, params):
    x = save("x.npy", (2, 4, 3, 5))
    run("--input", "x.npy", "--epsilon", "0.5", "-o", "out")
    deviation = np.sqrt(params["rolling_variance"] + 0.5)
    y = (x - params["rolling_mean"][:, None, None]) / deviation[:, None, None]
    y = y * params["scales"][:, None, None] + params["biases"][:, None, None]
    assert_results(results_in("out"), {"y": y})


@pytest.mark.usefixtures("params")
def test_a_pattern_is_the_files_that_it_matches_in_the_order_of_their_numbers(run):
    for number in (1, 2, 10):
        save(f"x{number}.npy", (2, 4, 3, 5), number)
    found = document(run("--input", "x*.npy", "--train", "--format", "json"))["results"]
    assert list(dict.fromkeys(row["input"] for row in found)) == ["x1.npy", "x2.npy", "x10.npy"]
    assert "matches no file" in run("--input", "z*.npy", exit_code=1).stderr
    save("x[1].npy", (2, 4, 3, 5))
    (row,) = document(run("--input", "x[1].npy", "--format", "json"))["results"]
    assert row["input"] == "x[1].npy"  # a file of that name exists


@pytest.mark.usefixtures("params")
def test_of_many_inputs_a_table_shows_the_last(run):
    save("x.npy", (2, 4, 3, 5))
    for number in range(30):
        save(f"x{number}.npy", (2, 4, 3, 5), number)
    lines = run("--input", "x*.npy", "--train").stdout.splitlines()
    assert len(lines) < 50
    assert any(line.startswith("x29.npy") for line in lines)
    assert len(document(run("--input", "x*.npy", "--train", "--format", "json"))["results"]) == 31 * 5


@pytest.mark.usefixtures("params")
def test_the_input_at_which_a_run_ends_early_is_closed():
    class EndedError(Exception):
        pass

    def progress(done: int, total: int) -> None:
        if done > total // 2:
            raise EndedError

    for name in ("a.npy", "b.npy", "c.npy"):
        save(name, (2, 4, 3, 5))
    before = open_files()
    with pytest.raises(EndedError) as caught:
        bnorm.run(params="p.npz", inputs=["a.npy", "b.npy", "c.npy"], train=True, progress=progress)
    assert open_files() == before
    assert caught.tb  # its frames still hold what they opened
