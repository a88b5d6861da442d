"""Fixtures of all tests: the command as a user runs it, the golden networks, and a tiny model."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from bnorm.cli import main
from support.builders import TINY, write_weights
from support.golden import NETWORKS, Golden, golden
from support.runner import runner

# In the background of a script a process ignores Ctrl-C, and so would the commands that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Shared machines are slow at times: no test may fail for that.
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")


@pytest.fixture(autouse=True)
def unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting for the disk, which takes most of the time of small files; tests of syncing put their own in place."""
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)


@pytest.fixture(params=NETWORKS, ids=lambda path: path.stem)
def layout_case(request: pytest.FixtureRequest) -> Golden:
    """Every network of golden/layouts in turn."""
    return golden(request.param)


@pytest.fixture
def invoke():
    """Run `bnorm` with these arguments, print its output, and assert its exit code."""

    def run(*arguments: object, exit_code: int = 0, columns: str = "80"):
        result = runner(COLUMNS=columns).invoke(main, [str(argument) for argument in arguments])
        print(result.output)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == exit_code
        return result

    return run


@pytest.fixture
def tiny(tmp_path: Path) -> tuple[Path, Path]:
    """A cfg with one normalised and one plain convolution, and weights that fit it."""
    cfg = tmp_path / "tiny.cfg"
    cfg.write_text(TINY)
    return cfg, write_weights(cfg, tmp_path / "tiny.weights")
