"""A copy of the sample detector's files, for tests that damage them."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.damage import DATA, TEXT


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """The cfg and the weights of the sample detector."""
    cfg, weights = tmp_path / "net.cfg", tmp_path / "net.weights"
    cfg.write_text(TEXT)
    weights.write_bytes(DATA)
    return cfg, weights
