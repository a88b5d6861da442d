"""Packages that only some commands need: which are missing, and how to install them."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from bnorm.errors import OutputError

LOWEST = {
    "onnx": "1.17.0",
    "matplotlib": "3.8.4",
    "numba": "0.62.0",
    "distributed": "2025.1.0",
}  # as pyproject.toml has them


def is_installed(package: str) -> bool:
    """Return whether the package can be imported, without importing it."""
    return find_spec(package) is not None


def require(package: str, *, of: Path) -> None:
    """Raise an `OutputError` about `of` if the package is missing; it says how to install it."""
    if not is_installed(package):
        raise OutputError(of, f"needs the package {package}", cause=installation(package))


def installation(package: str) -> str:
    """Return the command that installs the package from an index, even if bnorm was installed from elsewhere."""
    return f"pip install '{package}>={LOWEST[package]}'"
