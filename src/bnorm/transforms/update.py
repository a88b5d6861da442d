"""A copy of a weights file with some arrays replaced."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bnorm.batchnorm.formulas import quiet
from bnorm.darknet.model import Model
from bnorm.darknet.model_or_paths import model_or_paths
from bnorm.darknet.weights import Trailing, copy
from bnorm.files import check_outputs


@model_or_paths
@quiet
def update_weights(
    model: Model,
    output: str | os.PathLike[str],
    arrays: Mapping[tuple[int, str], NDArray[np.floating]],
    *,
    force: bool = False,
    trailing: Trailing | str = Trailing.ERROR,
) -> None:
    """Write the model's weights to a new file, with some arrays replaced; the header is copied.

    The paths of a cfg and its weights can replace the model. `arrays` are named as in `open_weights`:
    `{(12, "rolling_mean"): values}`, each in its shape in memory; they are written as float32. With `force` an existing
    output is replaced; an input never is. `trailing` is that of `open_weights`; with "keep" the bytes are copied.

    KeyError for an array that the file does not have, ValueError for a wrong shape or dtype and for a finite value
    beyond float32; `OutputError` for an output that must not be written; `WeightsError` for a file that does not fit.
    Nothing is written then.
    """
    new = {key: _float32(key, values) for key, values in arrays.items()}
    inputs = [model.network.text.path, *([model.weights] if model.weights else [])]
    check_outputs([Path(output)], inputs, force=force, cause="force=True replaces it")
    copy(model, Path(output), new, trailing)


def _float32(key: tuple[int, str], values: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return the values as float32; ValueError if they are not real numbers, or beyond float32."""
    array = np.asarray(values)
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{key} has the dtype {array.dtype}, expected real numbers")
    rounded = array.astype(np.float32)
    if not np.array_equal(np.isfinite(rounded), np.isfinite(array)):
        raise ValueError(f"{key} has values beyond float32, expected at most {np.finfo(np.float32).max:.2e}")
    return rounded
