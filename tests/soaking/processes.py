"""Scenarios of processes: killed, forked, joined, training."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import fastaug as fa
from tests.soaking import children
from tests.soaking.cases import Case, draw_layout, loader_of, scenario
from tests.soaking.datasets import DataSet
from tests.soaking.leftovers import expect_files
from tests.soaking.runs import (
    Reference,
    Settings,
    draw_batch_size,
    draw_cache,
    draw_machinery,
    draw_settings,
    expect,
    expect_once,
    planned,
)


@scenario(8)
def killed(case: Case) -> None:
    """Processes that are killed at any moment, and go on from the last state that they wrote, or an older one."""
    rng, data = case.rng, case.data(most=40)
    settings = draw_cache(rng, draw_settings(rng, data), case.folder)
    reference = Reference(data, settings, case.folder)
    world, epochs = rng.choice([1, 2, 3]), rng.randint(1, 2)
    settings = draw_batch_size(rng, settings, len(data), world)
    outs = [case.folder / f"rank-{rank}" for rank in range(world)]
    for out in outs:
        out.mkdir()
    left = list(range(world))
    for tries in (2, 1, 0):  # those that are killed, and the last one, that is not
        with children.processes() as begin:
            running = {}
            for rank in left:
                running[rank] = begin(*_delivery(case, data, settings, (rank, world), outs[rank], epochs))
            for child in running.values():
                children.wait_for(child)
            if tries:
                time.sleep(rng.uniform(0, 0.4))
            for rank, child in running.items():
                if tries and not child.pipe.poll():
                    child.kill()
                    case.counts["kills"] += 1
                    case.counts["resumes"] += 1
                else:
                    child.end()
                    left.remove(rank)
    got = []
    for out in outs:
        steps = [json.loads(path.read_text()) for path in sorted(out.glob("*.json"))]
        got.append(
            [[case.counted(step["images"]) for step in steps if step["epoch"] == epoch] for epoch in range(epochs)]
        )
    loaders = [loader_of(case, data, settings, (rank, world)) for rank in range(world)]
    for epoch in range(epochs):
        for loader, batches in zip(loaders, got, strict=True):
            expect(batches[epoch], planned(loader, epoch, data.bad), reference.images(epoch))
        expect_once(loaders, [batches[epoch] for batches in got], epoch, data.bad)


def _delivery(
    case: Case, data: DataSet, settings: Settings, shard: tuple[int, int], out: Path, epochs: int
) -> tuple[Any, ...]:
    """What a process is to do, after what is in `out`; of that the last may be missing, as if it was seldom saved."""
    if case.rng.random() < 0.3:
        for late in sorted(out.glob("*.json"))[-case.rng.randint(1, 3) :]:
            late.unlink()
    pause_s = case.rng.choice([0.0, 0.003, 0.01])
    how = {**settings, **draw_machinery(case.rng), "shard": shard}
    return children.deliver, data.samples, how, str(out), epochs, pause_s


@scenario(3)
def forked(case: Case) -> None:
    """A process forks before, in the middle of, or after an iteration; both go on."""
    rng, data = case.rng, case.data(most=40)
    settings = draw_cache(rng, draw_settings(rng, data), case.folder)
    settings["decoder"] = "jpeg"  # DALI's threads do not come along
    reference = Reference(data, settings, case.folder)
    settings = draw_batch_size(rng, settings, len(data), 1) | draw_machinery(rng)
    loader = loader_of(case, data, settings)
    before = rng.choice([None, 0, rng.randint(0, len(loader))])
    with children.processes() as begin:
        parent, child = begin(children.fork, data.samples, settings, before, rng.choice([0, 5])).end()
    case.counts["forks"] += 1
    for epoch, batches in parent + child:
        expect([*map(case.counted, batches)], planned(loader, epoch, data.bad), reference.images(epoch))


@scenario(3)
def together(case: Case) -> None:
    """Processes that torch.distributed has joined: their shards, and one cache in memory or a folder for all."""
    rng, data = case.rng, case.data(most=40)
    settings = draw_cache(rng, draw_settings(rng, data), case.folder)
    reference = Reference(data, settings, case.folder)
    world, epochs = rng.choice([2, 3]), 2
    settings = draw_batch_size(rng, settings, len(data), world)
    with children.processes() as begin:
        ranks = []
        for rank in range(world):
            how = settings | draw_machinery(rng)
            store = str(case.folder / "store")
            ranks.append(begin(children.join, data.samples, how, store, (rank, world), epochs))
        got = [child.end() for child in ranks]
    loaders = [loader_of(case, data, settings, (rank, world)) for rank in range(world)]
    for epoch in range(epochs):
        for loader, batches in zip(loaders, got, strict=True):
            came = [*map(case.counted, batches[epoch])]
            expect(came, planned(loader, epoch, data.bad), reference.images(epoch))
        expect_once(loaders, [batches[epoch] for batches in got], epoch, data.bad)


@scenario(3)
def trained(case: Case) -> None:
    """A training that is killed again and again ends with the weights of one that was not."""
    rng, data = case.rng, case.data(layout=draw_layout(case.rng), most=40)
    augment = fa.aug_transforms(size=12, min_scale=0.75)
    settings = draw_settings(rng, data, augment=augment, views=1, channels=3, training=True)
    settings.pop("decoder", None)
    settings = draw_batch_size(rng, draw_cache(rng, settings, case.folder), len(data), 1)
    calls = [rng.randint(1, 3) for _ in range(rng.randint(1, 2))]
    every = rng.choice([None, 1, 2])
    with children.processes() as begin:
        straight = begin(children.train, data.samples, settings, str(case.folder / "a.pt"), calls, every, 0.0)
        children.wait_for(straight)
        right = straight.end()
    out = case.folder / "checkpoints"
    out.mkdir()
    for tries in (3, 2, 1, 0):
        with children.processes() as begin:
            how = {**settings, **draw_machinery(rng)}
            child = begin(children.train, data.samples, how, str(out / "b.pt"), calls, every, 0.01)
            children.wait_for(child)
            if tries:
                time.sleep(rng.uniform(0, 0.5))
            if tries and not child.pipe.poll():
                child.kill()
                case.counts["kills"] += 1
                case.counts["resumes"] += 1
                continue
            found = child.end()
            break
    case.counts["trainings"] += 1
    assert found == right, f"other {[name for name in right if found[name] != right[name]]}"
    expect_files(out, {"b.pt"})
