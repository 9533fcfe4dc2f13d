"""What is in the folders of a cache, what of it is of no use any more, and how that is left out.

Nobody who has the files open is disturbed: they are never cut off or written over, new ones take their names.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastaug.caching.folder import INDEX, PIXELS, disk_left
from fastaug.caching.index import Entry, Header, Index
from fastaug.caching.pixels import Pixels, place_for
from fastaug.caching.store import Slot, Source, Store
from fastaug.files import close_all, is_at, locked, read_at
from fastaug.text import printable

# What the kernel knows of some files, by their names: (bytes, when it was changed), or None for one out of reach.
Stamps = Callable[[Sequence[str]], Sequence[tuple[int, int] | None]]
Done = Callable[[int], None]

_AT_ONCE = 256  # slots
_UNFINISHED = ".unfinished"


@dataclass(frozen=True)
class Survey:
    """Of the cache for some settings.

    Attributes:
        folder: where it is.
        settings: what its pixels depend on.
        slots, slot_bytes: those that count, and what they take.
        disk_bytes: that its files take on the disk.
        changed, gone: slots whose file is another one now, or out of reach.
        damaged: slots with wrong bytes, as far as that was looked at, and records.
        replaced: records of which there is a later one.
        lost_bytes: that were given out to processes which have not finished a slot there: they were killed, or are at
            it now; and what a killed `clean` left.
    """

    folder: Path
    settings: dict[str, Any]
    slots: int
    slot_bytes: int
    disk_bytes: int
    changed: int
    gone: int
    damaged: int
    replaced: int
    lost_bytes: int

    @property
    def useless(self) -> bool:
        """Whether there is something to be cleaned."""
        return any((self.changed, self.gone, self.damaged, self.replaced, self.lost_bytes))


def caches_in(path: str | os.PathLike[str]) -> list[Path]:
    """The folders of caches, one for each of their settings, in a folder; or that itself.

    Raises:
        ValueError: there is none.
    """
    root = Path(path)
    inner = sorted(entry for entry in root.iterdir() if entry.is_dir()) if root.is_dir() else []
    found = [folder for folder in (root, *inner) if all((folder / name).is_file() for name in (INDEX, PIXELS))]
    if not found:
        got = "a folder without one" if root.is_dir() else "a file" if root.exists() else "no such folder"
        raise ValueError(
            f"cache: expected the folder of a cache, got {printable(str(path))!r}, {got}. Name the one that was given "
            "as --cache, or as cache= of an ImageLoader."
        )
    return found


class Upkeep:
    """The cache in a folder, as it is when this is made.

    Args:
        folder: one of `caches_in`.
    Raises:
        ValueError: it is none, or its header is damaged. OSError: it cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._store = Store([os.open(path, os.O_RDONLY | os.O_CLOEXEC) for path in self._names()], str(folder))
        header = self._store.header
        if header is None:
            raise ValueError(
                f"cache: expected an index of fastaug in {printable(str(folder))!r}, got another file, or a damaged "
                "one. If that is the folder of a cache, remove it: it is made anew."
            )
        self._header, self._index = header, Index(self._store.files[0])
        self._index.refresh()
        self._live: list[int] = []  # numbers of records, in the order of their bytes
        self._survey: Survey | None = None

    def __len__(self) -> int:
        """Records."""
        return len(self._index)

    def survey(self, stamps: Stamps, quick: bool = False, done: Done = lambda count: None) -> Survey:
        """Look at every slot.

        Args:
            stamps: of the files that slots are made of.
            quick: leave out the checksums, for which everything is read.
            done: called with how many more records have been looked at.
        """
        counts = dict.fromkeys(("changed", "gone", "damaged", "replaced"), 0)
        live, slot_bytes, spans = list[tuple[int, int]](), 0, np.zeros((len(self), 2), np.int64)
        for first in range(0, len(self), _AT_ONCE):
            slots = self._slots(range(first, min(first + _AT_ONCE, len(self))), counts, spans)
            for slot, stamp in zip(
                slots, stamps([slot.source.name.decode("utf-8", "surrogateescape") for slot in slots]), strict=True
            ):
                if stamp is None:
                    counts["gone"] += 1
                elif tuple(stamp) != slot.source[2:]:
                    counts["changed"] += 1
                elif not quick and not self._intact(slot):
                    counts["damaged"] += 1
                else:
                    live.append((slot.entry.offset, slot.number))
                    slot_bytes += slot.entry.end - slot.entry.offset
            done(min(_AT_ONCE, len(self) - first))
        self._live = [number for _, number in sorted(live)]
        left = sum(_on_disk(path) for path in self._names(_UNFINISHED))
        lost, used = left + self._lost_bytes(spans), left + sum(_on_disk(path) for path in self._names())
        self._survey = Survey(
            self.folder, self._header.settings, len(live), slot_bytes, used, **counts, lost_bytes=lost
        )
        return self._survey

    def _slots(self, numbers: range, counts: dict[str, int], spans: np.ndarray) -> list[Slot]:
        """Those that a store would find by these records. Notes where the bytes of all of them lie."""
        entries = {number: entry for number in numbers if (entry := self._index.entry(number)) is not None}
        counts["damaged"] += len(numbers) - len(entries)
        latest = self._index.find([entry.key for entry in entries.values()])
        slots = []
        for (number, entry), last in zip(entries.items(), latest, strict=True):
            spans[number] = entry.offset, entry.end
            if number != last:
                counts["replaced"] += 1
                continue
            name = self._read(entry.offset + entry.stored_bytes, entry.name_bytes)
            if name is None:
                counts["damaged"] += 1
                continue
            source = Source(name, entry.key, entry.source_bytes, entry.source_time_ns)
            slots.append(Slot(source, number, entry))
        return slots

    def _intact(self, slot: Slot) -> bool:
        """Whether it would be served. It is read first: of a disk that fails a call says so, a map ends the process."""
        entry = slot.entry
        return self._read(entry.offset, entry.stored_bytes) is not None and self._store.get(slot) is not None

    def _read(self, offset: int, size: int) -> bytes | None:
        """Some of the pixels' file; None: it has no such part, or the disk fails."""
        try:
            content = read_at(self._store.files[1], size, offset)
        except OSError:
            return None
        return content if len(content) == size else None

    def _lost_bytes(self, spans: np.ndarray) -> int:
        """Between slots, beyond what lies free there because the next one would not have fitted; and after the last."""
        end = lost = 0
        size = os.fstat(self._store.files[1]).st_size
        for start, after in spans[spans[:, 0].argsort()].tolist():
            if start > place_for(after - start, end):
                lost += start - end
            end = max(end, after)
        return lost + max(self._index.given_out(size)[0] - end, 0)

    def clean(self, done: Done = lambda count: None) -> int:
        """Write what counts into new files, which take the names of the old ones; after `survey`, which says what does.

        Meanwhile others may go on filling: what they add is taken along. Who has the old files open goes on with them.

        Args:
            done: called with how many more slots have been copied.
        Returns:
            Bytes on the disk now.
        Raises:
            ValueError: no source can be reached, so nothing would be left. OSError: another process has cleaned it
                meanwhile; there is no room, or no right, to write.
        """
        survey, where = self._survey, printable(str(self.folder))
        assert survey is not None, "it says what counts"
        if survey.gone and not survey.slots and not survey.changed:
            raise ValueError(
                f"cache: expected the files that the {survey.gone:,} photos in {where!r} were made of, can reach none. "
                "Is their disk mounted? If they are gone for good, remove the folder."
            )
        free = disk_left(self.folder)
        if free < survey.slot_bytes:
            raise OSError(
                f"cache: expected {survey.slot_bytes:,} free bytes to copy what counts in {where!r}, got {free:,}. "
                "Make room, or remove the folder."
            )
        with _new_files(self._names(_UNFINISHED), self._names()) as files:
            self._check_named(self._index.file)
            copy = _Copy(self._header, *files)
            for first in range(0, len(self._live), _AT_ONCE):
                group = self._live[first : first + _AT_ONCE]
                self._copy(group, copy)
                done(len(group))
            self._copy(self._added(), copy)
            self._replace(copy)
        return sum(_on_disk(path) for path in self._names())

    def _copy(self, numbers: Sequence[int], copy: _Copy) -> None:
        entries = [entry for number in numbers if (entry := self._index.entry(number)) is not None]
        contents = [self._read(entry.offset, entry.end - entry.offset) for entry in entries]
        copy.add([(entry, content) for entry, content in zip(entries, contents, strict=True) if content is not None])

    def _added(self) -> range:
        """The records that others have added since this was asked last."""
        before = len(self._index)
        self._index.refresh()
        return range(before, len(self._index))

    def _replace(self, copy: _Copy) -> None:
        """Under the lock of the old index nobody adds a slot."""
        names = self._names()
        lock = os.open(names[0], os.O_RDWR | os.O_CLOEXEC)
        try:
            with locked(lock):
                self._check_named(lock)
                self._copy(self._added(), copy)
                copy.finish()
                # Pixels first: killed in between, there is an index with others' pixels, of which no checksum is right
                for new, old in [*zip(self._names(_UNFINISHED), names, strict=True)][::-1]:
                    os.replace(new, old)
        finally:
            os.close(lock)

    def _check_named(self, lock: int) -> None:
        if not all(is_at(file, self.folder / INDEX) for file in (lock, self._index.file)):
            raise OSError(
                f"cache: expected {printable(str(self.folder))!r} as it was looked at, got another one: a process has "
                "cleaned or made it anew meanwhile. Do the same again."
            )

    def _names(self, ending: str = "") -> list[Path]:
        return [self.folder / (name + ending) for name in (INDEX, PIXELS)]


@contextmanager
def _new_files(paths: Sequence[Path], like: Sequence[Path]) -> Iterator[list[int]]:
    """Within, empty files that nobody else writes; those that have no other name at the end are removed.

    Who wants the same ones waits for the end. What a killed process left is used again.

    Args:
        like: files of the same owner and mode: who may use these may use the new ones.
    """
    while True:
        files = [os.open(paths[0], os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)]
        try:
            with locked(files[0]):
                if not is_at(files[0], paths[0]):  # it was renamed or removed by whom we have waited for
                    continue
                try:
                    files += [os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666) for path in paths[1:]]
                    for file, path in zip(files, like, strict=True):
                        os.ftruncate(file, 0)
                        status = os.stat(path)
                        with suppress(OSError):  # only root may give files away
                            os.fchown(file, status.st_uid, status.st_gid)
                        os.fchmod(file, stat.S_IMODE(status.st_mode))
                    yield files
                    return
                finally:
                    for path in paths:
                        path.unlink(missing_ok=True)
        finally:
            close_all(files)


class _Copy:
    """New files that are filled one slot after the other."""

    def __init__(self, header: Header, index: int, pixels: int) -> None:
        header._replace(token=secrets.token_bytes(16)).write(index)
        self._index, self._pixels, self._end = Index(index), Pixels(pixels), 0

    def add(self, slots: Sequence[tuple[Entry, bytes]]) -> None:
        entries = []
        for entry, content in slots:
            start = place_for(len(content), self._end)
            self._end = start + len(content)
            self._pixels.grow(self._end)
            self._pixels.write(start, [content])
            entries.append(entry._replace(offset=start))
        if entries:
            self._index.add(entries)

    def finish(self) -> None:
        self._index.give_out(self._end, 0)


def _on_disk(path: Path) -> int:
    try:
        return os.stat(path).st_blocks * 512
    except OSError:
        return 0
