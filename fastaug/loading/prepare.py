"""A cache in a folder, filled before a training: what is not in it yet is read and decoded as the loader does."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from fastaug.caching.folder import INDEX
from fastaug.loading.cache import DEVICE, MEMORY, HostCache, open_cache
from fastaug.loading.decode import choose_decoder, default_threads, has_dali, make_decoder
from fastaug.loading.fetch import Fetcher, Found
from fastaug.loading.options import MAX_PIXELS, ScaleName
from fastaug.loading.photo import Photo
from fastaug.loading.stats import Clock
from fastaug.loading.workers import Workers, prefetch
from fastaug.machine import usable_device
from fastaug.samples.samples import Samples
from fastaug.samples.storage import StorageReason, bad_and_missed
from fastaug.text import printable

_CHUNKS = 4  # of a group, for each thread that decodes
# Of such a photo nothing is kept, since nobody could tell later whether its file is still the same
_UNSEEN = StorageReason("its size and its time of change could not be looked at")
_AT_ONCE = 2  # groups: while one is decoded, the next one is read


@dataclass(frozen=True)
class Prepared:
    """What came of it.

    Attributes:
        folder: where these settings are kept, within the cache's folder.
        made: files of which there are photos in the cache now, and were none before.
        there: files of which there were.
        without_room: files whose photos did not fit.
        bad: row of the samples -> reason, in the order of the rows; of a file in several rows, the first one.
        missed: the same of files that the storage did not give, which may be good.
        bytes: that the cache has given out, for other samples too.
    """

    folder: str
    made: int
    there: int
    without_room: int
    bad: dict[int, str]
    missed: dict[int, str]
    bytes: int


def prepare(
    samples: Samples,
    cache: str | os.PathLike[str],
    cache_size: int = 460,
    cache_bytes: int | None = None,
    device: str | torch.device | None = None,
    num_threads: int | None = None,
    scale: ScaleName = "auto",
    max_pixels: int = MAX_PIXELS,
    done: Callable[[int], None] = lambda count: None,
) -> Prepared:
    """Fill the cache that an `ImageLoader` with the same arguments uses.

    What is there already is passed over unread. It can be stopped at any time: what is finished stays. Several
    processes that do this at the same time share the work: each takes the groups of files in an order of its own.

    Args:
        samples: what to keep; a file in several rows counts once.
        cache: a folder.
        cache_size: the short side of what is kept, pixels; the `presize` of a loader that is not told.
        cache_bytes, device, scale, max_pixels: as of the ImageLoader.
        num_threads: None: the cores that this process may use, at most 64, with DALI at most 16.
        done: called with how many more rows have been looked at, for a progress bar.
    Raises:
        ValueError: the cache is no folder, or another file is there. OSError: it cannot be made, or filled.
    """
    if os.fspath(cache) in (MEMORY, DEVICE):
        raise ValueError(f"prepare: expected a folder for the cache, got '{cache}', which ends with its process.")
    device = usable_device("prepare", device)
    name = choose_decoder("auto", device, has_dali()).name
    threads = num_threads or default_threads(name)
    place = device if device.type == "cuda" else torch.device("cpu")
    opened = open_cache(cache, cache_size, cache_bytes, name, scale, place)
    if not isinstance(opened, HostCache):
        raise OSError(
            f"prepare: expected a folder that can be made and written to, got {printable(os.fspath(cache))!r}. Name "
            "another one."
        )
    counts, bad = [0, 0, 0], dict[int, str]()
    with Workers(make_decoder(name, place, threads, scale, max_pixels), threads) as workers:
        filling = _Filling(samples.paths, opened, workers)
        first = samples.first_rows()
        rows = list(range(len(samples))) if first is None else sorted(set(first))
        size = _CHUNKS * workers.decoder.threads * workers.decoder.chunk_size
        groups = [rows[first : first + size] for first in range(0, len(rows), size)]
        # One that went on where another one began would soon be beside it, and make the same ones from there on
        random.SystemRandom().shuffle(groups)
        done(len(samples) - len(rows))
        with closing(prefetch(filling.fill, groups, _AT_ONCE + 1, _AT_ONCE, workers.stop)) as results:
            for group, (found, reasons) in zip(groups, results, strict=True):
                counts = [sum(pair) for pair in zip(counts, found, strict=True)]
                bad |= reasons
                done(len(group))
    made, there, without_room = counts
    bad, missed = bad_and_missed(dict(sorted(bad.items())))
    return Prepared(opened.name, made, there, without_room, bad, missed, opened.store.given_out())


class _Filling:
    """Called from several threads."""

    def __init__(self, paths: Sequence[str], cache: HostCache, workers: Workers) -> None:
        self._paths, self._cache, self._workers = paths, cache, workers
        self._fetcher = Fetcher(workers, cache, Clock())

    def fill(self, group: Sequence[int]) -> tuple[tuple[int, int, int], dict[int, str]]:
        """Of some rows: how many were made, were there, and did not fit; and which are bad, with the reasons."""
        found = dict(zip(group, self._fetcher.find([self._paths[row] for row in group]), strict=True))
        missing = {row: one for row, one in found.items() if one.content is not None}
        if not missing:
            return (0, len(group), 0), {}
        self._check()
        rows, size = list(missing), self._workers.decoder.chunk_size
        chunks = [rows[first : first + size] for first in range(0, len(rows), size)]
        made = self._workers.decode(lambda chunk: self._make([missing[row] for row in chunk]), chunks)
        self._check()
        outcomes = dict(zip(rows, (outcome for outcomes in made for outcome in outcomes), strict=True))
        bad = {row: outcome for row, outcome in outcomes.items() if outcome is not None}
        unseen = [row for row, one in missing.items() if one.place is not None and one.place.source is None]
        bad = dict.fromkeys(unseen, _UNSEEN) | bad
        places = self._cache.find([self._paths[row] for row in rows if row not in bad], self._workers.stamps)
        kept = sum(place.kept is not None for place in places)
        return (kept, len(group) - len(missing), len(places) - kept), bad

    def _make(self, found: Sequence[Found]) -> list[str | None]:
        """Keep photos of some files; the reasons why there are none."""
        stream = self._workers.decoder.stream
        with nullcontext() if stream is None else torch.cuda.stream(stream):
            outcomes = self._fetcher.photos(found, [None] * len(found))
        return [None if isinstance(outcome, Photo) else outcome for outcome in outcomes]

    def _check(self) -> None:
        if not self._cache.store.is_at(Path(self._cache.name, INDEX)):
            raise OSError(
                f"prepare: another process has cleaned or removed the cache in {printable(self._cache.name)!r} "
                "meanwhile. Do the same again: what is in it stays."
            )
        if self._cache.problem is not None:
            raise OSError(
                f"prepare: the cache in {printable(self._cache.name)!r} cannot be filled ({self._cache.problem}). What "
                "is in it stays. Make room or let this user write there, and do the same again."
            )
