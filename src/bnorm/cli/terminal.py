"""The terminal: its width, the characters it can show, colour, and notes on stderr."""

from __future__ import annotations

import os
import shutil
import sys

import click

from bnorm.darknet.model import Model

BARS = "·▁▂▃▄▅▆▇█"  # of a histogram, from an empty bin to the fullest

SPELLINGS = str.maketrans({"ε": "eps", "×": "x", "²": "^2", "→": "->", **dict(zip(BARS, "._:-=+*#@", strict=True))})


def width() -> int:
    """Return the number of columns of the terminal, 80 where stdout is not one."""
    return shutil.get_terminal_size((80, 24)).columns


def spelled(text: str) -> str:
    """Return the text in characters that stdout can encode, where bnorm knows how to spell them."""
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return text.translate(SPELLINGS)
    return text


def styled(text: str, colour: str | None = None, *, bold: bool = False) -> str:
    """Return the text with escape codes, which click.echo removes where stdout is not a terminal.

    NO_COLOR, set to anything but an empty value, asks for none (https://no-color.org).
    """
    return text if os.environ.get("NO_COLOR") else click.style(text, fg=colour, bold=bold or None)


def note(model: Model) -> None:
    """Print on stderr which dialect `--dialect auto` chose and why, where the choice makes a difference."""
    if model.reason:
        click.echo(f"note: dialect {model.dialect.name}: {model.reason}", err=True)
