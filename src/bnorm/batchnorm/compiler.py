"""Numba's compiler: it compiles a function for the types of its first call, and keeps the code for later processes.

It compiles additions as they are written: it neither reorders them nor fuses them with multiplications unless
`fastmath` asks for it. All indices of compiled functions are unsigned: a negative index would count from the end, and
loops that allow for it are not vectorised.
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

OPENMP = "numba.np.ufunc.omppool"  # which not every system has

Function = TypeVar("Function", bound=Callable[..., None])


def compiled(function: Function, **options: bool) -> Function:
    """Return the compiled function, which is kept in a cache folder if there is one that can be written."""
    settings = {"nogil": True, "error_model": "numpy", **options}
    try:
        return cast(Function, numba.njit(cache=True, **settings)(function))
    except RuntimeError:  # Numba found no folder for its cache
        return cast(Function, numba.njit(**settings)(function))


def compiled_parallel(function: Function) -> Function:
    """Return the compiled function, whose loops over `prange` are shared among Numba's threads."""
    return compiled(function, parallel=True)


_FORKED = False  # GNU's OpenMP ends a process that uses it after a fork of one that did


def _after_fork() -> None:
    global _FORKED
    _FORKED = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def has_openmp() -> bool:
    """Return True if Numba has threads that several callers may use at a time: OpenMP, but not after a fork."""
    return not _FORKED and _openmp_is_installed()


@cache
def _openmp_is_installed() -> bool:
    from numba.core import config

    return config.THREADING_LAYER in ("default", "omp", "threadsafe") and bool(find_spec(OPENMP))
