"""Functions that take a model, or the paths of a cfg and its weights in its place, as `check` does."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, cast, overload

from bnorm.darknet.autodetect import read_model
from bnorm.darknet.model import Model

StrPath = str | os.PathLike[str]

P = ParamSpec("P")

R = TypeVar("R")

R_co = TypeVar("R_co", covariant=True)


class TakesModel(Protocol[P, R_co]):
    """A function of a model and more; two paths may take the place of the model, and None where it may lack one."""

    @overload
    def __call__(self, model: Model | None = None, /, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    @overload
    def __call__(self, cfg: StrPath, weights: StrPath | None = None, /, *args: P.args, **kwargs: P.kwargs) -> R_co: ...


def model_or_paths(function: Callable[Concatenate[Model, P], R]) -> TakesModel[P, R]:
    """Decorate a function of a model: a cfg and its weights, as two paths, are read with the dialect `auto`.

    The function raises TypeError for anything else in the place of the model.
    """

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> R:
        return function(*_with_model(function.__name__, args), **kwargs)

    return cast("TakesModel[P, R]", call)


def _with_model(name: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the positional arguments with a model in the place of paths."""
    if not args or args[0] is None or isinstance(args[0], Model):
        return args
    cfg, weights, *others = (*args, None) if len(args) == 1 else args
    for path in (cfg,) if weights is None else (cfg, weights):
        if not isinstance(path, str | os.PathLike):
            kind = type(path).__name__
            raise TypeError(f"{name} got a {kind}, expected a model, or the paths of a cfg and its weights, first")
    return (read_model(cfg, weights), *others)
