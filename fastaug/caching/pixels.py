"""A file that grows, of which parts are looked at without a copy.

It is read through memory maps and written by calls: on a full disk a call fails, where a map ends the process. It ends
with a whole segment, of which only what was written takes room on the disk. Each segment is twice as long as the one
before, so that a terabyte has 13: a map keeps a file open.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fastaug.files import write_at

SEGMENT_BYTES = 1 << 27  # of the first one
_ALIGNED = 4096  # bytes: to write parts of pages takes longer
_NORESERVE = 0x4000 if sys.platform == "linux" else 0  # nobody writes to them, so no memory need be kept for that


class Segment(NamedTuple):
    """Nothing lies across the end of one. number: from 0. start, end: in the file, bytes."""

    number: int
    start: int
    end: int

    @classmethod
    def at(cls, offset: int) -> Segment:
        number = (offset // SEGMENT_BYTES + 1).bit_length() - 1
        return cls(number, ((1 << number) - 1) * SEGMENT_BYTES, ((2 << number) - 1) * SEGMENT_BYTES)


def place_for(size: int, after: int) -> int:
    """Where so many bytes begin, when everything up to `after` is given out."""
    start = -(-after // _ALIGNED) * _ALIGNED
    while start + size > Segment.at(start).end:
        start = Segment.at(start).end
    return start


class Pixels:
    """The bytes in an open file."""

    def __init__(self, file: int) -> None:
        self.file = file
        self._size = 0  # that it had when it was last looked at
        self._mapped: dict[int, np.ndarray] = {}  # by number of the segment

    def shrunk(self) -> bool:
        """Whether somebody has cut it off since it was last looked at: what was known of it is not true any more."""
        size, before = self.size(), self._size
        self._size = size
        if size < before:
            self._mapped = {}
        return size < before

    def size(self) -> int:
        """Of the file as it is now."""
        return os.fstat(self.file).st_size

    def view(self, offset: int, size: int) -> np.ndarray | None:
        """uint8 [size], the bytes themselves; None: the file has no such part. Who writes to them changes no file."""
        segment = Segment.at(offset)
        if segment.end > self._size:  # others may have made it longer since
            self._size = max(self._size, self.size())
        if offset + size > segment.end or segment.end > self._size:
            return None
        mapped = self._mapped.get(segment.number)
        if mapped is None:
            mapped = self._mapped[segment.number] = np.frombuffer(self._map(segment), np.uint8)
        return mapped[offset - segment.start : offset - segment.start + size]

    def _map(self, segment: Segment) -> mmap.mmap:
        size = segment.end - segment.start
        if not hasattr(mmap, "MAP_PRIVATE"):  # Windows
            return mmap.mmap(self.file, size, access=mmap.ACCESS_COPY, offset=segment.start)
        # Private: torch warns of memory that it must not write to
        flags, protection = mmap.MAP_PRIVATE | _NORESERVE, mmap.PROT_READ | mmap.PROT_WRITE
        return mmap.mmap(self.file, size, flags, protection, offset=segment.start)

    def grow(self, end: int) -> None:
        """Make it long enough for bytes up to there. Who does so has the index locked."""
        end = Segment.at(max(end - 1, 0)).end
        if self.size() < end:
            os.ftruncate(self.file, end)
        self._size = max(self._size, end)

    def write(self, offset: int, parts: Sequence[Any]) -> None:
        written = os.pwritev(self.file, parts, offset) if hasattr(os, "pwritev") else 0
        for part in parts:  # what is left, if the disk is full or a signal came
            size = memoryview(part).nbytes
            if written < size:
                write_at(self.file, memoryview(part).cast("B")[written:], offset + written)
            offset, written = offset + size, max(written - size, 0)


class Memory(Pixels):
    """The same without a file, in memory of one process alone: in large pages, where the system has them.

    They are sooner filled, and read, than the small ones of a file in memory; but nobody else can open them.
    """

    def __init__(self) -> None:
        super().__init__(-1)

    def shrunk(self) -> bool:
        return False

    def size(self) -> int:
        return self._size

    def _map(self, segment: Segment) -> mmap.mmap:
        size = segment.end - segment.start
        if not hasattr(mmap, "MAP_PRIVATE"):  # Windows
            return mmap.mmap(-1, size)
        memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            with contextlib.suppress(OSError):  # the system has none
                memory.madvise(mmap.MADV_HUGEPAGE)
        return memory

    def grow(self, end: int) -> None:
        while self._size < end:  # here, since two threads that map the same segment would have two memories
            segment = Segment.at(self._size)
            self._mapped[segment.number] = np.frombuffer(self._map(segment), np.uint8)
            self._size = segment.end

    def write(self, offset: int, parts: Sequence[Any]) -> None:
        for part in parts:
            content = np.frombuffer(part, np.uint8)
            place = self.view(offset, len(content))
            assert place is not None, "it was made long enough"
            place[:] = content
            offset += len(content)
