"""Arguments and options that several commands share, each defined once."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import NamedTuple, TypeVar

import click

from bnorm.batchnorm.engine import LEAST_MEMORY
from bnorm.batchnorm.epsilon import RUNTIMES, Epsilon, parse_epsilon
from bnorm.darknet.dialects import DIALECTS
from bnorm.darknet.model import Model

FILE = click.Path(path_type=Path)

Command = TypeVar("Command", bound=Callable[..., object])

cfg_argument = click.argument("cfg", type=FILE)

weights_argument = click.argument("weights", type=FILE)

optional_weights_argument = click.argument("weights", type=FILE, required=False)

dialect_option = click.option(
    "--dialect",
    type=click.Choice(["auto", *sorted(DIALECTS)]),
    default="auto",
    show_default=True,
    help="The fork of darknet whose file rules apply. auto: by the names in the cfg, the size and the version.",
)

format_option = click.option(
    "--format",
    "format_",
    type=click.Choice(["table", "json", "csv", "markdown"]),
    default="table",
    show_default=True,
    help="How to print.",
)


class LayerRange(click.ParamType[range]):
    """`3` or `0-12`, as a range of layer numbers."""

    name = "N|N-M"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> range:
        first, dash, last = value.partition("-")
        last = last if dash else first
        if not (
            value.isascii() and first.isdecimal() and last.isdecimal() and len(value) <= 20 and int(first) <= int(last)
        ):
            self.fail(f"{value!r} is not a layer such as 3, or layers such as 0-12", param, ctx)
        return range(int(first), int(last) + 1)


layers_option = click.option(
    "--layer", "layers", type=LayerRange(), multiple=True, help="Only these layers, 3 or 0-12; repeatable."
)


def selection(layers: tuple[range, ...], model: Model) -> set[int] | None:
    """The layers that `--layer` chose, None without it."""
    last = len(model.network.layers) - 1
    if beyond := [chosen for chosen in layers if chosen[-1] > last]:
        raise click.BadParameter(f"layer {beyond[0][-1]}, expected 0 to {last}", param_hint="--layer")
    return set(chain(*layers)) if layers else None


class Place(click.ParamType[tuple[int, str]]):
    """`12`, or `3.wf`: a layer's number and the name of its part."""

    name = "N[.part]"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, str]:
        match = re.fullmatch(r"([0-9]{1,9})(?:\.(.*))?", value)
        if match is None:
            self.fail(f"{value!r} is not a layer such as 12, or a part such as 3.wf", param, ctx)
        return int(match[1]), match[2] or ""


class Shape(click.ParamType[tuple[int, ...]]):
    """`8,32,208,208`."""

    name = "N,C,H,W"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if not re.fullmatch(r"[0-9]{1,15}(,[0-9]{1,15}){0,9}", value):
            self.fail(f"{value!r} is not a shape such as 8,32,208,208", param, ctx)
        return tuple(map(int, value.split(",")))


class Size(click.ParamType[int]):
    """`256MiB`, `1G`, or bytes."""

    name = "SIZE"

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"([0-9]{1,15})\s*([kmgt]?)(?:i?b)?", value.strip(), re.IGNORECASE)
        size = int(match[1]) << 10 * " kmgt".index(match[2].lower() or " ") if match else 0
        if size < LEAST_MEMORY:
            self.fail(f"{value!r} is not a size of at least 16MiB, such as 256MiB", param, ctx)
        return size


class Sorting(NamedTuple):
    """A column, and whether its smallest value comes first."""

    column: str
    ascending: bool


class Order(click.ParamType[Sorting]):
    """`gain`, `gain:asc`, `gain:desc`."""

    name = "COLUMN[:asc|desc]"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> Sorting:
        column, colon, order = value.lower().partition(":")
        if colon and order not in ("asc", "desc"):
            self.fail(f"{value!r} is not a column such as gain, gain:asc or gain:desc", param, ctx)
        return Sorting(column, order == "asc")


class EpsilonChoice(click.ParamType[Epsilon]):
    """A runtime's name, or a value and its place: `opencv`, `1e-5`, `1e-6:outside`."""

    name = "NAME|VALUE[:PLACE]"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> Epsilon:
        try:
            return parse_epsilon(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def epsilon_option(default: str | None, shown: str | None = None) -> Callable[[Command], Command]:
    """`--epsilon` with a command's own default, `shown` where that is no name."""
    return click.option(
        "--epsilon",
        type=EpsilonChoice(),
        default=default,
        show_default=shown or default or "",
        help=f"Whose guard against a variance of zero: {', '.join(RUNTIMES)}; or a value, with :inside (the root) or "
        ":outside behind it.",
    )
