"""A loader between threads and processes: closed from anywhere, forked at any time, on any number of cores."""

from __future__ import annotations

import atexit
import gc
import json
import multiprocessing
import os
import random
import signal
import threading
import time
import traceback
import warnings
import weakref
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import fastaug as fa
from fastaug import machine
from fastaug.loading.cpu_decoder import CpuDecoder
from fastaug.loading.decode import default_threads
from fastaug.loading.iteration import Stop
from fastaug.loading.workers import Workers
from fastaug.samples.sources import Reader
from fastaug.warping import cpu
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
    chance, loader, here = random.Random(1), make(small), threading.get_ident()
    before = signal.signal(signal.SIGUSR1, lambda *_: loader.close())
    try:
        for _ in range(100):
            timer = threading.Timer(chance.uniform(0, 0.012), signal.pthread_kill, (here, signal.SIGUSR1))
            timer.start()
            came = sum(1 for _ in loader)
            timer.join()
            assert came == 8 or loader.state_dict()["delivered"] == came
            assert ours() == []
    finally:
        signal.signal(signal.SIGUSR1, before)


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


def test_ctrl_c_does_not_wait_for_a_read_that_hangs(small: fa.Samples, held: threading.Event) -> None:
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    late = threading.Timer(20, held.set)
    late.start()
    try:
        signal.setitimer(signal.ITIMER_REAL, 1.0)
        with pytest.raises(KeyboardInterrupt):
            list(make(small))
        assert not held.is_set()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        late.cancel()
        held.set()


def test_stopping_tells_once_whoever_comes_first() -> None:
    told: list[int] = []
    early, late = Stop(), Stop()
    early.ask()
    early.then(lambda: told.append(1))
    late.then(lambda: told.append(2))
    late.ask()
    late.ask()
    assert told == [1, 2]


def test_who_keeps_an_iteration_keeps_nothing_of_it(small: fa.Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[Workers]] = []

    def workers(*arguments: Any, of: Any = Workers) -> Workers:
        made.append(weakref.ref(found := of(*arguments)))
        return found

    monkeypatch.setattr("fastaug.loading.loader.Workers", workers)
    iteration = iter(make(small))
    for _ in iteration:
        pass
    assert [workers() for workers in made] == [None]


def in_fork(work: Callable[[], Any]) -> Any:
    """What `work` returns in a forked child, in plain values; it must end, whatever its parent's threads held."""
    there, here = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about the fork, from Python 3.12 on
        child = os.fork()
    if not child:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # pytest has one for its own time limit
        signal.alarm(60)
        try:
            text = json.dumps(work())
        except BaseException:
            text = json.dumps(traceback.format_exc())
        os.write(here, text.encode())
        os._exit(0)
    os.close(here)
    with open(there, encoding="utf-8") as pipe:
        text = pipe.read()
    assert os.waitpid(child, 0)[1] == 0, "it hung"
    return json.loads(text)


def sums(loader: fa.ImageLoader) -> list[list[float]]:
    """Of an epoch's batches: rows, and a checksum of the pixels."""
    return [digest(batch) for batch in loader]


def digest(batch: Any) -> list[float]:
    x, _, info = batch
    return [*info.indices.tolist(), zlib.crc32(x.numpy().tobytes())]


def end_like_a_process() -> None:
    """What Python does at its end."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    gc.collect()


@pytest.fixture
def busy_openmp() -> Iterator[None]:
    """This thread has made torch's threads work: GNU OpenMP waits for them in a forked child, for ever."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.ones(1 << 18).half().float().sum()
    yield
    torch.set_num_threads(threads)


HALF = fa.aug_transforms(size=112, normalize=None)
HALF.dtype = torch.float16


@pytest.mark.usefixtures("busy_openmp")
@pytest.mark.parametrize(
    ("before", "cache"),
    [("never iterated", None), ("iterated to the end", None), ("left in the middle", None), ("being iterated", None),
     ("being iterated", "memory"), ("being iterated", "folder")],
)  # fmt: skip
def test_a_forked_child_has_the_same_batches(small: fa.Samples, tmp_path: Path, before: str, cache: str | None) -> None:
    """Of half precision, which torch makes with all its threads."""
    where = str(tmp_path / "cache") if cache == "folder" else cache
    arguments = {"augment": HALF, "batch_size": 8, "cache": where, "presize": 120}
    first, second, third = (sums(loader) for loader in [make(small, **arguments)] * 3)
    loader, batches, came = make(small, **arguments), None, list[Any]()
    if before == "iterated to the end":
        assert sums(loader) == first
    elif before != "never iterated":
        batches = iter(loader)
        came = [digest(next(batches))]
        if before == "left in the middle":
            batches.close()

    def child() -> Any:
        found = []
        if before == "being iterated":
            with pytest.raises(RuntimeError) as told:
                next(batches)
            found.append(str(told.value))
            loader.close()
        found += [sums(loader), len(loader.stats().stages) > 0]
        end_like_a_process()
        return found

    expected: list[Any] = [first if before == "never iterated" else second, True]
    told = (
        f"ImageLoader: expected process {os.getpid()} to go on with the iteration that it began, got its forked child, "
        "which has none of the threads. Iterate over the loader anew there."
    )
    assert in_fork(child) == ([told, *expected] if before == "being iterated" else expected)
    if before == "being iterated":
        came += map(digest, batches)
        assert came == first, "the parent goes on"
    assert sums(loader) == (first if before == "never iterated" else second)
    assert third != second != first
    loader.close()
    assert ours() == []


@pytest.mark.parametrize("cache", ["memory", "folder"])
def test_forks_at_any_time(small: fa.Samples, tmp_path: Path, cache: str) -> None:
    """Whatever lock a thread of the parent holds."""
    kept = make(small, cache=cache if cache == "memory" else tmp_path)
    expected, chance = [sums(kept), sums(kept)], random.Random(0)
    for number in range(12):
        where = str(tmp_path / str(number)) if cache == "folder" else cache
        loader = make(small, cache=where, prefetch_batches=3)
        consumer = Consumer(loader)
        consumer.start()
        time.sleep(chance.uniform(0.001, 0.02))

        def child(loader: fa.ImageLoader = loader) -> Any:
            loader.set_epoch(1)
            return sums(loader)

        assert in_fork(child) == expected[1]
        consumer.end()
        assert consumer.rows == [int(row) for batch in expected[0] for row in batch[:-1]]
        assert loader.stats().images == 24


def test_a_fork_waits_for_a_compilation(small: fa.Samples) -> None:
    """Numba's compiler has one lock, which a thread that the child does not have could hold for ever."""
    from numba.core.compiler_lock import global_compiler_lock

    sums(make(small))
    compiling = threading.Event()

    def work() -> None:
        with global_compiler_lock:
            compiling.set()
            time.sleep(0.1)

    thread = threading.Thread(target=work)
    thread.start()
    compiling.wait()
    assert in_fork(lambda: global_compiler_lock._lock.acquire(timeout=5)) is True
    thread.join()
    assert global_compiler_lock._lock.acquire(timeout=5)
    global_compiler_lock._lock.release()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_process_of_multiprocessing_ends(small: fa.Samples) -> None:
    """Forked, while its parent iterates, and without having been asked to."""
    loader = make(small)
    expected = sums(make(small))
    batches = iter(loader)
    came = [digest(next(batches))]
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    process = context.Process(target=lambda: queue.put(sums(make(small))))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert queue.get() == expected
    assert came + [digest(batch) for batch in batches] == expected


@pytest.mark.parametrize("threads", [1, 2, 64, 224])
def test_any_number_of_threads_makes_the_same_batches(small: fa.Samples, threads: int) -> None:
    """More than there are files are no more than there is something to do for."""
    arguments = {"batch_size": 12, "mode": "direct"}
    loader, expected = make(small, **arguments, num_threads=threads), sums(make(small, **arguments))
    batches = iter(loader)
    came = [digest(next(batches))]
    assert sum("decode" in name for name in ours()) <= min(threads, 2 * 12)
    assert came + [digest(batch) for batch in batches] == expected
    assert ours() == []


@pytest.mark.parametrize(
    ("photos", "threads", "expected"),
    [(64, 1, 4), (64, 2, 4), (64, 16, 4), (64, 32, 2), (64, 64, 1), (64, 224, 1), (8, 2, 4), (7, 2, 3), (1, 2, 1),
     (256, 64, 4)],
)  # fmt: skip
def test_every_thread_has_something_to_decode(
    small: fa.Samples, photos: int, threads: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches are cut into pieces of up to four files, and smaller ones where these would not be enough for all."""
    pieces: list[int] = []

    def decode(workers: Workers, work: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        pieces.extend(map(len, items))
        return [work(item) for item in items]

    monkeypatch.setattr(Workers, "decode", decode)
    many = small.subset([i % 24 for i in range(photos)])
    next(iter(make(many, batch_size=photos, num_threads=threads, training=False)))
    assert (max(pieces), sum(pieces)) == (expected, photos)


@pytest.mark.parametrize(
    ("cores", "ranks", "jpeg", "dali"),
    [(1, 1, 1, 1), (2, 1, 2, 2), (64, 1, 64, 16), (128, 1, 64, 16), (224, 1, 64, 16), (1, 8, 1, 1), (64, 8, 8, 8),
     (128, 8, 16, 16), (224, 8, 28, 16)],
)  # fmt: skip
def test_threads_by_default(
    small: fa.Samples, cores: int, ranks: int, jpeg: int, dali: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "core_count", lambda: cores)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
    assert make(small, num_threads=None).num_threads == jpeg == CpuDecoder().threads
    assert default_threads("dali") == dali
    assert make(small, num_threads=99).num_threads == 99, "who asks for them has them"


def test_the_warp_has_torchs_threads_up_to_32(monkeypatch: pytest.MonkeyPatch) -> None:
    for threads, expected in ((1, 1), (2, 2), (32, 32), (112, 32)):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert cpu.warp_threads() == expected


def test_closing_while_a_read_hangs(small: fa.Samples, held: threading.Event) -> None:
    """Nobody waits for storage that does not answer; the thread that does is left to it."""
    loader, started = make(small), time.monotonic()
    consumer = Consumer(loader)
    consumer.start()
    wait_until(lambda: any("read" in name for name in ours()))
    loader.close()
    consumer.end()
    assert (consumer.rows, loader.quarantined) == ([], [])
    assert time.monotonic() - started < PATIENCE_S / 4
    assert all("read" in name for name in ours())
    held.set()
    wait_until(lambda: ours() == [])
