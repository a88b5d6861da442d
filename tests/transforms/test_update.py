"""`bnorm.update_weights`: a copy of a weights file with some arrays replaced."""

from __future__ import annotations

import numpy as np
import pytest

import bnorm
from bnorm.errors import OutputError, WeightsError

NEW = {(0, "rolling_mean"): np.arange(4.0), (1, "biases"): np.array([7, 8])}


def test_only_these_arrays_change(tiny, tmp_path):
    bnorm.update_weights(*tiny, tmp_path / "new.weights", NEW)
    with bnorm.open_weights(*tiny) as old, bnorm.open_weights(tiny[0], tmp_path / "new.weights") as new:
        assert new.head() == old.head()
        for key in old.layout.by_name:
            np.testing.assert_array_equal(new[key], NEW.get(key, old[key]))


@pytest.mark.parametrize(
    ("arrays", "error", "match"),
    [
        ({(0, "mean"): np.zeros(4)}, KeyError, "rolling_mean"),
        ({(9, "scales"): np.zeros(4)}, KeyError, "expected 0, 1"),
        ({(0, "scales"): np.zeros(3)}, ValueError, "shape"),
        ({(0, "scales"): np.zeros(4, complex)}, ValueError, "complex128"),
        ({(0, "scales"): np.full(4, 1e39)}, ValueError, "beyond float32"),
    ],
)
def test_an_array_that_does_not_fit_is_refused_and_nothing_is_written(tiny, tmp_path, arrays, error, match):
    with pytest.raises(error, match=match):
        bnorm.update_weights(*tiny, tmp_path / "new.weights", arrays)
    assert not (tmp_path / "new.weights").exists()


def test_an_output_that_exists_is_replaced_only_with_force_and_an_input_never(tiny, tmp_path):
    output = tmp_path / "new.weights"
    output.write_bytes(b"old")
    with pytest.raises(OutputError):
        bnorm.update_weights(*tiny, output, NEW)
    assert output.read_bytes() == b"old"
    bnorm.update_weights(*tiny, output, NEW, force=True)
    assert output.stat().st_size == tiny[1].stat().st_size
    for path in tiny:
        with pytest.raises(OutputError):
            bnorm.update_weights(*tiny, path, NEW, force=True)


def test_a_file_that_does_not_fit_is_refused(tiny, tmp_path):
    tiny[1].write_bytes(tiny[1].read_bytes()[:-4])
    with pytest.raises(WeightsError):
        bnorm.update_weights(*tiny, tmp_path / "new.weights", NEW)
