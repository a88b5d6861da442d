"""Fixtures of the tests of arrays out and in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import bnorm
from bnorm.darknet.model import Model

Store = Callable[[Path, dict[str, np.ndarray]], Path]


def store_npz(folder: Path, arrays: dict[str, np.ndarray]) -> Path:
    np.savez(folder / "arrays.npz", **arrays)
    return folder / "arrays.npz"


def store_safetensors(folder: Path, arrays: dict[str, np.ndarray]) -> Path:
    """With the library, which sorts the names."""
    numpy = pytest.importorskip("safetensors.numpy")
    numpy.save_file(arrays, folder / "arrays.safetensors")
    return folder / "arrays.safetensors"


def store_folder(folder: Path, arrays: dict[str, np.ndarray]) -> Path:
    (folder / "arrays").mkdir()
    for name, values in arrays.items():
        np.save(folder / "arrays" / f"{name}.npy", values)
    return folder / "arrays"


STORES: dict[str, Store] = {"npz": store_npz, "safetensors": store_safetensors, "folder": store_folder}


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest) -> Store:
    """Each way to store arrays that are imported."""
    return STORES[request.param]


@pytest.fixture
def model(tiny) -> Model:
    """The tiny network with its weights."""
    return bnorm.read_model(*tiny)


@pytest.fixture
def arrays(model) -> dict[str, np.ndarray]:
    """The arrays of the tiny network by bnorm's names."""
    with bnorm.open_weights(model) as weights:
        return {f"{array.layer}.{array.name}": weights.read(array) for array in model.layout.arrays}
