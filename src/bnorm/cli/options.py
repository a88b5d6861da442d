"""Arguments and options that several commands share, each defined once, and the types of their values.

A type is a function from text to a value that raises click.BadParameter: click.ParamType is a generic class only
since click 8.4.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import click

from bnorm.batchnorm.epsilon import RUNTIMES, Epsilon, parse_epsilon
from bnorm.cli import terminal
from bnorm.darknet.dialects import DIALECTS
from bnorm.darknet.model import Model
from bnorm.darknet.pairing import Pair, cfg_names, pair
from bnorm.darknet.weights import TRAILING
from bnorm.errors import WeightsError
from bnorm.reports.header import inspect_header
from bnorm.statistics.bad_variance import POLICIES

Function = TypeVar("Function", bound=Callable[..., object])

FILE = click.Path(path_type=Path)

STDOUT = Path("-")


class Command(click.Command):
    """A command that refuses an option of one value if it is given twice, instead of using the last value."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not ctx.resilient_parsing:
            _, _, given = self.make_parser(ctx).parse_args(args=list(args))
            for option in given:
                if given.count(option) > 1 and isinstance(option, click.Option) and takes_one_value(option):
                    name = max(option.opts, key=len)
                    raise click.UsageError(f"{name} is given {given.count(option)} times, expected it once", ctx)
        return super().parse_args(ctx, args)


def takes_one_value(option: click.Option) -> bool:
    """Return whether the option has one value, which a second value would replace."""
    return not (option.multiple or option.is_flag or option.count)


# --- types ------------------------------------------------------------------------------------------------------------


def layer_ranges(text: str) -> tuple[range, ...]:
    """Return `3`, `0-12` or a list such as `5,18,20-22` as ranges of layer numbers."""
    return tuple(_layer_range(entry, text) for entry in text.split(","))


def _layer_range(entry: str, text: str) -> range:
    match = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", entry)
    if match is None or int(match[1]) > int(match[2] or match[1]):
        raise click.BadParameter(f"{text!r} is not a layer such as 3, or layers such as 0-12 or 5,18")
    return range(int(match[1]), int(match[2] or match[1]) + 1)


class LayerPart(NamedTuple):
    """A layer's number, and the name of a part of it or an empty text."""

    layer: int
    part: str

    def __str__(self) -> str:
        """Return the text that `layer_part` parses."""
        return f"{self.layer}.{self.part}" if self.part else str(self.layer)


def layer_part(text: str) -> LayerPart:
    """Return `12`, or `3.wf` for a part of a recurrent layer."""
    match = re.fullmatch(r"([0-9]{1,9})(?:\.(.*))?", text)
    if match is None:
        raise click.BadParameter(f"{text!r} is not a layer such as 12, or a part such as 3.wf")
    return LayerPart(layer=int(match[1]), part=match[2] or "")


def layer_parts(text: str) -> tuple[LayerPart, ...]:
    """Return one layer or part, or several separated by commas, without duplicates: `3,5,12`."""
    return tuple(dict.fromkeys(map(layer_part, text.split(","))))


def shape(text: str) -> tuple[int, ...]:
    """Return `8,32,208,208` as a tuple."""
    if not re.fullmatch(r"[0-9]{1,15}(,[0-9]{1,15}){0,9}", text):
        raise click.BadParameter(f"{text!r} is not a shape such as 8,32,208,208")
    return tuple(map(int, text.split(",")))


def memory_size(text: str) -> int:
    """Return `256MiB`, `1G`, or a number of bytes, as bytes."""
    match = re.fullmatch(r"([0-9]{1,15})\s*([kmgt]?)(?:i?b)?", text.strip(), re.IGNORECASE)
    if match is None:
        raise click.BadParameter(f"{text!r} is not a size such as 256MiB")
    return int(match[1]) << 10 * " kmgt".index(match[2].lower() or " ")


class Sorting(NamedTuple):
    """A column to sort by, and whether its smallest value comes first."""

    column: str
    ascending: bool


def sorting(text: str) -> Sorting:
    """Return `gain`, `gain:asc` or `gain:desc`."""
    column, colon, order = text.lower().partition(":")
    if colon and order not in ("asc", "desc"):
        raise click.BadParameter(f"{text!r} is not a column such as gain, gain:asc or gain:desc")
    return Sorting(column=column, ascending=order == "asc")


def epsilon(text: str) -> Epsilon:
    """Return a runtime's ε, or a value and its side of the root: `opencv`, `1e-5`, `1e-6:outside`."""
    try:
        return parse_epsilon(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


# --- arguments and options --------------------------------------------------------------------------------------------

cfg_argument = click.argument("cfg", type=FILE)

weights_argument = click.argument("weights", type=FILE, required=False)


def given_pair(first: Path, second: Path | None, *, needs_weights: bool = False) -> Pair:
    """Return the cfg and the weights among the arguments, and note on stderr if they were swapped or found by name.

    `cfg` is None for weights without a cfg; UsageError if weights are needed but missing.
    """
    files = pair(first, second)
    if files.weights is None and needs_weights:
        raise click.UsageError("Missing argument 'WEIGHTS'.")
    if files.is_swapped:
        terminal.say(f"arguments swapped: {files.cfg} is the cfg, {files.weights} the weights")
    if files.is_named:
        terminal.say(f"cfg {files.cfg}, found by the name of the weights")
    return files


def full_pair(first: Path, second: Path | None) -> tuple[Path, Path]:
    """Return a cfg and weights as `given_pair` does; UsageError or `WeightsError` if one is missing."""
    files = given_pair(first, second, needs_weights=True)
    if files.weights is None or files.cfg is None:
        raise cfg_missing(files.weights or first)
    return files.cfg, files.weights


def cfg_missing(weights: Path) -> WeightsError:
    """Return the error for weights without a cfg; raise another `WeightsError` if the file is not weights."""
    inspect_header(weights)
    what = f"has no cfg of its name beside it or in ../cfg, expected {' or '.join(cfg_names(weights))}"
    return WeightsError(weights, what, cause="give CFG and WEIGHTS")


dialect_option = click.option(
    "--dialect",
    type=click.Choice(["auto", *sorted(DIALECTS)]),
    default="auto",
    show_default=True,
    help="The fork whose file rules apply. auto decides by the names in the cfg, the size and the version.",
)

trailing_option = click.option(
    "--trailing",
    type=click.Choice(TRAILING),
    default="error",
    show_default=True,
    help="What to do with bytes after the last array of WEIGHTS: refuse the file, or read it and keep or drop them in "
    "what is written.",
)

FORMATS = ("table", "json", "csv", "markdown")

SUFFIXES = {".json": "json", ".csv": "csv", ".md": "markdown", ".markdown": "markdown"}


def _keep_setting(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
    """Store an option's value in the context, where the group and the notes read it, and return it."""
    context.meta[f"bnorm.{parameter.name}"] = value
    return value


def _format_option(help_: str, default: str | None) -> Callable[[Function], Function]:
    return click.option(
        "--format",
        "format_",
        type=click.Choice(FORMATS),
        default=default,
        show_default=default is not None,
        help=help_,
        callback=_keep_setting,
    )


format_option = _format_option("Output format.", "table")

report_format_option = _format_option("Output format. By default that of OUTPUT's suffix, or a table.", None)


def report_format(format_: str | None, output: Path | None) -> str:
    """Return the format that was given, that of the output's suffix, or a table."""
    return format_ or SUFFIXES.get(output.suffix.lower() if output else "", "table")


quiet_option = click.option(
    "-q", "--quiet", is_flag=True, expose_value=False, callback=_keep_setting, help="Leave out the notes on stderr."
)

force_option = click.option("--force", is_flag=True, help="Replace existing outputs, but never an input.")

bad_variance_option = click.option(
    "--bad-variance",
    type=click.Choice(POLICIES),
    default="error",
    show_default=True,
    help="What to do about a variance that gives no finite gain, or that is negative by more than rounding leaves: "
    "fail, use the nearest valid variance (NaN becomes 0), or leave the layer unchanged.",
)

layers_option = click.option(
    "--layer",
    "layers",
    type=layer_ranges,
    metavar="N[-M],...",
    multiple=True,
    callback=lambda _context, _parameter, lists: tuple(chain(*lists)),
    help="Only these layers, such as 3, 5,18 or 0-12; repeatable.",
)


def selection(layers: tuple[range, ...], model: Model) -> set[int] | None:
    """Return the layers that `--layer` chose, None without it."""
    last = len(model.network.layers) - 1
    if beyond := [chosen for chosen in layers if chosen[-1] > last]:
        raise click.BadParameter(f"layer {beyond[0][-1]}, expected 0 to {last}", param_hint="--layer")
    return set(chain(*layers)) if layers else None


def epsilon_option(default: str | None, owner: str = "dialect's CPU path") -> Callable[[Function], Function]:
    """Return the option `--epsilon` with this default; None means the default of the `owner`."""
    by_default = "" if default else f" By default that of the {owner}."
    return click.option(
        "--epsilon",
        type=epsilon,
        metavar="NAME|VALUE[:SIDE]",
        default=default,
        show_default=default is not None,
        help=f"Which ε to assume: a runtime ({', '.join(RUNTIMES)}), or a number, optionally followed by :inside or "
        f":outside (the square root).{by_default}",
    )
