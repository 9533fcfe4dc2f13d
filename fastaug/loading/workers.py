"""Work in background threads: batches made ahead, in order and within bounds; reading; decoding."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from itertools import islice
from typing import Self, TypeVar

from fastaug.loading.decode import Decoder
from fastaug.loading.reading import Readers, stop_all
from fastaug.memory import Memory
from fastaug.samples.sources import MAX_FILE_BYTES, Stamp

Item = TypeVar("Item")
Result = TypeVar("Result")
_NAME = "fastaug-"  # that those of all our threads begin with
_PROCESS = os.getpid()  # that imported this


class Pool(ThreadPoolExecutor):
    """Threads of this process: its forked children have none of them, and must not wait for them."""

    def __init__(self, count: int, name: str) -> None:
        super().__init__(count, f"{_NAME}{name}")
        self._process = os.getpid()

    @property
    def is_here(self) -> bool:
        return os.getpid() == self._process

    def end(self) -> None:
        """Leave out what was not begun, and wait for the rest.

        Not in one of our own threads, where the garbage collector may call this: it would wait for itself.
        """
        if self.is_here:  # in a child, whoever held its lock does not exist
            ours = threading.current_thread().name.startswith(_NAME)
            self.shutdown(wait=not ours, cancel_futures=True)


def beside_forks(work: Callable[[], Result]) -> Result:
    """`work()`; in a forked child by another thread than the one that forked, where GNU OpenMP, and so torch, hangs.

    It waits there for threads that it had before the fork; of any other thread it knows that it has none.
    """
    return work() if os.getpid() == _PROCESS else _beside(os.getpid()).submit(work).result()


@lru_cache(maxsize=1)
def _beside(process: int) -> Pool:
    return Pool(1, "warp")


# At the end of the process the threads of pools are joined, which may wait for reads. What is registered later, after
# the pools' own, is called before. (`atexit` would be too late.)
threading._register_atexit(stop_all)  # type: ignore[attr-defined]


def prefetch(
    load: Callable[[Item], Result],
    items: Iterable[Item],
    depth: int,
    workers: int,
    stop: Callable[[], None] = lambda: None,
) -> Generator[Result, None, None]:
    """`load(item)` for each item, in order.

    At most `depth` results are under way or waiting, beside the one that the consumer has. An error of `load` comes
    where its result would have come, after the earlier results. Closing the generator, leaving its loop or dropping it
    ends the threads: what was not begun is not begun, what was is waited for.

    stop: called before that, so that there is little to wait for: after an error, as Ctrl-C, too.
    """
    pool = Pool(workers, "load")
    waiting: deque[Future[Result]] = deque()
    coming = iter(items)
    try:
        waiting.extend(pool.submit(load, item) for item in islice(coming, depth))
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(load, item) for item in islice(coming, 1))
            yield result
            del result  # or it would live until the next one is there
    finally:
        stop()
        pool.end()


class Workers:
    """What the batches of one iteration share: threads that read and threads that decode, a decoder, memory.

    Attributes:
        decoder: closed with this.
        memory: for pixels on the CPU.
        stopped: whether nobody will look at what is still under way.

    Args:
        num_threads: that read.
        read_timeout, max_file_bytes: as of the ImageLoader.
    """

    def __init__(
        self,
        decoder: Decoder,
        num_threads: int,
        read_timeout: float | None = None,
        max_file_bytes: int = MAX_FILE_BYTES,
    ) -> None:
        self.decoder, self.memory = decoder, Memory()
        self._decoding = Pool(decoder.threads, "decode")
        self._readers = Readers(num_threads, read_timeout, max_file_bytes)
        self._stopped = threading.Event()

    @property
    def stopped(self) -> bool:
        return self._stopped.is_set()

    def read(self, paths: Sequence[str]) -> list[bytes | str]:
        """The content of each file, or the reason why there is none."""
        return self._readers.read(paths)

    def stamps(self, paths: Sequence[str]) -> list[Stamp | None]:
        """By which it is seen whether files have changed; None: it is not known of that file."""
        return self._readers.stamps(paths)

    def decode(self, work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """`work(item)` for each item, in order, in the threads that decode. Items of an earlier call come first."""
        results: dict[int, Result] = {}
        left = iter(range(len(items)))  # each thread takes the next one when it is ready: a task for each costs more

        def take() -> None:
            for i in left:
                results[i] = work(items[i])

        for done in [self._decoding.submit(take) for _ in range(min(self.decoder.threads, len(items)))]:
            done.result()
        return [results[i] for i in range(len(items))]

    def stop(self) -> None:
        """Leave out what is not decoded yet. Before `close`, for those who wait for batches meanwhile."""
        self._stopped.set()
        self._readers.stop()

    def close(self) -> None:
        """Wait for what is under way, but for reads that hang; then let go of threads, files and memory."""
        if not self._decoding.is_here:
            return
        self.stop()
        self._readers.close()
        self._decoding.end()
        self.decoder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
