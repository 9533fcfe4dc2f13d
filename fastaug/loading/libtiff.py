"""What libtiff has against a file: by itself it prints that, without a name, and Pillow says "decoder error -2"."""

from __future__ import annotations

import contextlib
import ctypes
import sys
import threading
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

_HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)  # module, format, va_list
_said = threading.local()


@contextlib.contextmanager
def errors() -> Iterator[list[str]]:
    """Within, what libtiff calls an error in this thread is added to the list instead of printed.

    Where libtiff cannot be asked the list stays empty.
    """
    _install()
    _said.lines = []
    try:
        yield _said.lines
    finally:
        _said.lines = None


@cache
def _install() -> Any:
    """The handler, which has to live as long as the library."""
    try:
        library, vsnprintf = ctypes.CDLL(_path()), ctypes.CDLL(None).vsnprintf
        install = library.TIFFSetErrorHandler
    except (OSError, AttributeError, TypeError, StopIteration):  # another system, or a Pillow without it
        return None
    vsnprintf.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_void_p]
    install.argtypes, install.restype = [_HANDLER], ctypes.c_void_p

    def handle(module: bytes | None, text: bytes, arguments: int | None) -> None:
        lines = getattr(_said, "lines", None)
        if lines is None:  # somebody else's file
            if before:
                _HANDLER(before)(module, text, arguments)
            return
        buffer = ctypes.create_string_buffer(256)
        vsnprintf(buffer, len(buffer), text, arguments)
        where = "" if module in (None, b"tempfile.tif") else f"{module.decode(errors='replace')}: "
        lines.append(f"{where}{buffer.value.decode(errors='replace')}".rstrip("."))

    handler = _HANDLER(handle)
    before = install(handler)
    return handler


def _path() -> str:
    """Of the libtiff that Pillow uses: two of them may be loaded."""
    import PIL._imaging  # loads it

    if sys.platform == "linux":
        with open("/proc/self/maps") as maps:
            found = sorted({line.split()[-1] for line in maps if "/libtiff" in line})
        return next(path for path in [*(one for one in found if "illow" in one), *found])
    return str(next((Path(PIL.__file__).parent / ".dylibs").glob("libtiff*")))


__all__ = ["errors"]
