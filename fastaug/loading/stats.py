"""Where a loader's time went, and whether it or the model is the limit."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from fastaug.augment.augment import Observe
from fastaug.text import html_table

STAGES = {
    "read": "reading", "decode": "decoding", "keep": "keeping", "cache": "from cache", "presize": "presizing",
    "draw": "drawing", "warp": "warping",
}  # fmt: skip
LOADER_IS_THE_LIMIT = 0.1  # share of the time, from which on


@dataclass(frozen=True, repr=False)
class LoaderStats:
    """One epoch of an `ImageLoader`, or as much of it as has been delivered.

    Attributes:
        images: delivered.
        first_batch_s: from asking for the first batch to having it. In no other figure.
        model_s: what the consumer did between two batches, seconds.
        waited_s: what the consumer waited for batches.
        warp_s: what the consumer spent in the warp. On a GPU: to launch it.
        stages: name -> (images, seconds), each by itself, as it ran beside the others; the seconds of its threads are
            added up and divided by their number. Prefetched images count. "presize" is with mode="direct" the
            shrinking of photos that are far too large; "keep" the filling of a cache, "cache" what was served from it.
            On a GPU: the host's part.
    """

    images: int
    first_batch_s: float
    model_s: float
    waited_s: float
    warp_s: float
    stages: dict[str, tuple[int, float]]

    @property
    def images_per_s(self) -> dict[str, float]:
        """Of each stage, if it had the machine as it had it, and nothing else were to be done."""
        return {name: images / seconds for name, (images, seconds) in self.stages.items() if seconds > 0 and images}

    @property
    def cached(self) -> int:
        """Images that came from the cache; prefetched ones count."""
        return self.stages.get("cache", (0, 0.0))[0]

    @property
    def decoded(self) -> int:
        """Images that were decoded, bad ones included."""
        return self.stages.get("decode", (0, 0.0))[0]

    @property
    def loader_share(self) -> float:
        """Share of the time, after the first batch, in which the consumer waited or warped; nan before the second."""
        total = self.model_s + self.waited_s + self.warp_s
        return (self.waited_s + self.warp_s) / total if total else float("nan")

    @property
    def limit(self) -> str:
        """One sentence: is it the model or the loader?"""
        total, loader = self.model_s + self.waited_s + self.warp_s, self.waited_s + self.warp_s
        speed = self.images_per_s
        if not total or not speed:
            return "Not known yet: fewer than two batches were delivered."
        if self.loader_share < LOADER_IS_THE_LIMIT:
            return (
                f"The model is the limit: of {total:.1f} s it took {self.model_s:.1f} s, the loader "
                f"{loader:.1f} s ({self.loader_share:.0%})."
            )
        slowest = min(speed, key=lambda name: speed[name])
        return (
            f"The loader is the limit: of {total:.1f} s the model waited {loader:.1f} s ({self.loader_share:.0%}); "
            f"{STAGES[slowest]}, at {speed[slowest]:,.0f} images/s, is the slowest step."
        )

    def __str__(self) -> str:
        lines = [f"{STAGES[name]:<10}{speed:>10,.0f} images/s" for name, speed in self.images_per_s.items()]
        if self.cached or "keep" in self.stages:
            lines.append(f"{self.cached:,} images from the cache, {self.decoded:,} decoded")
        return "\n".join([*lines, f"first batch after {self.first_batch_s:.2f} s", self.limit])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """For notebooks."""
        rows = [(STAGES[name], f"{speed:,.0f}") for name, speed in self.images_per_s.items()]
        return html_table(self.limit, rows, ("step", "images/s"))


def merge_stats(parts: Sequence[LoaderStats]) -> LoaderStats:
    """Of several epochs together; the first batch is that of the first one."""
    stages: dict[str, tuple[int, float]] = {}
    for name, (images, seconds) in (stage for part in parts for stage in part.stages.items()):
        before = stages.get(name, (0, 0.0))
        stages[name] = before[0] + images, before[1] + seconds
    totals = {name: sum(getattr(part, name) for part in parts) for name in ("images", "model_s", "waited_s", "warp_s")}
    return LoaderStats(first_batch_s=parts[0].first_batch_s, stages=stages, **totals)


class Observer(Protocol):
    """Is told what happens to a batch while it is made, and by which step."""

    @property
    def operator(self) -> Observe | None:
        """The same for the operators' draws, see `Augment.draw`."""
        ...

    def stage(self, name: str, images: int) -> AbstractContextManager[Callable[[Any], None]]:
        """Around a step; what comes of it is told to the function that one gets."""
        ...


class Clock:
    """An Observer that collects a LoaderStats; the stages from several threads.

    workers: how many threads a stage has, if not 1.
    """

    operator = None

    def __init__(self, workers: Mapping[str, int] | None = None) -> None:
        self._workers = workers or {}
        self._lock = threading.Lock()
        self._stages = dict.fromkeys(STAGES, (0, 0.0))
        self._images, self._first_batch_s, self._model_s, self._waited_s, self._warp_s = 0, 0.0, 0.0, 0.0, 0.0
        self._asked = time.perf_counter()
        self._between_s = 0.0  # the consumer's time since the last batch
        self._batches = 0

    @contextmanager
    def stage(self, name: str, images: int) -> Iterator[Callable[[object], None]]:
        start = time.perf_counter()
        yield _ignore
        seconds = time.perf_counter() - start
        with self._lock:
            before_images, before_seconds = self._stages[name]
            self._stages[name] = before_images + images, before_seconds + seconds

    def asked(self, since: float) -> None:
        """The consumer is back for the next batch; it got the last one at `since`."""
        self._asked = time.perf_counter()
        self._between_s = self._asked - since

    def delivered(self, images: int, loaded: float) -> float:
        """A batch goes to the consumer; it was loaded at `loaded` and then warped. Returns the time."""
        now = time.perf_counter()
        if self._batches == 0:
            self._first_batch_s = now - self._asked
        else:
            self._model_s += self._between_s
            self._waited_s += loaded - self._asked
            self._warp_s += now - loaded
        self._batches, self._images = self._batches + 1, self._images + images
        return now

    def stats(self) -> LoaderStats:
        # Without the lock, which a fork may have from its parent; all stages are there from the beginning
        came = {name: stage for name, stage in self._stages.items() if stage[0]}
        stages = {name: (images, seconds / self._workers.get(name, 1)) for name, (images, seconds) in came.items()}
        return LoaderStats(self._images, self._first_batch_s, self._model_s, self._waited_s, self._warp_s, stages)


def _ignore(result: object) -> None:
    """A Clock looks at nothing but the time."""
