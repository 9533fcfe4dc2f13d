"""Names and reasons as text that can be printed."""

from __future__ import annotations

import re

# Controls (C0, DEL, C1), the two separators that break lines, what turns the direction of text, and halves of surrogate
# pairs, which stand for the bytes of names that are not UTF-8.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""The text with escapes, as `repr` writes them, for what would break a line or steer a terminal: \n, \x1b, \udce9.

    For names of files and classes, and reasons, wherever they meet a terminal, a log, a table or a picture. Everything
    else stays, the backslash included, so it is for eyes: it cannot be turned back.
    """
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


__all__ = ["printable"]
