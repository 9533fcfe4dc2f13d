"""Work in background threads: batches made ahead, in order and within bounds; readers; and decoders side by side."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Self, TypeVar

import torch

from fastaug.loading.decode import Decoder
from fastaug.samples.sources import Reader

# CPU decoders side by side. While one waits for its last file, or for Python, another one has work for the cores; each
# costs memory for the photos that it has in hand.
DECODERS = 4

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetch(
    load: Callable[[Item], Result], items: Iterable[Item], depth: int, workers: int
) -> Generator[Result, None, None]:
    """`load(item)` for each item, in order.

    At most `depth` results are under way or waiting, beside the one that the consumer has. An error of `load` comes
    where its result would have come, after the earlier results. Closing the generator, leaving its loop or dropping it
    ends the threads: what was not begun is not begun, what was is waited for.
    """
    pool = ThreadPoolExecutor(workers, "fastaug-load")
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
        pool.shutdown(cancel_futures=True)


class DecoderPool:
    """Decoders side by side, each used by one thread at a time.

    Args:
        device: of the results. A GPU has one decoder, with its own stream; a CPU up to DECODERS.
        num_threads: of all of them together.
    Attributes:
        count: how many decoders there are.
        chunk_size: files that one of them decodes at once.
    """

    def __init__(self, device: torch.device, num_threads: int) -> None:
        self.count = 1 if device.type == "cuda" else min(num_threads, DECODERS)
        self._decoders = [Decoder(device, -(-num_threads // self.count)) for _ in range(self.count)]
        self._free: queue.SimpleQueue[Decoder] = queue.SimpleQueue()
        for decoder in self._decoders:
            self._free.put(decoder)
        self._threads = ThreadPoolExecutor(self.count, "fastaug-decode")
        self.chunk_size = self._decoders[0].chunk_size

    def map(self, work: Callable[[Decoder, Item], Result], items: Iterable[Item]) -> list[Result]:
        """`work(decoder, item)` for each item, in order. Items of an earlier call come first."""

        def with_decoder(item: Item) -> Result:
            decoder = self._free.get()
            try:
                return work(decoder, item)
            finally:
                self._free.put(decoder)

        return list(self._threads.map(with_decoder, items))

    def close(self) -> None:
        """Wait for what is being decoded, then let go of threads and memory."""
        self._threads.shutdown(cancel_futures=True)
        for decoder in self._decoders:
            decoder.close()


class Workers:
    """The threads that the batches of one iteration share: those that read, and those that decode.

    Attributes:
        decoders: DecoderPool.
        stopped: whether nobody will look at what is still under way.
    """

    def __init__(self, device: torch.device, num_threads: int) -> None:
        self.decoders = DecoderPool(device, num_threads)
        self._readers = ThreadPoolExecutor(num_threads, "fastaug-read")
        self._files = Reader()
        self._stopped = threading.Event()

    @property
    def stopped(self) -> bool:
        return self._stopped.is_set()

    def read(self, paths: Sequence[str]) -> list[bytes | str]:
        """The content of each file, or the reason why there is none."""
        return list(self._readers.map(self._files.read_bytes, paths))

    def stop(self) -> None:
        """Leave out what is not decoded yet. Before `close`, for those who wait for batches meanwhile."""
        self._stopped.set()

    def close(self) -> None:
        """Wait for what is under way, then let go of threads, files and memory."""
        self.stop()
        self._readers.shutdown()
        self._files.close()
        self.decoders.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
