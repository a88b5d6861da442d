"""The documents of every command are as docs/schema/bnorm.json says, with no key that it does not describe."""

from __future__ import annotations

import json

import jsonschema
import numpy as np
import pytest

from bnorm.cli import COMMANDS
from support.golden import sample
from support.schema import PUBLISHED, SCHEMA, closed, validate

DIGITS, RECURRENT, DETECTOR = sample("digits"), sample("recurrent"), sample("detector")
X = sample("digits")[1].with_name("digits_x.npy")
DELTA = X.with_name("digits_delta.npy")

LINES = {
    "inspect": [
        DIGITS,
        DIGITS[:1],
        [*RECURRENT, "--channels"],
        [*DETECTOR, "--epsilon", "keras"],
    ],
    "check": [DIGITS, DIGITS[:1], RECURRENT],
    "fold": [
        [*DIGITS, "--dry-run"],
        [*RECURRENT, "--dry-run", "--no-verify"],
        [*sample("batchnorm"), "-o", "f.weights"],
    ],
    "convert": [
        [*DIGITS, "--epsilon-from", "darknet", "--epsilon-to", "keras", "--dry-run"],
        [*sample("conv_recurrent"), "--header", 16, "--seen", 5, "--dry-run"],
        [*DETECTOR, "--unfold", "--seen", 0, "-o", "c.weights"],
    ],
    "diff": [[*DIGITS, DIGITS[1]], [*DIGITS, DIGITS[1], "--function", "--all"]],
    "run": [
        [*DIGITS, "--layer", 3, "--input", X],
        [*DIGITS, "--layer", 3, "--input", X, "--delta", DELTA, "--train", "--stages", "-o", "out.npz"],
        ["--params", "params.npz", "--input", X],
        [*DIGITS, "--layer", 3, "--input", X, "--rolling", "population", "--moments", "moments.npz"],
        [*DIGITS, "--layer", "3,1", "--input", "x{layer}.npy"],
    ],
    "export": [
        [*DIGITS, "-o", "a.npz", "--dtype", "int8", "--fold"],
        [*DIGITS, "-o", "a.h"],
        [*DIGITS, "-o", "folder", "--dtype", "float16"],
    ],
    "import": [
        [DIGITS[0], "digits.npz", "-o", "i.weights"],
        [DIGITS[0], "digits.npz", "-o", "i.weights", "--epsilon", "keras"],
    ],
}


@pytest.fixture
def document(invoke, tmp_path, monkeypatch):
    """The document of a command, in a folder with what some of them read."""
    monkeypatch.chdir(tmp_path)
    names = ("scales", "biases", "rolling_mean", "rolling_variance")
    np.savez("params.npz", **dict.fromkeys(names, np.ones(32)))
    invoke("export", *DIGITS, "-o", "digits.npz")
    for layer in (1, 3):
        np.save(f"x{layer}.npy", np.ones((1, 32, 2, 2), "f4"))
    return lambda *arguments, **how: json.loads(invoke(*arguments, "--format", "json", **how).stdout)


def test_every_command_is_tried_and_described():
    assert LINES.keys() == set(COMMANDS) <= SCHEMA["$defs"].keys()


@pytest.mark.parametrize(("command", "arguments"), [(name, line) for name, lines in LINES.items() for line in lines])
def test_a_document_is_as_the_schema_says(document, command, arguments):
    found = document(command, *arguments)
    assert "error" not in found
    validate(found, command)
    PUBLISHED.validate(found)


def test_other_documents(document):
    validate(document("check", "--list"), "check_list")
    validate(document("check", DIGITS[0], DETECTOR[1], exit_code=3), "check")
    validate(document("inspect", DIGITS[0], DETECTOR[1], exit_code=1), "inspect")
    validate(document("fold", DIGITS[0], DETECTOR[1], "--dry-run", exit_code=1), "fold")
    validate(document("diff", DIGITS[0], DIGITS[1], RECURRENT[1], "--cfg-b", RECURRENT[0], exit_code=3), "diff")
    reference = ["run", *DIGITS, "--layer", 3, "--input", X]
    document(*reference, "-o", "reference")
    validate(document(*reference, "--against", "reference", "--arithmetic", "all"), "run")


def test_the_document_of_a_graph(document):
    pytest.importorskip("onnx")
    validate(document("export", *DETECTOR, "-o", "detector.onnx", "--batch", "dynamic"), "export")


def test_the_schema_is_one_and_notices_a_new_key(document):
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    found = document("check", *DIGITS)
    with pytest.raises(jsonschema.ValidationError):
        validate(found | {"new": 1}, "check")
    with pytest.raises(jsonschema.ValidationError):
        PUBLISHED.validate(found | {"errors": -1})
    assert closed(SCHEMA) != SCHEMA
