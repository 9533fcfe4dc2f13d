"""The index of a cache: a page about it, then a record for each slot, added at the end.

    0       magic; bytes given out, and how many of them nobody needs any more; budget, token, settings as JSON
    4,096   records of 96 bytes, see `Entry`

Of two records of one key the later counts. A record whose check is wrong counts as none: it is what a power failure
left. In memory are 13 bytes for each.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fastaug.files import read_at, write_at

HEADER_BYTES = 4096
_MAGIC = b"fastaug cache 1\n"
_GIVEN_OUT = struct.Struct("<QQ")  # after the magic
_TERMS = struct.Struct("<Q16s")  # after that
_RECORD = struct.Struct("<QQQQIIIIIIddddI")
_CHECK = struct.Struct("<I")
RECORD_BYTES = _RECORD.size + _CHECK.size
_COLUMNS = np.dtype(
    {"names": ["key", "offset", "stored", "name"], "formats": ["<u8", "<u8", "<u4", "<u4"],
     "offsets": [0, 24, 32, 36], "itemsize": RECORD_BYTES}
)  # fmt: skip
_READ_AT_ONCE = 1 << 14  # records
_MOST_RECENT = 1 << 14  # records that are looked up in a dict, which takes 100 bytes for each
UNKNOWN, GOOD, DAMAGED = range(3)  # what this process knows of the bytes of a slot


class Entry(NamedTuple):
    """A slot.

    Attributes:
        key: of its name.
        source_bytes, source_time_ns: size of the file that it was made of, and when that was changed.
        offset: where its bytes begin: `stored_bytes` of pixels, then `name_bytes` of its name.
        height, width: of the pixels.
        original_height, original_width: of the picture that they were made of.
        sx, sy, tx, ty: sx · x + tx is the column of these pixels that shows x of the original; so for rows.
        checksum: CRC-32 of its bytes.
    """

    key: int
    source_bytes: int
    source_time_ns: int
    offset: int
    stored_bytes: int
    name_bytes: int
    height: int
    width: int
    original_height: int
    original_width: int
    sx: float
    sy: float
    tx: float
    ty: float
    checksum: int

    @property
    def end(self) -> int:
        return self.offset + self.stored_bytes + self.name_bytes

    def encoded(self) -> bytes:
        record = _RECORD.pack(*self)
        return record + _CHECK.pack(zlib.crc32(record))

    @classmethod
    def decoded(cls, record: bytes) -> Entry | None:
        """None: damaged, or not all of it."""
        if len(record) != RECORD_BYTES or zlib.crc32(record[:-4]) != _CHECK.unpack_from(record, _RECORD.size)[0]:
            return None
        return cls(*_RECORD.unpack_from(record))


class Header(NamedTuple):
    """What an index says of all its slots.

    Attributes:
        settings: what the pixels depend on.
        budget: bytes that may be given out; 0: not said here.
        token: random, of this index alone.
    """

    settings: dict[str, Any]
    budget: int
    token: bytes

    def write(self, file: int) -> None:
        """Into a file that is empty, or has the beginning of a header."""
        page = (
            _MAGIC + _GIVEN_OUT.pack(0, 0) + _TERMS.pack(self.budget, self.token) + json.dumps(self.settings).encode()
        )
        write_at(file, page.ljust(HEADER_BYTES, b"\0"), 0)

    @classmethod
    def read(cls, file: int) -> Header | None:
        """None: there is no index, or not yet."""
        page = read_at(file, HEADER_BYTES, 0)
        if len(page) < HEADER_BYTES or not page.startswith(_MAGIC):
            return None
        terms = len(_MAGIC) + _GIVEN_OUT.size
        try:
            settings = json.loads(page[terms + _TERMS.size :].rstrip(b"\0"))
        except ValueError:
            return None
        return cls(settings, *_TERMS.unpack_from(page, terms))


class Index:
    """The records in an open file. Who adds some, or gives out bytes, has the file locked; reading needs no lock."""

    def __init__(self, file: int) -> None:
        self.file = file
        self._forget()

    def _forget(self) -> None:
        self.state = bytearray()  # of each slot: UNKNOWN, GOOD or DAMAGED
        self._keys, self._numbers = np.empty(0, np.uint64), np.empty(0, np.uint32)  # in the order of the keys
        self._recent: dict[int, int] = {}  # those that are not in there yet
        self._end = 0  # of the bytes of all slots

    def __len__(self) -> int:
        return len(self.state)

    def refresh(self) -> bool:
        """Read what was added since, by whomever; whether there was something."""
        there = max(os.fstat(self.file).st_size - HEADER_BYTES, 0) // RECORD_BYTES
        if there < len(self):  # somebody cut it off
            self._forget()
        if there == len(self):
            return False
        parts = []
        for first in range(len(self), there, _READ_AT_ONCE):
            place, number = HEADER_BYTES + first * RECORD_BYTES, min(there - first, _READ_AT_ONCE)
            records = np.frombuffer(read_at(self.file, number * RECORD_BYTES, place), _COLUMNS)
            parts.append(records["key"].copy())
            self._note_end(first, records["offset"] + records["stored"] + records["name"])
        self._insert(np.concatenate(parts), UNKNOWN)
        return True

    def _insert(self, keys: np.ndarray, state: int) -> None:
        """The keys of the records that follow."""
        numbers = np.arange(len(self), len(self) + len(keys), dtype=np.uint32)
        self.state.extend(bytes([state]) * len(keys))
        if len(self._recent) + len(keys) <= _MOST_RECENT:
            self._recent.update(zip(keys.tolist(), numbers.tolist(), strict=True))
            return
        keys = np.concatenate([self._keys, np.array(list(self._recent), np.uint64), keys])
        numbers = np.concatenate([self._numbers, np.array(list(self._recent.values()), np.uint32), numbers])
        order = np.argsort(keys, kind="stable")  # of one key, the later record stays the later
        self._keys, self._numbers, self._recent = keys[order], numbers[order], {}

    def _note_end(self, first: int, ends: np.ndarray) -> None:
        """Of the last of these slots, whose records begin with number `first`; those that are damaged say nothing."""
        for row in np.argsort(ends)[::-1].tolist():
            if int(ends[row]) <= self._end:
                break
            entry = self.entry(first + row)
            if entry is not None:
                self._end = entry.end

    def find(self, keys: Sequence[int]) -> list[int | None]:
        """The number of the latest record of each key."""
        found = [self._recent.get(key) for key in keys]
        rest = [i for i, number in enumerate(found) if number is None]
        if rest and len(self._keys):
            wanted = np.array([keys[i] for i in rest], np.uint64)
            places = np.maximum(np.searchsorted(self._keys, wanted, "right"), 1) - 1
            for i, place, there in zip(rest, places.tolist(), (self._keys[places] == wanted).tolist(), strict=True):
                if there:
                    found[i] = int(self._numbers[place])
        return found

    def entry(self, number: int) -> Entry | None:
        """None: its record is damaged."""
        return Entry.decoded(read_at(self.file, RECORD_BYTES, HEADER_BYTES + number * RECORD_BYTES))

    def given_out(self, size: int) -> tuple[int, int]:
        """Where the bytes end that are somebody's, and how many of them are of sources that have changed since.

        Those of the slots count, whatever is noted, which a power failure may undo.

        Args:
            size: of the file of bytes; it was long enough before more than that could be noted.
        """
        noted = read_at(self.file, _GIVEN_OUT.size, len(_MAGIC))
        if len(noted) < _GIVEN_OUT.size:
            raise OSError("its index was cut off")
        end, stale = _GIVEN_OUT.unpack(noted)
        return max(end if end <= size else 0, self._end), stale

    def give_out(self, end: int, stale: int) -> None:
        write_at(self.file, _GIVEN_OUT.pack(end, stale), len(_MAGIC))

    def add(self, entries: Sequence[Entry]) -> None:
        """Records of good slots, after a `refresh`. What a killed process left of one is overwritten."""
        place = HEADER_BYTES + len(self) * RECORD_BYTES
        write_at(self.file, b"".join([entry.encoded() for entry in entries]), place)
        self._insert(np.array([entry.key for entry in entries], np.uint64), GOOD)
        self._end = max(self._end, *(entry.end for entry in entries))
