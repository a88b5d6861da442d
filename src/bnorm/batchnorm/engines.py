"""The two engines, NumPy and Numba, behind one narrow interface: `sum_span` and `map_span`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from bnorm.batchnorm import kernels
from bnorm.batchnorm.formulas import ChannelMap
from bnorm.batchnorm.kernels import Operands, Scratch
from bnorm.batchnorm.tiling import Grouping
from bnorm.extras import installation, is_installed
from bnorm.tensors.tensor import Doubles, Values

ENGINES = ("auto", "numpy", "numba")

WORTH = 1 << 30  # values from which Numba repays its import of half a second, on files; below, the disk is the limit


class Kernels(Protocol):
    """The loops over the values of one span. Both engines give the same bits."""

    @property
    def dtypes(self) -> str:
        """Return NumPy's letters of the supported dtypes."""

    def shared(self, threads: int) -> Kernels | None:
        """Return kernels that use this many threads in each call; None if a call always uses one."""

    def sum_span(
        self, operands: Operands, grouping: Grouping, scratch: Scratch, out: Doubles, *, moments: bool
    ) -> None:
        """Write the sums of each piece."""

    def map_span(
        self, operands: Operands, maps: Mapping[str, ChannelMap], scratch: Scratch, outputs: Mapping[str, Values]
    ) -> None:
        """Write each output."""


class NumpyKernels:
    """The NumPy kernels."""

    dtypes = "efd"

    sum_span = staticmethod(kernels.sum_span)

    map_span = staticmethod(kernels.map_span)

    def shared(self, threads: int) -> None:
        """Return None: a call uses one thread."""


NUMPY = NumpyKernels()


def check_engine(engine: str) -> None:
    """Raise ValueError for a name that is not in `ENGINES`, and for "numba" where it is not installed."""
    if engine not in ENGINES:
        raise ValueError(f"engine={engine!r}, expected one of {', '.join(ENGINES)}")
    if engine == "numba" and not has_numba():
        raise ValueError(f"engine={engine!r} without Numba, expected it to be installed: {installation('numba')}")


def has_numba() -> bool:
    """Return whether Numba is installed."""
    return is_installed("numba")


def kernels_of(engine: str, values: int) -> Kernels:
    """Return the kernels of a checked name; "auto" is Numba if it is installed, and if there are enough values."""
    if engine == "numpy" or (engine == "auto" and (values < WORTH or not has_numba())):
        return NUMPY
    from bnorm.batchnorm.compiled import CompiledKernels  # takes half a second

    return CompiledKernels()
