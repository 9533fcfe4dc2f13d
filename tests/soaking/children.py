"""Processes of the soak, and what they do: forked from one that has imported everything."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

import fastaug as fa
from tests.loading.children import CONTEXT, Child
from tests.soaking.pictures import CLASSES
from tests.soaking.runs import Settings, note

CONTEXT.set_forkserver_preload([__name__, "pytest"])


@contextlib.contextmanager
def processes() -> Iterator[Callable[..., Child]]:
    """A function that starts one: `begin(function, *arguments)`. None of them is there afterwards."""
    begun: list[Child] = []

    def begin(function: Callable[..., Any], *arguments: Any) -> Child:
        begun.append(Child(_quiet, function, *arguments))
        return begun[-1]

    try:
        yield begin
    finally:
        for child in begun:
            child.kill()


def wait_for(child: Child) -> None:
    """Until it is ready."""
    said = child.hear()
    assert said == "ready", said


def _quiet(pipe: Connection, function: Callable[..., Any], *arguments: Any) -> Any:
    """Bad files are expected: nobody wants to read of each."""
    logging.getLogger("fastaug").addHandler(logging.NullHandler())
    logging.getLogger("fastaug").propagate = False
    return function(pipe, *arguments)


def deliver(pipe: Connection, samples: fa.Samples, settings: Settings, out: str, epochs: int, pause_s: float) -> None:
    """Go on after what lies in `out`, to the end of the last epoch: of each batch a file, with the state after it.

    A file is there as a whole or not at all, so its images and its state belong together.
    """
    loader = fa.ImageLoader(samples, **settings)
    done = sorted(Path(out).glob("*.json"))
    number = 0
    if done:
        loader.load_state_dict(json.loads(done[-1].read_text())["state"])
        number = int(done[-1].stem) + 1
    pipe.send("ready")
    while (epoch := _next_epoch(loader)) < epochs:
        for batch in loader:
            _write(Path(out, f"{number:06}.json"), epoch, note(batch), loader)
            number += 1
            time.sleep(pause_s)


def fork(
    pipe: Connection, samples: fa.Samples, settings: Settings, before: int | None, epoch: int
) -> tuple[list[Any], list[Any]]:
    """Fork after so many batches of an epoch, and go on in both. None: of an iteration that was not begun.

    Returns (epoch, its batches) of what the one and the other delivered.
    """
    loader = fa.ImageLoader(samples, **settings)
    loader.set_epoch(epoch)
    batches = iter(loader)
    got = [] if before is None else [note(batch) for batch in itertools.islice(batches, before)]
    out, into = os.pipe()
    child = os.fork()
    if not child:
        signal.alarm(60)  # it ends, if it hangs
        status = 1
        try:
            if before:
                _refused(batches)
            found = []
            for other in (epoch, epoch + 1):
                loader.set_epoch(other)
                found.append((other, [note(batch) for batch in loader]))
            os.close(out)
            with open(into, "w") as file:
                json.dump(found, file)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(into)
    parent = [(epoch, got + [note(batch) for batch in batches])]
    with open(out) as file:
        text = file.read()
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert ended == 0, f"the forked process ended with {ended}"
    return parent, [(epoch, images) for epoch, images in json.loads(text)]


def _refused(batches: Iterator[Any]) -> None:
    """An iteration that was begun before the fork says so in one line."""
    said = "it went on"
    try:
        next(batches)
    except RuntimeError as error:
        said = str(error)
    assert said.startswith("ImageLoader: "), said
    assert said.isprintable(), repr(said)


def join(
    pipe: Connection, samples: fa.Samples, settings: Settings, store: str, shard: tuple[int, int], epochs: int
) -> list[list[Any]]:
    """The batches of each epoch, as one of the processes that torch.distributed has joined."""
    rank, world = shard
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=world, timeout=timedelta(seconds=60)
    )
    loader = fa.ImageLoader(samples, **settings)
    assert loader.shard == shard, loader.shard
    got = []
    for epoch in range(epochs):
        loader.set_epoch(epoch)
        got.append([note(batch) for batch in loader])
        dist.barrier()
    dist.destroy_process_group()
    return got


def train(
    pipe: Connection, samples: fa.Samples, settings: Settings, path: str, calls: list[int], every: int | None,
    pause_s: float,
) -> dict[str, Any]:  # fmt: skip
    """Train a linear model in so many calls of fit, of so many epochs each, or go on where its checkpoint is."""
    settings = {**settings, "return_info": False}

    def slow(images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        time.sleep(pause_s)
        return images, targets

    warnings.filterwarnings("ignore", "Learner: expected two images or more")
    train = fa.ImageLoader(samples, **settings)
    valid = fa.ImageLoader(samples, **{**settings, "training": False, "drop_last": False})
    options = {"checkpoint": path, "checkpoint_batches": every, "device": "cpu", "progress": False}
    learner = fa.Learner(train, valid, linear(0), mix=slow, **options)
    pipe.send("ready")
    if os.path.exists(path):
        learner.load(path, resume=True)
    for epochs in calls:
        learner.fit_one_cycle(epochs, 1e-2)
    rows = [
        {name: repr(value) for name, value in row.items() if name not in ("images_per_s", "seconds")}
        for row in learner.history.epochs
    ]
    weights = {name: value.numpy().tobytes().hex() for name, value in learner.model.state_dict().items()}
    return {"weights": weights, "losses": learner.history.losses, "rates": learner.history.lrs, "epochs": rows}


def linear(seed: int) -> nn.Module:
    """The least that can be trained on pictures of 12 × 12."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 12 * 12, len(CLASSES)))


def learner(seed: int) -> fa.Learner:
    """One with nothing to train on."""
    batches = [(torch.zeros(2, 3, 12, 12), torch.zeros(2, dtype=torch.int64))]
    return fa.Learner(batches, None, linear(seed), device="cpu", progress=False)


def _next_epoch(loader: fa.ImageLoader) -> int:
    """Of the next iteration: after the last batch of an epoch that is the one after it."""
    state = loader.state_dict()
    epoch: int = state["epoch"]
    return epoch + (0 < len(loader) <= state["delivered"])


def _write(path: Path, epoch: int, images: list[Any], loader: fa.ImageLoader) -> None:
    unfinished = path.with_suffix(".new")
    unfinished.write_text(json.dumps({"epoch": epoch, "images": images, "state": loader.state_dict()}))
    os.replace(unfinished, path)


__all__ = ["CONTEXT", "Child", "deliver", "fork", "join", "learner", "processes", "train", "wait_for"]
