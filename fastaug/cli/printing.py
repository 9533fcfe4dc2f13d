"""What the commands print. Names and reasons come from files: nothing of them reaches a terminal as it is."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import sys
import warnings
from collections.abc import Iterable, Iterator
from typing import IO, Any

import typer

from fastaug.text import printable

_UNITS = ((4, "TB"), (3, "GB"), (2, "MB"), (1, "kB"))
_figures_to: list[IO[str]] = []  # where JSON goes while everything else is for people


def say(line: str, err: bool = False) -> None:
    """A line for people, whatever names are in it, on standard output, or standard error."""
    typer.echo(printable(line), err=err)


def say_row(*cells: str) -> None:
    """A line of a table for programs too, with tabs between its cells."""
    typer.echo("\t".join(map(printable, cells)))


def say_error(text: str) -> None:
    typer.secho(f"error: {printable(text)}", fg="red", err=True)


def in_bytes(count: int) -> str:
    """A number of bytes for people: 5.1 GB."""
    for power, unit in _UNITS:
        if count >= 1000**power:
            return f"{count / 1000**power:,.1f} {unit}"
    return f"{count:,} bytes"


def print_figures(as_json: bool, figures: Any, lines: Iterable[str]) -> None:
    """What came of a command, as JSON or as lines."""
    if as_json:
        print_json(as_json_text(figures, indent=2))
    else:
        for line in lines:
            say(line)


def as_json_text(figures: Any, indent: int | None = None) -> str:
    """For any parser: ASCII, names with escapes for everything else, and null for numbers that are not finite."""
    return json.dumps(_finite(figures), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_json(text: str) -> None:
    typer.echo(text, file=_figures_to[-1] if _figures_to else None)


@contextlib.contextmanager
def json_alone(wanted: bool) -> Iterator[None]:
    """Within, if wanted, only `print_json` reaches standard output; whoever prints otherwise, standard error."""
    if not wanted:
        yield
        return
    _figures_to.append(sys.stdout)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        _figures_to.pop()


@contextlib.contextmanager
def notes_as_lines() -> Iterator[None]:
    """Within, what the library logs and warns of is a line each on standard error, without the place in its code."""
    handler, log, show = _Lines(), logging.getLogger("fastaug"), warnings.showwarning
    log.addHandler(handler)
    logging.getLogger("PIL").addHandler(logging.NullHandler())  # our reasons say the same
    warnings.showwarning = _show_warning
    try:
        yield
    finally:
        log.removeHandler(handler)
        warnings.showwarning = show


@contextlib.contextmanager
def importing_torch() -> Iterator[None]:
    """Around imports that take seconds: a terminal says so meanwhile."""
    told = "importing torch …"
    shown = sys.stderr.isatty() and "torch" not in sys.modules
    if shown:
        typer.echo(told, nl=False, err=True)
    try:
        yield
    finally:
        if shown:
            typer.echo(f"\r{' ' * len(told)}\r", nl=False, err=True)


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        typer.echo(printable(record.getMessage()), err=True)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    say(f"warning: {' '.join(str(message).split())}", err=True)
