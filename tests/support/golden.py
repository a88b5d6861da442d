"""The paths of files that tests read: the reference data of the three C programs, and the samples."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
SHARED = ROOT.parent / "shared"
MODELS = SHARED / "models"

LAYOUTS = GOLDEN / "layouts"
NETWORKS = sorted(LAYOUTS.glob("*.json"), key=lambda path: path.name)


def sample(name: str) -> tuple[Path, Path]:
    """Return the cfg and the weights of a shipped sample."""
    return ROOT / "sample_cfgs" / f"{name}.cfg", ROOT / "sample_weights" / f"{name}.weights"


def needs_shared(folder: str) -> pytest.MarkDecorator:
    """Skip, with a reason, if this folder of files that the project may not ship is absent."""
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
