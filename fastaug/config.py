"""A command's options as a TOML file: written beside its results, and read again by --config."""

from __future__ import annotations

import difflib
import json
import tomllib
from pathlib import Path
from typing import Any

import typer

from fastaug import __version__
from fastaug.files import whole_file
from fastaug.text import printable

# How a command is run rather than what it does: not in the file.
NOT_KEPT = {"config", "resume", "overwrite", "as_json", "debug"}


def write_config(context: typer.Context, path: Path) -> None:
    """Write what the command was called with, defaults included, a line each with its help; the folder is made.

    Options without a value are left out: they have none when the file is read either.
    """
    again = printable(f"fastaug {context.info_name} --config {path} --out FOLDER")
    lines = [f"# fastaug {__version__}. Again: {again}"]
    for parameter in _kept(context.command):
        key, value = _key(parameter), context.params[parameter.name]
        value = tuple(value) if isinstance(value, list) else value  # of an option that may be given several times
        if value is not None and value != ():
            about = getattr(parameter, "help", None)
            lines.append(f"{key} = {_as_toml(value)}" + (f"  # {about}" if about else ""))
    with whole_file(path) as file:
        file.write(("\n".join(lines) + "\n").encode("utf-8", "surrogateescape"))


def use_config(context: typer.Context, path: Path | None) -> Path | None:
    """For `callback` of an eager --config: the file's values become the command's defaults.

    Options on the command line win. A file that cannot be read, an unknown key and a value that is no number, string
    or truth value are an error in one line, with exit code 2, as wrong options are.
    """
    if path is None or context.resilient_parsing:
        return path
    try:
        context.default_map = _read(path, context.command)
    except (OSError, ValueError) as error:  # what TOML and UTF-8 have against a file are ValueErrors
        line = f"error: --config {path}: {' '.join(str(error).split())}"
        typer.secho(printable(line), fg="red", err=True)
        raise typer.Exit(2) from None
    return path


def _as_toml(value: Any) -> str:
    """One value. Of text what would steer a terminal is escaped; bytes of names that are not UTF-8 stay what they are.

    TOML's strings are JSON's, but for DEL, which must be escaped, and halves of surrogate pairs, which must not.
    """
    if isinstance(value, float):
        return repr(value)  # inf and nan too
    text = json.dumps(value if isinstance(value, bool | int | tuple) else str(value), ensure_ascii=False)
    return "".join(c if c.isprintable() or "\ud800" <= c <= "\udfff" else f"\\U{ord(c):08x}" for c in text)


def _kept(command: Any) -> list[Any]:
    """The parameters that are in the file."""
    return [parameter for parameter in command.params if parameter.name not in NOT_KEPT]


def _key(parameter: Any, option: int = 0) -> str:
    """Its name there: valid-fraction for --valid-fraction."""
    return str(parameter.opts[option].removeprefix("--"))


def _read(path: Path, command: Any) -> dict[str, Any]:
    kept = _kept(command)
    known = {_key(p, i): p for p in kept for i in range(len(p.opts)) if len(p.opts[i]) > 2}  # also by earlier names
    values: dict[str, Any] = {}
    for key, value in tomllib.loads(path.read_text(encoding="utf-8", errors="surrogateescape")).items():
        if key not in known:
            close = difflib.get_close_matches(key, known, 1)
            hint = f"Did you mean {close[0]!r}?" if close else f"There are: {', '.join(map(_key, kept))}."
            raise ValueError(f"expected options of 'fastaug {command.name}', got the unknown {key!r}. {hint}")
        if getattr(known[key], "multiple", False) and isinstance(value, str | list):
            values[known[key].name] = [str(one) for one in (value if isinstance(value, list) else [value])]
            continue
        if not isinstance(value, str | bool | int | float):
            raise ValueError(f"expected a number, a string, true or false for {key!r}, got {value!r}.")
        values[known[key].name] = str(value)  # as on the command line: 2.5 epochs are an error, not 2
    return values
