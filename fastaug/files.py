"""Files that are there as a whole or not at all; and parts of files that several threads and processes use."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import secrets
import shutil
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO, cast

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # on Windows nobody shares
    fcntl = None

_AT_ONCE = 1 << 30  # bytes; Linux reads 2 GB in one call
# For os.open: a symbolic link is an error; and what all files are opened with.
NO_LINKS = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
_SUFFIX = ".unfinished"
_TRIES = 100  # of names nobody else has; the first one will do
_place = threading.Lock()  # where the place belongs to the open file, as on Windows, threads take turns


class DiskFullError(OSError):
    """There is no room for a file; says how many bytes it needs. errno: ENOSPC, or EDQUOT of a quota."""

    def __str__(self) -> str:
        return str(self.strerror)


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """`with whole_file(path) as file:` write bytes to `file`, which becomes `path` at the end of the block.

    Until then it lies beside `path`, whose folder is made, under a name that nobody can know before. Where the block
    fails it is removed, and `path` stays what it was. What killed processes have left of `path` is removed first.

    Raises:
        DiskFullError: no room for it; OSError: it cannot be written. At the end of the block: until then `file` counts
            what it is given. Both name `path`.
    """
    path = Path(path)
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise OSError(errno.EINVAL, "a device, FIFO or socket, of which no file takes the place")
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        unfinished, number = _new_beside(path)
    except OSError as error:
        raise _naming(error, path) from error
    file = _Counting(number)
    try:
        yield cast(BinaryIO, file)
        file.become(unfinished, path)
    except BaseException as error:
        file.release()
        with suppress(OSError):
            unfinished.unlink()
        if error is file.error:
            raise _naming(file.error, path, file.size) from error
        raise
    file.release()


class _Counting(io.RawIOBase):
    """An open file to write, from its start. After the first error it only counts. `close` leaves it open, `release`
    does not.

    Attributes:
        size: bytes that it has, or would have.
        error: the first one.
    """

    def __init__(self, file: int) -> None:
        self._file, self._at, self.size = file, 0, 0
        self.error: OSError | None = None

    def write(self, content: Any) -> int:
        length = memoryview(content).nbytes
        if self.error is None:
            try:
                write_at(self._file, content, self._at)
            except OSError as error:
                self.error = error
        self._at += length
        self.size = max(self.size, self._at)
        return length

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + (0, self._at, self.size)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def become(self, unfinished: Path, path: Path) -> None:
        """Put what was written in its place, for good, or raise the first error."""
        try:
            if self.error is None:
                os.fsync(self._file)
                if fcntl is None:  # Windows moves no open file; elsewhere it stays locked until it is in its place
                    self.release()
                unfinished.replace(path)
        except OSError as error:
            self.error = error
        if self.error is not None:
            raise self.error

    def release(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _naming(error: OSError, path: Path, size: int = 0) -> OSError:
    """The error as one of `path`; of a full disk with the bytes that are needed."""
    if error.errno not in _FULL:
        return OSError(error.errno, error.strerror, str(path))
    room = "but its quota is used up"
    if error.errno == errno.ENOSPC:
        with suppress(OSError):
            room = f"{shutil.disk_usage(path.parent).free:,} are free"
    needs = f"{size:,} bytes" if size else "a new file"
    return DiskFullError(error.errno, f"disk full: {str(path)!r} needs {needs}, {room}. Make room, or write elsewhere.")


def _new_beside(path: Path) -> tuple[Path, int]:
    """An empty file beside `path`, open and locked."""
    for _ in range(_TRIES):
        unfinished = path.with_name(f"{_prefix(path)}{secrets.token_hex(8)}{_SUFFIX}")
        try:
            file = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL | NO_LINKS, 0o666)
        except FileExistsError:
            continue
        if _lock(file) is not False and is_at(file, unfinished):
            return unfinished, file
        os.close(file)  # it was taken for a left one before it was locked
    raise FileExistsError(errno.EEXIST, f"no new name beside it in {_TRIES} tries", str(path))


def _remove_leftovers(path: Path) -> None:
    """What killed processes have left of `path`: nobody has it locked."""
    with suppress(OSError), os.scandir(path.parent) as entries:
        prefix = _prefix(path)
        for entry in entries:
            if not (entry.name.startswith(prefix) and entry.name.endswith(_SUFFIX)):
                continue
            if not entry.is_file(follow_symlinks=False):
                continue
            with suppress(OSError):
                file = os.open(entry.path, os.O_RDWR | NO_LINKS)
                try:
                    if _lock(file) and is_at(file, entry.path):
                        os.unlink(entry.path)
                finally:
                    os.close(file)


def _prefix(path: Path) -> str:
    """With which the names of its unfinished files begin; short, since a name has 255 bytes at most."""
    return f".{hashlib.blake2s(os.fsencode(path.name), digest_size=8).hexdigest()}."


def _lock(file: int) -> bool | None:
    """Whether an open file is locked by this; None: its file system has no locks."""
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    except BlockingIOError:
        return False
    except OSError:
        pass
    return None


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
