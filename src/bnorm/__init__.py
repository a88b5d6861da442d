"""bnorm: darknet model files, their batch normalisation, and what is wrong with them.

The names below are the library; each is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bnorm.batchnorm.arrays import Result, batch_normalize
    from bnorm.batchnorm.formulas import Parameters, Rolling
    from bnorm.checks.check import check
    from bnorm.darknet.autodetect import read_model
    from bnorm.darknet.weights import open_weights
    from bnorm.errors import BnormError
    from bnorm.reports.inspect import inspect
    from bnorm.transforms.fold.fold import fold

__version__ = "0.1.0"
__all__ = [
    "BnormError",
    "Parameters",
    "Result",
    "Rolling",
    "batch_normalize",
    "check",
    "fold",
    "inspect",
    "open_weights",
    "read_model",
]

_HOMES = {
    "BnormError": "errors",
    "Parameters": "batchnorm.formulas",
    "Result": "batchnorm.arrays",
    "Rolling": "batchnorm.formulas",
    "batch_normalize": "batchnorm.arrays",
    "check": "checks.check",
    "fold": "transforms.fold.fold",
    "inspect": "reports.inspect",
    "open_weights": "darknet.weights",
    "read_model": "darknet.autodetect",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"bnorm.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'bnorm' has no attribute {name!r}")
