"""Opening a tensor by its name: X.npy, X.npz:key, or raw float32."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bnorm.errors import TensorError
from bnorm.files import open_regular
from bnorm.tensors.npy import _header
from bnorm.tensors.npz import _open_member
from bnorm.tensors.tensor import FileTensor, _checked, _kept


def open_tensor(name: str, shape: tuple[int, ...] | None = None, layout: str = "nchw") -> FileTensor:
    """Open `X.npy`, `X.npz` of one array, `X.npz:key`, or with a `shape` a file of raw little-endian float32.

    `TensorError` where it is none of these, or has an unfit type or shape. Nothing of its values is read.
    """
    if shape is not None:
        return _open_raw(Path(name), shape, layout)
    path, key = file_of(name), name.partition(".npz:")[2]
    with open_regular(path, TensorError) as file:
        start = file.read(4)
    if start == b"PK\x03\x04":
        return _open_member(path, key, layout)
    with _kept(path.open("rb")) as file:
        found, dtype = _header(path, file)
        return _checked(path, file, file.tell(), found, dtype, layout)


def file_of(name: str) -> Path:
    """The file of a tensor's name: `X.npz` of `X.npz:key`."""
    archive, dot, _ = name.partition(".npz:")
    return Path(archive + ".npz" if dot else name)


def _open_raw(path: Path, shape: tuple[int, ...], layout: str) -> FileTensor:
    with _kept(open_regular(path, TensorError)) as file:
        return _checked(path, file, 0, shape, np.dtype("<f4"), layout)
