"""A loader between threads and processes: closed from anywhere, forked at any time, on any number of cores."""

from __future__ import annotations

import gc
import os
import random
import signal
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

import fastaug as fa
from fastaug.loading.iteration import Stop
from fastaug.samples.sources import Reader
from tests.factories import PATIENCE_S, epoch, make_loader, wait_until

AUGMENT = fa.aug_transforms(size=16, normalize=None)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> fa.Samples:
    """Twenty-four images of noise, quickly decoded."""
    root, noise = tmp_path_factory.mktemp("small"), np.random.default_rng(0)
    (root / "a").mkdir()
    for i in range(24):
        Image.fromarray(noise.integers(0, 256, (24, 32, 3), np.uint8)).save(root / "a" / f"{i:02}.jpg")
    return fa.Samples.from_folder(root)


def make(small: fa.Samples, **arguments: Any) -> fa.ImageLoader:
    return make_loader(small, **{"presize": 20, "batch_size": 3, "augment": AUGMENT, **arguments})


def ours() -> list[str]:
    """Threads of loaders; those of the warp stay."""
    return [t.name for t in threading.enumerate() if t.name.startswith("fastaug-") and "warp" not in t.name]


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


class Consumer(threading.Thread):
    """Goes through an epoch; `rows` is what came, `error` what was raised."""

    def __init__(self, loader: fa.ImageLoader, delay_s: float = 0.0) -> None:
        super().__init__(daemon=True)
        self.loader, self.delay_s = loader, delay_s
        self.rows: list[int] = []
        self.batches, self.error = 0, None

    def run(self) -> None:
        try:
            for _, _, info in self.loader:
                self.rows += info.indices.tolist()
                self.batches += 1
                time.sleep(self.delay_s)
        except BaseException as error:
            self.error = error

    def end(self) -> None:
        """It must end, and quietly."""
        self.join(PATIENCE_S)
        assert not self.is_alive(), "it hangs"
        assert self.error is None, repr(self.error)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Every read waits until the event is set."""
    go, read = threading.Event(), Reader.read_bytes

    def wait(reader: Reader, path: str) -> Any:
        go.wait(PATIENCE_S)
        return read(reader, path)

    monkeypatch.setattr(Reader, "read_bytes", wait)
    yield go
    go.set()


def test_closing_while_another_thread_waits_for_a_batch(small: fa.Samples, held: threading.Event) -> None:
    loader = make(small)
    consumer = Consumer(loader)
    consumer.start()
    while not any("read" in name for name in ours()):
        time.sleep(0.001)
    threading.Timer(0.02, held.set).start()
    loader.close()
    assert ours() == []
    consumer.end()
    assert (consumer.rows, loader.state_dict()["delivered"], loader.quarantined) == ([], 0, [])
    assert sorted(epoch(loader)[2].indices.tolist()) == [*range(24)], "it may be used again, from the start"


def test_closing_at_any_time_from_anywhere(small: fa.Samples) -> None:
    """Whoever closes: another thread, two of them, or the loop's own body. What was delivered is what counts."""
    chance = random.Random(0)
    everything, files = Consumer(make(small)), descriptors()
    everything.run()
    files = descriptors()
    for _ in range(200):
        loader = make(small, prefetch_batches=chance.randint(1, 3))
        consumer = Consumer(loader, chance.choice([0, 0.0005]))
        consumer.start()
        closers = [threading.Thread(target=loader.close) for _ in range(chance.randint(1, 2))]
        time.sleep(chance.uniform(0, 0.012))
        for closer in closers:
            closer.start()
        for closer in closers:
            closer.join(PATIENCE_S)
            assert not closer.is_alive(), "closing hangs"
        if not consumer.rows:  # it may not have begun
            loader.close()
        consumer.end()
        assert consumer.rows == everything.rows[: len(consumer.rows)]
        ended = consumer.batches == len(loader) and loader.state_dict()["epoch"] == 1
        assert loader.state_dict()["delivered"] == (0 if ended else consumer.batches)
        assert loader.quarantined == []
    assert ours() == []
    assert descriptors() == files


def test_closing_in_the_body_of_the_loop(small: fa.Samples) -> None:
    loader = make(small)
    came = 0
    for _ in loader:
        came += 1
        if came == 3:
            loader.close()
            loader.close()
            assert ours() == []
    assert (came, loader.state_dict()["delivered"]) == (3, 3)


def test_closing_in_a_signal_handler(small: fa.Samples) -> None:
    """It may interrupt the consumer anywhere: while it waits, warps, closes, or has the batch."""
    chance, loader = random.Random(1), make(small)
    before = signal.signal(signal.SIGALRM, lambda *_: loader.close())
    try:
        for _ in range(100):
            signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.0005, 0.012))
            came = sum(1 for _ in loader)
            signal.setitimer(signal.ITIMER_REAL, 0)
            assert came == 8 or loader.state_dict()["delivered"] == came
            assert ours() == []
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_two_threads_have_an_epoch_each(small: fa.Samples) -> None:
    """Of one loader, at the same time; and one is told when the other one closes."""
    loader = make(small)
    for _ in range(5):
        consumers = [Consumer(loader) for _ in range(2)]
        for consumer in consumers:
            consumer.start()
        for consumer in consumers:
            consumer.end()
            assert sorted(consumer.rows) == [*range(24)]
    consumers = [Consumer(loader, 0.001) for _ in range(2)]
    for consumer in consumers:
        consumer.start()
    time.sleep(0.01)
    loader.close()
    for consumer in consumers:
        consumer.end()
    assert ours() == []


def test_two_threads_share_an_iteration(small: fa.Samples) -> None:
    batches, rows = iter(make(small)), list[int]()

    def work() -> None:
        for _, _, info in batches:
            rows.extend(info.indices.tolist())

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert sorted(rows) == [*range(24)]


def test_an_iteration_that_the_garbage_collector_ends_in_a_thread_of_its_own(
    small: fa.Samples, held: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after an exception whose traceback had it: such a thread would wait for itself."""
    dropped, wait = threading.Event(), Reader.read_bytes

    def collect(reader: Reader, path: str) -> Any:
        content = wait(reader, path)
        if dropped.is_set():
            gc.collect()
        return content

    monkeypatch.setattr(Reader, "read_bytes", collect)
    gc.collect()
    gc.disable()
    try:
        held.set()
        circle: list[Any] = [iter(make(small, prefetch_batches=2))]
        next(circle[0])
        circle.append(circle)
        ended = weakref.ref(circle[0])
        held.clear()
        next(circle[0])  # and so another batch is being read
        del circle
        dropped.set()
        held.set()
        wait_until(lambda: ended() is None)
    finally:
        gc.enable()
    wait_until(lambda: ours() == [])


def test_stopping_tells_once_whoever_comes_first() -> None:
    told: list[int] = []
    early, late = Stop(), Stop()
    early.ask()
    early.then(lambda: told.append(1))
    late.then(lambda: told.append(2))
    late.ask()
    late.ask()
    assert told == [1, 2]
