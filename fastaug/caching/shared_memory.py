"""A store in memory that has no name: the processes of a machine that train together share one.

On Linux the first of them makes it and leaves a note; the others open it through /proc. It is there as long as one of
them has it, and gone with the last, however that ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import tempfile
import weakref
from collections.abc import Mapping
from typing import Any, Protocol

from fastaug.caching.index import Header
from fastaug.caching.store import Store
from fastaug.files import close_all

_open: weakref.WeakValueDictionary[str, Store] = weakref.WeakValueDictionary()  # of this process, by settings


class Board(Protocol):
    """Where processes leave each other notes, as torch.distributed's store."""

    def compare_set(self, key: str, expected: str, desired: str) -> bytes:
        """The note there, after it became `desired` if it was `expected`; without one that is ""."""
        ...


def open_memory(settings: Mapping[str, Any], budget: int, board: Board | None) -> Store:
    """The store of these settings that the processes of this machine share.

    Args:
        budget: bytes that may be given out, if it is made here.
        board: of the processes that train together; None: this one is alone.
    """
    name = json.dumps(settings, sort_keys=True)
    store = _open.get(name)
    if store is None:
        store = _made(settings, budget) if board is None else _shared(name, settings, budget, board)
        _open[name] = store
    return store


def _made(settings: Mapping[str, Any], budget: int, shared: bool = False) -> Store:
    files = [_nameless(), _nameless()] if shared else [_nameless()]
    Header(dict(settings), budget, secrets.token_bytes(16)).write(files[0])
    return Store(files, "memory", checked=False)


def _nameless() -> int:
    """A file without a name, in memory where the system has such."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("fastaug-cache", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _shared(name: str, settings: Mapping[str, Any], budget: int, board: Board) -> Store:
    """Opened, if another process has left a note; else made, with a note for the others."""
    if not hasattr(os, "memfd_create"):
        return _made(settings, budget)
    own = _made(settings, budget, shared=True)
    assert own.header is not None, "it was just written"
    key, token = f"fastaug cache {_machine()} {name}", own.header.token.hex()
    note = f"{os.getpid()} {own.files[0]} {own.files[1]} {token}"
    expected = ""
    while (found := board.compare_set(key, expected, note).decode()) != note:
        store = _opened(found)
        if store is not None:
            return store
        expected = found  # who left it has ended
    return own


def _opened(note: str) -> Store | None:
    process, *numbers, token = note.split()
    files: list[int] = []
    try:
        for number in numbers:
            files.append(os.open(f"/proc/{process}/fd/{number}", os.O_RDWR | os.O_CLOEXEC))
        header = Header.read(files[0])
        if header is not None and header.token.hex() == token:
            return Store(files, "memory", checked=False)
    except OSError:
        pass
    close_all(files)
    return None


def _machine() -> str:
    """Which machine, or container: processes of others cannot be seen from here."""
    with contextlib.suppress(OSError), open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return f"{file.read().strip()} {os.stat('/proc/self/ns/pid').st_ino}"
    return "?"
