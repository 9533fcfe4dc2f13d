"""Processes of these tests: functions that `tests.loading.children.Child` calls."""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

import fastaug as fa
from tests.loading.children import CONTEXT
from tests.trust.faults import rows_of, small_loader, small_photos

# What a training imports is imported once, before anything is forked.
CONTEXT.set_forkserver_preload(["tests.loading.children", __name__, "pytest", "fastaug.training.learner"])

AUGMENT = fa.aug_transforms(size=8, min_scale=0.9)


def a_learner(train: Any, valid: Any = None, **arguments: Any) -> fa.Learner:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2))
    settings = {"device": "cpu", "progress": False, "opt_func": lambda g: torch.optim.SGD(g, lr=1e-3), **arguments}
    return fa.Learner(train, valid, model, **settings)


def of_quarantine(folder: Path, **arguments: Any) -> fa.ImageLoader:
    samples = small_photos(Path(folder) / "quarantine", 24, bad=5)
    return small_loader(samples, batch_size=4, augment=AUGMENT, return_info=False, **arguments)


def train_as_rank(pipe: Connection, folder: str, rank: int, store: str) -> dict[str, Any]:
    """One of two: trainings whose second rank has no validation image, and one with bad files."""
    warnings.simplefilter("ignore")
    limit = timedelta(seconds=40)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2, timeout=limit)
    root = Path(folder) / f"rank{rank}"  # alike for both, beside each other so that nobody writes what another reads
    found: dict[str, Any] = {}
    train = small_photos(root / "train", 16)
    good = small_photos(root / "good", 3)
    mixed = small_photos(root / "mixed", 6, bad=3, every=2)
    cases = {
        "empty": fa.Samples(good.paths[:1], good.targets[:1], good.classes),
        "all bad": fa.Samples([*good.paths[:2], *mixed.paths[::2][:2]], [0, 1, 0, 1], good.classes),
        "half bad": fa.Samples([*good.paths, *mixed.paths[::2]], [0, 1, 0, 1, 0, 1], good.classes),
    }
    # A validation's parts may be blocks or every second sample; of "all bad" one order or the other has them all.
    part = rows_of(small_loader(fa.Samples(train.paths[:4], [0] * 4, ["a"]), training=False, shard=(1, 2)))
    order = [row for row in range(4) if row not in part] + part
    arranged = [0] * 4
    for place, row in enumerate(order):
        arranged[row] = place
    bad = cases["all bad"]
    cases["all bad"] = fa.Samples([bad.paths[i] for i in arranged], [0, 1, 0, 1], bad.classes)
    for name, samples in cases.items():
        settings: dict[str, Any] = {"batch_size": 2, "augment": AUGMENT, "return_info": False}
        valid = small_loader(samples, training=False, **settings)
        learn = a_learner(small_loader(train, **settings), valid)
        failed = None
        try:
            learn.fit(2, 1e-3)
        except Exception as error:
            failed = repr(error)
        rows = [{k: repr(v) for k, v in row.items() if k.startswith(("valid", "acc", "err"))}
                for row in learn.history.epochs]  # fmt: skip
        parts = rows_of(small_loader(samples, training=False, shard=(rank, 2), max_bad_share=1.0))
        found[name] = {"failed": failed, "rows": rows, "epochs": len(learn.history.epochs), "parts": parts}
    if not rank:
        of_quarantine(Path(folder))
    dist.barrier()
    loader = of_quarantine_there(Path(folder))
    learn = a_learner(loader, checkpoint=Path(folder) / "quarantine.pth")
    learn.fit(1, 1e-3)
    own = [Path(path).name for path, _ in loader.quarantined]
    dist.barrier()
    again = a_learner(of_quarantine_there(Path(folder)))
    again.load(Path(folder) / "quarantine.pth")
    loaded = [Path(path).name for path, _ in again.train_loader.quarantined]
    found["quarantine"] = {"own": own, "loaded": loaded}
    dist.barrier()
    dist.destroy_process_group()
    return found


def of_quarantine_there(folder: Path) -> fa.ImageLoader:
    """Of the files that somebody else has written."""
    paths = sorted(map(str, (folder / "quarantine").glob("*.jpg")))
    samples = fa.Samples(paths, [row % 2 for row in range(len(paths))], ["c0", "c1"])
    return small_loader(samples, batch_size=4, augment=AUGMENT, return_info=False)


def write_history(folder: Path, epochs: int) -> None:
    from fastaug.training.history import History
    from fastaug.training.results import save_history

    rows = [{"epoch": epoch, "train_loss": 0.5, "valid_loss": 0.25} for epoch in range(epochs)]
    history = History(rows, [0.5] * 4 * epochs, [(0.1,)] * 4 * epochs, [0.9] * 4 * epochs, [4] * epochs)
    folder.mkdir(exist_ok=True)
    save_history(history, folder)


def write_checkpoint_of(folder: Path, epochs: int) -> None:
    """The same of photos that are there already."""
    paths = sorted(map(str, (folder / "photos").glob("*.jpg")))
    samples = fa.Samples(paths, [row % 2 for row in range(len(paths))], ["c0", "c1"])
    learn = a_learner(small_loader(samples, batch_size=2, augment=AUGMENT))
    learn.epoch = epochs
    learn.save(folder / "run.pth")


def write_checkpoint(folder: Path, epochs: int) -> None:
    small_photos(folder / "photos", 4)
    write_checkpoint_of(folder, epochs)


def write_model(folder: Path, epochs: int) -> None:
    from fastaug.training.inference import Predictor

    model = fa.classifier("timm:test_resnet", 2, None)
    Predictor(model, ["a", str(epochs)], fa.Augment([], size=32), 40, device="cpu").save(folder / "model.safetensors")


WRITERS: dict[str, Callable[[Path, int], None]] = {
    "history": write_history,
    "checkpoint": write_checkpoint_of,
}


def calls_of(write: Callable[[], None], folder: str, number: int = 0) -> int:
    """Forked: `write()`, killed at its call of that number that opens, renames, syncs or removes below `folder`.

    Returns:
        How many there are, if it lives; -1: it was killed.
    """
    there, here = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            count = _killed_at(write, folder, number)
            os.write(here, str(count).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(here)
    with os.fdopen(there, "rb") as pipe:
        said = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL), f"it ended with {status}"
    return int(said) if status == 0 else -1


def _killed_at(write: Callable[[], None], folder: str, number: int) -> int:
    count, busy = 0, False

    def look(event: str, arguments: tuple[Any, ...]) -> None:
        if busy and event in ("open", "os.rename", "os.remove", "os.truncate", "os.link", "fcntl.flock", "os.chmod"):
            names = [os.fsdecode(one) for one in arguments if isinstance(one, str | bytes | os.PathLike)]
            if event == "fcntl.flock" or any(name.startswith(folder) and "photos" not in name for name in names):
                tick()

    def tick() -> None:
        nonlocal count
        count += 1
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)

    for name in ("fsync", "fdatasync"):
        real = getattr(os, name)

        def synced(fd: int, real: Callable[[int], None] = real) -> None:
            tick()
            real(fd)

        setattr(os, name, synced)
    sys.addaudithook(look)
    warnings.simplefilter("ignore")
    busy = True
    write()
    busy = False
    return count


def ends_while_a_read_hangs(pipe: Connection, folder: str) -> str:
    """Its main thread is done; a file gives no answer."""
    import pytest

    from tests.trust.faults import Storage, waits

    warnings.simplefilter("ignore")
    samples = small_photos(Path(folder), 6)
    storage = Storage(pytest.MonkeyPatch())
    storage.faults[samples.paths[2]] = waits(threading.Event())
    with small_loader(samples, training=False, batch_size=2, read_timeout=0.2) as loader:
        rows = rows_of(loader)
    assert sorted(rows) == [0, 1, 3, 4, 5], rows
    return str(loader.missed)


def forked(pipe: Connection, folder: str, torch_threads: int) -> dict[str, Any]:
    """A loader that is iterated here, in a forked child, and here again."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(torch_threads)
    samples = small_photos(Path(folder), 24)
    settings: dict[str, Any] = {"batch_size": 4, "augment": AUGMENT, "seed": 3}
    expected = [x.clone() for x, _, _ in small_loader(samples, **settings)]
    loader, unused = small_loader(samples, **settings), small_loader(samples, **settings)
    iteration = iter(loader)
    first = [next(iteration)[0] for _ in range(2)]
    there, here = os.pipe()
    child = os.fork()
    if not child:
        os.close(there)
        said = []
        try:
            signal.alarm(30)
            try:
                next(iteration)
                said.append("the iteration went on")
            except RuntimeError as error:
                said.append(f"RuntimeError {error}")
            except BaseException as error:
                said.append(f"another error: {error!r}")
            for name, one in (("unused", unused), ("used", loader)):
                one.set_epoch(0)
                got = [x for x, _, _ in one]
                same = len(got) == len(expected) and all(map(torch.equal, got, expected))
                said.append(f"{name} {'the same' if same else 'other images'}")
        except BaseException as error:
            said.append(repr(error))
        finally:
            os.write(here, "\x00".join(said).encode())
            os._exit(0)
    os.close(here)
    with os.fdopen(there, "rb") as pipe_end:
        said_there = pipe_end.read().decode().split("\x00")
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    rest = [x for x, _, _ in iteration]
    same = len(first + rest) == len(expected) and all(map(torch.equal, first + rest, expected))
    return {"said": said_there, "status": status, "same": same}
