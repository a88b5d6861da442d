"""Arguments and options that several commands share, each defined once, and the types of their values.

A type is a function from the text to a value, which raises click.BadParameter: click.ParamType is a generic class only
since click 8.4.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import NamedTuple, TypeVar

import click

from bnorm.batchnorm.epsilon import RUNTIMES, Epsilon
from bnorm.darknet.dialects import DIALECTS
from bnorm.darknet.model import Model

Command = TypeVar("Command", bound=Callable[..., object])

FILE = click.Path(path_type=Path)

LEAST_MEMORY = 16 << 20  # bytes; with less, scattered channels are read in many small pieces


# --- types ------------------------------------------------------------------------------------------------------------


def layer_range(text: str) -> range:
    """Return `3` or `0-12` as a range of layer numbers."""
    match = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", text)
    if match is None or int(match[1]) > int(match[2] or match[1]):
        raise click.BadParameter(f"{text!r} is not a layer such as 3, or layers such as 0-12")
    return range(int(match[1]), int(match[2] or match[1]) + 1)


class LayerPart(NamedTuple):
    """A layer's number, and the name of a part of it or an empty text."""

    layer: int
    part: str


def layer_part(text: str) -> LayerPart:
    """Return `12`, or `3.wf` for a part of a recurrent layer."""
    match = re.fullmatch(r"([0-9]{1,9})(?:\.(.*))?", text)
    if match is None:
        raise click.BadParameter(f"{text!r} is not a layer such as 12, or a part such as 3.wf")
    return LayerPart(layer=int(match[1]), part=match[2] or "")


def shape(text: str) -> tuple[int, ...]:
    """Return `8,32,208,208` as a tuple."""
    if not re.fullmatch(r"[0-9]{1,15}(,[0-9]{1,15}){0,9}", text):
        raise click.BadParameter(f"{text!r} is not a shape such as 8,32,208,208")
    return tuple(map(int, text.split(",")))


def memory_size(text: str) -> int:
    """Return `256MiB`, `1G`, or a number of bytes, as bytes."""
    match = re.fullmatch(r"([0-9]{1,15})\s*([kmgt]?)(?:i?b)?", text.strip(), re.IGNORECASE)
    size = int(match[1]) << 10 * " kmgt".index(match[2].lower() or " ") if match else 0
    if size < LEAST_MEMORY:
        raise click.BadParameter(f"{text!r} is not a size of at least 16MiB, such as 256MiB")
    return size


class Sorting(NamedTuple):
    """A column, and whether its smallest value comes first."""

    column: str
    ascending: bool


def sorting(text: str) -> Sorting:
    """Return `gain`, `gain:asc` or `gain:desc`."""
    column, colon, order = text.lower().partition(":")
    if colon and order not in ("asc", "desc"):
        raise click.BadParameter(f"{text!r} is not a column such as gain, gain:asc or gain:desc")
    return Sorting(column=column, ascending=order == "asc")


EPSILON = re.compile(
    r"(?P<value>(?:[0-9]{1,20}\.?[0-9]{0,20}|\.[0-9]{1,20})(?:[eE][+-]?[0-9]{1,3})?)(?::(?P<side>inside|outside))?"
)


def epsilon(text: str) -> Epsilon:
    """Return a runtime's ε, or a value and its side of the root: `opencv`, `1e-5`, `1e-6:outside`."""
    if text in RUNTIMES:
        return RUNTIMES[text]
    match = EPSILON.fullmatch(text)
    if match is None or not math.isfinite(float(match["value"])):
        names = ", ".join(RUNTIMES)
        raise click.BadParameter(f"{text!r} is neither a value such as 1e-5 or 1e-6:outside nor one of {names}")
    return Epsilon(value=float(match["value"]), inside=match["side"] != "outside")


# --- arguments and options --------------------------------------------------------------------------------------------

cfg_argument = click.argument("cfg", type=FILE)

weights_argument = click.argument("weights", type=FILE)

optional_weights_argument = click.argument("weights", type=FILE, required=False)

dialect_option = click.option(
    "--dialect",
    type=click.Choice(["auto", *sorted(DIALECTS)]),
    default="auto",
    show_default=True,
    help="The fork whose file rules apply. auto decides by the names in the cfg, the size and the version.",
)

format_option = click.option(
    "--format",
    "format_",
    type=click.Choice(["table", "json", "csv", "markdown"]),
    default="table",
    show_default=True,
    help="Output format.",
)

layers_option = click.option(
    "--layer",
    "layers",
    type=layer_range,
    metavar="N[-M]",
    multiple=True,
    help="Only these layers, such as 3 or 0-12; repeatable.",
)


def selection(layers: tuple[range, ...], model: Model) -> set[int] | None:
    """Return the layers that `--layer` chose, None without it."""
    last = len(model.network.layers) - 1
    if beyond := [chosen for chosen in layers if chosen[-1] > last]:
        raise click.BadParameter(f"layer {beyond[0][-1]}, expected 0 to {last}", param_hint="--layer")
    return set(chain(*layers)) if layers else None


def epsilon_option(default: str | None) -> Callable[[Command], Command]:
    """Return `--epsilon` with a command's own default, None for that of the dialect."""
    by_default = "" if default else " By default that of the dialect's CPU path."
    return click.option(
        "--epsilon",
        type=epsilon,
        metavar="NAME|VALUE[:SIDE]",
        default=default,
        show_default=default is not None,
        help=f"Which ε to assume: a runtime ({', '.join(RUNTIMES)}), or a number, optionally followed by :inside or "
        f":outside (the square root).{by_default}",
    )
