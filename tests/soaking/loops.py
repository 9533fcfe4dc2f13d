"""Scenarios of loops in one process: straight ones, and such as are broken off, resumed, closed."""

from __future__ import annotations

import contextlib
import copy
import gc
import itertools
import pickle
import threading
import weakref
from typing import Any

import fastaug as fa
from tests.soaking.cases import Case, draw_world, loader_of, scenario
from tests.soaking.datasets import DataSet
from tests.soaking.runs import (
    Image,
    Reference,
    Settings,
    bad_met,
    draw_batch_size,
    draw_cache,
    draw_settings,
    expect,
    expect_once,
    expect_quarantined,
    planned,
    through_json,
)


@scenario(10)
def straight(case: Case) -> None:
    """Some epochs of all ranks, one after the other or by turns, on data of every kind."""
    rng, data = case.rng, case.data()
    settings = draw_cache(rng, draw_settings(rng, data), case.folder)
    reference = Reference(data, settings, case.folder)
    world = draw_world(rng)
    settings = draw_batch_size(rng, settings, len(data), world)
    loaders = [loader_of(case, data, settings, (rank, world)) for rank in range(world)]
    epochs = rng.randint(1, 3)
    for epoch in range(epochs):
        by_turns = rng.random() < 0.3
        if by_turns:
            turns = [case.noted(batches) for batches in zip(*loaders, strict=True)]
            got = [[turn[rank] for turn in turns] for rank in range(world)]
        else:
            got = [case.images(loader) for loader in loaders]
        for loader, batches in zip(loaders, got, strict=True):
            expect(batches, planned(loader, epoch, data.bad), reference.images(epoch))
        expect_once(loaders, got, epoch, data.bad)
    for loader in loaders:
        expect_quarantined(loader, bad_met(loader, range(epochs), data.bad))
    case.counts["epochs"] += epochs * world


@scenario(10)
def resumed(case: Case) -> None:
    """A run that is broken off again and again, and goes on in another loader, ranks and batches of other numbers."""
    rng, data = case.rng, case.data()
    settings = draw_cache(rng, draw_settings(rng, data), case.folder)
    reference = Reference(data, settings, case.folder)
    state: dict[str, Any] | None = None
    epoch = rng.choice([0, 0, 7])
    for _ in range(rng.randint(1, 2)):
        world, epochs = draw_world(rng), rng.randint(1, 2)
        settings = draw_batch_size(rng, settings, len(data), world)
        runs = [_broken_off(case, data, settings, (rank, world), epoch, epochs, state) for rank in range(world)]
        for e in range(epoch, epoch + epochs):
            for loader, got, _ in runs:
                expect(got[e], planned(loader, e, data.bad), reference.images(e))
            expect_once([loader for loader, _, _ in runs], [got[e] for _, got, _ in runs], e, data.bad)
        state = rng.choice([state for _, _, state in runs])  # one rank's is good for all
        epoch += epochs
    case.counts["epochs"] += epoch


def _broken_off(
    case: Case, data: DataSet, settings: Settings, shard: tuple[int, int], first: int, epochs: int,
    state: dict[str, Any] | None,
) -> tuple[fa.ImageLoader, dict[int, list[list[Image]]], dict[str, Any]]:  # fmt: skip
    """The batches of some epochs of a rank, by epoch, and its state at their end; the last loader that it had."""
    rng = case.rng
    got: dict[int, list[list[Image]]] = {epoch: [] for epoch in range(first, first + epochs)}
    while True:
        loader = loader_of(case, data, settings, shard)
        if state is None:
            loader.set_epoch(first)
        else:
            loader.load_state_dict(through_json(state))
            case.counts["resumes"] += 1
        place = loader.state_dict()
        epoch, over = place["epoch"], 0 < len(loader) <= place["delivered"]
        last = epoch + 1 == first + epochs
        if rng.random() < 0.3 or (over and last):
            loader.set_epoch(epoch)  # as training loops do; of an epoch that is over there is nothing left
            if over:
                assert case.images(loader) == [], "an epoch that was over"
                over = False
                epoch += 1
        epoch += over
        if epoch == first + epochs:
            return loader, got, loader.state_dict()
        most = rng.choice([None, rng.randint(0, len(loader))])
        got[epoch] += case.images(loader, most)
        state = loader.state_dict()
        if most is None:
            assert (state["epoch"], state["delivered"]) == (epoch + 1, 0), state
            if epoch + 1 == first + epochs:
                return loader, got, state
        if rng.random() < 0.5:
            loader.close()


@scenario(8)
def closed(case: Case) -> None:
    """Loops that are left in every way: break, exceptions, close, also by another thread, garbage; and copies."""
    rng, data = case.rng, case.data()
    settings = draw_cache(rng, draw_settings(rng, data), case.folder)
    reference = Reference(data, settings, case.folder)
    settings = draw_batch_size(rng, settings, len(data), 1)
    loader = loader_of(case, data, settings)
    for epoch in range(rng.randint(1, 3)):
        loader.set_epoch(epoch)
        plan = planned(loader, epoch, data.bad)
        way = rng.choice(["break", "exception", "close", "thread", "thread", "drop", "copy", "pickle", "garbage"])
        case.counts["loops left"] += 1
        batches = iter(loader)
        got = case.noted(itertools.islice(batches, rng.randint(0, len(plan))))
        if way == "exception":
            with contextlib.suppress(KeyboardInterrupt):
                for _ in batches:
                    raise KeyboardInterrupt
        elif way == "close":
            loader.close()
            assert list(batches) == [], "closed"
        elif way == "thread":
            closing = threading.Timer(rng.uniform(0, 0.03), loader.close)
            closing.start()
            got += case.noted(batches)
            closing.join()
            del closing  # it holds the loader
            if rng.random() < 0.5:  # nothing is lost of it, and nothing comes twice
                resumed = loader_of(case, data, settings)
                resumed.load_state_dict(through_json(loader.state_dict()))
                resumed.set_epoch(epoch)
                if loader.state_dict()["epoch"] == epoch:
                    got += case.images(resumed)
                expect(got, plan, reference.images(epoch))
        elif way in ("copy", "pickle"):
            other = copy.deepcopy(loader) if way == "copy" else pickle.loads(pickle.dumps(loader))
            other.set_epoch(epoch)
            expect(case.images(other), plan, reference.images(epoch))
            got += case.noted(batches)
            expect(got, plan, reference.images(epoch))
        elif way == "garbage":
            gc.collect()
            got += case.noted(batches)
            expect(got, plan, reference.images(epoch))
        del batches
        expect(got, plan[: len(got)], reference.images(epoch))
    loader.set_epoch(9)
    expect(case.images(loader), planned(loader, 9, data.bad), reference.images(9))
    dropped = weakref.ref(loader)
    begun = iter(loader)
    next(begun, None)
    del loader, begun
    gc.collect()
    assert dropped() is None, "something still holds the loader"
