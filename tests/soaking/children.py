"""Processes of the soak, and what they do: forked from one that has imported everything."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import fastaug as fa
from tests.loading.children import CONTEXT, Child
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


def _next_epoch(loader: fa.ImageLoader) -> int:
    """Of the next iteration: after the last batch of an epoch that is the one after it."""
    state = loader.state_dict()
    epoch: int = state["epoch"]
    return epoch + (0 < len(loader) <= state["delivered"])


def _write(path: Path, epoch: int, images: list[Any], loader: fa.ImageLoader) -> None:
    unfinished = path.with_suffix(".new")
    unfinished.write_text(json.dumps({"epoch": epoch, "images": images, "state": loader.state_dict()}))
    os.replace(unfinished, path)


__all__ = ["CONTEXT", "Child", "deliver", "processes"]
