"""The memory of values (n, c, l) as one vector, and the steps of its axes: the form that compiled loops take."""

from __future__ import annotations

from numpy.lib.stride_tricks import as_strided

from bnorm.tensors.tensor import Values


def memory_of(values: Values, *, writeable: bool = False) -> Values:
    """Return the contiguous memory that values (n, c, l) lie in, as a vector.

    Inputs are always made read-only: Numba would compile the code again for a writeable one.
    """
    ordered = values.transpose(0, 2, 1) if interleaved(values) else values
    if ordered.flags.c_contiguous:
        memory = ordered.reshape(-1)  # much faster than as_strided
        memory.flags.writeable = writeable
        return memory
    steps = steps_of(values)
    length = sum((size - 1) * step for size, step in zip(values.shape, steps, strict=True)) + 1
    return as_strided(values, (length,), (values.itemsize,), writeable=writeable)


def steps_of(values: Values) -> tuple[int, int, int]:
    """Return the strides of the axes, counted in values."""
    size = values.itemsize
    image, channel, place = values.strides
    return image // size, channel // size, place // size


def interleaved(x: Values) -> bool:
    """Return whether the channels of one place are side by side; a single place of each channel counts as such."""
    return x.shape[2] == 1 or x.strides[2] > x.itemsize
