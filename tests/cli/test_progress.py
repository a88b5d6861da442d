"""The bar on a terminal, for work past a second."""

from __future__ import annotations

import io
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from bnorm.batchnorm.threads import Team
from bnorm.cli import progress as module
from bnorm.darknet.autodetect import read_model
from bnorm.replay.job import Request, execute
from bnorm.transforms.fold.fold import fold
from support.golden import sample


class Terminal(io.StringIO):
    """What is shown on a screen."""

    def isatty(self) -> bool:
        return True


def screen(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setenv("TERM", "xterm")
    return shown


def clock(monkeypatch: pytest.MonkeyPatch, *seconds: float) -> None:
    """The time that bnorm sees, and rich does not."""
    times = iter(seconds)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(times)))


def test_a_bar_is_shown_from_the_first_second_on(monkeypatch):
    shown = screen(monkeypatch)
    clock(monkeypatch, 0, 0.9, 1.1)
    with module.progress("folding") as advance:
        advance(1, 4)
        assert "folding" not in shown.getvalue()
        advance(2, 4)
        assert "folding" in shown.getvalue()
        assert "50%" in shown.getvalue()


def test_there_is_no_bar_in_a_pipe(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with module.progress("folding") as advance:
        assert advance is None


def test_folding_counts_to_its_end(tmp_path):
    done = []
    model = read_model(*sample("digits"))
    fold(model, tmp_path / "out.weights", advance=lambda *counts: done.append(counts))
    assert_counts(done)


def test_running_counts_the_values_of_all_inputs(tmp_path):
    done = []
    np.save(tmp_path / "x.npy", np.ones((4, 3, 5, 6)))
    np.savez(tmp_path / "p.npz", **dict.fromkeys(("scales", "biases", "rolling_mean", "rolling_variance"), np.ones(3)))
    request = Request((str(tmp_path / "x.npy"),) * 2, params=tmp_path / "p.npz")
    with Team(2) as team:
        execute(request, team, lambda *counts: done.append(counts))
    assert_counts(done)
    assert done[-1] == (2 * 4 * 3 * 5 * 6,) * 2


def assert_counts(done: list[tuple[int, int]]) -> None:
    """They rise, and end at what was said from the beginning."""
    assert done == sorted(done)
    assert {total for _, total in done} == {done[-1][0]}
