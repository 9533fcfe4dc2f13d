"""Files that are there as a whole or not at all; and parts of files that several threads and processes use."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # on Windows nobody shares
    fcntl = None

_AT_ONCE = 1 << 30  # bytes; Linux reads 2 GB in one call
_place = threading.Lock()  # where the place belongs to the open file, as on Windows, threads take turns


@contextmanager
def whole_file(path: str | os.PathLike[str], shared: bool = False) -> Iterator[Path]:
    """`with whole_file(path) as unfinished:` write `unfinished`, which becomes `path` at the end of the block.

    It lies beside `path`, whose folder is made. Where the block fails it is removed, and `path` stays what it was.

    Args:
        path: of the file.
        shared: several processes may write it at a time, so each needs another name meanwhile. Otherwise the name is
            the same each time, and what a killed process leaves is overwritten by the next.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + (f".{os.getpid()}" if shared else "") + ".unfinished")
    try:
        yield unfinished
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def read_at(file: int, size: int, offset: int) -> bytes:
    """Up to `size` bytes of an open file, fewer at its end only; several threads may read at a time."""
    parts = []
    while size > 0:
        if hasattr(os, "pread"):
            part = os.pread(file, min(size, _AT_ONCE), offset)
        else:
            with _place:
                os.lseek(file, offset, os.SEEK_SET)
                part = os.read(file, min(size, _AT_ONCE))
        if not part:
            break
        parts.append(part)
        size, offset = size - len(part), offset + len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def write_at(file: int, content: Any, offset: int) -> None:
    """All of the bytes, or an OSError."""
    left = memoryview(content).cast("B")
    while left:
        if hasattr(os, "pwrite"):
            written = os.pwrite(file, left, offset)
        else:
            with _place:
                os.lseek(file, offset, os.SEEK_SET)
                written = os.write(file, left)
        left, offset = left[written:], offset + written


@contextmanager
def locked(file: int) -> Iterator[None]:
    """Within, nobody else has this file locked who has opened it by himself. It ends with the process.

    Raises:
        OSError: its file system has no locks.
    """
    if fcntl is None:
        yield
        return
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)


HAS_LOCKS = fcntl is not None


def is_at(file: int, path: str | os.PathLike[str]) -> bool:
    """Whether an open file is the one of that name now."""
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except OSError:
        return False


def close_all(files: Iterable[int]) -> None:
    for file in files:
        os.close(file)
