"""What a scenario must not leave behind: threads, descriptors, processes, files; memory."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import threading
import time
from collections import Counter
from pathlib import Path

SETTLE_S = 10  # until a thread or a process that has ended is gone, on a busy machine
# Those that a process has until its end: the warp's.
LASTING = ("fastaug-warp",)
_SHARED = Path("/dev/shm")


def threads() -> list[str]:
    """Of a loader's."""
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.startswith("fastaug") and not name.startswith(LASTING)]


def descriptors() -> Counter[str]:
    """What is open, by what it is: pipes and sockets without their numbers."""
    found = Counter[str]()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the one of this listing
            link = os.readlink(f"/proc/self/fd/{name}")
            found[link.partition(":[")[0]] += 1
    return found


def children() -> list[int]:
    """Processes that this one has started itself, also those that have ended and were not waited for."""
    found = []
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError):
            found += [int(pid) for pid in Path(f"/proc/self/task/{task}/children").read_text().split()]
    return found


def resident_mb() -> float:
    """What this process has in memory, after what is free was given back."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


class Before:
    """What there is now; `expect_nothing_more` compares."""

    def __init__(self) -> None:
        self.descriptors, self.children, self.shared = descriptors(), children(), _named()

    def expect_nothing_more(self) -> None:
        gc.collect()
        end = time.monotonic() + SETTLE_S
        while (more := self._more()) and time.monotonic() < end:
            time.sleep(0.01)
            gc.collect()
        assert not more, f"left behind: {more}"

    def _more(self) -> list[str]:
        opened = descriptors() - self.descriptors
        started = set(children()) - set(self.children)
        found = [f"thread {name}" for name in threads()] + [f"descriptor {name}" for name in opened.elements()]
        found += [f"process {pid}" for pid in sorted(started)]
        return found + [f"{_SHARED / name}" for name in sorted(_named() - self.shared)]


def _named() -> set[str]:
    """Files in shared memory that are ours, or torch's for our process."""
    if not _SHARED.is_dir():
        return set()
    return {name for name in os.listdir(_SHARED) if "fastaug" in name or f"torch_{os.getpid()}" in name}


def expect_files(folder: Path, names: set[str]) -> None:
    """Nothing but these lies in a folder, at any depth; hidden files count."""
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}
    assert there <= names, f"files left in {folder}: {sorted(there - names)}"
