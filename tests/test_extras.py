"""Packages of the extras: the versions that messages name are those of pyproject.toml."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from bnorm import extras

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


def test_the_lowest_versions_are_those_of_the_project():
    optional = tomllib.loads(PYPROJECT.read_text())["project"]["optional-dependencies"]
    needed = {each for name, packages in optional.items() if name not in ("test", "dev", "docs") for each in packages}
    assert {f"{package}>={version}" for package, version in extras.LOWEST.items()} == needed


@pytest.mark.parametrize("package", extras.LOWEST)
def test_a_missing_package_is_installed_by_its_own_name(package):
    assert extras.installation(package) == f"pip install '{package}>={extras.LOWEST[package]}'"


def test_what_is_installed():
    assert extras.is_installed("numpy")
    assert not extras.is_installed("no_such_package")
