"""Faults of storage, as any implementation meets them: what is patched are the calls of `os` and `open`, by path."""

from __future__ import annotations

import builtins
import contextlib
import io
import os
import signal
import stat
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from PIL import Image

import fastaug as fa

Fault = Callable[[str], None]  # of the operation, "open", "read", "list", "stat" or "write": passes, raises or waits
_real_sleep = time.sleep


class TooLong(BaseException):
    """What `within` raises; no code under test catches it."""


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Within, the main thread has so many seconds."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise TooLong(f"it takes longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def fails(number: int, times: float = float("inf"), on: tuple[str, ...] = ("open", "read")) -> Fault:
    """The first so many operations of these fail."""
    left = [times]

    def fault(operation: str) -> None:
        if operation in on and left[0] > 0:
            left[0] -= 1
            raise error(number)

    return fault


def waits(event: threading.Event, on: tuple[str, ...] = ("read",)) -> Fault:
    """Operations of these hang until the event."""

    def fault(operation: str) -> None:
        if operation in on:
            assert event.wait(60), "nobody ended the test"

    return fault


def forbidden(on: tuple[str, ...] = ("read",)) -> Fault:
    """Operations that nobody may try, since they do not end: told as an error that is the storage's of nobody."""

    def fault(operation: str) -> None:
        assert operation not in on, f"there was a {operation} of what cannot be read"

    return fault


class _File:
    """An open file whose operations may fail."""

    def __init__(self, file: Any, storage: Storage, path: str) -> None:
        self.__dict__.update(_file=file, _storage=storage, _path=path)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._file, name)
        if name in ("read", "readinto", "readall", "read1", "readline", "readlines"):

            def read(*arguments: Any) -> Any:
                self._storage.meets(self._path, "read")
                return found(*arguments)

            return read
        if name in ("write", "writelines", "flush", "close"):

            def write(*arguments: Any) -> Any:
                if name == "write":
                    size = len(arguments[0]) if isinstance(arguments[0], str) else memoryview(arguments[0]).nbytes
                    self._storage.writes(self._path, size)
                return found(*arguments)

            return write
        return found

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._file, name, value)

    def __enter__(self) -> _File:
        self._file.__enter__()
        return self

    def __exit__(self, *error: Any) -> Any:
        return self._file.__exit__(*error)

    def __iter__(self) -> Iterator[Any]:
        self._storage.meets(self._path, "read")
        return iter(self._file)

    def __next__(self) -> Any:
        return next(self._file)


class Storage:
    """Files by path whose operations fail; all others are as they are.

    Attributes:
        faults: by path, or by a folder with a slash at its end: of all that is below.
        seen: how often (path, operation) was tried.
        room: by folder with a slash: bytes that may still be written below; then ENOSPC.
        shortest: most bytes that one call of os.read or os.pread gives.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.faults: dict[str, Fault] = {}
        self.seen: Counter[tuple[str, str]] = Counter()
        self.room: dict[str, list[int]] = {}
        self.full = 28  # ENOSPC
        self.shortest: int | None = None
        self.largest_read = 0
        self._lock = threading.Lock()
        self._inside = threading.local()
        real_open = builtins.open

        def named(place: Any) -> str | None:
            """The path, where something is to happen to it."""
            if not (self.faults or self.room) or getattr(self._inside, "busy", False):
                return None
            if isinstance(place, int):
                with contextlib.suppress(OSError):
                    return self._chosen(os.readlink(f"/proc/self/fd/{place}"))
                return None
            try:
                return self._chosen(os.fspath(place))
            except TypeError:
                return None

        def opened(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
            path = named(file)
            if path is None:
                return real_open(file, mode, *arguments, **options)
            if not isinstance(file, int):
                self.meets(path, "open")
            return _File(real_open(file, mode, *arguments, **options), self, path)

        def patched(name: str, operation: str) -> None:
            real = getattr(os, name, None)
            if real is None:
                return

            def call(place: Any = ".", *arguments: Any, **options: Any) -> Any:
                path = named(place)
                if path is not None:
                    if operation == "write":
                        self.writes(path, memoryview(arguments[0]).nbytes if arguments else 0)
                    else:
                        self.meets(path, operation)
                if operation == "read" and name in ("read", "pread") and arguments:
                    self.largest_read = max(self.largest_read, int(arguments[0]))
                    if self.shortest is not None:
                        arguments = (min(arguments[0], self.shortest), *arguments[1:])
                return real(place, *arguments, **options)

            monkeypatch.setattr(os, name, call)

        for name, operation in {
            "open": "open",
            "read": "read",
            "pread": "read",
            "readv": "read",
            "preadv": "read",
            "write": "write",
            "pwrite": "write",
            "scandir": "list",
            "listdir": "list",
            "stat": "stat",
            "lstat": "stat",
        }.items():
            patched(name, operation)
        monkeypatch.setattr(builtins, "open", opened)
        monkeypatch.setattr(io, "open", opened)

    def _chosen(self, path: str | bytes) -> str | None:
        path = os.fsdecode(path)
        if path in self.faults:
            return path
        below = [folder for folder in (*self.faults, *self.room) if folder.endswith("/")]
        return path if any(path.startswith(folder) or path + "/" == folder for folder in below) else None

    def meets(self, path: str, operation: str) -> None:
        with self._lock:
            self.seen[path, operation] += 1
        for place, fault in list(self.faults.items()):
            if path == place or (place.endswith("/") and (path.startswith(place) or path + "/" == place)):
                fault(operation)

    def writes(self, path: str, size: int) -> None:
        self.meets(path, "write")
        for folder, left in self.room.items():
            if path.startswith(folder):
                left[0] -= size
                if left[0] < 0:
                    raise error(self.full)

    def tries(self, path: str) -> int:
        """How often it was tried to open or to read it."""
        return max(self.seen[path, "open"], self.seen[path, "read"])


def shorter_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits between tries that use time.sleep are a tenth as long."""
    monkeypatch.setattr(time, "sleep", lambda seconds: _real_sleep(seconds / 10))


def write_photo(path: Path, number: int = 0, size: tuple[int, int] = (12, 10)) -> Path:
    """A small JPEG of one colour, another one for each number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = (number * 37 % 256, number * 91 % 256, number * 11 % 256)
    Image.new("RGB", size, colour).save(path, "JPEG", quality=95)
    return path


def small_photos(folder: Path, count: int, bad: int = 0, classes: int = 2, every: int | None = None) -> fa.Samples:
    """So many files, of which some are no photos: every so-many-th one from the first on, or spread evenly."""
    content = write_photo(folder / "one.jpg", 3).read_bytes()
    (folder / "one.jpg").unlink()
    rows = {count * i // bad for i in range(bad)} if every is None else set(range(0, every * bad, every))
    paths = []
    for row in range(count):
        path = folder / f"{row:04}.jpg"
        path.write_bytes(b"no photo" if row in rows else content)
        paths.append(str(path))
    return fa.Samples(paths, [row % classes for row in range(count)], [f"c{i}" for i in range(classes)])


def small_loader(samples: fa.Samples, **arguments: Any) -> fa.ImageLoader:
    defaults = {"batch_size": 8, "presize": 8, "device": "cpu", "return_info": True, "num_threads": 2}
    return fa.ImageLoader(samples, **{**defaults, **arguments})


def rows_of(loader: fa.ImageLoader) -> list[int]:
    """Of the samples that an epoch delivers, in their order."""
    return [int(row) for _, _, info in loader for row in info.indices]


def one_line(error: BaseException | str, longest: int = 1200) -> str:
    """The message, which must be one line that can be printed and read."""
    text = str(error)
    assert text.strip(), f"{type(error).__name__} says nothing"
    assert not {"\n", "\r"} & set(text), f"more than a line: {text!r}"
    assert not raw(text), f"unprintable: {text!r}"
    assert len(text) <= longest, f"{len(text)} characters: {text[:300]}"
    return text


def raw(text: str) -> list[str]:
    """The characters that steer a terminal, break a line or stand for bytes; line breaks themselves are none."""
    wrong = {0x7F, 0x061C, 0x200E, 0x200F, 0x2028, 0x2029, *range(0x80, 0xA0), *range(0x202A, 0x202F)}
    wrong |= {*range(0x2066, 0x206A), *(set(range(32)) - {10})}
    return [char for char in text if ord(char) in wrong or 0xD800 <= ord(char) < 0xE000]


def tar_header(
    name: bytes, size: int | bytes, kind: bytes = b"0", link: bytes = b"", checksum: bytes | None = None
) -> bytes:
    """A block of an archive by hand. size: octal as usual; bytes are the field itself."""
    field = b"%011o\0" % size if isinstance(size, int) else size.ljust(12, b"\0")
    assert len(field) == 12
    head = struct.pack("100s8s8s8s", name, b"0000644\0", b"0000000\0", b"0000000\0") + field + b"00000000000\0"
    rest = kind + struct.pack("100s", link) + b"ustar\x0000" + bytes(32 + 32 + 8 + 8 + 155 + 12)
    total = sum(head) + sum(b" " * 8) + sum(rest)
    block = head + (b"%06o\0 " % total if checksum is None else checksum) + rest
    assert len(block) == 512
    return block


def base_256(size: int) -> bytes:
    """The field of a size in binary, as GNU tar writes large ones; negative ones begin with 0xff."""
    return (b"\x80" if size >= 0 else b"\xff") + (size % (1 << 88)).to_bytes(11, "big")


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 512)


def tar_member(name: bytes, content: bytes, size: int | bytes | None = None, kind: bytes = b"0") -> bytes:
    return tar_header(name, len(content) if size is None else size, kind) + padded(content)


def pax(records: dict[str, bytes], kind: bytes = b"x") -> bytes:
    """A header of PAX's, for the member after it."""
    content = b""
    for key, value in records.items():
        rest = b" " + key.encode() + b"=" + value + b"\n"
        length = len(rest)
        while length != len(rest) + len(str(length)):
            length = len(rest) + len(str(length))
        content += str(length).encode() + rest
    return tar_member(b"./PaxHeaders/x", content, kind=kind)


TAR_END = bytes(1024)


def regular(path: Path) -> list[str]:
    """The names in a folder of what are files."""
    return sorted(entry.name for entry in path.iterdir() if stat.S_ISREG(entry.lstat().st_mode))


def threads() -> set[threading.Thread]:
    return set(threading.enumerate())


def gone(before: set[threading.Thread], patience_s: float = 10) -> bool:
    """Whether all threads that were not there before have ended, or do so soon."""
    end = time.monotonic() + patience_s
    while [thread for thread in threading.enumerate() if thread not in before and thread.is_alive()]:
        if time.monotonic() > end:
            return False
        _real_sleep(0.005)
    return True


class In(threading.Thread):
    """`function()` in a thread of its own, which cannot keep the process; `result` is what it returns, or raises."""

    def __init__(self, function: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self.function, self.value, self.failure = function, None, None
        self.start()

    def run(self) -> None:
        try:
            self.value = self.function()
        except BaseException as failure:
            self.failure = failure

    def result(self, seconds: float) -> Any:
        self.join(seconds)
        assert not self.is_alive(), f"it is not done after {seconds} s"
        if self.failure is not None:
            raise self.failure
        return self.value


# Names of classes that steer a terminal, break a table, a plot or a page.
CLASSES = ["\x1b[31mred\x1b[0m\ttab\nline", "$x^{\\frac$ [bold]</script>\x9b31m\u202e\udce9"]
