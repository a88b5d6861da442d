"""Files that users give by mistake: exit code 1, one or two lines that name the file, and no output."""

from __future__ import annotations

import os
import random
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from support.builders import TINY, cfg_source

COMMANDS = {
    "inspect": lambda cfg, weights: ["inspect", cfg, weights],
    "fold": lambda cfg, weights: ["fold", cfg, weights, "-o", cfg.parent / "out.weights"],
    "convert": lambda cfg, weights: ["convert", cfg, weights, "-o", cfg.parent / "out.weights", "--seen", 0],
    "export": lambda cfg, weights: ["export", cfg, weights, "-o", cfg.parent / "out"],
}
every_command = pytest.mark.parametrize("command", COMMANDS)
HEADER = struct.pack("<3iQ", 0, 2, 5, 0)


@pytest.fixture
def refuse(invoke):
    """Run a command on a pair and return its message on stderr, which must name the file `blamed`."""

    def run(command: str, cfg: Path, weights: Path, blamed: Path) -> str:
        before = sorted(cfg.parent.rglob("*"))
        error = invoke(*COMMANDS[command](cfg, weights), exit_code=1).stderr
        assert error.startswith(f"error: {blamed}")
        assert 1 <= len(error.splitlines()) <= 2
        assert "Traceback" not in error
        assert sorted(cfg.parent.rglob("*")) == before
        return error

    return run


@pytest.fixture
def bad_weights(refuse, tiny):
    """Return the message of a command for the tiny model with other bytes as weights."""

    def run(command: str, data: bytes) -> str:
        cfg, weights = tiny
        weights.write_bytes(data)
        return refuse(command, cfg, weights, weights)

    return run


@pytest.fixture
def bad_cfg(refuse, tiny):
    """Return the message of a command for the tiny model with another text, or other bytes, as cfg."""

    def run(command: str, data: str | bytes) -> str:
        cfg, weights = tiny
        cfg.write_bytes(data.encode() if isinstance(data, str) else data)
        return refuse(command, cfg, weights, cfg)

    return run


# --- weights ----------------------------------------------------------------------------------------------------------

WEIGHTS = {
    "empty": (b"", "an empty file"),
    "3 bytes": (b"\0\2\0", "too short for a header"),
    "19 bytes": (HEADER[:19], "too short for a header"),
    "header only": (HEADER, "ends before layer 0 biases"),
    "zeros": (bytes(2000), "left over"),
    "text": (b"404: Not Found\n", "is text"),
    "long text": (b"0.123 0.456\n" * 1000, "is text"),
    "HTML": (b"<!DOCTYPE html>\n<html><body>Sorry</body></html>", "is HTML"),
    "Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "is a Git LFS pointer"),
    "cfg": (TINY.encode(), "is a cfg"),
    "zip": (b"PK\3\4" + bytes(600), "is a ZIP archive"),
    "gzip": (b"\x1f\x8b\x08" + bytes(600), "is a gzip archive"),
    "noise": (random.Random(0).randbytes(5000), "552 bytes, got 5,000"),  # not for secrets
}


@every_command
@pytest.mark.parametrize(("data", "message"), WEIGHTS.values(), ids=WEIGHTS)
def test_bytes_that_are_not_weights_are_refused(bad_weights, command, data, message):
    assert message in bad_weights(command, data)


@every_command
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (-1, "ends inside layer 1 weights, after 7 of 8 floats: 1 byte missing"),
        (-40, "ends before layer 1 biases: 10 floats (40 bytes) missing"),
        (4, "continues after the last array, layer 1 weights: 1 float (4 bytes) left over"),
        (1, "1 byte left over"),
    ],
)
def test_a_file_that_is_a_little_short_or_long_is_refused(bad_weights, tiny, command, change, message):
    data = tiny[1].read_bytes()
    assert message in bad_weights(command, (data + bytes(4))[: len(data) + change])


@every_command
def test_the_wrong_cfg_is_refused(refuse, tiny, command):
    cfg, weights = tiny
    cfg.write_text(TINY.replace("filters=4", "filters=5"))
    assert "expected 688 bytes, got 556" in refuse(command, cfg, weights, weights)


@every_command
def test_a_folder_is_not_a_weights_file(refuse, tiny, command):
    cfg, _ = tiny
    assert "is a directory" in refuse(command, cfg, cfg.parent, cfg.parent)


@every_command
def test_a_missing_weights_file_is_named(refuse, tiny, command):
    cfg, _ = tiny
    assert "no such file or directory" in refuse(command, cfg, cfg.parent / "missing.weights", cfg.parent / "missing")


@every_command
@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_weights_without_read_permission_are_named(refuse, tiny, command):
    cfg, weights = tiny
    weights.chmod(0)
    assert "permission denied" in refuse(command, cfg, weights, weights)


@every_command
def test_a_device_is_not_a_weights_file(refuse, tiny, command):
    path = Path("/dev/zero")
    assert "expected a regular file" in refuse(command, tiny[0], path, path)


@pytest.mark.parametrize("wrong", [0, 1])
def test_a_pipe_without_a_writer_is_refused_at_once(tiny, wrong):
    """In a separate process, because waiting for a writer could not be interrupted in this one."""
    paths = list(tiny)
    paths[wrong] = pipe = tiny[0].with_name("pipe")
    os.mkfifo(pipe)
    arguments = [sys.executable, "-m", "bnorm", "inspect", *paths]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=10, check=False)
    assert (done.returncode, done.stderr) == (1, f"error: {pipe}: is a pipe or a device, expected a regular file\n")


# --- cfgs -------------------------------------------------------------------------------------------------------------


def net(width: int = 8, height: int = 8) -> str:
    return f"[net]\nwidth={width}\nheight={height}\nchannels=3\n"


CFGS = {
    "empty": ("", "no section, expected [net]"),
    "comment": ("# nothing\n", "no section, expected [net]"),
    "no net": ("[convolutional]\nfilters=2\n", "expected [net] as the first section"),
    "net alone": (net(), "no layer after [net]"),
    "no size": ("[net]\n[convolutional]\n", "[net] has 0 inputs"),
    "unknown section": (net() + "[convolve]\n", "[convolve] is unknown"),
    "option first": ("width=8\n" + net() + "[avgpool]\n", "appears before the first section"),
    "route ahead": (net() + "[route]\nlayers=5\n[avgpool]\n", "points ahead"),
    "shortcut ahead": (net() + "[avgpool]\n[shortcut]\nfrom=5\nactivation=linear\n", "points ahead"),
    "route before": (net() + "[route]\nlayers=-2\n", "points before the first layer"),
    "negative filters": (net() + "[convolutional]\nfilters=-2\n", "filters=-2, expected at least 1"),
    "negative size": (net() + "[convolutional]\nsize=-2\n", "size=-2, expected at least 0"),
    "negative width": (net(width=-8) + "[convolutional]\n", "width=-8, expected at least 0"),
    "kernel too large": (net() + "[convolutional]\nsize=99\n", "no negative size"),
    "10^12 filters": (net() + "[convolutional]\nfilters=1000000000000\n", "fits a 32-bit int"),
    "2^31 filters": (net() + "[convolutional]\nfilters=2147483647\n", "137438953408 values, expected numbers that fit"),
    "2^31 outputs": (net() + "[connected]\noutput=2147483647\n", "fits a 32-bit int"),
    "10^12 pixels": (net(10**6, 10**6) + "[convolutional]\n", "expected 1 to 2147483647"),
    "too many digits": (net() + f"[convolutional]\nfilters={'9' * 9000}\n", "fits a 32-bit int"),
    "Latin-1": ((net() + "# caf\xe9\n[avgpool]\n").encode("latin-1"), "expected UTF-8 text"),
    "HTML": ("<!DOCTYPE html>\n<html></html>\n", "is HTML, expected a cfg"),
    "weights": (HEADER + bytes(4000), "is a weights file, expected a cfg"),
    "zero byte": (net() + "\0[avgpool]\n", "a zero byte"),
    "BOM": ("\ufeff" + net() + "[avgpool]\n", "byte order mark"),
    "control characters": (net() + "[\x1b[2J]\n", "is unknown"),
}


@every_command
@pytest.mark.parametrize("name", CFGS)
def test_a_text_that_is_not_a_network_is_refused(bad_cfg, command, name):
    text, message = CFGS[name]
    assert message in bad_cfg(command, text)


NO_TEXT = {
    "UTF-16": (TINY.encode("utf-16"), "byte 0xff"),
    "UTF-16 without mark": (TINY.encode("utf-16-le"), "zero byte"),
    "UTF-32": (TINY.encode("utf-32"), "byte 0xff"),
    "noise": (random.Random(1).randbytes(5000), "byte 0xf5"),  # not for secrets
    "PNG": (b"\x89PNG\r\n\x1a\n" + bytes(100), "byte 0x89"),
}


@every_command
@pytest.mark.parametrize(("data", "byte"), NO_TEXT.values(), ids=NO_TEXT)
def test_bytes_that_are_not_text_are_refused_by_the_first_that_is_not(bad_cfg, command, data, byte):
    first_line, *_ = bad_cfg(command, data).splitlines()
    assert re.search(rf":1: .*{byte}, expected", first_line)


@every_command
def test_two_weights_files_are_recognised(refuse, tiny, command):
    _, weights = tiny
    assert "the arguments are CFG WEIGHTS" in refuse(command, weights, weights, weights)


@every_command
def test_20_mb_of_text_are_not_a_cfg(bad_cfg, command):
    assert "expected a cfg of a few kilobytes" in bad_cfg(command, b"filters=1\n" * 2_000_000)


@every_command
def test_a_folder_is_not_a_cfg(invoke, tiny, command):
    folder = tiny[0].parent / "folder"
    folder.mkdir()
    result = invoke(*COMMANDS[command](folder, tiny[1]), exit_code=1)
    assert result.stderr == f"error: {folder}: is a directory\n"


@every_command
def test_a_missing_cfg_is_named(invoke, tiny, command):
    missing = tiny[0].parent / "missing.cfg"
    result = invoke(*COMMANDS[command](missing, tiny[1]), exit_code=1)
    assert result.stderr == f"error: {missing}: no such file or directory\n"


def test_a_message_cannot_move_the_terminal(bad_cfg):
    assert "\x1b" not in bad_cfg("inspect", net() + "[\x1b[2J]\n")


@pytest.mark.parametrize("name", ["a\nb\nc", "a\x0bb", "\x1b[2J", "\u2028"])
@pytest.mark.parametrize("before", [[], ["--sort", "scale", "--"], ["--"]], ids=" ".join)
def test_a_name_of_several_lines_is_printed_on_one_line(invoke, tiny, name, before):
    """A file that is missing, unexpected, or has the wrong content."""
    error = invoke("inspect", *before, tiny[0].with_name(name), exit_code=1).stderr
    assert (error.count("\n"), len(error.splitlines())) == (1, 1)
    error = invoke("inspect", *tiny, *before, name, exit_code=2).stderr
    assert (error.count("\n"), len(error.splitlines())) == (2, 2)
    tiny[0].with_name(name).write_text("nothing")
    error = invoke("inspect", *before, tiny[0].with_name(name), exit_code=1).stderr
    assert (error.count("\n"), len(error.splitlines())) == (1, 1)


def test_a_cfg_whose_every_layer_asks_for_much_is_refused_before_anything_is_allocated(bad_cfg):
    """Arrays of 2^31 - 1 values each: a plan adds them up, but a file of 556 bytes does not have them."""
    layers = "[convolutional]\nfilters=33554431\nsize=1\nstride=8\n"
    assert bad_cfg("inspect", net() + layers + layers)


@pytest.mark.parametrize("dialect", ["pjreddie", "alexeyab", "hank"])
def test_a_number_beyond_every_float_is_refused(invoke, tmp_path, dialect):
    cfg = tmp_path / "net.cfg"
    cfg.write_text(cfg_source("3x8x8", f"convolutional filters={'9' * 39}"))
    error = invoke("inspect", cfg, "--dialect", dialect, exit_code=1).stderr
    assert error.startswith(f"error: {cfg}:6: [convolutional] filters")


# --- the command line -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["inspect"],
        ["fold"],
        ["fold", "CFG"],
        ["fold", "CFG", "WEIGHTS"],
        ["fold", "CFG", "WEIGHTS", "-o"],
        ["check-all", "CFG"],
        ["inspect", "CFG", "WEIGHTS", "more"],
        ["inspect", "CFG", "--colour"],
        ["inspect", "CFG", "--dialect", "yolo"],
        ["inspect", "CFG", "--format", "xml"],
        ["inspect", "CFG", "--layer", "x"],
        ["inspect", "CFG", "--layer", "-1"],
        ["inspect", "CFG", "--layer", "1-"],
        ["inspect", "CFG", "--layer", "2"],
        ["inspect", "CFG", "--layer", "0-2"],
        ["inspect", "CFG", "--layer", "1-0"],
        ["inspect", "CFG", "--layer", "9" * 30],
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_is_exit_code_2(invoke, tiny, arguments):
    paths = {"CFG": tiny[0], "WEIGHTS": tiny[1]}
    result = invoke(*(paths.get(argument, argument) for argument in arguments), exit_code=2)
    assert (result.stdout, result.stderr.startswith("error: ")) == ("", True)
    assert len(result.stderr.splitlines()) == 2


@pytest.mark.parametrize("output", [".", "/", ".."])
def test_a_folder_is_not_an_output(invoke, tiny, output):
    error = invoke("fold", *tiny, "-o", output, exit_code=1).stderr
    assert error.startswith(f"error: {output}: ")


@pytest.mark.parametrize("arguments", [["-h"], ["--help"], ["inspect", "-h"], ["fold", "--help"], ["--version"]])
def test_help_is_exit_code_0(invoke, arguments):
    assert invoke(*arguments).stderr == ""
