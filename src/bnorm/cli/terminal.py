"""The terminal: its width, the characters it can show, colour, and notes on stderr."""

from __future__ import annotations

import os
import shutil
import sys

import click

from bnorm.cli.sentences import rival_text
from bnorm.darknet.model import Model
from bnorm.text import printable

FORMAT, QUIET = "bnorm.format_", "bnorm.quiet"  # the keys of these options in the `meta` of click's context

BARS = "·▁▂▃▄▅▆▇█"  # of a histogram, from an empty bin to the fullest

SPELLINGS = str.maketrans({"ε": "eps", "×": "x", "²": "^2", "→": "->", **dict(zip(BARS, "._:-=+*#@", strict=True))})


def width() -> int:
    """Return the number of columns of the terminal, 80 if stdout is not a terminal."""
    return shutil.get_terminal_size((80, 24)).columns


def spelled(text: str) -> str:
    """Return the text with characters that stdout cannot encode spelled out, as far as bnorm knows how.

    Python's stdout is None if the process was started without it (`>&-`).
    """
    try:
        text.encode((sys.stdout and sys.stdout.encoding) or "ascii")
    except UnicodeEncodeError:
        return text.translate(SPELLINGS)
    return text


def styled(text: str, colour: str | None = None, *, bold: bool = False) -> str:
    """Return the text with escape codes, which click.echo removes if stdout is not a terminal.

    NO_COLOR with any value except an empty one turns them off (https://no-color.org).
    """
    return text if os.environ.get("NO_COLOR") else click.style(text, fg=colour, bold=bold or None)


def say(text: str) -> None:
    """Print a note on stderr, unless the command was given `--quiet`."""
    context = click.get_current_context(silent=True)
    if not (context and context.meta.get(QUIET)):
        click.echo(f"note: {printable(text)}", err=True)


def fail(error: Exception) -> None:
    """Print an error on stderr."""
    click.echo(f"error: {error}", err=True)


def note(model: Model) -> None:
    """Print on stderr which dialect `--dialect auto` chose and why, if another dialect gives a different answer."""
    if model.rivals:
        say(f"dialect {model.dialect.name}: {'; '.join(rival_text(model, rival) for rival in model.rivals)}")
