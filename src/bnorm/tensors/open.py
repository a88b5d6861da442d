"""Open a tensor by its name: X.npy, X.npz:key, or raw float32."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bnorm.errors import TensorError
from bnorm.files import open_regular
from bnorm.tensors.npy import read_header, vector_values
from bnorm.tensors.npz import open_member, read_vectors
from bnorm.tensors.tensor import FileTensor, check_layout, file_tensor

ZIP_SIGNATURE = b"PK\x03\x04"  # of a local file header


def open_tensor(name: str, shape: tuple[int, ...] | None = None, layout: str = "nchw") -> FileTensor:
    """Open `X.npy`, `X.npz` of one array, `X.npz:key`, or, if `shape` is given, a file of raw little-endian float32.

    No values are read. Raises `TensorError` for any other content, dtype or shape, ValueError for an unknown layout.
    """
    check_layout(layout)
    path = file_of(name) if shape is None else Path(name)
    with ExitStack() as stack:
        file = stack.enter_context(open_regular(path, TensorError))
        if shape is not None:
            tensor = file_tensor(path, file, 0, shape, np.dtype("<f4"), layout)
        elif file.read(4) == ZIP_SIGNATURE:
            tensor = open_member(path, file, name.partition(".npz:")[2], layout)
        else:
            file.seek(0)
            header = read_header(path, file)
            tensor = file_tensor(path, file, file.tell(), *header, layout)
        if tensor.file is file:  # not a temporary file with unpacked values
            stack.pop_all()
        return tensor


def open_vector(name: str) -> NDArray[np.float64]:
    """Return the vector in `X.npy` or `X.npz:key` as float64, shape (C,); raises `TensorError` for any other array."""
    path = file_of(name)
    if key := name.partition(".npz:")[2]:
        return read_vectors(path, (key,))[0]
    with open_regular(path, TensorError) as file:
        return vector_values(path, file, *read_header(path, file))


def file_of(name: str) -> Path:
    """Return the file of a tensor's name: `X.npz` of `X.npz:key`."""
    archive, dot, _ = name.partition(".npz:")
    return Path(archive + ".npz" if dot else name)
