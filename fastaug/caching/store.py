"""Pictures by name, in two files, which several processes read and fill at the same time.

A slot is there as a whole or not at all: bytes are given out under the lock of the index, written without it, and then
the record is added under it; the lock ends with its process. What is served was made of the source as it is now, by its
size and the time of its change, has that very name, and the checksum that it was written with.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import threading
import weakref
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fastaug.caching.index import DAMAGED, GOOD, UNKNOWN, Entry, Header, Index
from fastaug.caching.pixels import Memory, Pixels, place_for
from fastaug.files import close_all, is_at, locked
from fastaug.machine import renew_in_forks
from fastaug.text import printable

log = logging.getLogger("fastaug")

_MOST_BYTES = 1 << 32  # of a slot: its record has no room for more
_BLOCK_BYTES = 4096  # that are summed, as numbers of 64 bits, before the sums are looked at


class Source(NamedTuple):
    """What a slot is made of.

    Attributes:
        name: by which it is found, encoded.
        key: of the name.
        size, time_ns: bytes, and when it was changed: of one with other ones nothing is known.
    """

    name: bytes
    key: int
    size: int
    time_ns: int

    @classmethod
    def of(cls, name: str, size: int, time_ns: int) -> Source:
        encoded = name.encode("utf-8", "surrogateescape")
        return cls(encoded, int.from_bytes(hashlib.blake2b(encoded, digest_size=8).digest(), "little"), size, time_ns)


class Picture(NamedTuple):
    """What a slot keeps.

    Attributes:
        pixels: uint8 [h, w, 3], C-contiguous.
        original: (height, width) of the picture that they were made of.
        scale: (sx, sy, tx, ty), see `Entry`.
    """

    pixels: np.ndarray
    original: tuple[int, int]
    scale: tuple[float, float, float, float]


class Slot(NamedTuple):
    """One that there is, of this source. number: of its record."""

    source: Source
    number: int
    entry: Entry


class Store:
    """The pictures in two open files, which it closes when nobody has it any more.

    Args:
        files: descriptors of the index and of the pixels; of the index alone where these are memory.
        where: what messages call it.
        checked: whether what is in it may be damaged, as in files.
    """

    def __init__(self, files: list[int], where: str, checked: bool = True) -> None:
        self.where, self._checked = where, checked
        self.header = Header.read(files[0])
        self.problem: str | None = None  # why it cannot be filled any more
        self._index, self._pixels = Index(files[0]), Pixels(files[1]) if len(files) > 1 else Memory()
        self._lock = threading.RLock()
        self._process, self._told_stale = os.getpid(), False
        self.files = files
        weakref.finalize(self, close_all, self.files)
        renew_in_forks(self)
        self._pixels.shrunk()
        self._index.refresh()

    def __len__(self) -> int:
        """Records, also those that do not count any more."""
        return len(self._index)

    @property
    def budget(self) -> int:
        """Bytes that may be given out, as its index says; 0: it does not."""
        return 0 if self.header is None else self.header.budget

    def is_at(self, index: Path) -> bool:
        """Whether its index is the file of that name: somebody may have removed it."""
        return is_at(self.files[0], index)

    def given_out(self) -> int:
        """Bytes that are somebody's."""
        return self._index.given_out(self._pixels.size())[0]

    def find(self, sources: Sequence[Source]) -> list[Slot | None]:
        """The slots of those that there are."""
        if self._is_anothers():
            return [None] * len(sources)
        with self._lock:
            if self._pixels.shrunk():
                self._index.state[:] = bytes(len(self._index))
            found = self._look_up(sources)
            missing = [i for i, slot in enumerate(found) if slot is None]
            if missing and self._index.refresh():  # others have added some
                for i, slot in zip(missing, self._look_up([sources[i] for i in missing]), strict=True):
                    found[i] = slot
            return found

    def _is_anothers(self) -> bool:
        """Whether this is a fork of the process whose memory it is, and does not see what that adds."""
        return len(self.files) == 1 and os.getpid() != self._process

    def _look_up(self, sources: Sequence[Source]) -> list[Slot | None]:
        numbers = self._index.find([source.key for source in sources])
        return [self._slot(source, number) for source, number in zip(sources, numbers, strict=True)]

    def _slot(self, source: Source, number: int | None) -> Slot | None:
        if number is None or self._index.state[number] == DAMAGED:
            return None
        entry = self._index.entry(number)
        made_of_it = entry is not None and (entry.source_bytes, entry.source_time_ns) == source[2:]
        return Slot(source, number, entry) if entry is not None and made_of_it else None

    def get(self, slot: Slot) -> np.ndarray | None:
        """Its pixels, uint8 [h, w, 3]: the memory of the store; None: they are damaged."""
        entry, size = slot.entry, slot.entry.height * slot.entry.width * 3
        with self._lock:
            known = self._index.state[slot.number] if slot.number < len(self._index) else UNKNOWN
            memory = self._pixels.view(entry.offset, entry.stored_bytes + entry.name_bytes)
        if memory is None or size != entry.stored_bytes:
            self._mark(slot, DAMAGED)
            return None
        pixels, name = memory[:size], memory[size:].tobytes()
        if known == UNKNOWN:
            known = GOOD if not self._checked or _checksum(pixels, name) == entry.checksum else DAMAGED
            self._mark(slot, known)
        if known == DAMAGED or name != slot.source.name:  # another one of that key
            return None
        return pixels.reshape(entry.height, entry.width, 3)

    def _mark(self, slot: Slot, state: int) -> None:
        with self._lock:
            if slot.number < len(self._index):
                self._index.state[slot.number] = state

    def put(self, pictures: Sequence[tuple[Source, Picture]], budget: int) -> None:
        """Keep those for which there is room; an error of the disk is a warning, once, and then nothing more is kept.

        Args:
            pictures: of sources, as they were before they were read.
            budget: bytes that may be given out, by everybody together. What sources left that have changed since does
                not count, up to an eighth more.
        """
        if self.problem is not None or not pictures or self._is_anothers():
            return
        try:
            with self._filling():
                places = self._place(pictures, budget)
            entries = []
            for (source, picture), start in zip(pictures, places, strict=True):
                if start is not None:
                    entries.append(self._entry(source, picture, start))
                    self._pixels.write(start, (picture.pixels.reshape(-1), source.name))
            if entries:
                with self._filling():
                    self._add(entries)
        except OSError as error:
            self.stop_filling(error)

    def stop_filling(self, error: OSError) -> None:
        """Say so, once."""
        reason = printable(error.strerror or str(error))
        with self._lock:
            told, self.problem = self.problem is not None, reason
        if not told:
            log.warning(
                "cache %s: cannot be filled (%s). What it has is used, everything else is decoded each time.",
                printable(self.where), reason,
            )  # fmt: skip

    def _place(self, pictures: Sequence[tuple[Source, Picture]], budget: int) -> list[int | None]:
        """Give out bytes to those that are not there yet and fit, and say where; None for the others."""
        self._index.refresh()
        (end, stale), given = self._index.given_out(self._pixels.size()), set[int]()
        places: list[int | None] = []
        numbers = self._index.find([source.key for source, _ in pictures])
        for (source, picture), number in zip(pictures, numbers, strict=True):
            there = self._slot(source, number) is not None or source.key in given
            old = None if there or number is None else self._index.entry(number)
            size = picture.pixels.nbytes + len(source.name)
            start = place_for(size, end)
            more = stale + (old.stored_bytes + old.name_bytes if old else 0)
            fits = start + size - min(more, budget // 8) <= budget and size < _MOST_BYTES
            if there or not fits:
                if old is not None and not there:
                    self._say_stale()
                places.append(None)
                continue
            places.append(start)
            given.add(source.key)
            end, stale = start + size, more
        if given:
            self._pixels.grow(end)
            self._index.give_out(end, stale)
        return places

    def _say_stale(self) -> None:
        """Once, that there is no room for what became of a source."""
        if not self._told_stale:
            self._told_stale = True
            log.warning(
                "cache %s: full, also of pixels of files that changed since; `fastaug cache --clean` gives them back.",
                printable(self.where),
            )

    def _entry(self, source: Source, picture: Picture, start: int) -> Entry:
        pixels = picture.pixels
        sizes = pixels.nbytes, len(source.name), pixels.shape[0], pixels.shape[1], *picture.original
        checksum = _checksum(pixels.reshape(-1), source.name) if self._checked else 0
        return Entry(source.key, source.size, source.time_ns, start, *sizes, *picture.scale, checksum)

    def _add(self, entries: Sequence[Entry]) -> None:
        """Those that nobody else has added meanwhile."""
        self._index.refresh()
        new = []
        for entry, number in zip(entries, self._index.find([entry.key for entry in entries]), strict=True):
            other = None if number is None or self._index.state[number] == DAMAGED else self._index.entry(number)
            if other is None or entry[1:3] != other[1:3]:
                new.append(entry)
        if new:
            self._index.add(new)

    @contextmanager
    def _filling(self) -> Iterator[None]:
        """Within, no other thread and no other process gives out bytes or adds records."""
        with self._lock:
            if os.getpid() != self._process:
                self._open_again()
            with locked(self._index.file):
                yield

    def _open_again(self) -> None:
        """A fork shares the open file, and so its lock, with its parent, which could end without giving it back."""
        own = os.open(f"/proc/self/fd/{self._index.file}", os.O_RDWR)
        os.dup2(own, self._index.file, inheritable=False)
        os.close(own)
        self._process = os.getpid()

    def renew(self) -> None:
        """See `machine.Forked`: another thread may have been in the middle of a change."""
        self._lock, self._index = threading.RLock(), Index(self._index.file)
        if not self._is_anothers():
            with contextlib.suppress(OSError):  # it is tried again when something is kept
                self._open_again()


def _checksum(pixels: np.ndarray, name: bytes) -> int:
    """Of uint8 [N]: CRC-32 of the sums of blocks, and of what is left; a CRC of everything takes longer."""
    whole = len(pixels) // _BLOCK_BYTES * _BLOCK_BYTES
    sums = pixels[:whole].view(np.uint64).reshape(-1, _BLOCK_BYTES // 8).sum(1)
    return zlib.crc32(name, zlib.crc32(pixels[whole:].data, zlib.crc32(sums.data)))
