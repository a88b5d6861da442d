"""A decorator for functions of a model: they also accept the paths of a cfg and its weights, as `check` does."""

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
    """A function whose first argument is a model, or in its place the paths of a cfg and of its weights (or None)."""

    @overload
    def __call__(self, model: Model | None = None, /, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    @overload
    def __call__(self, cfg: StrPath, weights: StrPath | None = None, /, *args: P.args, **kwargs: P.kwargs) -> R_co: ...


def model_or_paths(function: Callable[Concatenate[Model, P], R]) -> TakesModel[P, R]:
    """Decorate a function of a model: a cfg and its weights, as two paths, are read with the dialect `auto`.

    The decorated function raises TypeError for any other first argument.
    """

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> R:
        return function(*_with_model(function.__name__, args), **kwargs)

    return cast("TakesModel[P, R]", call)


def _with_model(name: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the positional arguments, with paths replaced by the model."""
    if not args or args[0] is None or isinstance(args[0], Model):
        return args
    cfg, weights, *others = (*args, None) if len(args) == 1 else args
    for path in (cfg,) if weights is None else (cfg, weights):
        if not isinstance(path, str | os.PathLike):
            kind = type(path).__name__
            raise TypeError(f"{name} got a {kind}, expected a model, or the paths of a cfg and its weights, first")
    return (read_model(cfg, weights), *others)
