"""Ctrl-C: one line and exit code 130, whatever the program is doing."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

EXIT_CODE = 130  # as shells say it: 128 and the number of SIGINT
_state = {"asked": False}


def asked() -> bool:
    """Whether the end was asked for: an error after that may be what a library made of it."""
    return _state["asked"]


@contextlib.contextmanager
def answered() -> Iterator[None]:
    """Within, the first Ctrl-C unwinds what is under way, so that unfinished files go; the second one ends at once.

    When it is unwound the process ends here: the threads that are left have nothing to finish.
    """
    signal.signal(signal.SIGINT, _interrupt)
    try:
        yield
    except BaseException:
        if not asked():
            raise
    if asked():
        _leave()


def _interrupt(*_: Any) -> None:
    if asked():
        _leave()
    _state["asked"] = True
    raise KeyboardInterrupt


def _leave() -> None:
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    with contextlib.suppress(OSError, ValueError):
        print("\rinterrupted" if sys.stderr.isatty() else "interrupted", file=sys.stderr, flush=True)  # over the "^C"
    os._exit(EXIT_CODE)
