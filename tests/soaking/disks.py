"""Disks that are small and get full."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

_WRITING = ("write", "pwrite", "writev", "pwritev", "ftruncate", "posix_fallocate", "fsync", "fdatasync")
_DETACH = 2  # at once, whoever uses it


def unmount_all(folder: Path) -> None:
    """Those in a folder that killed processes have left."""
    for line in Path("/proc/mounts").read_text().splitlines():
        if line.split()[1].startswith(f"{folder}/"):
            ctypes.CDLL(None).umount2(os.fsencode(line.split()[1]), _DETACH)


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Callable[[bool], None]]:
    """Make a disk of so many bytes of a folder. Yields a function: whether all that is left of it is to be used up.

    Where nobody may mount one, what writes into the folder is told that it is full when it is to be.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"soak", os.fsencode(folder), b"tmpfs", 0, f"size={size}".encode()):
        with _told_full(folder) as fill:
            yield fill
        return
    filler = folder / "full"

    def fill(full: bool) -> None:
        filler.unlink(missing_ok=True)
        if full:
            with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))

    try:
        yield fill
    finally:
        if libc.umount2(os.fsencode(folder), _DETACH):
            raise OSError(ctypes.get_errno(), f"umount {folder}")


@contextlib.contextmanager
def _told_full(folder: Path) -> Iterator[Callable[[bool], None]]:
    full = [False]

    def telling(call: Callable[..., Any]) -> Callable[..., Any]:
        def called(file: int, *arguments: Any) -> Any:
            if full[0] and os.readlink(f"/proc/self/fd/{file}").startswith(str(folder)):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return call(file, *arguments)

        return called

    with contextlib.ExitStack() as undo:
        for name in _WRITING:
            undo.callback(setattr, os, name, getattr(os, name))
            setattr(os, name, telling(getattr(os, name)))
        yield lambda now: full.__setitem__(0, now)
