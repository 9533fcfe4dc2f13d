"""The bytes of a sample: of a file, or of a member of a tar archive that was indexed before.

A member's path says where it lies: `archive.tar//name@offset+size`. So it is read by its offset, in any order, by any
process, and is a string like any other path.
"""

from __future__ import annotations

import os
import re
import tarfile
import threading
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO, NamedTuple, Self, overload

import numpy as np

from fastaug.files import read_at

IMAGE_EXTENSIONS = (  # of what is decoded
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".ppm", ".pgm", ".pbm", ".pnm", ".bmp", ".tif", ".tiff",
    ".webp", ".jp2", ".j2k", ".jpx", ".gif", ".avif", ".qoi", ".tga", ".ico", ".sgi", ".pcx",
)  # fmt: skip
OPEN_ARCHIVES = 32  # that a Reader keeps open

_BLOCK = tarfile.BLOCKSIZE
MEMBER = re.compile(r"(?P<archive>.+?)//(?P<name>.+)@(?P<offset>\d+)\+(?P<size>\d+)", re.DOTALL)
_ZEROS_AT_ONCE = 1 << 20
_NAMES_AT_ONCE = 1 << 16
_SLASHES = re.compile(r"(?<=.)//+")
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


class Member(NamedTuple):
    """One file in an archive: its name, where its content begins, and how long it is, in bytes."""

    archive: str
    name: str
    offset: int
    size: int

    @property
    def path(self) -> str:
        return f"{self.archive}//{self.name}@{self.offset}+{self.size}"


def read_bytes(path: str) -> bytes | str:
    """The content, or the reason why there is none."""
    with Reader() as reader:
        return reader.read_bytes(path)


class Reader:
    """`read_bytes` for many paths, from many threads: it keeps the archives open that were read last.

    Args:
        most_open: archives kept open, beside those that are being read.
    """

    def __init__(self, most_open: int = OPEN_ARCHIVES) -> None:
        self._most_open = most_open
        self._archives: OrderedDict[str, _Archive] = OrderedDict()  # the latest last
        self._lock = threading.RLock()  # the garbage collector may close this while the same thread holds it

    def read_bytes(self, path: str) -> bytes | str:
        """The content, or the reason why there is none."""
        member = MEMBER.fullmatch(path)
        try:
            if member is None or os.path.exists(path):
                with open(path, "rb", buffering=0) as file:
                    return file.read() or "the file is empty"
            with self._opened(member["archive"]) as archive:
                return _read_member(archive, int(member["offset"]), int(member["size"]))
        except (OSError, ValueError) as error:
            return (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__

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
    def _opened(self, archive: str) -> Iterator[_Archive]:
        with self._lock:
            entry = self._archives.pop(archive, None) or _Archive(archive)
            self._archives[archive] = entry
            entry.users += 1
        try:
            yield entry
        finally:
            with self._lock:
                entry.users -= 1
                self._close_unused()

    def _close_unused(self) -> None:
        unused = [archive for archive, entry in self._archives.items() if not entry.users]
        for archive in unused[: max(len(self._archives) - self._most_open, 0)]:
            self._archives.pop(archive).file.close()


class _Archive:
    """An open archive. users: threads that are reading it."""

    def __init__(self, path: str) -> None:
        self.file, self.users = open(path, "rb", buffering=0), 0  # noqa: SIM115 (the Reader closes it)

    def size(self) -> int:
        return os.fstat(self.file.fileno()).st_size

    def read(self, size: int, offset: int) -> bytes:
        """The bytes there; several threads may read at a time."""
        return read_at(self.file.fileno(), size, offset)


class Stamp(NamedTuple):
    """By which it is seen that a file is another one than before: bytes, and when it or its name was changed last.

    The time is that of the file system in 64 bits, which some files' does not fit into.
    """

    size: int
    time_ns: int


def stamps(paths: Iterable[str]) -> list[Stamp | None]:
    """Of each file, or of the archive that a member lies in; None: it cannot be reached."""
    archives: dict[str, Stamp | None] = {}
    found = []
    for path in paths:
        stamp = _stamp(path)
        if stamp is None and (member := MEMBER.fullmatch(path)) is not None:
            archive = member["archive"]
            if archive not in archives:
                archives[archive] = _stamp(archive)
            stamp = archives[archive]
        found.append(stamp)
    return found


def _stamp(path: str) -> Stamp | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    # Of archives that were unpacked all files have one time, of some formats also one size: ctime notices an exchange
    return Stamp(status.st_size, max(status.st_mtime_ns, status.st_ctime_ns) % 2**64)


def _read_member(archive: _Archive, offset: int, size: int) -> bytes | str:
    """The content, after a look at the header before it: the archive may have been written anew meanwhile."""
    length = archive.size()
    if length < offset + size:
        return f"the archive ends after {max(length - offset, 0):,} of {size:,} bytes"
    field = offset - _BLOCK + 124  # where its header has its size
    try:
        fits = field >= 124 and tarfile.nti(archive.read(12, field)) == size  # type: ignore[attr-defined]
    except tarfile.HeaderError:
        fits = False
    if not fits:
        return f"the archive has no member of {size:,} bytes at byte {offset}: it was changed after it was indexed"
    content = archive.read(size, offset)
    assert len(content) == size, "photos are far below the 2 GB that one call reads"
    return content or "the file is empty"


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
    expected = f"from_tar: expected a whole tar archive that is not compressed, got {name!r}"
    with open(name, "rb") as file:
        start = file.read(8)
        kind = next((kind for magic, kind in _COMPRESSED.items() if start.startswith(magic)), None)
        if kind:
            raise ValueError(
                f"{expected}, compressed with {kind}: nothing within it can be read by itself. Unpack it once; photos "
                "are hardly larger without it."
            )
        begin: int | None = 0
        while begin is not None:  # archives one after the other, as `cat` leaves them
            file.seek(begin)
            try:
                with tarfile.open(fileobj=file, mode="r:") as tar:
                    while (info := tar.next()) is not None:
                        tar.members.clear()  # type: ignore[attr-defined]  # or it would keep every header
                        if info.isreg() and not info.issparse():
                            yield Member(name, info.name, info.offset_data, info.size)
                        elif not info.isdir() and info.name.lower().endswith(IMAGE_EXTENSIONS):
                            raise ValueError(
                                f"from_tar: expected plain files in {name!r}, got {info.name!r}, a link or a sparse "
                                "file. Write the archive with `tar --dereference --hard-dereference`."
                            )
                    end = tar.offset
            except tarfile.TarError as error:
                raise ValueError(f"{expected}: {error}. Copy it again.") from None
            file.seek(end)  # where tarfile found no header, it stops in silence
            if file.read(_BLOCK) != bytes(_BLOCK):
                if begin and end == begin:
                    raise ValueError(
                        f"{expected}, with something after its end at byte {end} that is no archive. Cut it off there."
                    )
                raise ValueError(f"{expected}, with neither a header nor its end at byte {end}. Copy it again.")
            begin = _end_of_zeros(file)


def _end_of_zeros(file: BinaryIO) -> int | None:
    """The block in which there is something again; None: zeros up to the end."""
    while chunk := file.read(_ZEROS_AT_ONCE):
        rest = chunk.lstrip(b"\0")
        if rest:
            return (file.tell() - len(rest)) // _BLOCK * _BLOCK
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
    "IMAGE_EXTENSIONS",
    "MEMBER",
    "Member",
    "MemberPaths",
    "Reader",
    "Stamp",
    "members",
    "names_crc32",
    "narrow",
    "read_bytes",
    "stamps",
]
