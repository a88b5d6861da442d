"""`bnorm.export`: what is written, as other programs read it (bnorm.exchange.export and its writers)."""

from __future__ import annotations

import json
import re
import shutil
import struct
import subprocess

import numpy as np
import pytest

import bnorm
from bnorm.exchange.c_source import identifier
from bnorm.exchange.export import FORMATS
from support.builders import odd_pair
from support.golden import sample

BN = ("biases", "scales", "rolling_mean", "rolling_variance", "weights")
SUFFIXES = [suffix or "folder" for suffix in FORMATS if not FORMATS[suffix].graph]


def target(folder, suffix):
    return folder / ("out" if suffix == "folder" else f"out{suffix}")


def stored(path):
    return sorted(path.iterdir()) if path.is_dir() else [path]


# --- each format, as its readers see it -------------------------------------------------------------------------------


def test_numpy_reads_an_archive(model, arrays, tmp_path):
    report = bnorm.export(model, tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz", allow_pickle=False) as archive:
        assert archive.files == list(arrays)  # in the order of the weights file
        for name, values in arrays.items():
            assert archive[name].dtype == "<f4"
            assert np.array_equal(archive[name], values)
    assert [row.name for row in report.arrays] == list(arrays)
    assert report.nbytes == (tmp_path / "out.npz").stat().st_size


def test_safetensors_reads_its_format(model, arrays, tmp_path):
    numpy = pytest.importorskip("safetensors.numpy")
    bnorm.export(model, tmp_path / "out.safetensors")
    loaded = numpy.load_file(tmp_path / "out.safetensors")
    assert loaded.keys() == arrays.keys()
    assert all(np.array_equal(loaded[name], arrays[name]) for name in arrays)
    data = (tmp_path / "out.safetensors").read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    assert length % 8 == 0
    assert list(json.loads(data[8 : 8 + length])) == list(arrays)


def test_pytorch_loads_a_state_dict_of_the_family(tmp_path):
    torch = pytest.importorskip("torch")
    load = pytest.importorskip("safetensors.torch").load_file
    model = bnorm.read_model(*sample("detector"))
    bnorm.export(model, tmp_path / "out.safetensors", names="ultralytics", layers=[0])
    network = torch.nn.Module()
    block = torch.nn.Sequential()
    block.add_module("Conv2d", torch.nn.Conv2d(3, 8, 3, bias=False))
    block.add_module("BatchNorm2d", torch.nn.BatchNorm2d(8))
    network.module_list = torch.nn.ModuleList([block])
    network.load_state_dict(load(tmp_path / "out.safetensors"), strict=True)
    with bnorm.open_weights(model) as weights:
        assert np.array_equal(block.Conv2d.weight.detach().numpy(), weights[0, "weights"])
        assert np.array_equal(block.BatchNorm2d.running_var.numpy(), weights[0, "rolling_variance"])
        assert np.array_equal(block.BatchNorm2d.weight.detach().numpy(), weights[0, "scales"])


def read_wts(path):
    """An independent reader, as `loadWeights` of tensorrtx reads words."""
    words = path.read_text().split()
    count, position, found = int(words[0]), 1, {}
    for _ in range(count):
        name, size = words[position], int(words[position + 1])
        values = [struct.unpack(">f", bytes.fromhex(word))[0] for word in words[position + 2 : position + 2 + size]]
        found[name], position = np.array(values, "f4"), position + 2 + size
    assert position == len(words)
    return found


def test_wts_is_read_by_words(model, arrays, tmp_path):
    bnorm.export(model, tmp_path / "out.wts")
    found = read_wts(tmp_path / "out.wts")
    assert list(found) == list(arrays)
    assert all(np.array_equal(found[name], arrays[name].ravel()) for name in arrays)
    lines = (tmp_path / "out.wts").read_text().splitlines()
    assert re.fullmatch(r"0\.biases 4  ([0-9a-f]{8} ){3}[0-9a-f]{8}", lines[1])


def test_wts_with_names_of_pytorch_counts_batches(model, arrays, tmp_path):
    bnorm.export(model, tmp_path / "out.wts", names="ultralytics")
    found = read_wts(tmp_path / "out.wts")
    assert found["module_list.0.BatchNorm2d.num_batches_tracked"].tolist() == [0]
    assert len(found) == len(arrays) + 1


def read_bins(folder):
    layout = json.loads((folder / "layout.json").read_text())
    found = {}
    for entry in layout["arrays"]:
        count = int(np.prod(entry["shape"]))
        values = np.fromfile(folder / entry["file"], entry["dtype"], count, offset=entry["offset"])
        found[entry["name"]] = values.reshape(entry["shape"])
    return found


def test_a_folder_is_read_by_its_layout(model, arrays, tmp_path):
    report = bnorm.export(model, tmp_path / "out")
    found = read_bins(tmp_path / "out")
    assert list(found) == list(arrays)
    assert all(np.array_equal(found[name], arrays[name]) for name in arrays)
    assert {path.name for path in report.outputs} == {path.name for path in (tmp_path / "out").iterdir()}
    sizes = sum(path.stat().st_size for path in (tmp_path / "out").glob("*.bin"))
    assert sizes == 4 * sum(values.size for values in arrays.values())


def compile_c(folder, name, *options):
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    flags = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", *options]
    subprocess.run([compiler, *flags, "-c", f"{name}.c", "-o", "arrays.o"], cwd=folder, check=True)
    subprocess.run([compiler, *flags, "main.c", "arrays.o", "-o", "program"], cwd=folder, check=True)
    run = subprocess.run([folder / "program"], capture_output=True, text=True, check=True)
    return [float(word) for word in run.stdout.split()]


MAIN = """\
#include <stdio.h>
#include "{header}"

int main(void) {{
    double sum = 0;
    for (int i = 0; i < {array}_SIZE; i++) sum += {name}[i];
    printf("%.17g %d\\n", sum, {array}_SIZE);
    return 0;
}}
"""


@pytest.mark.parametrize("dtype", ["float32", "int8", "int16", "float16"])
def test_a_compiler_takes_the_c_files_without_a_warning(model, tmp_path, dtype):
    bnorm.export(model, tmp_path / "my-net.2.h", dtype=dtype)
    bnorm.export(model, tmp_path / "same.npz", dtype=dtype, fold=True)
    array, name = "MY_NET_2_0_WEIGHTS", "my_net_2_0_weights"
    (tmp_path / "main.c").write_text(MAIN.format(header="my-net.2.h", array=array, name=name))
    total, count = compile_c(tmp_path, "my-net.2")
    with np.load(tmp_path / "same.npz") as archive:
        values = archive["0.weights"]
    plain = values.view("u2") if dtype == "float16" else values
    assert total == pytest.approx(float(plain.astype(np.float64).sum()), rel=1e-12)
    assert count == values.size


def test_c_files_are_folded_unless_batch_normalisation_is_kept(model, tmp_path):
    assert len(bnorm.export(model, tmp_path / "folded.h").arrays) == 4
    assert len(bnorm.export(model, tmp_path / "whole.h", keep_batchnorm=True).arrays) == 7


def test_c_has_short_lines_and_macros_for_the_linker(model, tmp_path):
    bnorm.export(model, tmp_path / "net.h")
    text = (tmp_path / "net.c").read_text()
    assert max(map(len, text.splitlines())) <= 100
    (tmp_path / "main.c").write_text(MAIN.format(header="net.h", array="NET_0_BIASES", name="net_0_biases"))
    compile_c(tmp_path, "net", "-DBNORM_ALIGN=__attribute__((aligned(64)))")


@pytest.mark.parametrize("value", [1.0, -0.0, 1e20, 1e-45, 3.4028235e38, 16777216.0, 0.1])
def test_c_gives_every_float_again(tmp_path, value):
    model = odd_pair(tmp_path, "convolutional filters=1", {(0, "biases"): {0: value}})
    bnorm.export(model, tmp_path / "net.h")
    (text,) = re.findall(r"biases\[\w+\] = \{\n    (\S+)f,\n", (tmp_path / "net.c").read_text())
    assert "." in text or "e" in text
    assert np.float32(text).tobytes() == np.float32(value).tobytes()


def test_c_cannot_spell_nan(tmp_path):
    model = odd_pair(tmp_path, "convolutional filters=2", {(0, "biases"): {1: np.nan}})
    with pytest.raises(bnorm.WeightsError, match="layer 0 biases holds NaN or infinity"):
        bnorm.export(model, tmp_path / "out.h")
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize(("text", "name"), [("a-b c", "a_b_c"), ("__x", "x"), ("0.weights", "0_weights"), ("é", "net")])
def test_identifiers(text, name):
    assert identifier(text) == name


@pytest.mark.parametrize("name", ['we"ird.h', "new\nline.h", "back\\slash.h"])
def test_a_header_whose_name_c_cannot_include_is_refused(model, tmp_path, name):
    with pytest.raises(bnorm.OutputError, match="#include"):
        bnorm.export(model, tmp_path / name)
    assert not list(tmp_path.glob("*.h"))


# --- what every format promises ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_same_model_gives_the_same_bytes(model, tmp_path, suffix):
    both = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        output = target(tmp_path / name, suffix)
        bnorm.export(model, output)
        both.append({path.name: path.read_bytes() for path in stored(output)})
    assert both[0] == both[1]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_exists_is_refused_without_force(model, tmp_path, suffix):
    output = target(tmp_path, suffix)
    bnorm.export(model, output)
    with pytest.raises(bnorm.OutputError, match="exists already"):
        bnorm.export(model, output)
    bnorm.export(model, output, force=True)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_layers_are_chosen_by_the_numbers_of_the_given_cfg(model, tmp_path, suffix):
    report = bnorm.export(model, target(tmp_path, suffix), layers=[1], fold=True)
    assert [row.name for row in report.arrays] == ["1.biases", "1.weights"]


def test_layers_without_arrays_are_an_error(tmp_path):
    with pytest.raises(bnorm.WeightsError, match="holds no arrays of these layers"):
        bnorm.export(bnorm.read_model(*sample("digits")), tmp_path / "out.npz", layers=[2])
    assert list(tmp_path.iterdir()) == []


def test_folding_gives_the_arrays_of_the_folded_file(tmp_path):
    model = bnorm.read_model(*sample("detector"))
    bnorm.fold(model, tmp_path / "folded.weights", epsilon="opencv")
    bnorm.export(model, tmp_path / "out.npz", fold=True, epsilon="opencv")
    folded = bnorm.read_model(tmp_path / "folded.cfg", tmp_path / "folded.weights")
    with bnorm.open_weights(folded) as weights, np.load(tmp_path / "out.npz") as archive:
        assert archive.files == [f"{array.layer}.{array.name}" for array in folded.layout.arrays]
        for array in folded.layout.arrays:
            assert np.array_equal(archive[f"{array.layer}.{array.name}"], weights.read(array))


@pytest.mark.parametrize("name", ["out.npz", "out.safetensors", "out.h", "out", "out.onnx"])
def test_a_folded_export_is_compared_as_fold_does(name, tmp_path):
    if name.endswith("onnx"):
        pytest.importorskip("onnx")
    model = bnorm.read_model(*sample("detector"))
    report = bnorm.export(model, tmp_path / name, fold=True)
    assert report.folds == bnorm.fold(model, None, dry_run=True).layers
    assert all(layer.max_rel_error is not None for layer in report.folds)
    unproven = bnorm.export(model, tmp_path / name, fold=True, verify=False, force=True)
    assert {layer.max_rel_error for layer in unproven.folds} == {None}


def test_nothing_is_written_if_a_folded_layer_differs(tmp_path, monkeypatch):
    monkeypatch.setattr("bnorm.transforms.fold.proof.ROUNDING", 1e-12)
    with pytest.raises(bnorm.ProofError):
        bnorm.export(bnorm.read_model(*sample("detector")), tmp_path / "out", fold=True)
    assert list(tmp_path.iterdir()) == []


def test_the_command_tells_how_far_folded_layers_are_and_what_stays(invoke, tmp_path):
    model = odd_pair(tmp_path, "convolutional batch_normalize=1 | maxpool | batchnorm", {})
    printed = invoke(
        "export", model.network.text.path, model.weights, "-o", tmp_path / "out.npz", "--fold", columns="200"
    ).stdout
    assert re.search(r"^folded +with ε 1e-05 inside the root; compared before and after: at most .*e-", printed, re.M)
    assert re.search(r"^kept +layer 2: ", printed, re.M)


def test_a_layer_whose_folded_values_exceed_float32_is_kept(tmp_path):
    changes = {(0, "scales"): {0: 3e38}, (0, "weights"): {0: 3e5}, (0, "rolling_variance"): {0: 1.0}}
    model = odd_pair(tmp_path, "convolutional batch_normalize=1 filters=2", changes)
    report = bnorm.export(model, tmp_path / "out.npz", fold=True)
    assert "0.scales" in [row.name for row in report.arrays]


def test_a_folder_loses_what_an_older_export_left(model, tmp_path):
    bnorm.export(model, tmp_path / "out")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    bnorm.export(model, tmp_path / "out", fold=True, force=True)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"layout.json", "weights.bin", "biases.bin", "notes.txt"}


def test_an_export_that_fails_leaves_no_folder(tmp_path):
    changes = {(0, "rolling_variance"): {0: -1.0}}
    model = odd_pair(tmp_path, "convolutional batch_normalize=1 filters=2", changes)
    with pytest.raises(bnorm.WeightsError, match="layer 0 rolling_variance is -1"):
        bnorm.export(model, tmp_path / "out", fold=True)
    assert not (tmp_path / "out").exists()
    for policy, count in (("clamp", 2), ("skip", 5)):
        report = bnorm.export(model, tmp_path / policy, fold=True, bad_variance=policy)
        assert len(report.arrays) == count


@pytest.mark.parametrize(
    ("name", "choices"),
    [
        ("out.pt", {}),
        ("out.npz", {"names": "keras"}),
        ("out.npz", {"dtype": "int4"}),
        ("out.npz", {"scale_per": "row"}),
        ("out.npz", {"opset": 13}),
        ("out.npz", {"head": "raw"}),
        ("out.npz", {"layers": [9]}),
        ("out.npz", {"epsilon": "tensorflow", "fold": True}),
        ("out.npz", {"bad_variance": "ignore"}),
        ("out.safetensors", {"dtype": "int8"}),
        ("out.wts", {"dtype": "float16"}),
        ("out.h", {"names": "ultralytics"}),
    ],
)
def test_arguments_are_checked_before_anything_is_read(model, tmp_path, name, choices):
    with pytest.raises(ValueError, match=r"expected|for \.onnx"):
        bnorm.export(model._replace(weights=tmp_path / "missing"), tmp_path / name, **choices)


def test_a_layer_without_a_name_in_a_family_is_an_error(tmp_path):
    with pytest.raises(bnorm.CfgError, match=r"layer 4, \[connected\], has no name among those of ultralytics"):
        bnorm.export(bnorm.read_model(*sample("digits")), tmp_path / "out.npz", names="ultralytics")


def test_a_file_that_does_not_fit_is_an_error(tiny, tmp_path):
    cfg, weights = tiny
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(bnorm.WeightsError, match="ends inside"):
        bnorm.export(bnorm.read_model(cfg, weights), tmp_path / "out.npz")


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_says_what_it_wrote(invoke, tiny, tmp_path):
    printed = invoke("export", *tiny, "-o", tmp_path / "out.npz", columns="200").stdout.splitlines()
    size = (tmp_path / "out.npz").stat().st_size
    assert printed[0] == f"wrote 7 arrays in {size:,} bytes to {tmp_path / 'out.npz'}"
    assert printed[-2].split() == ["1", "1.biases", "2"]


def test_the_document_has_every_array(invoke, tiny, tmp_path):
    document = json.loads(invoke("export", *tiny, "-o", tmp_path / "q", "--dtype", "int8", "--format", "json").stdout)
    assert document["arrays"][4] == {
        "layer": 0,
        "part": "",
        "array": "weights",
        "name": "0.weights",
        "shape": [4, 3, 3, 3],
        "dtype": "int8",
    }
    assert document["arrays"][5]["name"] == "0.weights_scale"
    assert {(row["name"], row["scale_per"]) for row in document["roundings"]} == {
        (name, per) for name in ("0.weights", "1.weights") for per in ("channel", "tensor")
    }
    assert document["epsilon"] is None
    assert len(document["outputs"]) == 7


@pytest.mark.parametrize("format_", ["table", "csv", "markdown", "json"])
def test_every_format_of_the_report(invoke, tiny, tmp_path, format_):
    for dtype in ("float32", "float16", "int16"):
        invoke("export", *tiny, "-o", tmp_path / f"{dtype}.npz", "--dtype", dtype, "--fold", "--format", format_)


def test_a_suffix_that_is_not_known_is_a_wrong_command_line(invoke, tiny, tmp_path):
    assert ".safetensors" in invoke("export", *tiny, "-o", tmp_path / "out.pt", exit_code=2).stderr
    assert "names" in invoke("export", *tiny, "-o", tmp_path / "o.h", "--names", "ultralytics", exit_code=2).stderr
