"""Limits on the cost of any file under 10 MB, whatever it contains: counts, sizes and refusals, never a time."""

from __future__ import annotations

import json
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from bnorm.batchnorm import tiling
from bnorm.cli import inspect as inspect_command
from bnorm.cli import render
from bnorm.darknet import cfg as cfgs
from bnorm.darknet import network
from bnorm.darknet.autodetect import read_model
from bnorm.errors import TensorError
from bnorm.tensors import npy, npz
from bnorm.tensors import open as opening
from bnorm.transforms.fold import fold as folding
from bnorm.transforms.fold import proof as verification
from support.builders import BN, cfg_source, write_weights

PARAMETERS = ("scales", "biases", "rolling_mean", "rolling_variance")


def write_pair(folder: Path, net: str, layers: str, fill: float | None = None) -> tuple[Path, Path]:
    """A cfg and weights that fit it: random values, or the same value throughout."""
    cfg, weights = folder / "net.cfg", folder / "net.weights"
    cfg.write_text(cfg_source(net, layers))
    if fill is None:
        return cfg, write_weights(cfg, weights)
    count = (read_model(cfg, None, "alexeyab").layout.nbytes - 20) // 4
    weights.write_bytes(struct.pack("<3iQ", 0, 2, 5, 0) + np.full(count, fill, "<f4").tobytes())
    return cfg, weights


# --- cfgs -------------------------------------------------------------------------------------------------------------


def test_a_cfg_of_more_bytes_than_any_network_has_is_refused(invoke, tmp_path):
    """A [route] of two million numbers used to take six seconds."""
    cfg = tmp_path / "net.cfg"
    cfg.write_text(cfg_source("4", "connected | route layers=" + ",".join(["0"] * (cfgs.MOST_BYTES // 2))))
    error = invoke("inspect", cfg, exit_code=1).stderr
    assert error.startswith(f"error: {cfg}: more than 524,288 bytes, expected a cfg of a few kilobytes\n")


def test_a_cfg_of_more_sections_or_lines_than_any_network_has_is_refused(invoke, tmp_path):
    cfg = tmp_path / "net.cfg"
    cfg.write_text(cfg_source("3x8x8", "dropout") + "[dropout]\n" * cfgs.MOST_SECTIONS)
    error = invoke("inspect", cfg, exit_code=1).stderr
    assert error == f"error: {cfg}:2004: more than 2000 sections, expected a few hundred\n"
    cfg.write_text(cfg_source("3x8x8", "dropout") + "a=1\n" * cfgs.MOST_LINES)
    error = invoke("inspect", cfg, exit_code=1).stderr
    assert error == f"error: {cfg}:50001: more than 50000 lines, expected a few hundred\n"


def test_a_network_of_more_matrices_than_any_has_is_refused(invoke, tmp_path):
    """Each [lstm] makes eight: 5000 of them were 40,000 tables, and 1.7 GB of JSON."""
    cfg = tmp_path / "net.cfg"
    lstm = " | lstm output=1"
    cfg.write_text(cfg_source("3", "lstm output=1" + lstm * (network.MOST_PARTS // 8 - 1)))
    assert len(read_model(cfg).network.layers) == 250
    cfg.write_text(cfg_source("3", "lstm output=1" + lstm * (network.MOST_PARTS // 8)))
    error = invoke("inspect", cfg, exit_code=1).stderr
    assert error.endswith(
        ": [lstm] makes more than 2000 convolutions and fully connected parts, expected a few hundred\n"
    )


# --- folding ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def rounds(monkeypatch) -> list[int]:
    """Return the number of layers that are kept, for each time that folding is prepared."""
    found: list[int] = []

    def counted(weights, options, overflowing, fold_model=folding.fold_model):
        found.append(len(overflowing))
        return fold_model(weights, options, overflowing)

    monkeypatch.setattr(folding, "fold_model", counted)
    return found


@pytest.mark.parametrize("layer", [f"convolutional {BN} activation=linear", "connected activation=linear | batchnorm"])
def test_layers_whose_folded_numbers_no_float32_holds_are_found_at_once(invoke, tmp_path, rounds, layer):
    """Each of them used to restart the plan: 5000 layers took hours."""
    pair = write_pair(tmp_path, "1x1x1", " | ".join([layer] * 30), fill=1e30)
    result = invoke("fold", *pair, "--dry-run", "--dialect", "alexeyab")
    assert rounds == [0, 30 * (1 + layer.count("|"))]
    assert result.stdout.count("its folded values exceed float32") == 30


def test_a_binary_layer_whose_folded_numbers_no_float32_holds_stays(invoke, tmp_path):
    """This used to end in a traceback."""
    pair = write_pair(tmp_path, "1x1x1", f"convolutional {BN} activation=linear binary=1", fill=1e30)
    assert "its folded values exceed float32" in invoke("fold", *pair, "--dry-run").stdout


def test_the_proof_takes_fewer_windows_where_a_layer_has_many_outputs(tmp_path, monkeypatch):
    """A [local] layer has as many outputs as weights, and each window has all of them in a dozen arrays."""
    pair = write_pair(tmp_path, "1x200x200", "local activation=linear | batchnorm")
    model = read_model(*pair)

    def peak() -> int:
        tracemalloc.start()
        folding.fold(model, None, dry_run=True)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak()  # what is made once
    four = peak()
    monkeypatch.setattr(verification, "MOST", 40_000)
    assert peak() < four / 2


NOTHING = "convolutional filters=4 size=5 stride=3"  # of a small image: the forks make such layers


@pytest.mark.parametrize(
    "command",
    [["inspect", "--channels"], ["check"], ["fold", "--dry-run"], ["convert", "--dry-run", "--seen", "0"]],
    ids=" ".join,
)
@pytest.mark.parametrize(
    ("net", "layers"),
    [
        ("3x1x1", f"{NOTHING} | connected {BN} output=3 activation=linear"),
        ("3x1x1", f"{NOTHING} | connected output=3 activation=linear | batchnorm"),
        ("3x2x9", "local filters=2 size=4 stride=2 activation=linear | batchnorm"),
    ],
)
def test_a_layer_without_weights_is_read_like_others(invoke, tmp_path, net, layers, command):
    """Its input has no values: maxima and sums over no values used to end in a traceback."""
    name, *options = command
    result = invoke(name, *write_pair(tmp_path, net, layers), *options)
    assert result.stdout


# --- printed output ---------------------------------------------------------------------------------------------------


def test_more_rows_than_anyone_reads_are_refused(invoke, tmp_path, monkeypatch):
    """Half a million channels took 7 seconds and 1 GB."""
    monkeypatch.setattr(inspect_command, "MOST_CHANNELS", 9)
    pair = write_pair(tmp_path, "4x6x6", f"convolutional {BN} filters=6 | convolutional {BN} filters=4")
    error = invoke("inspect", *pair, "--channels", exit_code=2).stderr
    assert "10 normalised channels, expected at most 9: choose some with --layer" in error
    assert invoke("inspect", *pair, "--channels", "--layer", "0", "--format", "csv").stdout.count("\n") == 7


def test_a_long_document_is_not_indented_and_is_the_same(invoke, tmp_path, monkeypatch):
    pair = write_pair(tmp_path, "4x6x6", f"convolutional {BN} filters=6")
    command = "inspect", *pair, "--channels", "--format", "json"
    indented = invoke(*command).stdout
    monkeypatch.setattr(render, "READABLE", 5)
    compact = invoke(*command).stdout
    assert (compact.count("\n"), json.loads(compact)) == (1, json.loads(indented))


def test_a_batch_that_its_subdivisions_leave_empty_is_not_counted_in(invoke, tiny):
    """pjreddie's program divides by it, and so did bnorm. AlexeyAB's makes it one image."""
    cfg, weights = tiny
    cfg.write_text(cfg.read_text().replace("batch=4", "batch=4\nsubdivisions=8"))
    assert "\n         12,345 images seen\n" in invoke("inspect", cfg, weights, "--dialect", "pjreddie").stdout
    assert "12,345 images seen = 1,543 batches of 8\n" in invoke("inspect", cfg, weights).stdout


# --- tensors ----------------------------------------------------------------------------------------------------------


def packed(path: Path, array: np.ndarray) -> str:
    np.savez_compressed(path, x=array)
    return str(path)


def test_an_array_that_unpacks_to_very_much_is_refused(tmp_path, monkeypatch):
    """A true header, and zeros that are packed to a thousandth of their size."""
    path = tmp_path / "x.npz"
    zeros = packed(path, np.zeros((1000, 100), "f4"))
    opening.open_tensor(zeros).close()
    monkeypatch.setattr(npz, "MOST_UNPACKED", 300_000)
    with pytest.raises(TensorError) as caught:
        opening.open_tensor(zeros)
    (info,) = zipfile.ZipFile(path).infolist()
    what, cause = str(caught.value).split("\n")
    assert what.startswith(
        f"{path}: x.npy unpacks to {info.file_size:,} bytes, expected at most {100 * info.compress_size:,}"
    )
    assert "numpy.savez" in cause


def test_an_array_that_unpacks_to_a_hundred_times_its_size_is_read(tmp_path, monkeypatch):
    """At any size: at most, a network's output is of this kind."""
    monkeypatch.setattr(npz, "MOST_UNPACKED", 1000)
    rare = np.zeros((1000, 100), "f4")
    rare[::4] = np.random.default_rng(0).normal(size=(250, 100))
    with opening.open_tensor(packed(tmp_path / "x.npz", rare)) as tensor:
        assert tensor.shape == rare.shape


def test_parameters_of_more_channels_than_any_layer_has_are_refused(tmp_path):
    """Sixteen million of each, in an archive of 130 kB, took 650 MB."""
    vector = np.zeros(npy.MOST_CHANNELS + 1, "f2")
    np.savez_compressed(tmp_path / "p.npz", **dict.fromkeys(PARAMETERS, vector))
    with pytest.raises(TensorError, match=r"scales has the shape \(1048577,\), expected one value per channel"):
        npz.read_vectors(tmp_path / "p.npz", PARAMETERS)


class Extent:
    """A tensor's size and order, without values."""

    def __init__(self, images: int, channels: int, places: int, channels_last: bool) -> None:
        self.images, self.channels, self.places, self.channels_last = images, channels, places, channels_last


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("sizes", [(5, 500_000, 2), (4, 1_000_000, 1), (2, 1_250_000, 1), (40, 60_000, 1)])
def test_many_channels_of_few_values_are_not_cut_into_many_tiles_and_blocks(sizes, channels_last):
    """Channels used to be cut as if each had thousands of values: ten million of them into 8000 tiles per MiB."""
    extent, most = Extent(*sizes, channels_last), 1 << 17
    tiles = [span for group in tiling.tiles(extent, most) for span in group]
    whole = np.prod(sizes)
    assert len(tiles) < 2 * whole / most + 2
    assert sum((span.last - span.first) * (span.stop - span.start) for span in tiles) == whole
    assert len(tiling.blocks(extent, tiling.Grouping(sizes[2]), 2)) < 2 * whole / tiling.BLOCK + 10


# --- numbers ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(invoke, tmp_path, monkeypatch):
    """`bnorm run` in a folder with x.npy, of six channels."""
    monkeypatch.chdir(tmp_path)

    def found(x: np.ndarray, *arguments: object):
        np.save("x.npy", x)
        return invoke("run", *arguments, "--input", "x.npy")

    return found


def test_statistics_beyond_float32_are_written_as_infinite_without_a_warning(run, tmp_path):
    pair = write_pair(tmp_path, "4x1x1", f"convolutional {BN} filters=6")
    x = np.full((2, 6), 1e300)
    assert run(x, *pair, "--layer", "0", "--train", "--update-weights", "new.weights").stderr.count("\n") <= 1
    offset = read_model(*pair).layout.by_name[0, "rolling_mean"].offset
    assert np.isinf(np.frombuffer(Path("new.weights").read_bytes()[offset : offset + 24], "<f4")).all()


def test_parameters_that_are_signalling_nan_are_read_without_a_warning(run):
    signalling = np.frombuffer(b"\x01\x00\xa0\x7f" * 6, "<f4")
    np.savez("p.npz", **dict.fromkeys(PARAMETERS, signalling))
    assert run(np.ones((2, 6), "f4"), "--params", "p.npz", "--bad-variance", "skip").stderr == ""
