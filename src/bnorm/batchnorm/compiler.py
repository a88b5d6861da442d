"""Numba's compiler: it compiles a function for the types of its first call, and caches the code for later processes.

It compiles additions as they are written: without `fastmath` it neither reorders them nor fuses them with
multiplications. All indices in compiled functions are unsigned: a signed index may count from the end, and a loop that
has to allow for that is not vectorised.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import TypeVar, cast

import numba
from numba import prange, uint64

__all__ = ["compiled", "compiled_parallel", "has_openmp", "prange", "uint64"]

OPENMP = "numba.np.ufunc.omppool"  # not every system has this module

Function = TypeVar("Function", bound=Callable[..., None])


def compiled(function: Function, **options: bool) -> Function:
    """Return the compiled function; the code is cached if there is a folder that can be written to."""
    settings = {"nogil": True, "error_model": "numpy", **options}
    try:
        return cast(Function, numba.njit(cache=True, **settings)(function))
    except RuntimeError:  # Numba found no folder for its cache
        return cast(Function, numba.njit(**settings)(function))


def compiled_parallel(function: Function) -> Function:
    """Return the compiled function; Numba's threads share its loops over `prange`."""
    return compiled(function, parallel=True)


_FORKED = False  # GNU's OpenMP kills a forked process that uses it after its parent did


def _after_fork() -> None:
    global _FORKED
    _FORKED = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def has_openmp() -> bool:
    """Return whether Numba has threads that several callers may use at once: OpenMP, but not after a fork."""
    return not _FORKED and _openmp_is_installed()


@cache
def _openmp_is_installed() -> bool:
    from numba.core import config

    return config.THREADING_LAYER in ("default", "omp", "threadsafe") and bool(find_spec(OPENMP))
