"""`replay.request` and `bnorm.run` from Python: every argument is checked before anything is read or written."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from bnorm.batchnorm.arithmetic import ARITHMETICS
from bnorm.batchnorm.rolling import ROLLING
from bnorm.darknet.autodetect import read_model
from bnorm.errors import CfgError, OutputError, TensorError
from bnorm.replay.job import run
from bnorm.replay.request import ModelLayer, ParamsFile, Request, Training, parse_layer
from support import oracle

CHANNELS = 4  # of layer 0 of `tiny`


@pytest.fixture
def params(tmp_path) -> Path:
    """A layer in p.npz."""
    path = tmp_path / "p.npz"
    rows = {"scales": 2.0, "biases": -1.0, "rolling_mean": 0.5, "rolling_variance": 3.0}
    np.savez(path, **{name: np.full(CHANNELS, value) for name, value in rows.items()})
    return path


@pytest.fixture
def x(tmp_path) -> Path:
    path = tmp_path / "x.npy"
    np.save(path, np.random.default_rng(0).normal(1, 2, (2, CHANNELS, 3, 5)).astype("f4"))
    return path


@pytest.fixture
def model(tiny):
    return read_model(*tiny)


# --- arguments that are refused ---------------------------------------------------------------------------------------

NAMES = {
    "layout": ({"layout": "nwhc"}, ["nwhc", "nchw", "nhwc"]),
    "rolling": ({"rolling": "averge", "train": True}, ["averge", *ROLLING]),
    "rolling at inference": ({"rolling": "averge"}, ["averge", *ROLLING]),
    "arithmetic": ({"arithmetic": "tensorflow"}, ["tensorflow", *ARITHMETICS]),
    "no arithmetic": ({"arithmetic": ""}, [*ARITHMETICS]),
    "all arithmetics without a reference": ({"arithmetic": "all"}, ["against"]),
    "all arithmetics with an output": ({"arithmetic": "all", "against": "out", "output": "out"}, ["output"]),
    "epsilon": ({"epsilon": "pytorch"}, ["pytorch", "opencv"]),
    "bad_variance": ({"bad_variance": "ignore"}, ["ignore", "clamp"]),
    "keep over 1": ({"keep": 5.0, "train": True}, ["keep=5.0"]),
    "keep below 0": ({"keep": -0.1, "train": True}, ["keep=-0.1"]),
    "keep that is NaN": ({"keep": float("nan"), "train": True}, ["keep=nan"]),
    "keep of an average": ({"keep": 0.5, "rolling": "average", "train": True}, ["keep=0.5", "average"]),
    "keep at inference": ({"keep": 0.5}, ["train"]),
    "average at inference": ({"rolling": "average"}, ["train"]),
    "memory": ({"memory": 1}, ["memory=1", str(16 << 20)]),
    "threads": ({"threads": 0}, ["threads=0"]),
    "shape": ({"shape": (2, -4)}, ["(2, -4)"]),
    "two deltas": ({"deltas": ["a.npy", "b.npy"]}, ["2 deltas", "1 inputs"]),
    "no inputs": ({"inputs": []}, ["no inputs"]),
    "one archive": ({"inputs": ["a.npy", "b.npy"], "output": "out.npz"}, ["out.npz"]),
    "updated params": ({"update_weights": "new.weights", "train": True}, ["update_weights"]),
    "a layer of params": ({"layer": 3}, ["params alone"]),
    "no layer": ({"params": None}, ["a model and a layer"]),
}


@pytest.mark.parametrize("case", NAMES)
def test_an_argument_without_meaning_is_a_value_error_before_anything_is_read(tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    changes, words = NAMES[case]
    given = {"params": "missing.npz", "inputs": "missing.npy", "output": "out"} | changes
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - what it says follows
        run(**given)
    assert all(word in str(caught.value) for word in words)
    assert not list(tmp_path.iterdir())


def test_updating_weights_needs_training(model, x):
    with pytest.raises(ValueError, match="update_weights"):
        run(model, 0, inputs=x, update_weights="new.weights")


def test_a_model_without_weights_has_no_layer_to_run(tiny):
    with pytest.raises(ValueError, match="without weights"):
        ModelLayer(read_model(tiny[0]), 0)


@pytest.mark.parametrize("layer", ["", "x", "3-4", ".wf", "-1", -1, "9" * 10])
def test_text_that_is_not_a_layer_is_a_value_error(layer):
    with pytest.raises(ValueError, match="expected a layer such as 12"):
        parse_layer(layer)


@pytest.mark.parametrize("layer", [1.5, None, ("3", "")])
def test_a_layer_s_number_is_an_integer(layer):
    with pytest.raises(TypeError):
        parse_layer(layer)


@pytest.mark.parametrize("layer", [3, 99, (-1, ""), (0, "wf"), "0.wf"])
def test_a_layer_that_is_not_there_is_a_cfg_error(model, x, tmp_path, layer):
    with pytest.raises(CfgError):
        run(model, layer, inputs=x, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_values_check_themselves():
    with pytest.raises(ValueError, match="rolling"):
        Training(rolling="sum")
    with pytest.raises(ValueError, match="layout"):
        Request(source=ParamsFile(Path("p.npz")), inputs=("x.npy",), layout="hwc")


# --- what a run returns -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("layer", "expected"), [(3, (3, "")), ("3", (3, "")), ("3.wf", (3, "wf")), ((3, "wf"),) * 2])
def test_a_layer_may_be_written_in_several_ways(layer, expected):
    assert parse_layer(layer) == expected


def test_without_output_nothing_is_written_and_every_result_has_its_range(params, x, tmp_path):
    before = sorted(tmp_path.iterdir())
    report = run(params=params, inputs=x, deltas=x, train=True)
    assert sorted(tmp_path.iterdir()) == before
    rows = {row.name: row for row in report.results}
    assert rows.keys() >= {"y", "dx", "mean", "rolling_variance", "scale_updates"}
    values = np.load(x)
    wanted = oracle.step(
        *["pjreddie", values, values, np.full(4, 2.0), np.full(4, -1.0), np.full(4, 0.5), np.full(4, 3.0)],
        *[True, oracle.kept("pjreddie")],
    )
    assert (rows["y"].shape, rows["y"].dtype, rows["y"].path) == (values.shape, "float32", None)
    assert rows["y"].range.low == pytest.approx(wanted["y"].min(), rel=1e-6)
    assert rows["y"].range.high == pytest.approx(wanted["y"].max(), rel=1e-6)
    assert rows["y"].range.not_finite == 0
    np.testing.assert_allclose(report.rolling.mean, wanted["rolling_mean"], rtol=1e-12)
    assert report.last.gradients is not None


@pytest.mark.parametrize("output", ["out", "out.npz"])
def test_a_written_tensor_has_a_path_and_its_range(params, x, tmp_path, output):
    report = run(params=str(params), inputs=[x], output=str(tmp_path / output))
    (row,) = report.results
    assert row.name == "y"
    path = row.path.removesuffix(":y")
    assert Path(path).is_file()
    y = np.load(path)
    values = y["y"] if output == "out.npz" else y
    assert (values.shape, values.min(), values.max(), 0) == (row.shape, *row.range)


def test_several_inputs_have_their_own_folders(params, x, tmp_path):
    report = run(params=params, inputs=[x, x], train=True, output=tmp_path / "out")
    assert [Path(row.path).parent.name for row in report.results if row.name == "y"] == ["000", "001"]
    assert np.load(tmp_path / "out" / "rolling_mean.npy").tolist() == report.rolling.mean.astype("f4").tolist()


def test_a_report_is_shown_in_one_short_line(params, x):
    report = run(params=params, inputs=[x, x], train=True)
    assert len(repr(report)) < 120
    assert "training" in repr(report)
    assert "inputs=2" in repr(report)


def test_the_default_arithmetic_is_that_of_the_dialect(model, params, x):
    assert run(model, 0, inputs=x).arithmetic == model.dialect.name
    assert run(params=params, inputs=x).arithmetic == "pjreddie"
    assert run(model, "0", inputs=x, arithmetic="paper").arithmetic == "paper"


# --- the plan of the outputs ------------------------------------------------------------------------------------------


def test_outputs_are_checked_before_inputs_are_read(params, tmp_path):
    with pytest.raises(OutputError):
        run(params=params, inputs=tmp_path / "missing.npy", output=tmp_path / "missing" / "out")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_a_pipe_of_parameters_is_refused_without_waiting_for_a_writer(tmp_path, x):
    os.mkfifo(tmp_path / "p.npz")
    with pytest.raises(TensorError, match="pipe"):
        run(params=tmp_path / "p.npz", inputs=x)
