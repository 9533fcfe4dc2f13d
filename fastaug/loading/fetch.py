"""Files to photos: out of the cache, or read, decoded, and then kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fastaug.loading.cache import Cache, Place, needed, resizing
from fastaug.loading.header import likely_size
from fastaug.loading.photo import Need, Photo, Size
from fastaug.loading.reading import STOPPED
from fastaug.loading.stats import Observer
from fastaug.loading.workers import Workers


@dataclass(frozen=True, slots=True)
class Found:
    """What there is of a sample before it is decoded.

    Attributes:
        content: of its file, or the reason why there is none; None: it is in the cache, and was not read.
        size: (height, width) of the upright original, if that is known.
        place: in the cache, if there is one.
    """

    path: str
    content: bytes | str | None
    size: Size | None
    place: Place | None = None


class Fetcher:
    """Called from several threads. Without a cache everything is decoded each time, as it is needed."""

    def __init__(self, workers: Workers, cache: Cache | None, observer: Observer) -> None:
        self._workers, self._cache, self._observer = workers, cache, observer

    def find(self, paths: Sequence[str]) -> list[Found]:
        """Look for samples in the cache, and read the files of the others."""
        places: list[Place | None] = [None] * len(paths)
        if self._cache is not None:
            with self._observer.stage("cache", 0):
                places = [self._allowed(place) for place in self._cache.find(paths, self._workers.stamps)]
        missing = [row for row, place in enumerate(places) if place is None or place.kept is None]
        contents: dict[int, bytes | str] = {}
        if missing:
            with self._observer.stage("read", len(missing)) as tell:
                read = self._workers.read([paths[row] for row in missing])
                tell(read)
            contents = dict(zip(missing, read, strict=True))
        found = []
        for row, (path, place) in enumerate(zip(paths, places, strict=True)):
            content = contents.get(row)
            size = likely_size(content) if isinstance(content, bytes) else place.size if place else None
            found.append(Found(path, content, size, place))
        return found

    def _allowed(self, place: Place) -> Place:
        """Not there, if it is of an image that is too large here: a decoder says so, in its words."""
        too_large = place.size is not None and math.prod(place.size) > self._workers.decoder.max_pixels
        return Place(place.source) if too_large else place

    def photos(self, found: Sequence[Found], needs: Sequence[Need | None]) -> list[Photo | str]:
        """Photos of samples, or the reasons why there are none; as fine as needed, or as the cache has them."""
        outcomes: dict[int, Photo | str] = self._cached(found)
        encoded: dict[int, bytes] = {}
        for row, one in enumerate(found):
            if row in outcomes:
                continue
            content = self._workers.read([one.path])[0] if one.content is None else one.content  # it was damaged
            if isinstance(content, str):
                outcomes[row] = content
            else:
                encoded[row] = content
        if self._workers.stopped:  # nobody will look at them
            outcomes |= dict.fromkeys(encoded, STOPPED)
        elif encoded:
            outcomes |= self._decoded(found, needs, encoded)
        return [outcomes[row] for row in range(len(found))]

    def _cached(self, found: Sequence[Found]) -> dict[int, Photo | str]:
        rows = [row for row, one in enumerate(found) if one.content is None]
        photos: dict[int, Photo | str] = {}
        if rows and self._cache is not None:
            with self._observer.stage("cache", 0):
                for row in rows:
                    place = found[row].place
                    photo = None if place is None else self._cache.photo(place)
                    if photo is not None:
                        photos[row] = self._moved(photo)
        if photos:  # some may be damaged
            with self._observer.stage("cache", len(photos)) as tell:
                tell([*photos.values()])
        return photos

    def _moved(self, photo: Photo) -> Photo:
        """On the decoder's device."""
        device = self._workers.decoder.device
        if photo.pixels.device == device:
            return photo
        return Photo(photo.pixels.to(device), photo.matrix, photo.size)

    def _decoded(
        self, found: Sequence[Found], needs: Sequence[Need | None], encoded: dict[int, bytes]
    ) -> dict[int, Photo | str]:
        decoder, cache = self._workers.decoder, self._cache
        wanted = [needs[row] for row in encoded]
        if cache is not None:
            # Where a slot was damaged, its size is the decoder's: another one than the header's after some orientations
            sizes = [
                likely_size(content) if found[row].content is None else found[row].size
                for row, content in encoded.items()
            ]
            wanted = [None if size is None else needed(size, cache.short_side) for size in sizes]
        with self._observer.stage("decode", len(encoded)) as tell:
            outcomes = decoder.decode(list(encoded.values()), wanted)
            tell(outcomes)
        outcome_of = dict(zip(encoded, outcomes, strict=True))
        photos = {row: photo for row, photo in outcome_of.items() if isinstance(photo, Photo)}
        if cache is None or not photos:
            return outcome_of
        smaller = resizing(list(photos.values()), cache.short_side)
        with self._observer.stage("keep", len(photos)) as tell:
            photos = dict(zip(photos, decoder.resize(list(photos.values()), smaller), strict=True))
            places = ((found[row].place, photo) for row, photo in photos.items())
            cache.keep([(place, photo) for place, photo in places if place is not None])
            tell([*photos.values()])
        return outcome_of | photos


__all__ = ["Fetcher", "Found"]
