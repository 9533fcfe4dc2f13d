"""Names, reasons and settings as text that can be printed, and as tables that a notebook shows."""

from __future__ import annotations

import html
import os
import re
from collections.abc import Iterable, Mapping, Sequence

# Controls (C0, DEL, C1), the two separators that break lines, what turns the direction of text, and halves of surrogate
# pairs, which stand for the bytes of names that are not UTF-8.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""The text with escapes, as `repr` writes them, for what would break a line or steer a terminal: \n, \x1b, \udce9.

    For names of files and classes, and reasons, wherever they meet a terminal, a log, a table or a picture. Everything
    else stays, the backslash included, so it is for eyes: it cannot be turned back.
    """
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def short(name: str, letters: int = 60) -> str:
    """`printable`, of a long name its beginning: for tables and lists of names."""
    shown = printable(name)
    return shown if len(shown) <= letters else f"{shown[: letters - 1]}…"


def cut(value: object, letters: int = 100) -> str:
    """`repr` of a value out of a file, for errors: of a long one its beginning."""
    shown = repr(value)
    return shown if len(shown) <= letters else f"{shown[:letters]}…"


def kind_of(value: object) -> str:
    """For errors: a path or string with its text, the type of everything else."""
    if not isinstance(value, str | os.PathLike):
        return type(value).__name__
    return f"the {'string' if isinstance(value, str) else 'path'} {os.fspath(value)!r}"


def described(name: str, settings: Mapping[str, object]) -> str:
    """For `repr`: name(setting=value, …), in one line."""
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in settings.items())})"


def html_table(heading: str, rows: Iterable[Sequence[object]], header: Sequence[str] = ()) -> str:
    """For `_repr_html_`: a table below a line of text; of names from files nothing becomes markup."""

    def line(cells: Sequence[object], tag: str) -> str:
        texts = (html.escape(printable(str(cell))) for cell in cells)
        return "<tr>" + "".join(f'<{tag} style="text-align: left">{text}</{tag}>' for text in texts) + "</tr>"

    lines = [*([line(header, "th")] if header else []), *(line(row, "td") for row in rows)]
    caption = f'<caption style="text-align: left">{html.escape(printable(heading))}</caption>'
    return f"<table>{caption}{''.join(lines)}</table>"


__all__ = ["cut", "described", "html_table", "kind_of", "printable", "short"]
