"""The commands, `fastaug COMMAND`, and what becomes of their errors."""

from __future__ import annotations

import functools
import io
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from fastaug import __version__
from fastaug.cli.bench import bench
from fastaug.cli.check import check
from fastaug.cli.demo import demo
from fastaug.cli.lr_find import lr_find
from fastaug.cli.predict import predict
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


def main() -> None:
    for stream in (sys.stdout, sys.stderr):  # Windows: in a file or a pipe a code page, which may lack "×" or a name
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    app()


def command(function: Callable[..., None]) -> Callable[..., None]:
    """A command, with its errors as one line on stderr and exit code 1; with --debug they pass."""

    @app.command()
    @functools.wraps(function)
    def wrapped(*args: Any, debug: bool = False, **kwargs: Any) -> None:
        try:
            function(*args, debug=debug, **kwargs)
        except Exception as error:
            if debug or isinstance(error, typer.Exit):
                raise
            typer.secho(f"error: {_one_line(error)}", fg="red", err=True)
            raise typer.Exit(1) from None

    return wrapped


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


def _one_line(error: Exception) -> str:
    """The error's message without line breaks; its kind in front where the message alone might say nothing."""
    message = " ".join(str(error).split())
    clear = isinstance(error, ValueError | TypeError | ImportError | RuntimeError | OSError)
    return message if clear and message else f"{type(error).__name__}: {message}".rstrip(": ")


for function in (train, predict, lr_find, show, summary, demo, check, bench):
    command(function)
