"""Pairs by name and content, bytes after the last array, and the note on the dialect, in every command."""

from __future__ import annotations

import json

import numpy as np
import pytest

import bnorm
from bnorm.darknet.weights import TRAILING
from support.builders import TINY
from support.golden import GOLDEN, LAYOUTS

FIELD = GOLDEN / "field"
EXTRA = b"\xa7\5\0\0\0\0\0"  # seven bytes: not a whole number of floats


@pytest.fixture
def commands(tmp_path):
    """Return the arguments of each command that takes a pair, without the pair."""
    np.save(tmp_path / "x.npy", np.ones((2, 4, 8, 8), "f4"))
    return {
        "inspect": [],
        "check": [],
        "fold": ["-o", tmp_path / "out.weights"],
        "run": ["--layer", 0, "--input", tmp_path / "x.npy"],
    }


COMMANDS = pytest.mark.parametrize("name", ["inspect", "check", "fold", "run"])


# --- pairs ------------------------------------------------------------------------------------------------------------


@COMMANDS
def test_weights_alone_find_their_cfg_and_a_note_names_it(invoke, tiny, commands, name):
    cfg, weights = tiny
    last = weights.rename(weights.with_name("tiny_last.weights"))
    result = invoke(name, last, *commands[name])
    assert result.stderr == f"note: cfg {cfg}, found by the name of the weights\n"


@COMMANDS
def test_a_pair_in_the_wrong_order_is_swapped_with_a_note(invoke, tiny, commands, name):
    cfg, weights = tiny
    result = invoke(name, weights, cfg, *commands[name])
    assert result.stderr == f"note: arguments swapped: {cfg} is the cfg, {weights} the weights\n"


@COMMANDS
def test_two_of_a_kind_are_an_error(invoke, tiny, commands, name):
    for path, kind in zip(tiny, ("a cfg", "a weights file"), strict=True):
        code = 3 if name == "check" else 1
        result = invoke(name, path, path, *commands[name], exit_code=code)
        assert f"is {kind}, expected" in " ".join((result.stdout + result.stderr).split())


@COMMANDS
def test_several_cfgs_of_one_name_are_an_error_that_lists_them(invoke, tiny, commands, name):
    cfg, weights = tiny
    other = cfg.with_name("tiny.v2.cfg")
    other.write_text(TINY)
    last = weights.rename(weights.with_name("tiny_1000.weights"))
    error = invoke(name, last, *commands[name], exit_code=1).stderr
    assert str(cfg) in error
    assert str(other) in error


@pytest.mark.parametrize("name", ["check", "fold", "run"])
def test_weights_without_a_cfg_are_an_error_that_names_the_missing_file(invoke, tiny, commands, name):
    cfg, weights = tiny
    cfg.unlink()
    error = invoke(name, weights, *commands[name], exit_code=1).stderr
    assert "expected tiny.cfg" in error


@COMMANDS
def test_a_download_page_alone_is_recognised(invoke, tiny, commands, name):
    cfg, weights = tiny
    cfg.unlink()
    weights.write_text("<!DOCTYPE html>")
    assert "is HTML, expected darknet's weights" in invoke(name, weights, *commands[name], exit_code=1).stderr


@pytest.mark.parametrize("name", ["fold", "run"])
def test_a_cfg_alone_is_a_wrong_command_line(invoke, tiny, commands, name):
    assert "'WEIGHTS'" in invoke(name, tiny[0], *commands[name], exit_code=2).stderr


def test_the_cfg_that_was_found_is_an_input_and_never_an_output(invoke, tiny):
    cfg, weights = tiny
    assert "input" in invoke("inspect", weights, "-o", cfg, exit_code=1).stderr
    assert cfg.read_text() == TINY


# --- weights alone ----------------------------------------------------------------------------------------------------


def test_inspect_shows_the_header_of_weights_alone(invoke, tiny):
    cfg, weights = tiny
    cfg.unlink()
    printed = " ".join(invoke("inspect", weights).stdout.split())
    assert "header 0.2.5, as written by alexeyab or hank" in printed
    assert "12,345 images seen" in printed
    assert "556 bytes = 20 + 4 × 134 floats" in printed
    assert "no tiny.cfg beside" in printed


def test_the_document_of_weights_alone(invoke, tiny):
    cfg, weights = tiny
    cfg.unlink()
    weights.write_bytes(weights.read_bytes() + EXTRA)
    found = json.loads(invoke("inspect", weights, "--format", "json").stdout)
    assert found["header"] == {"major": 0, "minor": 2, "revision": 5, "seen": 12345, "bytes": 20}
    assert (found["cfg"], found["weights"], found["dialect"], found["fits"]) == (None, str(weights), None, None)
    assert (found["actual_bytes"], found["floats"], found["rest_bytes"]) == (563, 135, 3)
    assert (found["written_by"], found["layers"], found["findings"]) == (["alexeyab", "hank"], [], [])


@pytest.mark.parametrize("form", ["csv", "markdown"])
def test_weights_alone_have_every_format(invoke, tiny, form):
    cfg, weights = tiny
    cfg.unlink()
    assert "0.2.5" in invoke("inspect", weights, "--format", form).stdout


@pytest.mark.parametrize("option", [["--channels"], ["--layer", "0"], ["--sort", "gain"], ["--plot", "x.png"]])
def test_weights_alone_have_no_layers(invoke, tiny, option):
    cfg, weights = tiny
    cfg.unlink()
    error = invoke("inspect", weights, *option, exit_code=2).stderr
    assert f"{option[0]} needs CFG" in error
    assert "tiny.cfg" in error


def test_an_odd_header_is_a_finding_of_weights_alone(invoke, tiny):
    cfg, weights = tiny
    cfg.unlink()
    weights.write_bytes(b"\3\0\0\0" + weights.read_bytes()[4:])
    assert "[header-version]" in invoke("inspect", weights).stdout


# --- bytes after the last array ---------------------------------------------------------------------------------------


@pytest.fixture
def long(tiny):
    """A pair whose weights have bytes after the last array."""
    cfg, weights = tiny
    weights.write_bytes(weights.read_bytes() + EXTRA)
    return cfg, weights


@pytest.mark.parametrize("name", ["inspect", "fold", "run"])
def test_trailing_bytes_are_an_error_that_names_the_option(invoke, long, commands, name):
    error = invoke(name, *long, *commands[name], exit_code=1).stderr
    assert "--trailing keep" in error


def test_check_finds_trailing_bytes_and_names_the_option(invoke, long):
    printed = invoke("check", *long, exit_code=3).stdout
    assert "[weights-left-over]" in printed
    assert "--trailing keep" in " ".join(printed.split())


@pytest.mark.parametrize("choice", ["keep", "drop"])
@pytest.mark.parametrize("name", ["inspect", "fold", "run"])
def test_trailing_bytes_are_accepted_by_an_option(invoke, long, commands, name, choice):
    invoke(name, *long, *commands[name], "--trailing", choice)


@pytest.mark.parametrize("choice", ["keep", "drop"])
@pytest.mark.parametrize("name", ["inspect", "fold", "run"])
def test_the_option_does_not_accept_a_file_that_is_too_short(invoke, tiny, commands, name, choice):
    cfg, weights = tiny
    weights.write_bytes(weights.read_bytes()[:-4])
    invoke(name, cfg, weights, *commands[name], "--trailing", choice, exit_code=1)


@pytest.mark.parametrize(("choice", "kept"), [("keep", EXTRA), ("drop", b"")])
@pytest.mark.parametrize("verify", [[], ["--no-verify"]], ids=str)
def test_fold_keeps_or_drops_trailing_bytes(invoke, tiny, tmp_path, choice, kept, verify):
    cfg, weights = tiny
    plain, out = tmp_path / "plain.weights", tmp_path / "out.weights"
    invoke("fold", cfg, weights, "-o", plain)
    weights.write_bytes(weights.read_bytes() + EXTRA)
    arguments = [cfg, weights, "-o", out, "--trailing", choice, *verify, "--format", "json"]
    report = json.loads(invoke("fold", *arguments).stdout)
    assert out.read_bytes() == plain.read_bytes() + kept
    assert (report["bytes_before"], report["bytes_after"]) == (weights.stat().st_size, out.stat().st_size)


@pytest.mark.parametrize(("choice", "kept"), [("keep", EXTRA), ("drop", b"")])
def test_updated_weights_keep_or_drop_trailing_bytes(invoke, tiny, commands, tmp_path, choice, kept):
    cfg, weights = tiny
    plain, out = tmp_path / "plain.weights", tmp_path / "out.weights"
    train = [*commands["run"], "--train"]
    invoke("run", cfg, weights, *train, "--update-weights", plain)
    weights.write_bytes(weights.read_bytes() + EXTRA)
    invoke("run", cfg, weights, *train, "--update-weights", out, "--trailing", choice)
    assert out.read_bytes() == plain.read_bytes() + kept


@pytest.mark.parametrize("choice", ["keep", "drop"])
def test_inspect_reads_the_same_numbers_and_says_how_many_bytes_follow(invoke, long, choice):
    cfg, weights = long
    found = json.loads(invoke("inspect", cfg, weights, "--trailing", choice, "--format", "json").stdout)
    assert (found["fits"], found["trailing_bytes"]) == (True, len(EXTRA))
    assert found["layers"][0]["statistics"]["channels"] == 4
    assert "7 after the last array" in " ".join(invoke("inspect", cfg, weights, "--trailing", choice).stdout.split())


def test_a_pair_that_fits_has_no_trailing_bytes(invoke, tiny, tmp_path):
    plain, out = tmp_path / "plain.weights", tmp_path / "out.weights"
    invoke("fold", *tiny, "-o", plain)
    invoke("fold", *tiny, "-o", out, "--trailing", "keep")
    assert out.read_bytes() == plain.read_bytes()


def test_an_unknown_name_is_a_value_error_before_anything_is_read(tiny, tmp_path):
    model = bnorm.read_model(*tiny)
    tiny[1].unlink()
    names = ", ".join(TRAILING)
    for call in (
        lambda: bnorm.open_weights(model, "all"),
        lambda: bnorm.inspect(model, trailing="all"),
        lambda: bnorm.fold(model, tmp_path / "out.weights", trailing="all"),
        lambda: bnorm.run(model, 0, inputs=tmp_path / "x.npy", trailing="all"),
    ):
        with pytest.raises(ValueError, match=f"trailing 'all', expected one of {names}"):
            call()


def test_the_trailing_option_needs_a_model(invoke, tmp_path):
    arguments = ["--params", tmp_path / "p.npz", "--input", tmp_path / "x.npy", "--trailing", "keep"]
    assert "--trailing needs CFG WEIGHTS" in invoke("run", *arguments, exit_code=2).stderr


# --- the note on the dialect ------------------------------------------------------------------------------------------


@COMMANDS
def test_no_note_if_every_dialect_gives_the_same_answer(invoke, tiny, commands, name):
    assert invoke(name, *tiny, *commands[name]).stderr == ""


@COMMANDS
def test_a_note_if_another_dialect_refuses_the_model(invoke, tiny, commands, name):
    cfg, weights = tiny
    cfg.write_text(TINY.replace("batch=4", "batch=4\ncolour=red"))
    error = invoke(name, cfg, weights, *commands[name]).stderr
    assert error.startswith("note: dialect alexeyab: hank refuses line 6 of the cfg (")
    assert "pjreddie" not in error
    given = ["--dialect", "pjreddie", *["--force"] * (name == "fold")]
    assert invoke(name, cfg, weights, *commands[name], *given).stderr == ""


def test_the_note_names_the_difference_in_another_dialect(invoke):
    error = invoke("inspect", LAYOUTS / "lstm.cfg", LAYOUTS / "lstm.alexeyab.weights").stderr
    assert "pjreddie would write a different header version" in error
    assert "reads the arrays of layer 0 ([lstm]) in another order" in error


# --- cases from users -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("html.cfg", [("cfg-html", "error", None)]),
        ("inline.cfg", [("cfg-inline-comment", "note", 49)]),
        ("anchors.cfg", [("cfg-anchors", "warning", 55)]),
    ],
)
def test_a_cfg_of_the_field(name, expected):
    assert [(found.id, found.severity, found.line) for found in bnorm.check(FIELD / name).findings] == expected


@pytest.mark.parametrize(("choice", "kept"), [("keep", 8), ("drop", 0)])
def test_a_file_with_a_counter_at_its_end(invoke, tmp_path, choice, kept):
    source = FIELD / "trail8.weights"
    invoke("fold", FIELD / "base.cfg", source, "-o", tmp_path / "out.weights", "--trailing", choice)
    folded = bnorm.read_model(tmp_path / "out.cfg", tmp_path / "out.weights")
    assert folded.nbytes - folded.layout.nbytes == kept
    assert (tmp_path / "out.weights").read_bytes().endswith(source.read_bytes()[-8:]) == bool(kept)
