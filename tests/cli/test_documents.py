"""The keys of each JSON document: programs depend on them, so none is ever removed or renamed (bnorm.cli.documents)."""

from __future__ import annotations

import json

import numpy as np
import pytest

from support.builders import patch, write_weights
from support.golden import sample
from support.schema import validate


@pytest.fixture
def document(invoke):
    def parse(command: str, *arguments: object, exit_code: int = 0) -> dict:
        found = json.loads(invoke(command, *arguments, "--format", "json", exit_code=exit_code).stdout)
        validate(found, command)
        return found

    return parse


COMMON = {"fits", "header", "verified", "worst", "epsilon", "findings"}  # of every command

FINDING = {"id", "severity", "layer", "channel", "message", "line", "part", "cause"}

INSPECT = {
    "cfg",
    "weights",
    "dialect",
    "header",
    "input",
    "expected_bytes",
    "actual_bytes",
    "parameters",
    "layers",
    "findings",
}

LAYER = {
    "index",
    "type",
    "line",
    "output",
    "outputs",
    "batch_normalize",
    "parameters",
    "arrays",
    "statistics",
    "channels",
}

STATISTICS = {
    "channels",
    "scale_magnitude",
    "rolling_variance",
    "gain_magnitude",
    "weight_range",
    "dead",
    "near_dead",
    "constant",
    "parts",
}

CHANNEL = {
    "part",
    "channel",
    "scale",
    "bias",
    "mean",
    "variance",
    "gain",
    "offset",
    "weight_norm",
    "weight_max",
    "folded_max",
    "above_zero",
    "state",
}


def test_inspect(document, tiny):
    found = document("inspect", *tiny)
    assert found.keys() >= INSPECT
    assert found["header"].keys() >= {"major", "minor", "revision", "seen", "bytes"}
    assert found["input"].keys() >= {"channels", "height", "width", "inputs"}
    layer = found["layers"][0]
    assert layer.keys() >= LAYER
    assert layer["output"].keys() >= {"channels", "height", "width"}
    assert layer["arrays"][0].keys() >= {"name", "shape", "offset"}
    assert layer["statistics"].keys() >= STATISTICS
    assert layer["statistics"]["gain_magnitude"].keys() >= {"low", "q10", "q25", "q50", "q75", "q90", "high"}


def test_inspect_by_channel(document, tiny):
    found = document("inspect", *tiny, "--channels")
    assert found["layers"][0]["channels"][0].keys() >= CHANNEL
    assert found["layers"][0]["statistics"]["weight_range"].keys() >= {"before", "after"}
    assert found["layers"][1]["channels"] is None


def test_inspect_by_part(document):
    found = document("inspect", *sample("recurrent"))
    parts = [layer["statistics"]["parts"] for layer in found["layers"] if layer["statistics"]]
    assert any(parts)
    for statistics in (entry for part in parts if part for entry in part.values()):
        assert statistics.keys() >= STATISTICS - {"parts"}


def test_inspect_without_weights(document, tiny):
    found = document("inspect", tiny[0])
    assert found.keys() >= INSPECT
    assert (found["weights"], found["actual_bytes"], found["layers"][0]["statistics"]) == (None, None, None)


def test_check(document, tiny):
    patch(tiny[1], 20 + 4 * 12, -1.0)  # rolling_variance[0]
    found = document("check", *tiny, exit_code=3)
    assert found.keys() >= {
        "cfg",
        "weights",
        "dialect",
        "fits",
        "expected_bytes",
        "actual_bytes",
        "errors",
        "warnings",
        "notes",
        "findings",
    }
    entry = found["findings"][0]
    assert entry.keys() >= FINDING
    assert (entry["id"], entry["layer"], entry["channel"]) == ("variance-negative", 0, 0)


def test_check_of_an_unreadable_file(document, tiny):
    tiny[1].write_bytes(b"")
    found = document("check", *tiny, exit_code=3)
    assert [found[name] for name in ("dialect", "fits", "expected_bytes", "actual_bytes")] == [None] * 4


def test_the_list_of_findings(invoke):
    (first, *_) = json.loads(invoke("check", "--list", "--format", "json").stdout)
    assert first.keys() >= {"id", "severity", "meaning", "cause"}


def test_fold(document, tiny, tmp_path):
    output = tmp_path / "folded.weights"
    found = document("fold", *tiny, "-o", output)
    assert found.keys() >= {
        "layers",
        "parameters_before",
        "parameters_after",
        "bytes_before",
        "bytes_after",
        "output",
        "output_cfg",
    }
    keys = {"index", "type", "part", "folded", "reason", "max_abs_error", "max_rel_error", "gain_change"}
    assert found["layers"][0].keys() >= keys
    assert (found["output"], found["output_cfg"]) == (str(output), str(output.with_suffix(".cfg")))


@pytest.mark.parametrize(("option", "verified"), [((), True), (("--no-verify",), False)])
def test_fold_says_whether_it_was_verified_how_exact_it_is_and_with_which_epsilon(document, option, verified):
    found = document("fold", *sample("digits"), "--dry-run", "--epsilon", "opencv", *option)
    assert found["verified"] == verified
    assert found["epsilon"] == {"value": 1e-6, "inside": True}
    errors = {layer["index"]: layer["max_rel_error"] for layer in found["layers"]}
    if verified:
        assert found["worst"]["max_rel_error"] == errors[found["worst"]["layer"]] == max(errors.values())
    else:
        assert found["worst"] is None


def test_fold_without_output(document, tiny):
    found = document("fold", *tiny, "--dry-run")
    assert (found["output"], found["output_cfg"]) == (None, None)


def test_fold_reports_its_proof(document, tiny):
    found = document("fold", *tiny, "--dry-run", "--epsilon", "opencv")
    assert (found["fits"], found["verified"]) == (True, True)
    assert found["worst"] == {"layer": 0, "part": "", "max_rel_error": found["layers"][0]["max_rel_error"]}
    assert found["epsilon"] == {"value": 1e-6, "inside": True}
    assert found["header"]["seen"] == 12345


def test_fold_without_a_proof_says_so(document, tiny):
    found = document("fold", *tiny, "--dry-run", "--no-verify")
    assert (found["verified"], found["worst"]) == (False, None)


RUN = {"cfg", "weights", "dialect", "layer", "part", "arithmetic", "train", "output", "results"}

RESULT = {"input", "result", "dtype", "shape", "min", "max", "not_finite", "path", "max_abs", "max_rel", "channel"}


def test_run_of_a_model(document, tiny, tmp_path):
    np.save(tmp_path / "x.npy", np.ones((2, 4, 3, 3), "f4"))
    found = document("run", *tiny, "--layer", 0, "--input", tmp_path / "x.npy", "-o", tmp_path / "out")
    assert found.keys() >= RUN
    (result,) = found["results"]
    assert result.keys() >= RESULT
    assert (result["path"], result["min"]) == (str(tmp_path / "out" / "y.npy"), pytest.approx(result["max"], rel=9))
    assert (found["layer"], found["part"], found["dialect"]) == (0, "", "alexeyab")


def test_run_of_parameters(document, tmp_path):
    np.save(tmp_path / "x.npy", np.ones((2, 4, 3, 3), "f4"))
    names = ("scales", "biases", "rolling_mean", "rolling_variance")
    np.savez(tmp_path / "p.npz", **dict.fromkeys(names, np.ones(4)))
    found = document("run", "--params", tmp_path / "p.npz", "--input", tmp_path / "x.npy", "--train")
    assert found.keys() >= RUN
    assert {found[name] for name in ("cfg", "weights", "dialect", "layer", "part", "output")} == {None}
    assert found["results"][0]["result"] == "y"
    assert {result["path"] for result in found["results"]} == {None}


def test_a_finding_of_a_cfg_has_its_line(document, tiny):
    tiny[0].write_text(tiny[0].read_text().replace("batch=4", "batch=4\nbach=4"))
    write_weights(*tiny)
    (entry,) = document("inspect", *tiny, "--dialect", "alexeyab")["findings"]
    assert entry.keys() >= FINDING
    assert (entry["id"], entry["line"]) == ("cfg-unknown-key", 6)


# --- one schema -------------------------------------------------------------------------------------------------------


@pytest.fixture
def tensor(tmp_path):
    np.save(tmp_path / "x.npy", np.ones((2, 4, 8, 8), "f4"))
    return tmp_path / "x.npy"


@pytest.mark.parametrize("name", ["inspect", "check", "fold", "run"])
def test_the_documents_of_all_commands_have_these_keys(document, tiny, tensor, name):
    options = {"fold": ["--dry-run"], "run": ["--layer", 0, "--input", tensor]}.get(name, [])
    found = document(name, *tiny, *options)
    assert found.keys() >= COMMON
    assert found["fits"] is True
    assert found["header"] == {"major": 0, "minor": 2, "revision": 5, "seen": 12345, "bytes": 20}
    assert "error" not in found


@pytest.mark.parametrize("name", ["inspect", "check"])
def test_without_a_file_there_is_no_header(document, tiny, name):
    found = document(name, tiny[0])
    assert found.keys() >= COMMON
    assert (found["header"], found["fits"]) == (None, None)


def test_weights_alone_have_the_same_keys(document, tiny, tmp_path):
    alone = tmp_path / "elsewhere" / "other.weights"
    alone.parent.mkdir()
    alone.write_bytes(tiny[1].read_bytes())
    assert document("inspect", alone).keys() >= COMMON


def test_epsilon_is_that_of_the_gains(document, tiny):
    assert document("inspect", *tiny, "--epsilon", "1e-6:outside")["epsilon"] == {"value": 1e-6, "inside": False}
    assert document("inspect", tiny[0])["epsilon"] is None


def test_epsilon_of_a_run_is_that_of_its_forward_pass(document, tiny, tensor):
    line = ["run", *tiny, "--layer", 0, "--input", tensor]
    assert document(*line)["epsilon"] == {"value": 1e-5, "inside": True}
    assert document(*line, "--arithmetic", "pjreddie")["epsilon"] == {"value": 1e-6, "inside": False}
    assert document(*line, "--epsilon", "keras")["epsilon"] == {"value": 1e-3, "inside": True}


def test_inspect_of_a_cut_file_does_not_fit(document, tiny):
    tiny[1].write_bytes(tiny[1].read_bytes()[:-4])
    found = document("inspect", *tiny, exit_code=1)
    assert found["fits"] is False
    (entry,) = found["findings"]
    assert entry.keys() >= FINDING
    assert (entry["id"], entry["severity"], entry["layer"]) == ("weights-cut", "error", 1)
    assert found["findings"] == document("check", *tiny, exit_code=3)["findings"]
    assert found["error"].keys() == {"path", "line", "what", "cause"}
    assert (found["error"]["path"], found["error"]["line"]) == (str(tiny[1]), None)


def test_an_error_is_a_document(document, tiny):
    tiny[0].write_text(tiny[0].read_text().replace("filters=4", "filters=-4"))
    found = document("inspect", *tiny, "--dialect", "alexeyab", exit_code=1)
    assert found.keys() == {"error"}
    assert found["error"].keys() == {"path", "line", "what", "cause"}
    assert (found["error"]["path"], found["error"]["line"]) == (str(tiny[0]), 9)


@pytest.mark.parametrize("name", ["inspect", "check", "fold", "run"])
def test_a_missing_file_is_a_document(document, tiny, tensor, name):
    options = {"fold": ["--dry-run"], "run": ["--layer", 0, "--input", tensor]}.get(name, [])
    missing = tiny[1].with_name("missing.weights")
    found = document(name, tiny[0], missing, *options, exit_code=1)
    assert (found["error"]["path"], found["error"]["line"]) == (str(missing), None)


@pytest.mark.parametrize("name", ["fold", "run"])
def test_weights_that_do_not_fit_are_a_document(document, tiny, tensor, name):
    tiny[1].write_bytes(tiny[1].read_bytes()[:-4])
    options = {"fold": ["--dry-run"], "run": ["--layer", 0, "--input", tensor]}[name]
    assert document(name, *tiny, *options, exit_code=1)["error"]["path"] == str(tiny[1])


@pytest.mark.parametrize("form", ["table", "csv", "markdown"])
def test_an_error_in_another_format_leaves_stdout_empty(invoke, tiny, form):
    assert invoke("fold", tiny[0], "no.weights", "--dry-run", "--format", form, exit_code=1).stdout == ""


def test_people_read_the_error_on_stderr(invoke):
    plain = invoke("check", "no.cfg", exit_code=1).stderr
    assert invoke("check", "no.cfg", "--format", "json", exit_code=1).stderr == plain


def test_a_layer_has_its_weights(document, tiny):
    for layer in document("inspect", *tiny)["layers"]:
        found = layer["weights"]
        assert found.keys() == {"channels", "weight_norm", "weight_max", "folded_max", "range", "parts"}
        assert found["range"].keys() == {"before", "after"}
        assert found["channels"] == layer["output"]["channels"]
    assert layer["statistics"] is None
