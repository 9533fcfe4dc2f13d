"""Processes for the tests of faults: forked from one that has imported everything, so that each costs a moment.

A child is a function of this module; what it returns, or raises, comes back.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import multiprocessing
import os
import resource
import shutil
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

import fastaug as fa
from fastaug.loading.resize import resize
from tests.factories import PATIENCE_S
from tests.loading.by_hand import AUGMENT, CACHE_SIZE, assert_right, make_cached, served  # noqa: F401

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([__name__, "pytest"])  # it is the main module, which each child imports
# Numba's loops are loaded once, before anything is forked; no threads are started by it.
resize(np.zeros((9, 9, 3), np.uint8), (0, 0, 9, 9), np.zeros((4, 4, 3), np.uint8))


class Child:
    """`function(pipe, *arguments)` in a process of its own."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.pipe, there = CONTEXT.Pipe()
        self.process = CONTEXT.Process(target=_run, args=(there, function, arguments), daemon=True)
        self.process.start()
        there.close()

    def hear(self) -> Any:
        """What it sends next."""
        assert self.pipe.poll(PATIENCE_S), "nothing comes"
        return self.pipe.recv()

    def kill(self) -> None:
        self.process.kill()
        self.process.join(PATIENCE_S)
        self.pipe.close()

    def end(self) -> Any:
        """What it returns; it must end well."""
        try:
            kind, result = self.hear()
        except EOFError:
            kind, result = "died", None
        self.process.join(PATIENCE_S)
        self.pipe.close()
        assert kind == "returned", result or f"it ended with {self.process.exitcode}"
        assert self.process.exitcode == 0
        return result

    def end_killed(self) -> None:
        """It ends by SIGKILL of its own hand."""
        self.process.join(PATIENCE_S)
        assert self.process.exitcode == -signal.SIGKILL, self.process.exitcode
        self.pipe.close()


def _run(pipe: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    try:
        pipe.send(("returned", function(pipe, *arguments)))
    except BaseException:
        pipe.send(("raised", traceback.format_exc()))


def in_child(function: Callable[..., Any], *arguments: Any) -> Any:
    return Child(function, *arguments).end()


@contextlib.contextmanager
def said() -> Iterator[list[str]]:
    """Warnings, Python's and the log's."""
    found: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: found.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("fastaug").addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = lambda message, *_, **__: found.append(str(message))
            yield found
    finally:
        logging.getLogger("fastaug").removeHandler(handler)


def fill(pipe: Connection, samples: fa.Samples, folder: str, seed: int) -> None:
    """Again and again until it is killed."""
    settings: dict[str, Any] = {"augment": None, "batch_size": 4, "num_threads": 1, "prefetch_batches": 1}
    loader = make_cached(samples, folder, seed=seed, **settings)
    pipe.send("ready")
    while True:
        for _ in loader:
            time.sleep(0.003)


def fill_once(pipe: Connection, samples: fa.Samples, folder: str) -> None:
    assert len(list(make_cached(samples, folder))) > 0


def fill_at_once(pipe: Connection, samples: fa.Samples, folder: str, seed: int) -> list[tuple[int, int]]:
    """Two epochs, when told so."""
    loader = make_cached(samples, folder, seed=seed, augment=None, batch_size=4, num_threads=2)
    pipe.send("ready")
    pipe.recv()
    found = []
    for epoch in range(2):
        assert len(assert_right(loader, epoch)) == len(samples)
        found.append(served(loader))
    return found


def fill_forked(pipe: Connection, samples: fa.Samples, cache: str) -> tuple[int, int]:
    """Two processes that were forked from one with an opened cache fill it at the same time."""
    loader = make_cached(samples, cache, augment=None, batch_size=2, num_threads=1, prefetch_batches=1)
    next(iter(loader))
    loader.close()
    take = fcntl.flock

    def slow(fd: Any, operation: int) -> None:
        take(fd, operation)
        if operation & fcntl.LOCK_EX:
            time.sleep(0.002)  # longer than what is done under it

    children = []
    for seed in range(2):
        child = os.fork()
        if not child:
            status = 1
            try:
                fcntl.flock = slow
                loader.seed = seed
                for epoch in range(2):
                    assert len(assert_right(loader, epoch)) == len(samples)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]
    loader.seed = 0
    assert len(assert_right(loader, 0)) == len(samples)
    return served(loader)


CALLS = (
    "open",
    "write",
    "pwrite",
    "pwritev",
    "writev",
    "ftruncate",
    "truncate",
    "posix_fallocate",
    "fsync",
    "fdatasync",
)


def killed_at_call(pipe: Connection, samples: fa.Samples, folder: str, number: int, when: str) -> int:
    """Killed before or within its call of that number to the system; returns how many there are if it lives."""
    count, me = 0, os.getpid()

    def counting(call: Callable[..., Any], name: str) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            if count == number:
                if when == "within" and name in ("write", "pwrite"):
                    fd, content, *rest = arguments
                    call(fd, memoryview(content).cast("B")[: len(memoryview(content).cast("B")) // 2], *rest)
                os.kill(me, signal.SIGKILL)
            return call(*arguments, **options)

        return counted

    for name in CALLS:
        if hasattr(os, name):
            setattr(os, name, counting(getattr(os, name), name))
    fcntl.flock = counting(fcntl.flock, "flock")
    loader = make_cached(samples, folder, training=False, augment=None, batch_size=2, num_threads=1)
    list(loader)
    return count


def with_file_limit(pipe: Connection, samples: fa.Samples, cache: str, limit: int) -> tuple[list[str], tuple[int, int]]:
    """As on a disk that gets full: what was said in three epochs, and where the images of the last came from."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    return three_epochs(samples, cache)


def three_epochs(samples: fa.Samples, cache: str, **arguments: Any) -> tuple[list[str], tuple[int, int]]:
    with said() as found:
        loader = make_cached(samples, cache, augment=None, **arguments)
        for epoch in range(3):
            assert len(assert_right(loader, epoch)) == len(samples)
        return list(found), served(loader)


def without_permission(pipe: Connection, samples: fa.Samples, folder: str) -> tuple[list[str], tuple[int, int]]:
    """As somebody who may read, and nothing else."""
    if os.getuid() == 0:
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
    with contextlib.suppress(FileNotFoundError):
        try:
            os.open(Path(folder) / "new", os.O_CREAT | os.O_WRONLY)
        except PermissionError:
            pass
        else:
            raise AssertionError("it may write")
    return three_epochs(samples, folder)


def damaged_while_open(pipe: Connection, samples: fa.Samples, folder: str, damage: str) -> tuple[int, int]:
    """Between two epochs of one loader, whose slots were all looked at before."""
    loader = make_cached(samples, folder, augment=None, mode="resize")
    for epoch in range(2):
        assert_right(loader, epoch)
    assert served(loader) == (len(samples), 0)
    (settings,) = Path(folder).iterdir()
    if damage == "folder removed":
        shutil.rmtree(folder)
    else:
        name, length = damage.split()
        size = os.stat(settings / name).st_size
        with open(settings / name, "r+b") as file:
            file.truncate({"emptied": 0, "halved": 40_000, "shortened": size - 1}[length])
    for epoch in range(3):
        assert len(assert_right(loader, epoch)) == len(samples)
    return served(loader)


def memory_held() -> dict[tuple[int, int], int]:
    """Bytes of each nameless memory file that this process holds."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if "memfd:" in os.readlink(f"/proc/self/fd/{name}"):
                stat = os.stat(f"/proc/self/fd/{name}")
                found[stat.st_dev, stat.st_ino] = stat.st_blocks * 512
    return found


def a_rank(pipe: Connection, samples: fa.Samples, cache: str, rank: int, port: int, end: str) -> dict[str, Any]:
    """One of two; two epochs, then how it ends."""
    dist.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    loader = make_cached(samples, cache, batch_size=3)
    found: dict[str, Any] = {"shard": loader.shard, "rows": [], "served": []}
    for epoch in range(3):
        found["rows"].append(assert_right(loader, epoch))
        found["served"].append(served(loader))
        dist.barrier()
    found["memory"] = memory_held()
    links = [
        os.readlink(f"/proc/self/fd/{fd}")
        for fd in os.listdir("/proc/self/fd")
        if os.path.exists(f"/proc/self/fd/{fd}")
    ]
    found["named"] = [link for link in links if link.startswith(("/dev/shm", "/tmp")) and "deleted" not in link]
    if end == "exception":
        raise RuntimeError("as planned")
    if end == "kill":
        pipe.send("now")
        os.kill(os.getpid(), signal.SIGKILL)
    # Loaders that only one rank has, and loaders in another order: nobody waits for anybody.
    sizes = [40, 50] if rank == 0 else [50, 40]
    for size in sizes:
        other = make_cached(samples, cache, batch_size=3, cache_size=size)
        assert_right(other, 0, size)
    if rank == 0:
        alone = make_cached(samples, cache, shard=(0, 1), cache_size=30, training=False)
        for _ in range(2):
            assert_right(alone, 0, 30)
        found["alone"] = served(alone)
    dist.barrier()
    dist.destroy_process_group()
    return found


def refuse(number: int) -> Callable[..., Any]:
    """A call to the system that fails."""

    def refused(*arguments: Any, **options: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return refused


__all__ = ["CONTEXT", "Child", "errno", "in_child", "refuse", "said"]
