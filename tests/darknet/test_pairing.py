"""`darknet.pairing`: the cfg among two files, and the cfg that has the name of the weights."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bnorm.darknet.pairing import Pair, cfg_names, named_cfg, pair
from bnorm.errors import WeightsError
from support.builders import TINY, write_weights

NAMES = [
    *["net.weights", "net.backup", "net_last.weights", "net_best.weights", "net_final.weights", "net_ema.weights"],
    *["net_1000.weights", "net_000100.weights", "net.conv.15", "net.conv.15.weights"],
]


@pytest.fixture
def folder(tiny) -> Path:
    """A folder with `net.cfg`, weights `w` and nothing else."""
    cfg, weights = tiny
    cfg.rename(cfg.with_name("net.cfg"))
    weights.rename(weights.with_name("w"))
    return cfg.parent


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("place", ["", "../cfg"])
def test_weights_find_the_cfg_that_they_are_named_after(folder, name, place):
    weights = folder / "backup" / name
    cfg = folder / "backup" / place / "net.cfg"
    for path in (weights, cfg):
        path.parent.mkdir(exist_ok=True)
    (folder / "w").rename(weights)
    (folder / "net.cfg").rename(cfg)
    found = pair(weights)
    assert (found.cfg.resolve(), found.weights, found.is_named) == (cfg.resolve(), weights, True)


@pytest.mark.parametrize("name", ["other.weights", "net_lost.weights", "network_last.weights", "net_last_x.weights"])
def test_weights_of_another_name_find_no_cfg(folder, name):
    (folder / "w").rename(folder / name)
    assert pair(folder / name) == Pair(None, folder / name)


def test_alexeyab_cuts_the_cfg_s_name_at_its_first_dot(folder):
    (folder / "net.cfg").rename(folder / "net.v2.cfg")
    (folder / "net_last.weights").touch()
    (folder / "net.weights").touch()
    assert named_cfg(folder / "net_last.weights") == folder / "net.v2.cfg"
    assert named_cfg(folder / "net.weights") is None


@pytest.mark.parametrize(
    ("weights", "cfgs"),
    [
        ("net_last.weights", ["net.cfg", "net_last.cfg"]),
        ("net_last.weights", ["net.cfg", "net.v2.cfg"]),
        ("net.weights", ["net.cfg", "../cfg/net.cfg"]),
    ],
)
def test_several_cfgs_are_listed_and_none_is_chosen(folder, weights, cfgs):
    for name in cfgs:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(TINY)
    with pytest.raises(WeightsError) as caught:
        named_cfg(folder / weights)
    assert all(str(folder / name) in caught.value.what for name in cfgs)


def test_one_file_with_two_paths_is_one(folder):
    inner = folder / "cfg"
    inner.mkdir()
    (folder / "net.cfg").rename(inner / "net.cfg")
    folder = inner
    assert named_cfg(folder / "net.weights") == folder / "net.cfg"


def test_the_names_that_are_looked_for():
    assert cfg_names(Path("a/net_last.weights")) == ["net.cfg", "net_last.cfg"]
    assert cfg_names(Path("net.weights")) == ["net.cfg"]


def test_the_content_says_which_file_is_which_not_the_name(tiny, tmp_path):
    cfg, weights = tiny
    cfg, weights = cfg.rename(tmp_path / "a.weights"), weights.rename(tmp_path / "b.cfg")
    assert pair(cfg, weights) == Pair(cfg, weights)
    assert pair(weights, cfg) == Pair(cfg, weights, is_swapped=True)
    assert pair(cfg) == Pair(cfg, None)
    assert pair(weights).weights == weights


@pytest.mark.parametrize("head", ["# a comment\n" * 90, "\n\n ", "; [x\n"])
def test_a_cfg_may_begin_with_comments(tiny, head):
    cfg, weights = tiny
    cfg.write_text(head + TINY)
    assert pair(weights, cfg).is_swapped


@pytest.mark.parametrize("data", [b"", b"<html>", b"\x80\x02}q", b"404: Not Found"])
def test_a_file_that_is_not_weights_is_not_swapped(tiny, tmp_path, data):
    cfg, _ = tiny
    bad = tmp_path / "bad.weights"
    bad.write_bytes(data)
    assert pair(cfg, bad) == Pair(cfg, bad)


@pytest.mark.parametrize("data", [b"<html>", b"\x80\x02}q", b"404: Not Found"])
def test_a_cfg_in_the_second_position_is_recognised_with_any_first_file(tiny, tmp_path, data):
    cfg, _ = tiny
    bad = tmp_path / "bad.weights"
    bad.write_bytes(data)
    assert pair(bad, cfg) == Pair(cfg, bad, is_swapped=True)


def test_a_file_that_is_missing_is_left_to_its_reader(tiny, tmp_path):
    cfg, weights = tiny
    missing = tmp_path / "missing"
    for first, second in ((missing, weights), (cfg, missing), (missing, cfg), (weights, missing)):
        assert pair(first, second) == Pair(first, second)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_a_pipe_is_not_waited_for(tiny, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert pair(pipe, tiny[1]) == Pair(pipe, tiny[1])
    assert pair(pipe) == Pair(pipe, None)


def test_weights_of_an_odd_version_are_weights(tiny):
    cfg, _ = tiny
    weights = write_weights(cfg, cfg.parent / "odd.bin")
    weights.write_bytes(b"\0\0\0\0\xe9\3\0\0" + weights.read_bytes()[8:])  # 0.1001: transposed
    assert pair(weights, cfg).is_swapped
