"""Memory for pixels that is used again when nobody has it any more.

Fresh memory is paid for page by page, which the system fills with zeros first.
"""

from __future__ import annotations

import ctypes
import math
import os
import threading
import weakref
from bisect import bisect_left, insort
from collections import deque

import numpy as np

_STEP = 1 << 16  # bytes: sizes are rounded up to it, so that photos of nearly one size share memory
_MOST_WASTED = 2  # a block of up to so many times the size is taken
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_KEPT_BYTES = 64 << 20  # that lie ready at most; or as many as are in use


class Memory:
    """Lends blocks of any size; several threads may take some at a time.

    A block comes back when the last array or tensor that looks at it is gone, whoever has it, and also when this
    Memory is.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free: list[np.ndarray] = []  # in the order of their sizes
        self._used_bytes = self._free_bytes = 0
        # The garbage collector may give one back at any time, also while this thread holds the lock: hence no lock.
        self._returned: deque[np.ndarray] = deque()

    def take(self, shape: tuple[int, ...]) -> np.ndarray:
        """uint8 of that shape, C-contiguous, not filled."""
        size = math.prod(shape)
        with self._lock:
            while self._returned:
                block = self._returned.popleft()
                insort(self._free, block, key=len)
                self._used_bytes -= len(block)
                self._free_bytes += len(block)
            place = bisect_left(self._free, size, key=len)
            if place < len(self._free) and len(self._free[place]) <= _MOST_WASTED * size + _STEP:
                block = self._drop(place)
            else:
                block = np.empty(-(-size // _STEP) * _STEP, np.uint8)
            self._used_bytes += len(block)
            while self._free_bytes > max(self._used_bytes, _KEPT_BYTES):
                self._drop(len(self._free) // 2)
        # Views of this array keep it alive, not the block: its base is a memoryview, which NumPy does not look through.
        lent = np.frombuffer(block.data, np.uint8, size)
        weakref.finalize(lent, self._returned.append, block).atexit = False
        return lent.reshape(shape)

    def _drop(self, place: int) -> np.ndarray:
        block = self._free.pop(place)
        self._free_bytes -= len(block)
        return block


def can_be_had(size: int) -> bool:
    """Whether there are so many bytes more, as far as the system says: it may promise more than it has."""
    try:
        np.empty(size, np.uint8)
    except MemoryError:
        return False
    return True


def keep_freed_memory() -> bool:
    """For a program that trains on a CPU: malloc keeps what is freed, which the next step needs again at once.

    glibc gives large blocks back to the system each time, and a third of a training went into their first pages. For
    the whole process, hence for programs, not for a library. What the environment says of malloc is left as it is.

    Returns:
        Whether it was set: there is another malloc on other systems.
    """
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return False
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018 (there is a mallopt elsewhere too, with other numbers)
        mallopt = library.mallopt
    except (OSError, AttributeError, TypeError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, 1 << 30) and mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1))


__all__ = ["Memory", "can_be_had", "keep_freed_memory"]
