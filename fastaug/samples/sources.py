"""The bytes of a sample: of a file, or of a member of a tar archive that was indexed before.

A member's path says where it lies: `archive.tar//name@offset+size`. So it is read by its offset, in any order, by any
process, and is a string like any other path.
"""

from __future__ import annotations

import errno
import math
import os
import re
import stat
import threading
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple, Self, overload

import numpy as np

from fastaug.files import read_at
from fastaug.samples.storage import StorageReason, is_the_storages, retried
from fastaug.samples.tar import Member, entries, is_member
from fastaug.text import cut

IMAGE_EXTENSIONS = (  # of what is decoded
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".ppm", ".pgm", ".pbm", ".pnm", ".bmp", ".tif", ".tiff",
    ".webp", ".jp2", ".j2k", ".jpx", ".gif", ".avif", ".qoi", ".tga", ".ico", ".sgi", ".pcx",
)  # fmt: skip
OPEN_ARCHIVES = 32  # that a Reader keeps open
MAX_FILE_BYTES = 2 << 30  # larger files are not read
EMPTY = "the file is empty"

MEMBER = re.compile(r"(?P<archive>.+?)//(?P<name>.+)@(?P<offset>\d+)\+(?P<size>\d+)", re.DOTALL)
_READ_AT_ONCE = 1 << 20
_NAMES_AT_ONCE = 1 << 16
_SLASHES = re.compile(r"(?<=.)//+")
_KINDS = {
    stat.S_IFIFO: "a FIFO", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a folder (directory)",
}  # fmt: skip
# A FIFO that nobody writes to is opened at once, and a terminal does not become the process's own.
_READING = os.O_RDONLY
for _flag in ("O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC", "O_BINARY", "O_NOINHERIT"):
    _READING |= getattr(os, _flag, 0)


def read_bytes(path: str) -> bytes | str:
    """The content, or the reason why there is none."""
    with Reader() as reader:
        return reader.read_bytes(path)


def content_of(path: str, caller: str, read: Callable[[str], bytes | str] = read_bytes) -> bytes:
    """The content of a file that nothing works without; it may be empty.

    Args:
        read: what reads it.
    Raises:
        OSError: it cannot be read.
    """
    content = read(path)
    if isinstance(content, bytes) or content == EMPTY:
        return content if isinstance(content, bytes) else b""
    raise OSError(f"{caller}: could not read {cut(path, 300)}: {content}. See to it, and try again.")


class Reader:
    """`read_bytes` for many paths, from many threads: it keeps the archives open that were read last.

    Args:
        most_open: archives kept open, beside those that are being read.
        max_bytes: larger files are not read.
        timeout_s: after so long the storage is not tried again.
        stopped: nor once this is set.
    """

    def __init__(
        self,
        most_open: int = OPEN_ARCHIVES,
        max_bytes: int = MAX_FILE_BYTES,
        timeout_s: float | None = None,
        stopped: threading.Event | None = None,
    ) -> None:
        self._most_open, self._max_bytes = most_open, max_bytes
        self._timeout_s, self._stopped = math.inf if timeout_s is None else timeout_s, stopped
        self._archives: OrderedDict[str, _Archive] = OrderedDict()  # the latest last
        self._lock = threading.RLock()  # the garbage collector may close this while the same thread holds it

    def read_bytes(self, path: str) -> bytes | str:
        """The content, or the reason why there is none: a StorageReason where it is not the file's fault."""
        began = time.monotonic()
        try:
            try:
                return self._read(path)
            except (OSError, MemoryError) as error:
                return retried(partial(self._read, path), self._stopped, began + self._timeout_s, error)
        except (OSError, ValueError, MemoryError) as error:
            reason = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
            return StorageReason(reason) if is_the_storages(error) else reason

    def _read(self, path: str) -> bytes | str:
        member = MEMBER.fullmatch(path)
        if member is None or _exists(path):
            return _read_file(path, self._max_bytes)
        offset, size = int(member["offset"]), int(member["size"])
        if size > self._max_bytes:
            return _too_large(f"{size:,} bytes", self._max_bytes)
        with self._opened(member["archive"]) as archive:
            return _read_member(archive, offset, size)

    def close(self) -> None:
        """Close every archive; one that is being read, after that."""
        with self._lock:
            self._most_open = 0
            self._close_unused()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @contextmanager
    def _opened(self, name: str) -> Iterator[_Archive]:
        """An archive. Where reading it fails it is opened anew the next time: what is open may be stale."""
        with self._lock:
            archive = self._archives.get(name)
            if archive is not None:
                archive.users += 1
                self._archives.move_to_end(name)
        if archive is None:
            opened = _Archive(name)  # without the lock: it may take its time
            with self._lock:
                archive = self._archives.setdefault(name, opened)
                archive.users += 1
            if archive is not opened:  # another thread was faster
                opened.file.close()
        try:
            yield archive
        except OSError:
            with self._lock:
                if self._archives.get(name) is archive:
                    del self._archives[name]
            raise
        finally:
            with self._lock:
                archive.users -= 1
                if not archive.users and self._archives.get(name) is not archive:
                    archive.file.close()
                self._close_unused()

    def _close_unused(self) -> None:
        unused = [archive for archive, entry in self._archives.items() if not entry.users]
        for archive in unused[: max(len(self._archives) - self._most_open, 0)]:
            self._archives.pop(archive).file.close()


def _open_file(path: str) -> tuple[int, int]:
    """A descriptor of a regular file, and its bytes. Of nothing else is the opening waited for."""
    try:
        file = os.open(path, _READING)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket
            _check_regular(os.stat(path))
        raise
    try:
        status = os.fstat(file)
        _check_regular(status)
    except BaseException:
        os.close(file)
        raise
    return file, status.st_size


def _check_regular(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{_KINDS.get(stat.S_IFMT(status.st_mode), 'something else')}, not a file")


def _read_file(path: str, max_bytes: int) -> bytes | str:
    file, size = _open_file(path)
    try:
        if size > max_bytes:
            return _too_large(f"{size:,} bytes", max_bytes)
        content = os.read(file, size + 1)
        if len(content) != size:  # cut off by a signal or above 2 GB; or the file says another size than it has
            content = _read_on(file, content, max_bytes)
    finally:
        os.close(file)
    if len(content) > max_bytes:
        return _too_large(f"more than {max_bytes:,} bytes", max_bytes)
    return content or EMPTY


def _read_on(file: int, content: bytes, max_bytes: int) -> bytes:
    """The content of a file that begins so and is read up to there; a little more than `max_bytes` at most."""
    parts, read = [content], len(content)
    while read <= max_bytes and (part := os.read(file, _READ_AT_ONCE)):
        parts.append(part)
        read += len(part)
    return b"".join(parts)


def _too_large(what: str, max_bytes: int) -> str:
    return f"{what}, and files of more than {max_bytes:,} are not read (max_file_bytes)"


def _exists(path: str) -> bool:
    """os.path.exists, but that it does not say no where the storage stumbles."""
    try:
        os.stat(path)
    except (OSError, ValueError) as error:
        if is_the_storages(error):
            raise
        return False
    return True


class _Archive:
    """An open archive. users: threads that are reading it."""

    def __init__(self, path: str) -> None:
        self.file, self.users = os.fdopen(_open_file(path)[0], "rb", buffering=0), 0

    def size(self) -> int:
        return os.fstat(self.file.fileno()).st_size

    def read(self, size: int, offset: int) -> bytes:
        """The bytes there, up to the archive's end; several threads may read at a time."""
        return read_at(self.file.fileno(), size, offset)


class Stamp(NamedTuple):
    """By which it is seen that a file is another one than before: bytes, and when it or its name was changed last.

    The time is that of the file system in 64 bits, which some files' does not fit into.
    """

    size: int
    time_ns: int


def stamps(paths: Iterable[str], strict: bool = False) -> list[Stamp | None]:
    """Of each file, or of the archive that a member lies in; None: it cannot be reached.

    Args:
        strict: None is only what is not there.
    Raises:
        OSError: strict, and the storage does not say.
    """
    archives: dict[str, Stamp | None] = {}
    found = []
    for path in paths:
        stamp = _stamp(path, strict)
        if stamp is None and (member := MEMBER.fullmatch(path)) is not None:
            archive = member["archive"]
            if archive not in archives:
                archives[archive] = _stamp(archive, strict)
            stamp = archives[archive]
        found.append(stamp)
    return found


def _stamp(path: str, strict: bool) -> Stamp | None:
    try:
        status = retried(lambda: os.stat(path)) if strict else os.stat(path)
    except (OSError, ValueError) as error:
        if strict and is_the_storages(error):
            raise
        return None
    # Of archives that were unpacked all files have one time, of some formats also one size: ctime notices an exchange
    return Stamp(status.st_size, max(status.st_mtime_ns, status.st_ctime_ns) % 2**64)


def _read_member(archive: _Archive, offset: int, size: int) -> bytes | str:
    """The content, after a look at the header before it: the archive may have been written anew meanwhile."""
    length = archive.size()
    if length < offset + size:
        return f"the archive ends after {max(length - offset, 0):,} of {size:,} bytes"
    if not is_member(archive.read, offset, size):
        return f"the archive has no member of {size:,} bytes at byte {offset}: it was changed after it was indexed"
    content = archive.read(size, offset)
    if len(content) < size:
        return f"the archive ends after {len(content):,} of {size:,} bytes"
    return content or EMPTY


class MemberPaths(Sequence[str]):
    """Paths of members, made when they are asked for: at most 15 bytes each and the name, where a list takes 100 more.

    Args:
        archives: paths of the archives.
        columns: in the order of `COLUMNS`. archive, offset, size: of each member; integers [N]. ends: where the name of
            each ends within `names`; integers [N]. names: UTF-8, one after the other; uint8.
    """

    COLUMNS = ("archive", "offset", "size", "ends", "names")

    def __init__(self, archives: list[str], *columns: np.ndarray) -> None:
        self.archives = archives
        self._archive, self._offset, self._size, self._ends, self._names = map(narrow, columns)

    @classmethod
    def of(cls, members: Iterable[Member]) -> MemberPaths:
        numbers: dict[str, int] = {}
        columns, names, ends = [], bytearray(), []
        for member in members:
            columns.append((numbers.setdefault(member.archive, len(numbers)), member.offset, member.size))
            names += member.name.encode("utf-8", "surrogateescape")
            ends.append(len(names))
        archive, offset, size = np.array(columns, np.int64).reshape(-1, 3).T
        return cls(list(numbers), archive, offset, size, np.array(ends, np.int64), np.frombuffer(names, np.uint8))

    def take(self, rows: Sequence[int]) -> MemberPaths:
        """Those of some rows, in this order."""
        chosen = np.asarray(rows, np.int64)
        names = [self._name(row) for row in chosen.tolist()]
        ends = np.cumsum([len(name) for name in names], dtype=np.int64)
        archive, offset, size = self._archive[chosen], self._offset[chosen], self._size[chosen]
        return MemberPaths(self.archives, archive, offset, size, ends, np.frombuffer(b"".join(names), np.uint8))

    def first_rows(self) -> list[int] | None:
        """For each row the first one of the same member; None: every row is its own."""
        _, first, number = np.unique(
            np.stack([self._archive.astype(np.int64), self._offset.astype(np.int64)]), True, True, axis=1
        )
        return first[number.ravel()].tolist() if len(first) < len(self) else None

    def columns(self) -> dict[str, np.ndarray]:
        """The arrays that `MemberPaths` takes, by name."""
        return {name: getattr(self, f"_{name}") for name in self.COLUMNS}

    def name(self, row: int) -> str:
        """Of a member within its archive."""
        return self._name(row).decode("utf-8", "surrogateescape")

    def _name(self, row: int) -> bytes:
        start = int(self._ends[row - 1]) if row else 0
        return self._names[start : int(self._ends[row])].tobytes()

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> MemberPaths: ...
    def __getitem__(self, index: int | slice) -> str | MemberPaths:
        row = range(len(self))[index]
        if isinstance(row, range):
            return self.take(row)
        name = self.name(row)
        return Member(self.archives[self._archive[row]], name, self._offset[row], self._size[row]).path

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # as a list

    def __add__(self, other: Sequence[str]) -> list[str]:
        return [*self, *other]

    def __repr__(self) -> str:
        return f"MemberPaths({len(self):,} members of {len(self.archives):,} archives)"


def narrow(column: np.ndarray) -> np.ndarray:
    """Numbers from 0 on in as few bytes as the largest of them needs."""
    return column.astype(np.min_scalar_type(int(column.max(initial=0))), copy=False)


def members(archive: str | os.PathLike[str]) -> Iterator[Member]:
    """The files of a tar archive, in its order. Only headers are read, the content is skipped.

    Raises:
        FileNotFoundError: no such archive. ValueError: not a tar archive, a compressed one, or one that is cut off or
            damaged; an image in it that is a link.
    """
    name = _SLASHES.sub("/", os.fspath(archive))  # the first "//" of a member's path is where its name begins
    try:
        opened = retried(partial(_Archive, name))
    except ValueError as error:
        raise ValueError(f"from_tar: expected a tar archive, got {name!r}, which is {error}. Check the path.") from None

    def read(size: int, offset: int) -> bytes:
        return retried(partial(opened.read, size, offset))

    with opened.file:
        for member, plain in entries(name, read, opened.size()):
            if plain:
                yield member
            elif member.name.lower().endswith(IMAGE_EXTENSIONS):
                raise ValueError(
                    f"from_tar: expected plain files in {name!r}, got {cut(member.name, 300)}, a link or a sparse "
                    "file. Write the archive with `tar --dereference --hard-dereference`."
                )


def file_of(path: str) -> str:
    """The file, or the archive that a member lies in."""
    member = MEMBER.fullmatch(path)
    return member["archive"] if member and not os.path.exists(path) else path


def first_outside(root: str | os.PathLike[str], paths: Iterable[str]) -> int | None:
    """The row of the first path, with `root` before it or absolute, that is not within it as names go; links are not
    followed."""
    start, within = os.path.join(root, ""), os.path.join(os.path.abspath(root), "")
    for row, path in enumerate(paths):
        plain = start and path.startswith(start) and path.find("..", len(start)) < 0
        if not plain and not os.path.abspath(file_of(path)).startswith(within):
            return row
    return None


def names_crc32(paths: Sequence[str]) -> int:
    """A checksum of the files' names in their order, below the folder that holds them all: they may move together."""
    if not paths:
        return 0
    same = os.path.commonprefix([min(paths), max(paths)])  # noqa: RUF071 (which is cut at a separator)
    start = same.rfind(os.sep) + 1
    crc = 0
    for block in range(0, len(paths), _NAMES_AT_ONCE):
        names = "\0".join([path[start:] for path in paths[block : block + _NAMES_AT_ONCE]]) + "\0"
        crc = zlib.crc32(names.replace(os.sep, "/").encode("utf-8", "surrogatepass"), crc)
    return crc


__all__ = [
    "EMPTY",
    "IMAGE_EXTENSIONS",
    "MAX_FILE_BYTES",
    "MEMBER",
    "Member",
    "MemberPaths",
    "Reader",
    "Stamp",
    "content_of",
    "file_of",
    "first_outside",
    "members",
    "names_crc32",
    "narrow",
    "read_bytes",
    "stamps",
]
