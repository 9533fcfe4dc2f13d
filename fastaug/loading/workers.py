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
from fastaug.memory import Memory
from fastaug.samples.sources import Reader

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


def prefetch(
    load: Callable[[Item], Result], items: Iterable[Item], depth: int, workers: int
) -> Generator[Result, None, None]:
    """`load(item)` for each item, in order.

    At most `depth` results are under way or waiting, beside the one that the consumer has. An error of `load` comes
    where its result would have come, after the earlier results. Closing the generator, leaving its loop or dropping it
    ends the threads: what was not begun is not begun, what was is waited for.
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
        pool.end()


class Workers:
    """What the batches of one iteration share: threads that read and threads that decode, a decoder, memory.

    Attributes:
        decoder: closed with this.
        memory: for pixels on the CPU.
        stopped: whether nobody will look at what is still under way.
    """

    def __init__(self, decoder: Decoder, num_threads: int) -> None:
        self.decoder, self.memory, self._threads = decoder, Memory(), num_threads
        self._decoding = Pool(decoder.threads, "decode")
        self._readers = Pool(num_threads, "read")
        self._files = Reader()
        self._stopped = threading.Event()

    @property
    def stopped(self) -> bool:
        return self._stopped.is_set()

    def read(self, paths: Sequence[str]) -> list[bytes | str]:
        """The content of each file, or the reason why there is none."""
        return self._share(self._readers, self._threads, self._files.read_bytes, paths)

    def read_now(self, path: str) -> bytes | str:
        """The same of one file, in the calling thread."""
        return self._files.read_bytes(path)

    def decode(self, work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """`work(item)` for each item, in order, in the threads that decode. Items of an earlier call come first."""
        return self._share(self._decoding, self.decoder.threads, work, items)

    @staticmethod
    def _share(
        pool: ThreadPoolExecutor, threads: int, work: Callable[[Item], Result], items: Sequence[Item]
    ) -> list[Result]:
        results: dict[int, Result] = {}
        left = iter(range(len(items)))  # each thread takes the next one when it is ready: a task for each costs more

        def take() -> None:
            for i in left:
                results[i] = work(items[i])

        for done in [pool.submit(take) for _ in range(min(threads, len(items)))]:
            done.result()
        return [results[i] for i in range(len(items))]

    def stop(self) -> None:
        """Leave out what is not decoded yet. Before `close`, for those who wait for batches meanwhile."""
        self._stopped.set()

    def close(self) -> None:
        """Wait for what is under way, then let go of threads, files and memory."""
        if not self._decoding.is_here:
            return
        self.stop()
        self._readers.end()
        self._files.close()
        self._decoding.end()
        self.decoder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
