"""Packages of the extras, which are imported where they are needed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from bnorm.errors import OutputError


def require(package: str, *, of: Path) -> None:
    """Raise an `OutputError` that says how to install this package, if it is missing."""
    if importlib.util.find_spec(package) is None:
        raise OutputError(of, f"needs the package {package}", cause=f"pip install {package}")
