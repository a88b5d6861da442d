"""The order of the modules, and what is imported when."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import bnorm

SOURCE = Path(bnorm.__file__).parent
# Each module imports only from those before it.
TEXT = ["errors", "findings", "dialects", "files", "grammar", "cfg", "strictness"]
SHAPES = ["shapes", "rules", "parts", "network", "remarks", "layout"]
BYTES = ["header", "model", "weights"]
NUMBERS = [
    "batchnorm",
    "kernels",
    "tensors",
    "npy",
    "engine",
    "running",
    "sinks",
    "job",
    "arrays",
    "linear",
    "references",
    "folds",
    "affine",
    "verification",
    "preparation",
    "folding",
    "statistics",
    "soundness",
    "inspection",
    "causes",
    "diagnosis",
    "checking",
    "plot",
]
ORDER = [*TEXT, *SHAPES, *BYTES, *NUMBERS, "cli"]


def module_of(path: Path) -> str:
    """The module's name below `bnorm`, without its own below `cli`."""
    return path.relative_to(SOURCE).with_suffix("").parts[0]


def imports(path: Path) -> set[str]:
    """Every module that this file imports, dotted."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    found = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


FILES = [path for path in sorted(SOURCE.rglob("*.py")) if not module_of(path).startswith("__")]
named = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))


def test_every_module_has_a_place_in_the_order():
    assert {module_of(path) for path in FILES} <= set(ORDER)


@named
def test_a_module_imports_only_what_stands_before_it(path):
    own = {name.split(".")[1] for name in imports(path) if name.startswith("bnorm.")} - {"__version__"}
    allowed = ORDER[: ORDER.index(module_of(path))]
    assert own <= {*allowed, *(["cli"] if module_of(path) == "cli" else [])}


@named
def test_only_the_command_line_knows_click_and_rich(path):
    if module_of(path) != "cli":
        assert not {name.partition(".")[0] for name in imports(path)} & {"click", "rich"}


def loaded_by(statement: str) -> set[str]:
    """The packages that a fresh interpreter has loaded after this statement."""
    code = f"import sys; {statement}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_the_command_waits_with_its_imports():
    assert not loaded_by("import bnorm.cli") & {"numpy", "rich", "matplotlib"}


def test_a_model_is_read_without_numpy():
    assert "numpy" not in loaded_by("import bnorm.model")


@pytest.mark.parametrize("name", bnorm.__all__)
def test_a_public_name_is_the_same_thing_each_time(name):
    """A module of the same name would take its place in the package as soon as it is imported."""
    first = getattr(bnorm, name)
    assert getattr(bnorm, name) is first
    assert callable(first)
