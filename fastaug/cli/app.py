"""The commands, `fastaug COMMAND`, and what becomes of their errors."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import sys
from collections.abc import Callable
from typing import IO, Annotated, Any

import typer
import typer.main

from fastaug import __version__
from fastaug.cli import interrupt
from fastaug.cli.bench import bench
from fastaug.cli.cache import cache
from fastaug.cli.check import check
from fastaug.cli.demo import demo
from fastaug.cli.errors import WrongOption, one_line
from fastaug.cli.lr_find import lr_find
from fastaug.cli.options import with_source
from fastaug.cli.predict import predict
from fastaug.cli.prepare import prepare
from fastaug.cli.printing import json_alone, notes_as_lines, say_error
from fastaug.cli.show import show
from fastaug.cli.summary import summary
from fastaug.cli.train import train

app = typer.Typer(
    help="Image files to augmented training batches, with one interpolation per image.",
    epilog="Exit code: 0 done; 1 an error, a step that failed, or bad files found; 2 wrong options.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def run() -> None:
    """Parse the command line, do what it says, and end with the exit code."""
    for stream in (sys.stdout, sys.stderr):  # Windows: in a file or a pipe a code page, which may lack "×" or a name
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    stdout = sys.stdout
    try:
        app()
    except SystemExit as end:
        if not isinstance(end.__context__, BrokenPipeError):  # which is an error to typer and to rich
            raise
        _let_go_of(stdout)
    finally:
        try:
            stdout.flush()
        except BrokenPipeError:
            _let_go_of(stdout)


def command(function: Callable[..., None]) -> Callable[..., None]:
    """A command, with its errors as one line on stderr and exit code 1, or 2; with --debug they pass."""

    function = with_source(function)

    @app.command()
    @functools.wraps(function)
    def wrapped(*args: Any, debug: bool = False, **kwargs: Any) -> None:
        try:
            with notes_as_lines(), json_alone(kwargs.get("as_json", False)):
                function(*args, debug=debug, **kwargs)
        except KeyboardInterrupt:
            raise typer.Exit(interrupt.EXIT_CODE) from None
        except BrokenPipeError:  # as of `| head`: who reads has read enough
            _let_go_of(sys.stdout)
        except Exception as error:
            if debug or interrupt.asked() or isinstance(error, typer.Exit):
                raise
            say_error(one_line(error, _parameters(function)))
            raise typer.Exit(2 if isinstance(error, WrongOption) else 1) from None

    return wrapped


def _parameters(function: Callable[..., None]) -> list[Any]:
    group: Any = typer.main.get_command(app)
    parameters: list[Any] = group.commands[function.__name__.replace("_", "-")].params
    return parameters


def _let_go_of(stdout: IO[str]) -> None:
    """What is still to be written is for nobody; Python would complain about it at its end."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stdout.fileno())
        os.close(nowhere)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fastaug {__version__}")
        raise typer.Exit


@app.callback()
def _fastaug(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


for function in (train, predict, lr_find, show, summary, demo, check, prepare, cache, bench):
    command(function)
