"""What tests share: the command as a user runs it, the reference data, and builders of tiny files."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, settings

# Machines that others share are slow at times: no test may fail for that.
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")

GOLDEN = Path(__file__).parent / "golden"
SHARED = Path(__file__).parents[2] / "shared"

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


@pytest.fixture(params=LAYOUTS, ids=lambda path: path.stem)
def layout_case(request: pytest.FixtureRequest) -> Golden:
    """Every network of golden/layouts in turn."""
    return golden(request.param)


@pytest.fixture
def invoke():
    """Run `bnorm` with these arguments; prints what it printed, and insists on the exit code."""
    from bnorm.cli import main

    def run(*arguments: object, exit_code: int = 0, columns: str = "80"):
        result = CliRunner(env={"COLUMNS": columns}).invoke(main, [str(argument) for argument in arguments])
        print(result.output)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == exit_code
        return result

    return run


def cfg_source(net: str, layers: str) -> str:
    """A cfg from one line: `3x8x8` (channels, height, width) or `12` (inputs), and `type key=value ... | type ...`."""
    sizes = net.split("x")
    keys = ("inputs",) if len(sizes) == 1 else ("channels", "height", "width")
    lines = ["[net]", *(f"{key}={size}" for key, size in zip(keys, sizes, strict=True))]
    for layer in layers.split(" | "):
        name, *options = layer.split()
        lines += [f"[{name}]", *options]
    return "\n".join(lines) + "\n"


TINY = """\
[net]
width=8
height=8
channels=3
batch=4

[convolutional]
batch_normalize=1
filters=4
size=3
pad=1
activation=leaky

[convolutional]
filters=2
size=1
activation=linear
"""


def write_weights(cfg: Path, path: Path, dialect: str = "alexeyab", seed: int = 0) -> Path:
    """A weights file of random numbers that fits the cfg; variances and scales are positive."""
    from bnorm.model import read_model
    from bnorm.weights import save

    model = read_model(cfg, None, dialect)
    rng = np.random.default_rng(seed)
    values = [rng.normal(0, 1, array.shape).astype("f4") for array in model.layout.arrays]
    positive = ("rolling_variance", "scales")
    arrays = [
        abs(value) + np.float32(0.1) if array.field in positive else value
        for array, value in zip(model.layout.arrays, values, strict=True)
    ]
    save(path, model.header._replace(seen=12345), model.layout, arrays)
    return path


@pytest.fixture
def tiny(tmp_path: Path) -> tuple[Path, Path]:
    """A cfg with one normalised and one plain convolution, and weights that fit it."""
    cfg = tmp_path / "tiny.cfg"
    cfg.write_text(TINY)
    return cfg, write_weights(cfg, tmp_path / "tiny.weights")
