"""The command `bnorm`: a table of commands, and the one place where an error becomes a message and an exit code.

A command's module is imported when the command is called, so that `bnorm --help` needs nothing but click.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

from bnorm import __version__
from bnorm.errors import BnormError

COMMANDS = {
    "inspect": "Show what a model holds, layer by layer, and whether cfg and weights fit.",
    "run": "Run a layer's batch normalisation on a saved tensor.",
    "fold": "Write a model that computes the same without batch normalisation.",
}

EPILOG = """\b
Exit codes: 0 done; 1 bnorm could not do it; 2 the command line was wrong.
Completion: eval "$(_BNORM_COMPLETE=bash_source bnorm)", or zsh_source, or fish_source."""


class Failure(click.ClickException):
    """Exit code 1, and `error: <path>[:line]: <what is wrong>` on stderr."""

    def show(self, file: Any = None) -> None:
        click.echo(f"error: {self.message}", err=True, file=file)


class Commands(click.Group):
    """The group of `COMMANDS`, each imported when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"bnorm.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except BnormError as error:
            raise Failure(str(error)) from error
        except BrokenPipeError:
            raise  # click ends quietly: the reader has seen enough
        except OSError as error:
            raise Failure(f"{error.filename or 'standard output'}: {(error.strerror or str(error)).lower()}") from error


@click.group(
    cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}, epilog=EPILOG
)
@click.version_option(__version__, prog_name="bnorm")
def main() -> None:
    """Read darknet's .cfg and .weights files, as pjreddie's, AlexeyAB's or hank-ai's fork does.

    \b
    bnorm inspect yolov4.cfg yolov4.weights
    bnorm fold yolov4.cfg yolov4.weights -o folded.weights
    bnorm run yolov4.cfg yolov4.weights --layer 12 --input x.npy -o out
    """
