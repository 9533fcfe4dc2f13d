"""What becomes of an error: one line, in the words of the command line."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_VALUE = r"('[^']*'|\"[^\"]*\"|[^\s,;:()'\"]*[^\s,;:().'\"])"
# Advice that only Python's callers can follow, after some that others can.
_FOR_PYTHON = re.compile(r",? or (?:pass|use|raise) (?:\w+=(?:'[^']*'|\w+)|[a-z]+(?:_[a-z]+)+)(?=\.)")


class WrongOption(ValueError):
    """Options that do not fit what there is; the exit code is 2, as of those that cannot be parsed."""


def one_line(error: Exception, parameters: Iterable[Any] = ()) -> str:
    """The error's message without line breaks; its kind in front where the message alone might say nothing.

    Args:
        error: of any kind.
        parameters: typer's, of the command: arguments of Python are called by the options that set them.
    """
    message = in_options(" ".join(str(error).split()), parameters)
    clear = isinstance(error, ValueError | TypeError | ImportError | RuntimeError | OSError)
    return message if clear and message else f"{type(error).__name__}: {message}".rstrip(": ")


def in_options(message: str, parameters: Iterable[Any]) -> str:
    """`device='cpu'` as --device cpu, `valid_fraction` as --valid-fraction.

    A name of one word alone stays: "model" is one in most sentences.
    """
    for parameter in parameters:
        name, option = parameter.name, parameter.opts[0]
        if not option.startswith("--"):
            continue
        switches = {"True": option, **({"False": parameter.secondary_opts[0]} if parameter.secondary_opts else {})}

        def written(found: re.Match[str], option: str = option, switches: dict[str, str] = switches) -> str:
            value = found[1].strip("'\"")
            return switches.get(value) or f"{option} {value or repr(value)}"

        message = re.sub(rf"(?<![-\w/.'\"]){name}={_VALUE}", written, message)
        message = re.sub(rf"(?<![-\w/.'\"]){name}=(?=[\s.,])", option, message)
        if "_" in name:
            message = re.sub(rf"(?<![-\w/'.]){name}\b(?![=/'.]\w)", option, message)
    return _FOR_PYTHON.sub("", message)


def results_in(out: Path) -> list[Path]:
    """What a training leaves in its folder, of what somebody might miss: from the end of the first epoch on."""
    return [out / name for name in ("model.safetensors", "checkpoint.pth", "history.json")]


def refuse_to_overwrite(option: str, files: Iterable[Path], overwrite: bool, otherwise: str = "") -> None:
    """Before the work: an error where one of these files is there and it was not said to overwrite it.

    Args:
        option: that names the file or folder.
        otherwise: what else may be done.
    Raises:
        WrongOption: there is one.
    """
    there = [file for file in files if file.exists()]
    if there and not overwrite:
        raise WrongOption(
            f"{option}: expected a new file, got '{there[0]}', which is there already. Give another {option}"
            f"{otherwise}, or --overwrite."
        )
