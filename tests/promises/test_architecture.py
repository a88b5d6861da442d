"""The order and the map of modules in docs/architecture.md match the code; modules are imported only when needed."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import bnorm
from support.golden import ROOT

SOURCE = Path(bnorm.__file__).parent
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def block(name: str) -> list[str]:
    """Return the lines of the page's code block of this name."""
    (text,) = re.findall(rf"^```{name}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return text.splitlines()


FLOORS = [line.split() for line in block("order")]
FLOOR = {wing: number for number, wings in enumerate(FLOORS) for wing in wings}
FILES = {path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*.py") if path.stat().st_size}


def test_the_page_has_a_line_for_every_file():
    lines = [line.split(maxsplit=1) for line in block("map") if line]
    missing, gone = (
        sorted(names) for names in (FILES - {name for name, *_ in lines}, {name for name, *_ in lines} - FILES)
    )
    assert not missing, f"add a line to the map of docs/architecture.md for {missing}"
    assert not gone, f"remove the lines from the map of docs/architecture.md for {gone}"
    assert [name for name, *words in lines if not words] == [], "say in a few words what is in these files"
    assert len(lines) == len(FILES), "a file has two lines in the map of docs/architecture.md"


def test_the_page_names_no_file_that_does_not_exist():
    named = set(re.findall(r"`([a-z_/]+\.py)`", PAGE))
    assert named <= FILES, f"rename in docs/architecture.md: {sorted(named - FILES)}"


def module(path: Path) -> str:
    """The dotted name of a file's module: `bnorm.darknet.cfg`, and `bnorm.cli` for a package."""
    return ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module(path): path for path in sorted(SOURCE.rglob("*.py")) if path.parent != SOURCE or path.stem[0] != "_"}


def wing(name: str) -> str:
    return name.split(".")[1]


def imports(path: Path) -> set[str]:
    """Return every module that this file imports, dotted; a name imported from a module counts as that module."""
    nodes = list(ast.walk(ast.parse(path.read_bytes())))
    found = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            below = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in below}
    return found


named = pytest.mark.parametrize("name", MODULES)


def test_the_page_orders_every_wing():
    assert {wing(name) for name in MODULES} == FLOOR.keys(), "correct the order in docs/architecture.md"


@named
def test_a_wing_imports_only_from_those_above_it_in_the_order(name):
    others = {other for other in imports(MODULES[name]) & MODULES.keys() if wing(other) != wing(name)}
    assert [other for other in others if FLOOR[wing(other)] >= FLOOR[wing(name)]] == []


@named
def test_batchnorm_imports_no_module_of_darknet(name):
    if wing(name) == "batchnorm":
        assert not {other for other in imports(MODULES[name]) if other.startswith("bnorm.darknet")}


def test_no_file_imports_itself_indirectly():
    TopologicalSorter({name: imports(path) & MODULES.keys() - {name} for name, path in MODULES.items()}).prepare()


@named
def test_only_the_command_line_imports_click_and_rich(name):
    if wing(name) != "cli":
        assert not {other.partition(".")[0] for other in imports(MODULES[name])} & {"click", "rich"}


def loaded_by(statement: str) -> set[str]:
    """The packages that a fresh interpreter has loaded after this statement."""
    code = f"import sys; {statement}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_the_command_imports_late():
    assert not loaded_by("import bnorm.cli") & {"numpy", "rich", "matplotlib"}


def test_the_library_imports_late():
    assert not loaded_by("import bnorm; bnorm.BnormError; dir(bnorm)") & {"numpy", "click", "rich", "matplotlib"}


def test_a_model_is_read_without_numpy():
    assert "numpy" not in loaded_by("import bnorm.darknet.autodetect")


@pytest.mark.parametrize("name", bnorm.__all__)
def test_a_public_name_is_the_same_thing_each_time(name):
    """A module of the same name would take its place in the package as soon as it is imported."""
    first = getattr(bnorm, name)
    assert getattr(bnorm, name) is first
    assert callable(first)


def test_type_checkers_see_the_public_names():
    (block,) = (node for node in ast.parse(Path(bnorm.__file__).read_text()).body if isinstance(node, ast.If))
    seen = {(alias.name, alias.asname, node.module) for node in block.body for alias in node.names}
    assert seen == {(name, name, f"bnorm.{module}") for name, module in bnorm._HOMES.items()}


def test_the_public_names_are_listed():
    assert set(bnorm.__all__) <= set(dir(bnorm))
    assert not hasattr(bnorm, "missing")


def test_every_kind_of_error_is_public():
    assert {kind.__name__ for kind in bnorm.BnormError.__subclasses__()} <= set(bnorm.__all__)


def test_a_report_prints_as_one_short_line(tiny):
    """Like a model, because an interactive session shows the return value of a call."""
    model = bnorm.read_model(*tiny)
    report = bnorm.inspect(model)
    folded = bnorm.fold(model, None, dry_run=True)
    channels = report.layers[0].channels[""]
    for value in (report, report.layers[0], channels, folded, folded.layers[0], bnorm.check(*tiny)):
        text = repr(value).replace(str(tiny[0].parent), "")
        assert text.startswith(f"<{type(value).__name__}: ")
        assert len(text) < 150
