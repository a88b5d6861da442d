"""The Numba engine: sums and maps of one span, with results that equal those of the NumPy kernels to the last bit.

The loops get a tensor as one contiguous vector of memory, with the steps between images, channels and places. Each
value is loaded, converted to float64 in a register, used, and rounded once, without copies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from bnorm.batchnorm.compiled_maps import grid_of, map_items, map_shared
from bnorm.batchnorm.compiled_sums import sizes_of, sum_items, sum_shared
from bnorm.batchnorm.compiler import has_openmp
from bnorm.batchnorm.formulas import ChannelMap
from bnorm.batchnorm.kernels import Operands, Scratch
from bnorm.batchnorm.memory import interleaved, memory_of, steps_of
from bnorm.batchnorm.tiling import Grouping
from bnorm.tensors.tensor import Doubles, Values


class CompiledKernels:
    """The Numba kernels; each call shares its work among `threads` of Numba's own threads."""

    dtypes = "fd"  # not float16: processors have no arithmetic for it

    def __init__(self, threads: int = 1) -> None:
        self.threads = threads

    def shared(self, threads: int) -> CompiledKernels | None:
        """Return kernels that use this many threads in each call; None if Numba cannot do so here."""
        return CompiledKernels(threads) if has_openmp() else None

    def sum_span(
        self, operands: Operands, grouping: Grouping, _scratch: Scratch, out: Doubles, *, moments: bool
    ) -> None:
        """Write the sums of each piece into `out`, as `kernels.sum_span` does."""
        x, delta, shift = operands
        sizes = sizes_of(x, grouping, len(out))
        items = len(out) * -(-x.shape[1] // int(sizes.width))
        other = x if delta is None else delta
        numbers = np.array([*steps_of(x), *steps_of(other), *sizes], np.uint64)
        sums = np.empty(out.shape)  # always contiguous, so that the code is compiled once
        arguments = (memory_of(x), memory_of(other), numbers, shift, moments, delta is not None, sums)
        self._run(sum_items, sum_shared, arguments, items)
        out[:] = sums

    def map_span(
        self, operands: Operands, maps: Mapping[str, ChannelMap], _scratch: Scratch, outputs: Mapping[str, Values]
    ) -> None:
        """Write each output, as `kernels.map_span` does."""
        x, delta, shift = operands
        grid, items = grid_of(x)
        axis = 2 if interleaved(x) and x.shape[2] > 1 else 0  # the axis that rows are counted along
        memory_x, steps_x = memory_of(x), _steps(x, axis)
        memory, steps = (memory_x, steps_x) if delta is None else (memory_of(delta), _steps(delta, axis))
        for name, out in outputs.items():
            gain, slope, constant = maps[name]
            numbers = np.array([*steps_x, *steps, *_steps(out, axis), *grid], np.uint64)
            vectors = np.array([shift, gain, gain if slope is None else slope, constant])
            written = memory_of(out, writeable=True)
            self._run(map_items, map_shared, (memory_x, memory, numbers, slope is not None, written, vectors), items)

    def _run(
        self, one: Callable[..., None], shared: Callable[..., None], arguments: tuple[Any, ...], items: int
    ) -> None:
        if self.threads > 1:
            shared(*arguments, np.uint64(items), np.uint64(min(self.threads, items)))
        else:
            one(*arguments, np.uint64(0), np.uint64(items))


def _steps(values: Values, axis: int) -> tuple[int, int]:
    """Return the steps along an axis, and from channel to channel."""
    steps = steps_of(values)
    return steps[axis], steps[1]
