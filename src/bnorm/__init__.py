"""bnorm: darknet model files, their batch normalisation, and what is wrong with them.

The names below are the library; each is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bnorm.arrays import Result, batch_normalize
    from bnorm.batchnorm import Parameters, Rolling
    from bnorm.checking import check
    from bnorm.errors import BnormError
    from bnorm.folding import fold
    from bnorm.inspection import inspect
    from bnorm.model import read_model
    from bnorm.weights import open_weights

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
    "Parameters": "batchnorm",
    "Result": "arrays",
    "Rolling": "batchnorm",
    "batch_normalize": "arrays",
    "check": "checking",
    "fold": "folding",
    "inspect": "inspection",
    "open_weights": "weights",
    "read_model": "model",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"bnorm.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'bnorm' has no attribute {name!r}")
