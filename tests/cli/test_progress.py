"""The progress bar on a terminal, for work that takes longer than a second (bnorm.cli.progress)."""

from __future__ import annotations

import io
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from bnorm.cli import progress as module
from bnorm.darknet.autodetect import read_model
from bnorm.replay.job import run
from bnorm.transforms.fold.fold import fold
from support.golden import sample


class Terminal(io.StringIO):
    """A stream that keeps everything that is written to it."""

    def isatty(self) -> bool:
        return True


def screen(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setenv("TERM", "xterm")
    return shown


def clock(monkeypatch: pytest.MonkeyPatch, *seconds: float) -> None:
    """Set the times that bnorm reads from the clock, but not those that rich reads."""
    times = iter(seconds)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(times)))


def test_a_bar_is_drawn_after_the_first_second(monkeypatch):
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


def test_fold_reports_rising_counts_to_the_total(tmp_path):
    done = []
    model = read_model(*sample("digits"))
    fold(model, tmp_path / "out.weights", advance=lambda *counts: done.append(counts))
    assert_counts(done)


def test_run_counts_the_values_of_all_inputs(tmp_path):
    done = []
    np.save(tmp_path / "x.npy", np.ones((4, 3, 5, 6)))
    np.savez(tmp_path / "p.npz", **dict.fromkeys(("scales", "biases", "rolling_mean", "rolling_variance"), np.ones(3)))
    run(params=tmp_path / "p.npz", inputs=[tmp_path / "x.npy"] * 2, progress=lambda *counts: done.append(counts))
    assert_counts(done)
    assert done[-1] == (2 * 4 * 3 * 5 * 6,) * 2


def assert_counts(done: list[tuple[int, int]]) -> None:
    """Check that the counts rise to a total that is the same from the beginning."""
    assert done == sorted(done)
    assert {total for _, total in done} == {done[-1][0]}
