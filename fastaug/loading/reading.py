"""Threads that read files, and that nobody has to wait for where the storage does not answer."""

from __future__ import annotations

import math
import os
import queue
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from fastaug.loading.quarantine import StorageError
from fastaug.samples.sources import MAX_FILE_BYTES, Reader, Stamp, stamps
from fastaug.samples.storage import StorageReason

Item = TypeVar("Item")
Result = TypeVar("Result")

STOPPED = StorageReason("the loader was stopped")
NO_MEMORY = StorageReason("there is not enough memory for its pixels")
MOST_HANGING = 4  # reads for each thread; with more the storage is not waited for any longer
OUTAGE_S = 300.0  # in which no file at all could be read; then the storage is not waited for any longer either
_GRACE_S = 1.0  # for what is being read when the threads end


class Readers:
    """Daemon threads, so that a process can end while one of them hangs; with a time limit that one is replaced.

    Args:
        num_threads: how many read at a time.
        read_timeout: seconds that a file may take, all tries together; None: as long as it takes.
        max_bytes: larger files are not read.
    """

    def __init__(self, num_threads: int, read_timeout: float | None = None, max_bytes: int = MAX_FILE_BYTES) -> None:
        self._num_threads, self._timeout_s = num_threads, math.inf if read_timeout is None else read_timeout
        self._stopped, self._lock = threading.Event(), threading.Lock()
        self._files = Reader(max_bytes=max_bytes, timeout_s=read_timeout, stopped=self._stopped)
        self._tasks: queue.SimpleQueue[_Reading[Any, Any] | None] = queue.SimpleQueue()
        self._open: set[_Reading[Any, Any]] = set()  # what is waited for
        self._threads: set[threading.Thread] = set()  # without those that were given up
        self._hanging = 0  # those
        self._silent_since: float | None = None  # from when on the storage has given nothing
        self._failed: str | None = None  # why nothing is read any more
        self.process = os.getpid()
        _all.add(self)

    def read(self, paths: Sequence[str]) -> list[bytes | str]:
        """The content of each file, or the reason why there is none.

        Raises:
            StorageError: too many reads hang, or the storage has given nothing for too long.
        """
        began = time.monotonic()
        contents = self._share(self._files.read_bytes, paths)
        if self._stopped.is_set() or not contents:
            return contents
        last = contents[-1]
        if not (isinstance(last, StorageReason) and all(isinstance(content, StorageReason) for content in contents)):
            self._silent_since = None
        elif self._silent_since is None:
            self._silent_since = began
        elif time.monotonic() - self._silent_since > OUTAGE_S:
            self._fail(f"no file at all within {time.monotonic() - self._silent_since:,.0f} s: {last}")
            raise StorageError(self._failed)
        return contents

    def stamps(self, paths: Sequence[str]) -> list[Stamp | None]:
        """As `sources.stamps`; None too where there is no answer in time."""
        (found,) = self._share(stamps, [paths])
        if isinstance(found, StorageReason):
            return [None] * len(paths)
        if any(found):  # there is no outage, though nothing may be left to read but files that fail
            self._silent_since = None
        return found

    def _share(self, work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result | StorageReason]:
        reading = _Reading(work, items)
        self._open.add(reading)
        try:
            for _ in range(min(self._num_threads, len(items))):
                self._add(reading)
            while items and not self._stopped.is_set() and not reading.done.wait(reading.patience_s(self._timeout_s)):
                for place, thread in reading.late(self._timeout_s):
                    self._give_up(reading, place, thread)
        finally:
            reading.done.set()
            self._open.discard(reading)
        if reading.error is not None:
            raise reading.error
        if self._failed is not None and len(reading.outcomes) < len(items):
            raise StorageError(self._failed)
        outcomes, reading.outcomes = reading.outcomes, {}  # threads that wait or hang keep what they took part in last
        return [outcomes.get(place, STOPPED) for place in range(len(items))]

    def _add(self, reading: _Reading[Any, Any]) -> None:
        """Have one more thread take part."""
        self._tasks.put(reading)
        with self._lock:
            if len(self._threads) < self._num_threads and not self._stopped.is_set():
                thread = threading.Thread(target=self._run, name="fastaug-read", daemon=True)
                thread.start()
                self._threads.add(thread)

    def _run(self) -> None:
        while (reading := self._tasks.get()) is not None:
            if not reading.take_part():  # another thread is there instead of this one
                with self._lock:
                    self._hanging -= 1
                return

    def _give_up(self, reading: _Reading[Any, Any], place: int, thread: threading.Thread) -> None:
        with self._lock:
            self._hanging += 1
            self._threads.discard(thread)
            hanging = self._hanging
        reason = StorageReason(f"no answer within {self._timeout_s:g} s (read_timeout)")
        if hanging <= MOST_HANGING * self._num_threads:
            reading.note(place, reason)
            self._add(reading)
            return
        self._fail(f"{hanging} reads that hang at a time, {reason}")

    def _fail(self, got: str) -> None:
        self._failed = (
            f"ImageLoader: expected a storage that answers, got {got}. See to the disk or the network, and go on from "
            "the last state."
        )
        self.stop()

    def stop(self) -> None:
        """Wait for nothing any more. It takes no lock, so that a signal handler may call it."""
        self._stopped.set()
        for reading in self._open.copy():
            reading.done.set()

    def close(self) -> None:
        """Let go of threads and files; what is being read is waited for a moment."""
        self.stop()
        until = time.monotonic() + _GRACE_S
        for _ in range(self._num_threads):
            self._tasks.put(None)
        for thread in self._threads.copy() - {threading.current_thread()}:  # the garbage collector may be in one
            thread.join(max(until - time.monotonic(), 0))
        self._files.close()


class _Reading(Generic[Item, Result]):
    """What is read together, by several threads.

    Attributes:
        outcomes: by place.
        error: that nobody expected.
        done: whether there is nothing to wait for any more.
    """

    def __init__(self, work: Callable[[Item], Result], items: Sequence[Item]) -> None:
        self._work, self._items = work, items
        self._left = iter(range(len(items)))  # each thread takes the next one when it is ready
        # What is being read, by place: since when, and by whom. Who takes it out of here says what came of it: the
        # thread that has read it, or the one that has waited too long.
        self._begun: dict[int, tuple[float, threading.Thread]] = {}
        self.outcomes: dict[int, Result | StorageReason] = {}
        self.error: BaseException | None = None
        self.done = threading.Event()

    def take_part(self) -> bool:
        """Read until nothing is left. False: what this thread was reading was given up meanwhile."""
        thread = threading.current_thread()
        for place in self._left:
            if self.done.is_set():
                return True
            self._begun[place] = time.monotonic(), thread
            try:
                outcome: Result | StorageReason = self._work(self._items[place])
            except BaseException as error:  # of any kind: it belongs to who waits
                self.error, outcome = error, STOPPED
            if self._begun.pop(place, None) is None:
                return False
            self.note(place, outcome)
        return True

    def note(self, place: int, outcome: Result | StorageReason) -> None:
        self.outcomes[place] = outcome
        if len(self.outcomes) == len(self._items):
            self.done.set()

    def late(self, timeout_s: float) -> list[tuple[int, threading.Thread]]:
        """What has taken longer: of which nobody else says any more what came of it."""
        now, begun = time.monotonic(), self._begun.copy()
        late = [(place, thread) for place, (since, thread) in begun.items() if now - since >= timeout_s]
        return [(place, thread) for place, thread in late if self._begun.pop(place, None) is not None]

    def patience_s(self, timeout_s: float) -> float | None:
        """Until something may be late; None: never."""
        if timeout_s == math.inf:
            return None
        now = time.monotonic()
        return max(min((since for since, _ in self._begun.copy().values()), default=now) + timeout_s - now, 0)


def stop_all() -> None:
    """For the end of the process: so that nobody waits for a read that hangs."""
    for readers in list(_all):
        if readers.process == os.getpid():  # of those of its parent a forked child has no threads
            readers.stop()


_all: weakref.WeakSet[Readers] = weakref.WeakSet()
