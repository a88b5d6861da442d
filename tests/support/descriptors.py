"""The files that this process has open."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest


def open_files() -> Counter[str]:
    """Return the targets of all descriptors, and how many have each; skips where the system does not list them."""
    links = Path("/proc/self/fd")
    if not links.is_dir():
        pytest.skip("needs /proc")
    found: Counter[str] = Counter()
    for link in links.iterdir():
        with suppress(FileNotFoundError):  # the descriptor of the list itself
            found[str(link.readlink())] += 1
    return found
