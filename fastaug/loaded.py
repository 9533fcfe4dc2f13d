"""What was read from a file, looked at before it is used: all there, of the right type, and one of those there are."""

from __future__ import annotations

import errno
import math
import os
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

from fastaug.text import printable

_LONGEST = 300  # characters of a reason
_OF_THE_FILE = {errno.EINVAL, errno.EOVERFLOW}  # of a place in it that it gives itself


@dataclass(frozen=True)
class Kind:
    """What a value must be; what: that in words."""

    what: str
    fits: Callable[[Any], bool]

    def __or__(self, other: Kind) -> Kind:
        return Kind(f"{self.what} or {other.what}", lambda value: self.fits(value) or other.fits(value))


def whole(least: int = 0, most: int = (1 << 32) - 1) -> Kind:
    return Kind(f"a whole number {least}..{most}", lambda value: type(value) is int and least <= value <= most)


def one_of(*choices: Any) -> Kind:
    what = ", ".join(map(repr, choices))
    return Kind(what, lambda value: any(type(value) is type(choice) and value == choice for choice in choices))


def listed(of: Kind, *lengths: int) -> Kind:
    """A list or tuple; lengths: that it may have, any if there are none."""

    def fits(value: Any) -> bool:
        return isinstance(value, list | tuple) and (not lengths or len(value) in lengths) and all(map(of.fits, value))

    return Kind(f"a list of {of.what}", fits)


def named(of: Kind, by: type = str) -> Kind:
    """A mapping to such values."""
    what = f"{of.what} by {'name' if by is str else 'number'}"
    return Kind(
        what, lambda value: isinstance(value, Mapping) and all(type(k) is by and of.fits(value[k]) for k in value)
    )


ANY = Kind("anything", lambda value: True)
NOTHING = one_of(None)
NUMBER = Kind("a number", lambda value: type(value) in (int, float))
FINITE = Kind("a finite number", lambda value: NUMBER.fits(value) and math.isfinite(value))
TEXT = Kind("a string", lambda value: isinstance(value, str))
TRUTH = one_of(True, False)


def check(
    where: str, content: Any, wanted: Mapping[str, Kind], optional: Mapping[str, Kind] | None = None, of: str = ""
) -> None:
    """That it has these values, and, if they are there, the optional ones.

    Args:
        where: who asks, for errors.
        of: before their names, for errors: "history.".
    Raises:
        ValueError: in one line; it names the value.
    """
    if not isinstance(content, Mapping):
        what = of.removesuffix(".") or "values"
        raise ValueError(f"{where}: expected {what} by name, got {shown(content)}.")
    if missing := [name for name in wanted if name not in content]:
        raise ValueError(f"{where}: expected {of}{missing[0]}, got none.")
    for name, kind in {**wanted, **(optional or {})}.items():
        if name in content and not kind.fits(content[name]):
            raise ValueError(f"{where}: expected {of}{name} as {kind.what}, got {shown(content[name])}.")


def shown(value: object) -> str:
    """In a few characters, whatever it is."""
    if value is None or isinstance(value, bool | float):
        return repr(value)
    if isinstance(value, int):
        return str(value) if value.bit_length() < 128 else f"a number of {value.bit_length():,} bits"
    if isinstance(value, str):
        return repr(value if len(value) < 60 else f"{value[:60]}…")
    return type(value).__name__ + (f" of {len(value)}" if isinstance(value, list | tuple | Mapping) else "")


@contextmanager
def reading(where: str, path: str | os.PathLike[str], wanted: str) -> Iterator[None]:
    """Within, whatever is wrong with the file is one line that names it.

    Args:
        where: who reads.
        wanted: what the file should be.
    Raises:
        ValueError: for every error but those of the system (OSError) and of what is not installed (ImportError).
    """
    try:
        yield
    except ImportError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno not in _OF_THE_FILE:
            raise
        name = f"'{printable(os.fspath(path))}'"
        reason = _reason(error, wanted).removeprefix(f"{where}: ")
        raise ValueError(f"{where}: {reason}{'' if name in reason else f' The file is {name}.'}") from error


def _reason(error: Exception, wanted: str) -> str:
    """In one line; of torch's without the advice to run what is in the file."""
    text = str(error)
    if found := re.search(r"WeightsUnpickler error: ([^\n]*)", text):
        text = found[1]
    elif "weights_only" in text:
        text = text.split(". ")[0]
    text = printable(" ".join(text.split()))
    text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
    if "loading state_dict for " in text:
        text = f"expected a file of this model, got one of another: {text.partition(': ')[2]}"
    elif type(error) is not ValueError:
        text = f"expected {wanted}, got {type(error).__name__}{': ' if text else ''}{text}"
    return text if text.endswith((".", "…")) else f"{text}."


def _compare_checksums(file: BinaryIO) -> None:
    """Of a zip file's members, as far as they have some; torch itself does not.

    Raises:
        zipfile.BadZipFile: one differs.
    """
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as members:
            for member in members.infolist():
                with members.open(member) as content:
                    while member.CRC and content.read(1 << 20):
                        pass
    file.seek(0)


def read_torch(path: str | os.PathLike[str]) -> Any:
    """What torch.save wrote, on the CPU; never runs code from the file.

    Raises:
        OSError: it cannot be opened. Any other error: it is broken.
    """
    import torch

    with open(path, "rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of old formats
        _compare_checksums(file)
        return torch.load(file, map_location="cpu", weights_only=True)
