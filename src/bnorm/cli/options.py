"""Arguments and options that several commands share, each defined once."""

from __future__ import annotations

from pathlib import Path

import click

from bnorm.dialects import DIALECTS

FILE = click.Path(path_type=Path)

cfg_argument = click.argument("cfg", type=FILE)
weights_argument = click.argument("weights", type=FILE)
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

    def convert(self, value: str | range, param: click.Parameter | None, ctx: click.Context | None) -> range:
        if isinstance(value, range):
            return value
        first, dash, last = value.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or len(value) > 20:
            self.fail(f"{value!r} is not a layer such as 3, or layers such as 0-12", param, ctx)
        return range(int(first), int(last if dash else first) + 1)
