"""The command `bnorm`: a table of commands, and the one place where an error becomes a message and an exit code.

A command's module is imported when the command is called, so that `bnorm --help` imports nothing but click.
"""

from __future__ import annotations

import importlib
import io
import os
import signal
import sys
from typing import Any, NoReturn

import click

from bnorm import __version__
from bnorm.errors import BnormError
from bnorm.text import printable

COMMANDS = {
    "inspect": "Show what is in a model, layer by layer or channel by channel.",
    "check": "Check whether cfg and weights fit and are sound, and if not, where and why.",
    "run": "Run a layer's batch normalisation on a saved tensor.",
    "fold": "Write a model that computes the same without batch normalisation.",
    "diff": "Say what is different between two weights files, in one sentence and array by array.",
    "convert": "Write the same model for another fork, another ε or another header.",
    "export": "Write the arrays of a model for NumPy, PyTorch, TensorRT or C.",
    "import": "Write a weights file of arrays from NumPy, PyTorch or another program.",
}

MODULES = {"import": "importing"}  # the module of a command whose name Python reserves

EPILOG = """\b
Exit codes: 0 done; 1 bnorm could not do it; 2 the command line was wrong;
3 check found problems, or diff a difference.
Completion: eval "$(_BNORM_COMPLETE=bash_source bnorm)"
            or with zsh_source, fish_source."""


class Commands(click.Group):
    """The group of `COMMANDS`, each imported when it is called; errors become one or two lines and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"bnorm.cli.{MODULES.get(cmd_name, cmd_name)}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not ctx.resilient_parsing:
            raise click.UsageError(_unknown(args[0]), ctx)
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Print help on stdout for `bnorm` without arguments, with exit code 0: only some versions of click do so."""
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help())
            ctx.exit()
        return super().parse_args(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; if it fails with `--format json`, print an error document, otherwise leave that to `main`."""
        try:
            return super().invoke(ctx)
        except (BnormError, OSError) as error:
            from bnorm.cli import documents, render, terminal

            named = isinstance(error, BnormError) or error.filename is not None  # stdout itself has no name
            if named and ctx.meta.get(terminal.FORMAT) == "json":
                click.echo(render.json_text(documents.error_document(error)), nl=False)
            raise

    def main(self, *args: Any, **kwargs: Any) -> NoReturn:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that temporary files are removed
        if sys.stdout is None:  # closed before the start, which click before 8.2 does not handle
            sys.stdout = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8")
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")  # a terminal that cannot show ε must not cause a failure
        try:
            code = super().main(*args, **kwargs | {"standalone_mode": False})
            if sys.stdout:
                sys.stdout.flush()
        except (BnormError, click.ClickException, click.Abort, OSError) as error:
            code, message = _failure(error)
            click.echo(f"error: {message}", err=True)
        sys.exit(code if isinstance(code, int) else 0)


def _unknown(name: str) -> str:
    """Return the message for a command that does not exist, with the one that was probably meant."""
    from difflib import get_close_matches

    hints = [f" Did you mean {near}?" for near in get_close_matches(name, COMMANDS, n=1)]
    return f"No such command {name!r}.{''.join(hints)}"


def _failure(error: Exception) -> tuple[int, str]:
    """Return the exit code of an error, and its message."""
    if isinstance(error, click.UsageError):
        command = error.ctx.command_path if error.ctx else "bnorm"
        return 2, f"{printable(error.format_message())}\n       see {command} --help"
    if isinstance(error, click.Abort):
        return 1, "interrupted"
    if isinstance(error, OSError):
        name = printable(str(error.filename or "standard output"))
        return 1, f"{name}: {(error.strerror or str(error)).lower()}"
    return 1, str(error)


@click.group(
    cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}, epilog=EPILOG
)
@click.version_option(__version__, prog_name="bnorm")
def main() -> None:
    """Read darknet's .cfg and .weights files as the forks of pjreddie, AlexeyAB and hank-ai do.

    \b
    bnorm check yolov4.cfg yolov4.weights
    bnorm inspect yolov4.cfg yolov4.weights
    bnorm fold yolov4.cfg yolov4.weights -o folded.weights
    bnorm run yolov4.cfg yolov4.weights --layer 12 --input x.npy -o out
    """
