"""The docstrings' sections, as the reference pages show them: all but the lists of arguments as paragraphs."""

from __future__ import annotations

import inspect
import re
from typing import Any

from griffe import Extension, Object

PARAGRAPH = re.compile(r"^(Returns|Raises|Yields|Differs from|Source):(?: +|\n +)((?:.+\n?(?: .*\n?)*))", re.MULTILINE)
LIST = re.compile(r"\n*^((?:Args|Attributes):\n(?: .*\n?)+)", re.MULTILINE)


def with_paragraphs(text: str) -> str:
    """A docstring with a blank line around each section, and the names of all but Args and Attributes in bold."""

    def bold(found: re.Match[str]) -> str:
        return f"\n**{found[1]}:** " + re.sub(r"\n +", "\n", found[2]) + "\n"

    text = PARAGRAPH.sub(bold, inspect.cleandoc(text) + "\n")
    return re.sub(r"\n{3,}", "\n\n", LIST.sub(r"\n\n\1\n", text)).strip()


class Docstrings(Extension):
    def on_object(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = with_paragraphs(obj.docstring.value)
