"""The command line and the page of `bnorm export` for an ONNX file."""

from __future__ import annotations

import csv
import io
import json

import pytest

from bnorm import extras
from support.golden import sample

pytest.importorskip("onnx")

DETECTOR = sample("detector")


def test_the_page_shows_the_inputs_and_outputs_of_the_file(invoke, tmp_path):
    page = invoke("export", *DETECTOR, "-o", tmp_path / "net.onnx").stdout
    for text in (
        "1 × 3 × 64 × 64",
        "RGB from 0 to 1",
        "opset    13",
        "yolo_8",
        "192 × 7",
        "thresholds",
        "1e-05 inside",
    ):
        assert text in page


def test_the_document_has_every_fact(invoke, tmp_path):
    pytest.importorskip("onnxruntime")
    document = json.loads(invoke("export", *DETECTOR, "-o", tmp_path / "net.onnx", "--format", "json").stdout)
    graph = document["onnx"]
    assert graph["input"] == {"name": "input", "shape": [1, 3, 64, 64]}
    (output,) = graph["outputs"]
    assert (output["name"], output["shape"], output["layer"], output["kind"]) == ("yolo_8", [192, 7], 8, "boxes")
    assert (graph["opset"], graph["ir_version"]) == (13, 7)
    assert graph["verified"] is True
    assert graph["worst"]["relative"] < 1e-5
    assert "Conv" in graph["operators"]
    assert document["bytes"] == (tmp_path / "net.onnx").stat().st_size
    assert {row["name"] for row in document["arrays"]} >= {"0.weights", "7.biases"}


def test_a_batch_of_any_size_is_null_in_the_document(invoke, tmp_path):
    options = ("--batch", "dynamic", "--head", "raw", "--opset", "18", "--no-verify", "--format", "json")
    graph = json.loads(invoke("export", *DETECTOR, "-o", tmp_path / "net.onnx", *options).stdout)["onnx"]
    assert graph["input"]["shape"] == [None, 3, 64, 64]
    assert graph["outputs"][0]["shape"] == [None, 21, 8, 8]
    assert (graph["verified"], graph["worst"], graph["not_run"]) == (False, None, "not asked for")


def test_csv_has_a_row_for_each_output(invoke, tmp_path):
    text = invoke("export", *DETECTOR, "-o", tmp_path / "net.onnx", "--format", "csv").stdout
    (row,) = csv.DictReader(io.StringIO(text))
    assert (row["name"], row["shape"], row["layer"], row["kind"]) == ("yolo_8", "192 × 7", "8", "boxes")


@pytest.mark.parametrize(
    "words",
    [
        ("net.onnx", "--opset", "3"),
        ("net.onnx", "--batch", "0"),
        ("net.onnx", "--layer", "0"),
        ("net.onnx", "--dtype", "int8"),
        ("net.onnx", "--names", "ultralytics"),
        ("net.onnx", "--keep-batchnorm", "--epsilon", "pjreddie-cpu"),
        ("net.npz", "--opset", "13"),
        ("net.npz", "--batch", "2"),
        ("net.npz", "--head", "raw"),
    ],
    ids=" ".join,
)
def test_options_that_do_not_fit(invoke, tmp_path, words):
    name, *options = words
    invoke("export", *DETECTOR, "-o", tmp_path / name, *options, exit_code=2)
    assert not list(tmp_path.iterdir())


def test_a_layer_that_cannot_be_expressed_is_one_error(invoke, tmp_path):
    cfg, weights = sample("recurrent")
    error = invoke("export", cfg, weights, "-o", tmp_path / "net.onnx", exit_code=1).stderr
    assert error.startswith(f"error: {cfg}:")
    assert not list(tmp_path.iterdir())


def test_without_the_extra_it_says_what_to_install(invoke, tmp_path, monkeypatch):
    monkeypatch.setattr(extras, "find_spec", lambda _: None)
    error = invoke("export", *DETECTOR, "-o", tmp_path / "net.onnx", exit_code=1).stderr
    assert "pip install 'onnx>=1.17.0'" in error
    assert not list(tmp_path.iterdir())
