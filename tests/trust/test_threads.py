"""Threads and processes: closing from elsewhere, forks, installations that nobody may write, many cores."""

from __future__ import annotations

import builtins
import io
import itertools
import os
import random
import shutil
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import fastaug
import fastaug as fa
from fastaug import machine
from tests.factories import ROOT
from tests.loading.children import Child
from tests.trust import children
from tests.trust.faults import (
    In,
    Storage,
    gone,
    one_line,
    rows_of,
    small_loader,
    small_photos,
    threads,
    waits,
    within,
)

# close() from another thread


def consumed(loader: fa.ImageLoader, begun: threading.Event, pause: float = 0.0) -> Callable[[], list[int]]:
    """A loop over the loader, for another thread, that tells when it has its first batch."""

    def loop() -> list[int]:
        rows = []
        for _, _, info in loader:
            rows += info.indices.tolist()
            begun.set()
            if pause:
                time.sleep(pause)
        return rows

    return loop


@pytest.mark.parametrize("training", [True, False])
def test_close_while_another_thread_is_in_its_loop(tmp_path: Path, training: bool) -> None:
    """Its loop ends as after a close of its own; close comes back when the threads are gone."""
    samples, before = small_photos(tmp_path, 200), threads()
    loader, begun = small_loader(samples, batch_size=2, training=training), threading.Event()
    consumer = In(consumed(loader, begun, 0.002))
    assert begun.wait(10)
    In(loader.close).result(10)
    assert gone(before | {consumer}, 1), "close has waited for them"
    rows = consumer.result(5)
    assert 0 < len(rows) < 200, "the loop has ended early, without an error"
    loader.set_epoch(0)
    assert len(rows_of(loader)) == 200, "iterating again is possible"


def test_close_while_another_thread_waits_for_a_batch(tmp_path: Path, storage: Storage) -> None:
    samples, release, before = small_photos(tmp_path, 20), threading.Event(), threads()
    storage.faults[samples.paths[6]] = waits(release)
    loader, begun = small_loader(samples, batch_size=2, training=False, num_threads=1), threading.Event()
    consumer = In(consumed(loader, begun))
    assert begun.wait(10)
    time.sleep(0.5)  # it waits for the file by now
    closing = In(loader.close)
    threading.Event().wait(0.05)
    release.set()
    closing.result(10)
    rows = consumer.result(5)
    assert rows == list(range(len(rows)))
    assert len(rows) < 20
    assert gone(before, 5)


def test_close_at_any_moment(tmp_path: Path, any_random: random.Random) -> None:
    samples = small_photos(tmp_path, 60)
    before = threads()
    for _ in range(25):
        loader, begun = small_loader(samples, batch_size=2), threading.Event()
        consumer = In(consumed(loader, begun))
        threading.Event().wait(any_random.uniform(0, 0.04))
        In(loader.close).result(10)
        rows = consumer.result(10)
        assert len(set(rows)) == len(rows)
    assert gone(before, 5)


def test_many_close_at_a_time(tmp_path: Path) -> None:
    samples, before = small_photos(tmp_path, 120), threads()
    loader, begun = small_loader(samples, batch_size=2), threading.Event()
    consumers = [In(consumed(loader, begun, 0.002))]
    assert begun.wait(10)
    for closing in [In(loader.close) for _ in range(3)]:
        closing.result(10)
    for consumer in consumers:
        consumer.result(5)
    loader.close()
    assert gone(before, 5)


def test_close_from_another_thread_between_two_batches(tmp_path: Path) -> None:
    """The iteration is nobody's at that moment."""
    samples, before = small_photos(tmp_path, 40), threads()
    loader = small_loader(samples, batch_size=2)
    iteration = iter(loader)
    next(iteration)
    In(loader.close).result(10)
    assert list(iteration) == []
    assert gone(before, 5)
    assert list(iteration) == []


def test_the_state_after_close_is_that_of_what_was_delivered(tmp_path: Path) -> None:
    samples = small_photos(tmp_path, 40)
    whole = small_loader(samples, batch_size=2, seed=5)
    expected = rows_of(whole)
    loader, taken = small_loader(samples, batch_size=2, seed=5), list[int]()
    stop = threading.Event()

    def loop() -> None:
        for _, _, info in loader:
            taken.extend(info.indices.tolist())
            if len(taken) >= 10:
                stop.set()
                time.sleep(0.002)

    consumer = In(loop)
    assert stop.wait(10)
    In(loader.close).result(10)
    consumer.result(5)
    resumed = small_loader(samples, batch_size=2, seed=5)
    resumed.load_state_dict(loader.state_dict())
    assert taken + rows_of(resumed) == expected


def test_a_loader_that_is_dropped_in_another_thread(tmp_path: Path) -> None:
    samples, before = small_photos(tmp_path, 40), threads()
    loader = small_loader(samples, batch_size=2)
    iteration = iter(loader)
    next(iteration)
    seen = weakref.ref(loader)
    holder = [loader, iteration]
    del loader, iteration
    In(holder.clear).result(10)
    assert gone(before, 5)
    assert seen() is None


# A forked child


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.parametrize("torch_threads", [1, 2])
def test_a_loader_in_a_forked_child(tmp_path: Path, torch_threads: int) -> None:
    child = Child(children.forked, str(tmp_path), torch_threads)
    try:
        assert child.pipe.poll(90), "it hangs"
        kind, found = child.pipe.recv()
        assert kind == "returned", found
        iteration, *loaders = found["said"]
        assert iteration.startswith("RuntimeError "), iteration
        assert "fork" in one_line(iteration)
        assert loaders == ["unused the same", "used the same"]
        assert found["status"] == 0
        assert found["same"], "and the parent goes on undisturbed"
    finally:
        child.kill()


# An installation that nobody may write, for somebody without a home

READ_ONLY = """
import sys, numpy as np, torch
torch.set_num_threads(1)
import fastaug
assert fastaug.__file__.startswith(sys.argv[1]), fastaug.__file__
from fastaug.loading.resize import resize
from fastaug.warping import cpu
out = np.zeros((4, 4, 3), np.uint8)
resize(np.full((9, 9, 3), 7, np.uint8), (0, 0, 9, 9), out)
assert (out == 7).all()
print("done")
"""


def test_a_read_only_installation_without_a_home(tmp_path: Path) -> None:
    """A file where each __pycache__ would be stops root too; home is below what is no folder."""
    copy = tmp_path / "site"
    ignore = shutil.ignore_patterns("__pycache__", "*.pyc")
    shutil.copytree(Path(fastaug.__file__).parent, copy / "fastaug", ignore=ignore)
    for folder in (copy / "fastaug", *(path for path in (copy / "fastaug").rglob("*") if path.is_dir())):
        (folder / "__pycache__").write_text("")
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    environment = {**kept, "HOME": "/dev/null/none", "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error::UserWarning", "-c", READ_ONLY, str(copy)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-1500:]
    assert done.stdout == "done\n"
    assert all(path.is_file() for path in (copy / "fastaug").rglob("__pycache__"))


# Many cores and ranks


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`on(cores, ranks=8, parent=224)`: as on a machine with so many cores."""

    def simulate(cores: int, ranks: int | None = None, parent: int | None = None, quota: str | None = None) -> None:
        me = os.getpid()

        def affinity(process: int) -> set[int]:
            return set(range(cores if process in (0, me) else (parent or cores)))

        monkeypatch.setattr(os, "sched_getaffinity", affinity, raising=False)
        monkeypatch.setattr(os, "cpu_count", lambda: parent or cores)
        monkeypatch.setattr(os, "process_cpu_count", lambda: cores, raising=False)
        for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE", "RANK", "LOCAL_RANK"):
            monkeypatch.delenv(name, raising=False)
        if ranks is not None:
            monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
        if quota is not None:
            told(monkeypatch, quota)

    return simulate


def told(monkeypatch: pytest.MonkeyPatch, quota: str) -> None:
    """The cgroup's limit, of version 2 or 1, wherever it is looked for."""
    real = builtins.open
    limit, period = quota.split()

    def opened(file: Any, *arguments: Any, **options: Any) -> Any:
        name = os.fspath(file) if isinstance(file, str | os.PathLike) else ""
        content = {"cpu.max": quota, "cpu.cfs_quota_us": limit.replace("max", "-1"), "cpu.cfs_period_us": period}
        if str(name).startswith("/sys/fs/cgroup") and os.path.basename(name) in content:
            text = content[os.path.basename(name)] + "\n"
            return io.BytesIO(text.encode()) if "b" in "".join(map(str, arguments[:1])) else io.StringIO(text)
        return real(file, *arguments, **options)

    monkeypatch.setattr(builtins, "open", opened)
    monkeypatch.setattr(io, "open", opened)


@pytest.mark.parametrize(
    ("cores", "ranks", "parent", "expected"),
    [
        (1, None, None, 1),
        (2, None, None, 2),
        (64, None, None, 64),
        (96, None, None, 64),
        (224, None, None, 64),
        (64, 8, None, 8),
        (96, 8, None, 12),
        (128, 8, None, 16),
        (224, 8, None, 28),
        (224, 1, None, 64),
        (4, 8, None, 1),
        (8, 8, None, 1),
        (1, 8, None, 1),
        (28, 8, 224, 28),  # pinned by itself, each rank to its own
        (8, 8, 64, 8),
        (100, 8, 224, 64),
    ],
)
def test_threads_of_a_rank(
    tmp_path: Path, on: Callable[..., None], cores: int, ranks: int | None, parent: int | None, expected: int
) -> None:
    on(cores, ranks, parent)
    assert machine.thread_count() == expected
    loader = small_loader(small_photos(tmp_path, 2), num_threads=None, batch_size=2)
    assert loader.num_threads == expected


@pytest.mark.parametrize("ranks", ["", "x", "0", "-8", "8.5"])
def test_a_number_of_ranks_that_is_none(on: Callable[..., None], monkeypatch: pytest.MonkeyPatch, ranks: str) -> None:
    on(16)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", ranks)
    assert 1 <= machine.thread_count() <= 16


@pytest.mark.parametrize(
    ("cores", "quota", "expected"),
    [
        (224, "150000 100000", 2),
        (224, "800000 100000", 8),
        (224, "50000 100000", 1),
        (224, "max 100000", 224),
        (4, "3200000 100000", 4),
        (64, "1 100000", 1),
    ],
)
def test_cores_are_no_more_than_the_quota(on: Callable[..., None], cores: int, quota: str, expected: int) -> None:
    on(cores, quota=quota)
    assert machine.core_count() == expected


def test_threads_of_a_rank_within_a_quota(on: Callable[..., None]) -> None:
    on(224, 4, quota="1600000 100000")
    assert machine.thread_count() == 4


def test_an_epoch_on_224_cores_and_eight_ranks(tmp_path: Path, on: Callable[..., None]) -> None:
    """No more threads than are said, and the pixels of any other number."""
    samples = small_photos(tmp_path, 40)
    settings: dict[str, Any] = {"augment": children.AUGMENT, "batch_size": 5, "seed": 1, "shard": (3, 8)}
    few = [x for x, _, _ in small_loader(samples, **settings, num_threads=1)]
    on(224, 8)
    before, most = threading.active_count(), 0
    loader = small_loader(samples, **settings, num_threads=None)
    found = []
    for x, _, _ in loader:
        found.append(x)
        most = max(most, threading.active_count() - before)
    assert most <= 2 * 28 + 4
    assert all(map(torch.equal, few, found))


@pytest.mark.parametrize("cores", [64, 224])
def test_chunks_are_sane_on_many_cores(tmp_path: Path, on: Callable[..., None], cores: int) -> None:
    """Whatever the batch: all its photos come, and what is decoded at a time is bounded, but not one by one."""
    on(cores)
    samples = small_photos(tmp_path, 70)
    expected = None
    for batch, count in itertools.product((1, 3, 64), (None, 3, 224)):
        loader = small_loader(samples, augment=children.AUGMENT, batch_size=batch, training=False, num_threads=count)
        with within(20):
            images = torch.cat([x for x, _, _ in loader])
        expected = images if expected is None else expected
        assert torch.equal(images, expected), (batch, count)


# The helpers reject wrong answers


def test_machines_are_simulated(on: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    on(28, 8, 224, quota="150000 100000")
    assert len(os.sched_getaffinity(0)) == 28
    assert len(os.sched_getaffinity(os.getppid())) == 224
    assert Path("/sys/fs/cgroup/cpu.max").read_text().split() == ["150000", "100000"]
    with open("/sys/fs/cgroup/x/cpu.max", "rb") as file:
        assert file.read().split() == [b"150000", b"100000"]
    assert ROOT.exists()


def test_threads_that_stay_are_seen() -> None:
    before, event = threads(), threading.Event()
    stays = threading.Thread(target=event.wait, daemon=True)
    stays.start()
    assert not gone(before, 0.1)
    event.set()
    assert gone(before, 5)
