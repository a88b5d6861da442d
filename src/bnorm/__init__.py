"""bnorm: read, check, fold and convert darknet model files, and run their batch normalisation.

The names below are the public interface. Each is imported when it is first used: `import bnorm` does not import NumPy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers and editors; a test compares it with the table
    from bnorm.batchnorm.arrays import Result as Result
    from bnorm.batchnorm.arrays import batch_normalize as batch_normalize
    from bnorm.batchnorm.epsilon import Epsilon as Epsilon
    from bnorm.batchnorm.formulas import Gradients as Gradients
    from bnorm.batchnorm.formulas import Moments as Moments
    from bnorm.batchnorm.formulas import Parameters as Parameters
    from bnorm.batchnorm.formulas import PartialMoments as PartialMoments
    from bnorm.batchnorm.formulas import Rolling as Rolling
    from bnorm.batchnorm.rolling import merge as merge
    from bnorm.checks.check import Check as Check
    from bnorm.checks.check import check as check
    from bnorm.checks.findings import Finding as Finding
    from bnorm.darknet.autodetect import read_model as read_model
    from bnorm.darknet.model import Model as Model
    from bnorm.darknet.weights import Weights as Weights
    from bnorm.darknet.weights import open_weights as open_weights
    from bnorm.errors import BnormError as BnormError
    from bnorm.errors import CfgError as CfgError
    from bnorm.errors import ClusterError as ClusterError
    from bnorm.errors import OutputError as OutputError
    from bnorm.errors import ProofError as ProofError
    from bnorm.errors import TensorError as TensorError
    from bnorm.errors import WeightsError as WeightsError
    from bnorm.exchange.export import ExportedArray as ExportedArray
    from bnorm.exchange.export import ExportReport as ExportReport
    from bnorm.exchange.export import export as export
    from bnorm.exchange.importing import ImportedArray as ImportedArray
    from bnorm.exchange.importing import ImportReport as ImportReport
    from bnorm.exchange.importing import import_arrays as import_arrays
    from bnorm.replay.estimate import EstimateReport as EstimateReport
    from bnorm.replay.estimate import estimate as estimate
    from bnorm.replay.job import ResultRow as ResultRow
    from bnorm.replay.job import RunReport as RunReport
    from bnorm.replay.job import run as run
    from bnorm.reports.diff.comparison import ArrayDifference as ArrayDifference
    from bnorm.reports.diff.diff import DiffReport as DiffReport
    from bnorm.reports.diff.diff import diff as diff
    from bnorm.reports.inspect import ChannelRow as ChannelRow
    from bnorm.reports.inspect import Inspection as Inspection
    from bnorm.reports.inspect import LayerReport as LayerReport
    from bnorm.reports.inspect import inspect as inspect
    from bnorm.statistics.bad_variance import BadVariance as BadVariance
    from bnorm.transforms.convert.convert import ConvertedLayer as ConvertedLayer
    from bnorm.transforms.convert.convert import ConvertReport as ConvertReport
    from bnorm.transforms.convert.convert import convert as convert
    from bnorm.transforms.fold.fold import FoldedLayer as FoldedLayer
    from bnorm.transforms.fold.fold import FoldReport as FoldReport
    from bnorm.transforms.fold.fold import fold as fold
    from bnorm.transforms.update import update_weights as update_weights

__version__ = "0.2.0"

_NAMES = {
    "batchnorm.arrays": "Result batch_normalize",
    "batchnorm.epsilon": "Epsilon",
    "batchnorm.formulas": "Gradients Moments Parameters PartialMoments Rolling",
    "batchnorm.rolling": "merge",
    "checks.check": "Check check",
    "checks.findings": "Finding",
    "darknet.autodetect": "read_model",
    "darknet.model": "Model",
    "darknet.weights": "Weights open_weights",
    "errors": "BnormError CfgError ClusterError OutputError ProofError TensorError WeightsError",
    "exchange.export": "ExportReport ExportedArray export",
    "exchange.importing": "ImportReport ImportedArray import_arrays",
    "replay.estimate": "EstimateReport estimate",
    "replay.job": "ResultRow RunReport run",
    "reports.diff.comparison": "ArrayDifference",
    "reports.diff.diff": "DiffReport diff",
    "reports.inspect": "ChannelRow Inspection LayerReport inspect",
    "statistics.bad_variance": "BadVariance",
    "transforms.convert.convert": "ConvertReport ConvertedLayer convert",
    "transforms.fold.fold": "FoldReport FoldedLayer fold",
    "transforms.update": "update_weights",
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names.split()}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"bnorm.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'bnorm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
