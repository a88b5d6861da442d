"""What a person sees at a terminal: its width and characters, notes and progress."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from bnorm.darknet.model import Model

BARS = "·▁▂▃▄▅▆▇█"  # of a histogram, from nothing to the most

SPELLINGS = str.maketrans({"ε": "eps", "×": "x", "²": "^2", **dict(zip(BARS, "._:-=+*#@", strict=True))})


def _spelled(text: str) -> str:
    """The text in characters that stdout has."""
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return text.translate(SPELLINGS)
    return text


def note(model: Model) -> None:
    """Say which dialect `--dialect auto` chose, and why."""
    if model.reason:
        click.echo(f"note: dialect {model.dialect.name}: {model.reason}", err=True)


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None] | None]:
    """A bar on stderr for work past a second, where that is a terminal."""
    if not (sys.stderr and sys.stderr.isatty()):
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    begun = time.monotonic()
    with Progress(console=Console(stderr=True), transient=True, auto_refresh=False) as bar:
        task = bar.add_task(what, visible=False)

        def advance(done: int, total: int) -> None:
            if time.monotonic() - begun > 1:
                bar.update(task, completed=done, total=total, visible=True, refresh=True)

        yield advance


def width() -> int:
    """Columns of the terminal; 80 where stdout is none."""
    return shutil.get_terminal_size((80, 24)).columns
