"""The command in this process."""

from __future__ import annotations

from inspect import signature

from click.testing import CliRunner

# Before click 8.2 the two streams were merged unless this option was given.
APART = {"mix_stderr": False} if "mix_stderr" in signature(CliRunner).parameters else {}


def runner(**environment: str) -> CliRunner:
    """Return click's runner, which keeps stderr apart from stdout."""
    return CliRunner(env=environment, **APART)
