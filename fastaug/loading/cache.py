"""Photos that were decoded once and are kept: pixels, not decisions.

A photo is kept upright, whole, and with its short side at most as long as asked for: what is drawn of it is drawn anew
each epoch. Its pixels are a function of its file and of the cache's settings alone, whether there was room for it or
not, so the first epoch has those of every later one.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from fastaug.caching.folder import INDEX, disk_left, open_folder
from fastaug.caching.shared_memory import open_memory
from fastaug.caching.store import Picture, Slot, Source, Store
from fastaug.loading.options import ScaleName
from fastaug.loading.photo import Need, Photo, Resizing, Size
from fastaug.machine import board, memory_left, renew_in_forks
from fastaug.samples.sources import Stamp, stamps

Stamps = Callable[[Sequence[str]], list[Stamp | None]]

MEMORY, DEVICE = "memory", "device"
_PIXELS = 1  # to be counted up whenever the same file and settings give other pixels
# A JPEG is decoded at a scale that leaves 1.5 pixels for one that is kept: 2, as otherwise, are up to four times as
# many to decode and to resize, for 0.3 dB (benchmarks/cache_study.py).
_COARSER = 2 / 1.5
_ARENA_BYTES = 1 << 28  # of a device's memory that are taken at a time


@dataclass(frozen=True, slots=True)
class Place:
    """Of a sample in a cache.

    Attributes:
        source: its file as it is now; None: it cannot be reached.
        kept: what the cache knows it by; None: it is not there.
        size: (height, width) of the upright original, if it is there.
    """

    source: Source | None
    kept: Any = None
    size: Size | None = None


class Cache(Protocol):
    """Several threads may use one.

    Attributes:
        name: for people.
        short_side: of what is kept, pixels; of smaller photos all of it is.
    """

    name: str
    short_side: int

    def is_current(self) -> bool:
        """Whether it is what its name stands for: a folder may have been cleaned, or removed, since it was opened."""
        ...

    def find(self, paths: Sequence[str], stamps: Stamps = stamps) -> list[Place]:
        """Where these samples are kept, if they are. stamps: what looks at their files."""
        ...

    def photo(self, place: Place) -> Photo | None:
        """What is kept there; None: it is damaged. Its pixels are the cache's own: they must not be written to."""
        ...

    def keep(self, photos: Sequence[tuple[Place, Photo]]) -> None:
        """Keep those for which there is room."""
        ...


def needed(size: Size, short_side: int) -> Need:
    """What is to be kept of a photo: the whole of it, so fine."""
    height, width = size
    footprint = max(min(size) / short_side * _COARSER, 1.0)
    return Need(size, footprint, footprint, (0.0, 0.0, float(width), float(height)))


def resizing(photos: Sequence[Photo], short_side: int) -> Resizing:
    """Which are made smaller to be kept, and to what: the whole of those with a longer short side."""
    rows = [row for row, photo in enumerate(photos) if min(photo.size) > short_side]
    boxes, sizes = [], []
    for row in rows:
        (height, width), least = photos[row].size, min(photos[row].size)
        boxes.append(photos[row].part((0.0, 0.0, float(width), float(height))))
        sizes.append((max(round(height * short_side / least), 1), max(round(width * short_side / least), 1)))
    return Resizing(rows, boxes, sizes)


class HostCache:
    """A Cache in files or in memory, for all processes of the machine.

    Args:
        budget: bytes that may be given out.
    """

    def __init__(self, store: Store, short_side: int, budget: int) -> None:
        self.name, self.short_side = store.where, short_side
        self.store, self._budget = store, budget

    @property
    def problem(self) -> str | None:
        """Why nothing more can be kept; None: it can."""
        return self.store.problem

    def is_current(self) -> bool:
        """See Cache."""
        return self.name == MEMORY or self.store.is_at(Path(self.name, INDEX))

    def find(self, paths: Sequence[str], stamps: Stamps = stamps) -> list[Place]:
        """See Cache."""
        sources = sources_of(paths, stamps)
        known = [source for source in sources if source is not None]
        slots = dict(zip(known, self.store.find(known), strict=True))
        places = []
        for source in sources:
            slot = None if source is None else slots[source]
            size = None if slot is None else (slot.entry.original_height, slot.entry.original_width)
            places.append(Place(source, slot, size))
        return places

    def photo(self, place: Place) -> Photo | None:
        """See Cache."""
        slot: Slot = place.kept
        pixels = self.store.get(slot)
        if pixels is None or place.size is None:
            return None
        sx, sy, tx, ty = slot.entry[-5:-1]
        return Photo(torch.from_numpy(pixels), np.array([[sx, 0, tx], [0, sy, ty], [0, 0, 1]]), place.size)

    def keep(self, photos: Sequence[tuple[Place, Photo]]) -> None:
        """See Cache."""
        pictures = []
        for place, photo in photos:
            if place.source is not None:
                pixels = np.ascontiguousarray(photo.pixels.cpu().numpy())
                (sx, _, tx), (_, sy, ty) = photo.matrix[:2].tolist()
                pictures.append((place.source, Picture(pixels, photo.size, (sx, sy, tx, ty))))
        self.store.put(pictures, self._budget)


class NoCache:
    """Of a cache that cannot be: nothing is kept, and the pixels are those that it would have."""

    def __init__(self, name: str, short_side: int) -> None:
        self.name, self.short_side = name, short_side

    def is_current(self) -> bool:
        """See Cache."""
        return True

    def find(self, paths: Sequence[str], stamps: Stamps = stamps) -> list[Place]:
        """See Cache."""
        return [Place(None)] * len(paths)

    def photo(self, place: Place) -> Photo | None:
        """See Cache."""
        return None

    def keep(self, photos: Sequence[tuple[Place, Photo]]) -> None:
        """See Cache."""


class DeviceCache:
    """A Cache in the memory of a device, of one process. Not run on a GPU yet.

    Args:
        budget: bytes that are taken at most; what files left that have changed since does not count, up to an eighth
            more.
    """

    def __init__(self, device: torch.device, short_side: int, budget: int) -> None:
        self.name, self.device, self.short_side, self._budget = DEVICE, device, short_side, budget
        self._kept: dict[bytes, tuple[Source, Photo]] = {}
        self._lock = threading.Lock()
        self._arena, self._used = torch.empty(0, dtype=torch.uint8, device=device), 0
        self._taken = self._stale = 0  # bytes
        self._filled: dict[torch.cuda.Stream, torch.cuda.Event] = {}  # the latest copy into it, by stream
        renew_in_forks(self)

    def renew(self) -> None:
        """See `machine.Forked`."""
        self._lock = threading.Lock()

    def is_current(self) -> bool:
        """See Cache."""
        return True

    def find(self, paths: Sequence[str], stamps: Stamps = stamps) -> list[Place]:
        """See Cache."""
        places = []
        for source in sources_of(paths, stamps):
            kept = None if source is None else self._kept.get(source.name)
            there = kept is not None and kept[0] == source
            places.append(Place(source, kept[1], kept[1].size) if kept and there else Place(source))
        return places

    def photo(self, place: Place) -> Photo | None:
        """See Cache. On a GPU its pixels are ready for the calling thread's current stream."""
        if self.device.type == "cuda":
            with self._lock:
                events = [*self._filled.values()]
            for event in events:
                torch.cuda.current_stream(self.device).wait_event(event)
        photo: Photo = place.kept
        return photo

    def keep(self, photos: Sequence[tuple[Place, Photo]]) -> None:
        """See Cache."""
        for place, photo in photos:
            if place.source is None:
                continue
            with self._lock:
                old = self._kept.get(place.source.name)
                if old is not None and old[0] == place.source:
                    continue  # it comes in several rows
                self._stale += 0 if old is None else self._kept.pop(place.source.name)[1].pixels.numel()
            room = self._room(photo.pixels.numel())
            if room is None:
                continue
            pixels = room.view(photo.pixels.shape)
            pixels.copy_(photo.pixels)
            if self.device.type == "cuda":
                stream = torch.cuda.current_stream(self.device)
                with self._lock:
                    self._filled[stream] = stream.record_event()
            self._kept[place.source.name] = place.source, Photo(pixels, photo.matrix, photo.size)

    def _room(self, size: int) -> torch.Tensor | None:
        """So many bytes; None: there is no room for them."""
        with self._lock:
            if self._used + size > len(self._arena):
                more = max(size, min(_ARENA_BYTES, self._budget - self._taken))
                if self._taken + more > self._budget + min(self._stale, self._budget // 8):
                    return None
                self._arena, self._used = torch.empty(more, dtype=torch.uint8, device=self.device), 0
                self._taken += more
            self._used += size
            return self._arena[self._used - size : self._used]


def sources_of(paths: Sequence[str], stamps: Stamps = stamps) -> list[Source | None]:
    """The files of some samples as they are now; None: it cannot be reached. Names do not depend on where one is."""
    found: list[Source | None] = []
    for path, stamp in zip(paths, stamps(paths), strict=True):
        file, slashes, member = path.partition("//")
        name = os.path.abspath(file) + slashes + member if file else path
        found.append(None if stamp is None else Source.of(name, *stamp))
    return found


def settings_of(short_side: int, decoder: str, scale: ScaleName, device: torch.device) -> dict[str, Any]:
    """What the pixels of a cache depend on, beside the files."""
    if decoder == "dali":  # it decodes all pixels there are, on a GPU others than on a CPU by a level
        decoder, scale = f"dali_{device.type}", "exact"
    return {"pixels": _PIXELS, "cache_size": short_side, "filter": "lanczos3", "decoder": decoder, "scale": scale}


_devices: weakref.WeakValueDictionary[str, DeviceCache] = weakref.WeakValueDictionary()


def open_cache(
    cache: str | os.PathLike[str],
    short_side: int,
    budget: int | None,
    decoder: str,
    scale: ScaleName,
    device: torch.device,
) -> Cache:
    """The cache of these settings, which loaders of one process share. Where it cannot be, a warning says why.

    Args:
        cache: "memory", "device" or a folder.
        budget: bytes that it may take; None: half of what is left there.
    Raises:
        ValueError: what is there is no folder.
    """
    settings = settings_of(short_side, decoder, scale, device)
    if cache == DEVICE:
        name = f"{device} {budget} {settings}"
        found = _devices.get(name)
        if found is None:
            budget = _device_left(device) // 2 if budget is None else budget
            found = _devices[name] = DeviceCache(device, short_side, budget)
        return found
    if cache == MEMORY:
        memory = open_memory(settings, memory_left() // 2 if budget is None else budget, board())
        return HostCache(memory, short_side, memory.budget if budget is None else budget)
    store = open_folder(cache, settings)
    if store is None:
        return NoCache(os.fspath(cache), short_side)
    if budget is None:  # what is in it counts as free: it is the same for who opens it half filled
        budget = (store.given_out() + disk_left(cache)) // 2
    return HostCache(store, short_side, budget)


def _device_left(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else memory_left()


__all__ = ["DEVICE", "MEMORY", "Cache", "DeviceCache", "HostCache", "Place", "needed", "open_cache", "resizing"]
