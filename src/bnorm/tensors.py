"""Tensors in NumPy's own files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bnorm.errors import TensorError
from bnorm.files import replacing

Tensor = NDArray[np.floating]

DTYPES = ("float16", "float32", "float64")


def read(path: Path) -> Tensor:
    """Map the array of a .npy file: 2-D is (N, C), 3-D one image (C, H, W), 4-D (N, C, H, W); `TensorError`."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise TensorError(path, f"cannot be read as a .npy file: {error}") from None
    if not isinstance(array, np.ndarray) or array.dtype.name not in DTYPES or not 2 <= array.ndim <= 4:
        found = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else "an archive"
        raise TensorError(path, f"holds {found}, expected {', '.join(DTYPES)} of 2 to 4 dimensions")
    return array


def write(path: Path, array: Tensor) -> None:
    """Write a .npy file."""
    with replacing(path) as (file,):
        np.lib.format.write_array(file, np.asarray(array), allow_pickle=False)
