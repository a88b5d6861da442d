"""The reference data: what the three C programs wrote, and where it is."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
SHARED = ROOT.parent / "shared"

LAYOUTS = sorted((GOLDEN / "layouts").glob("*.json"), key=lambda path: path.name)


def needs_shared(folder: str) -> pytest.MarkDecorator:
    """Skip, and say so, where the files that are not ours to ship are absent."""
    return pytest.mark.skipif(not (SHARED / folder).is_dir(), reason=f"no shared {folder} beside this checkout")


@dataclasses.dataclass(frozen=True)
class Golden:
    """One network of golden/layouts, as one fork wrote it."""

    cfg: Path
    weights: Path
    dialect: str
    header: tuple[int, int, int]
    seen: int
    size: int
    layers: list[dict]
    arrays: list[dict]


def golden(path: Path) -> Golden:
    """Read NAME.DIALECT.json."""
    data = json.loads(path.read_text())
    return Golden(
        cfg=path.parent / data["cfg"],
        weights=path.with_suffix(".weights"),
        dialect=data["dialect"],
        header=tuple(data["header"]),
        seen=data["seen"],
        size=data["size"],
        layers=data["layers"],
        arrays=data["arrays"],
    )
