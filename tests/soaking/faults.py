"""Storage that fails: errors, short reads and calls that hang, in place of opening, reading and asking for some files.

It is done by stand-ins for the calls of Python that every way of reading goes through, so it does not matter which one
is taken.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import io
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

ERRORS = [errno.EIO, errno.ESTALE, errno.EMFILE, errno.ETIMEDOUT, errno.ENOMEM, errno.ECONNRESET, errno.EINTR]
CALLS = ["open", "read", "stat"]
MOST = 3  # errors that come before a file is read: there are four tries


class Faults:
    """What befalls which files, by path.

    Args:
        passing: of each the errors (call, number) that come one after the other: the next call of that name raises it.
        lasting: the number of the error that opening it and asking for it always have.
        hanging: opening it hangs until the end.
        short: a read returns half of what was asked for, as it may.
    Attributes:
        raised: how many errors there were, by name.
        hung: files of which opening has hung.
    """

    def __init__(
        self,
        passing: Mapping[str, Iterable[tuple[str, int]]] = {},
        lasting: Mapping[str, int] = {},
        hanging: Iterable[str] = (),
        short: Iterable[str] = (),
    ) -> None:
        self._passing = {path: list(errors) for path, errors in passing.items()}
        self._lasting, self._hanging, self._short = dict(lasting), set(hanging), set(short)
        self._files = {*self._passing, *self._lasting, *self._hanging, *self._short}
        self.raised, self.hung = Counter[str](), set[str]()

    def _meet(self, path: str, call: str, lock: threading.Lock, released: threading.Event) -> None:
        with lock:
            number = self._lasting.get(path) if call != "read" else None
            left = self._passing.get(path)
            if left and left[0][0] == call:
                number = left.pop(0)[1]
            hangs = call == "open" and path in self._hanging
            if number is not None:
                self.raised[errno.errorcode[number]] += 1
            elif hangs:
                self.hung.add(path)
        if number is not None:
            raise OSError(number, os.strerror(number), path)
        if hangs:
            released.wait()

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Within, the files behave so; at the end what hangs goes on."""
        lock, released, path_of = threading.Lock(), threading.Event(), dict[int, str]()
        real: dict[str, Callable[..., Any]] = {name: getattr(os, name) for name in ("open", "read", "pread", "stat")}
        real_close, real_open = os.close, builtins.open

        def meet(path: str, call: str) -> None:
            self._meet(path, call, lock, released)

        def one_of_them(path: Any) -> str | None:
            name = os.fspath(path) if isinstance(path, str | os.PathLike) else None
            return name if name in self._files else None

        def os_open(path: Any, *arguments: Any, **options: Any) -> int:
            name = one_of_them(path)
            if name is not None:
                meet(name, "open")
            file: int = real["open"](path, *arguments, **options)
            if name is not None:
                path_of[file] = name
            return file

        def os_close(file: int) -> None:
            path_of.pop(file, None)
            real_close(file)

        def reading(call: str) -> Callable[..., bytes]:
            def read(file: int, size: int, *offset: int) -> bytes:
                name = path_of.get(file)
                if name is not None:
                    meet(name, "read")
                    size = -(-size // 2) if name in self._short else size
                content: bytes = real[call](file, size, *offset)
                return content

            return read

        def os_stat(path: Any, *arguments: Any, **options: Any) -> os.stat_result:
            name = one_of_them(path)
            if name is not None:
                meet(name, "stat")
            found: os.stat_result = real["stat"](path, *arguments, **options)
            return found

        class File(io.FileIO):
            """One of them, opened by Python's open."""

            def __init__(self, path: str) -> None:
                super().__init__(path, "rb")
                self.path = path_of[self.fileno()] = path

            def read(self, *size: Any) -> Any:
                meet(self.path, "read")
                return super().read(*size)

            def readall(self) -> Any:
                meet(self.path, "read")
                return super().readall()

            def readinto(self, buffer: Any) -> Any:
                meet(self.path, "read")
                return super().readinto(buffer)

            def close(self) -> None:
                if not self.closed:
                    path_of.pop(self.fileno(), None)
                super().close()

        def python_open(file: Any, mode: str = "r", buffering: int = -1, *rest: Any, **options: Any) -> Any:
            name = one_of_them(file)
            if name is None or mode != "rb":
                return real_open(file, mode, buffering, *rest, **options)
            meet(name, "open")
            opened = File(name)
            return opened if buffering == 0 else io.BufferedReader(opened)

        stand_ins: dict[str, Any] = {"open": os_open, "close": os_close, "stat": os_stat}
        stand_ins |= {call: reading(call) for call in ("read", "pread")}
        with contextlib.ExitStack() as undo:
            for name, function in stand_ins.items():
                undo.callback(setattr, os, name, getattr(os, name))
                setattr(os, name, function)
            undo.callback(setattr, builtins, "open", real_open)
            undo.callback(released.set)
            builtins.open = python_open
            yield
