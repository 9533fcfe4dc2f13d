"""The scenarios of the soak: each draws data, a loader and what befalls them, and raises where something is wrong.

A scenario is a function of its `Case`, and so of a seed and a number. Moments, such as when a process is killed, are
drawn too, but where it is then is up to the machine.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import itertools
import json
import os
import pickle
import random
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fastaug as fa

try:
    from fastaug.files import DiskFullError
except ImportError:  # TEMPORARY
    DiskFullError = OSError
from fastaug.samples import sources
from fastaug.text import printable
from tests.compare import differences
from tests.soaking import children
from tests.soaking.datasets import DataSet, draw_data
from tests.soaking.disks import small_disk
from tests.soaking.faults import CALLS, ERRORS, MOST, Faults
from tests.soaking.leftovers import expect_files
from tests.soaking.pictures import damaged
from tests.soaking.runs import (
    Image,
    Reference,
    Settings,
    bad_met,
    bad_shares_of,
    draw_batch_size,
    draw_cache,
    draw_machinery,
    draw_settings,
    expect,
    expect_missed,
    expect_once,
    expect_quarantined,
    note,
    parts,
    planned,
    through_json,
)


@dataclass
class Case:
    """One scenario of a run.

    Attributes:
        folder: for its files; empty at the beginning.
        counts: what was done.
    """

    seed: int
    number: int
    folder: Path
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.rng = random.Random(f"{self.seed} {self.number}")

    def data(self, **options: Any) -> DataSet:
        data = draw_data(self.rng, self.folder / "data", **options)
        self.counts["bad files"] += len(data.bad)
        return data

    def images(self, loader: fa.ImageLoader, most: int | None = None) -> list[list[Image]]:
        """The next batches of a loader."""
        return self.noted(itertools.islice(loader, most))

    def noted(self, batches: Any) -> list[list[Image]]:
        got = []
        for batch in batches:
            got.append(note(batch))
            self.counts["batches"] += 1
            self.counts["images"] += len(got[-1])
        return got


Scenario = Callable[[Case], None]
SCENARIOS: dict[str, Scenario] = {}
WEIGHTS: dict[str, int] = {}  # how often each is drawn


def scenario(often: int) -> Callable[[Scenario], Scenario]:
    def added(function: Scenario) -> Scenario:
        name = function.__name__
        SCENARIOS[name], WEIGHTS[name] = function, often
        return function

    return added


def kind_of(seed: int, number: int) -> str:
    """Which scenario is the one of this number."""
    drawn = random.Random(f"{seed} {number} kind").choices(list(SCENARIOS), list(WEIGHTS.values()))
    return drawn[0]


@contextlib.contextmanager
def expected(error: type[Exception], part: str) -> Iterator[None]:
    """Within, this is raised, with this part in its one line."""
    try:
        yield
    except error as raised:
        text = str(raised)
    else:
        raise AssertionError(f"expected {error.__name__} with {part!r}, got nothing")
    assert part in text, f"expected {part!r} in {text!r}"
    assert text.isprintable(), repr(text)


def _worlds(rng: random.Random, data: DataSet) -> int:
    return rng.choice([1, 1, 2, 3, rng.randint(1, 8)])


def _loader(case: Case, data: DataSet, settings: Settings, shard: tuple[int, int] = (0, 1)) -> fa.ImageLoader:
    """With other machinery each time."""
    return fa.ImageLoader(data.samples, **{**settings, **draw_machinery(case.rng), "shard": shard})


@scenario(10)
def straight(case: Case) -> None:
    """Some epochs of all ranks, one after the other or by turns, on data of every kind."""
    rng, data = case.rng, case.data()
    settings = draw_cache(rng, draw_settings(rng, data), case.folder)
    reference = Reference(data, settings, case.folder)
    world = _worlds(rng, data)
    settings = draw_batch_size(rng, settings, len(data), world)
    loaders = [_loader(case, data, settings, (rank, world)) for rank in range(world)]
    epochs = rng.randint(1, 3)
    for epoch in range(epochs):
        by_turns = rng.random() < 0.3
        if by_turns:
            turns = [case.noted(batches) for batches in itertools.zip_longest(*loaders, fillvalue=None)]
            got = [list(batches) for batches in zip(*turns, strict=True)]
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
        world, epochs = _worlds(rng, data), rng.randint(1, 2)
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
        loader = _loader(case, data, settings, shard)
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
    loader = _loader(case, data, settings)
    for epoch in range(rng.randint(1, 3)):
        loader.set_epoch(epoch)
        plan = planned(loader, epoch, data.bad)
        way = rng.choice(["break", "exception", "close", "thread", "thread", "drop", "copy", "pickle", "garbage"])
        case.counts[f"left by {way}"] += 1
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
                resumed = _loader(case, data, settings)
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


@scenario(8)
def changed(case: Case) -> None:
    """Files that are written anew, exchanged, cut, removed and mended between epochs. Never another picture."""
    rng = case.rng
    data = case.data(layout=rng.choice(["folder", "list", "archives", "masks", "nothing"]))
    cache = rng.choice(["none", "memory", "folder", "folder"])
    settings = draw_cache(rng, draw_settings(rng, data), case.folder, cache)
    reference = Reference(data, settings, case.folder)
    settings = draw_batch_size(rng, settings, len(data), 1)
    loader = _loader(case, data, settings)
    known: list[int] = []
    for epoch in range(rng.randint(2, 4)):
        plan = planned(loader, epoch, {*data.bad, *known})
        expect(case.images(loader), plan, reference.images(epoch))
        known += [row for row in bad_met(loader, [epoch], data.bad) if row not in known]
        expect_quarantined(loader, known)
        time.sleep(0.02)  # the time of change must be another one, which the system counts in steps of 4 ms
        case.counts["changed files"] += _change(rng, data)
        reference.forget()
        if rng.random() < 0.3:
            state = through_json(loader.state_dict())
            loader = _loader(case, data, settings)
            loader.load_state_dict(state)
            case.counts["resumes"] += 1


def _change(rng: random.Random, data: DataSet) -> int:
    """Change some files; `data.bad` follows. Returns how many."""
    files = sorted({data.file(row) for row in range(len(data))})
    some = [file for file in rng.sample(files, rng.randint(0, min(6, len(files)))) if not os.path.isdir(file)]
    for file in some:
        if data.layout == "archives":
            _change_archive(rng, data, file)
            continue
        (row,) = data.rows_of(file)
        how = rng.choice(["touch", "text", "remove"] if data.layout == "masks" else [
            "touch", "text", "remove", "cut", "other", "other", "moved", "exchange",
        ])  # fmt: skip
        path = Path(file)
        if how == "touch":
            if path.exists():
                path.chmod(rng.choice([0o600, 0o644]))
            continue
        if how in ("other", "moved") and data.spare:
            content = data.spare.pop().content
            if how == "moved":
                (data.folder / ".new").write_bytes(content)
                os.replace(data.folder / ".new", path)
            else:
                path.write_bytes(content)
            data.bad.discard(row)
        elif how == "exchange":
            other = rng.choice([file for file in files if os.path.isfile(file)] or [file])
            (other_row,) = data.rows_of(other)
            if path.exists() and other != file:
                os.rename(path, data.folder / ".old")
                os.rename(other, path)
                os.rename(data.folder / ".old", other)
                both = {row, other_row}
                if len(both & data.bad) == 1:
                    data.bad ^= both
        elif how == "cut" and path.exists() and row not in data.bad and path.suffix in (".jpg", ".png"):
            os.truncate(path, os.path.getsize(path) // 2)
            data.bad.add(row)
        elif how == "remove":
            path.unlink(missing_ok=True)
            data.bad.add(row)
        else:
            path.write_bytes(damaged()["text"])
            data.bad.add(row)
    return len(some)


def _change_archive(rng: random.Random, data: DataSet, file: str) -> None:
    """Touched, removed, or cut, so that its later members are gone."""
    how = rng.choice(["touch", "touch", "cut", "remove"])
    if how == "touch" and os.path.exists(file):
        os.utime(file)
    elif how == "cut" and os.path.exists(file):
        length = int(os.path.getsize(file) * rng.uniform(0.5, 1))
        os.truncate(file, length)
        ends = {row: sum(map(int, data.samples.paths[row].rpartition("@")[2].split("+"))) for row in data.rows_of(file)}
        data.bad |= {row for row, end in ends.items() if end > length}
    elif how == "remove" and os.path.exists(file):
        os.unlink(file)
        data.bad |= data.rows_of(file)


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
            running = {
                rank: begin(*_delivery(case, data, settings, (rank, world), outs[rank], epochs)) for rank in left
            }
            for child in running.values():
                assert child.hear() == "ready"
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
        case.counts["batches"] += len(steps)
        case.counts["images"] += sum(len(step["images"]) for step in steps)
        got.append([[step["images"] for step in steps if step["epoch"] == epoch] for epoch in range(epochs)])
    loaders = [_loader(case, data, settings, (rank, world)) for rank in range(world)]
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


@scenario(6)
def stumbling(case: Case) -> None:
    """Storage that fails for a moment, which loses nothing, or as long as an epoch, which loses its files for that."""
    rng, data = case.rng, case.data()
    settings = draw_cache(rng, draw_settings(rng, data), case.folder)
    reference = Reference(data, settings, case.folder)
    world = rng.choice([1, 1, 2])
    settings = draw_batch_size(rng, settings, len(data), world)
    loaders = [_loader(case, data, settings, (rank, world)) for rank in range(world)]
    known: list[list[int]] = [[] for _ in loaders]
    for epoch in range(rng.randint(1, 3)):
        images = reference.images(epoch)
        faults, lost = _draw_faults(rng, data)
        with impatient(rng), faults.installed():
            got = [case.images(loader) for loader in loaders]
        case.counts["faults"] += sum(faults.raised.values())
        for loader, batches, bad in zip(loaders, got, known, strict=True):
            expect(batches, planned(loader, epoch, data.bad | lost), images)
            rows = {row for batch in parts(loader, epoch) for row, _ in batch}
            expect_missed(loader, (rows & lost) - set(bad))
            bad += [row for row in bad_met(loader, [epoch], data.bad - lost) if row not in bad]
            expect_quarantined(loader, bad)
        expect_once(loaders, got, epoch, data.bad | lost)


@contextlib.contextmanager
def impatient(rng: random.Random) -> Iterator[None]:
    """Within, the storage is mostly tried again at once."""
    waits_s = sources.WAITS_S
    sources.WAITS_S = waits_s if rng.random() < 0.1 else (0.001,) * len(waits_s)
    try:
        yield
    finally:
        sources.WAITS_S = waits_s


@scenario(2)
def hanging(case: Case) -> None:
    """Reads that never end are given up, and their files missed in that epoch."""
    rng = case.rng
    data = case.data(layout=rng.choice(["folder", "list", "nothing"]), most=30)
    settings = draw_cache(rng, draw_settings(rng, data), case.folder)
    reference = Reference(data, settings, case.folder)
    settings = draw_batch_size(rng, settings, len(data), 1) | {"read_timeout": 2.0}
    loader = _loader(case, data, settings)
    known: list[int] = []
    for epoch in range(2):
        images = reference.images(epoch)
        faults = Faults(hanging=rng.sample(_regular(data), rng.randint(1, 3)))
        with faults.installed():
            got = case.images(loader)
        case.counts["hanging reads"] += len(faults.hung)
        lost = {row for row in range(len(data)) if data.file(row) in faults.hung}  # the others were in the cache
        expect(got, planned(loader, epoch, data.bad | lost), images)
        expect_missed(loader, lost)
        known += [row for row in bad_met(loader, [epoch], data.bad - lost) if row not in known]
        expect_quarantined(loader, known)


@scenario(1)
def silent(case: Case) -> None:
    """Storage that answers nothing any more ends the epoch."""
    data = case.data(layout=case.rng.choice(["folder", "list"]), most=40)
    settings = draw_settings(case.rng, data, augment=None, mode="resize", views=1, channels=3, training=False)
    settings = draw_batch_size(case.rng, settings, len(data), 1) | {"read_timeout": 0.3, "drop_last": False}
    loader = _loader(case, data, settings)
    faults = Faults(hanging=_regular(data))
    if len(_regular(data)) <= 4 * loader.num_threads:  # these may be waited for
        return
    with faults.installed(), expected(fa.StorageError, "storage"):
        case.images(loader)
    case.counts["hanging reads"] += len(faults.hung)


def _regular(data: DataSet) -> list[str]:
    return sorted({file for file in map(data.file, range(len(data))) if os.path.isfile(file)})


def _draw_faults(rng: random.Random, data: DataSet) -> tuple[Faults, set[int]]:
    """What befalls some files of a data set, and the rows that are not to be had therefore."""
    rows_of = {data.file(row): data.rows_of(data.file(row)) for row in range(len(data))}
    if data.samples.kind == "mask":  # of a bad photo nobody needs the mask
        rows_of |= {mask: {row} for row, mask in enumerate(data.samples.targets) if row not in data.bad}
    files = [file for file in rows_of if os.path.isfile(file)]
    some = rng.sample(files, rng.randint(1, min(8, len(files))))
    how = rng.choice(["passing", "passing", "lasting", "short"])
    if how == "short":
        return Faults(short=some), set()
    if how == "lasting":
        return Faults(lasting={file: rng.choice(ERRORS) for file in some}), set().union(*(rows_of[f] for f in some))
    errors = {f: [(rng.choice(CALLS), rng.choice(ERRORS)) for _ in range(rng.randint(1, MOST))] for f in some}
    return Faults(passing=errors), set()


@scenario(4)
def bad_shares(case: Case) -> None:
    """Many bad files over many epochs and ranks: BadFileError comes where a rank's part of an epoch has too many."""
    rng, data = case.rng, case.data(layout=_files(case.rng), most=40, bad_share=0.4)
    settings = draw_settings(rng, data, augment=None, mode="resize", views=1, repeats=1, channels=3)
    settings.pop("weights", None)
    settings.pop("balance", None)
    world, epochs = rng.choice([1, 2, 4, 8]), rng.randint(2, 12)
    settings = draw_batch_size(rng, settings, len(data), world)
    loaders = [_loader(case, data, settings, (rank, world)) for rank in range(world)]
    shares = {(rank, e): bad_shares_of(loaders[rank], e, data.bad) for rank in range(world) for e in range(epochs)}
    most = max(max(of) for of in shares.values())
    enough = rng.random() < 0.6 or not data.bad
    allowed = most if enough else min(rng.choice([*shares.values()])) * 0.9
    for loader in loaders:
        loader.max_bad_share = min(allowed, 1.0)
        for epoch in range(epochs):
            few, many = min(shares[loader.shard[0], epoch]), max(shares[loader.shard[0], epoch])
            plan = planned(loader, epoch, data.bad)
            try:
                rows = _rows_with_a_break(case, data, loader, epoch)
            except fa.BadFileError:
                assert many > allowed, (
                    f"rank {loader.shard}, epoch {epoch}: BadFileError at {many:.1%} of {allowed:.1%}"
                )
                case.counts["too many bad"] += 1
                break
            assert few <= allowed, f"rank {loader.shard}, epoch {epoch}: no BadFileError at {few:.1%} of {allowed:.1%}"
            assert rows == [[row for row, _ in batch] for batch in plan], (rows, plan)


def _files(rng: random.Random) -> str:
    """Where there may be files with a class each."""
    return rng.choice(["folder", "list", "archives"])


def _rows_with_a_break(case: Case, data: DataSet, loader: fa.ImageLoader, epoch: int) -> list[list[int]]:
    """The rows of an epoch's batches; now and then it goes on in another loader."""
    loader.set_epoch(epoch)
    if case.rng.random() < 0.7:
        return [[image[0] for image in batch] for batch in case.images(loader)]
    got = case.images(loader, case.rng.randint(1, max(len(loader), 1)))
    state = through_json(loader.state_dict())
    other = copy.copy(loader)
    other.load_state_dict(state)
    other.set_epoch(epoch)
    case.counts["resumes"] += 1
    if state["epoch"] == epoch:
        got += case.images(other)
    return [[image[0] for image in batch] for batch in got]


@scenario(2)
def raising(case: Case) -> None:
    """on_error="raise": the batches before the first bad file come, then an error that names it."""
    rng, data = case.rng, case.data(bad_share=0.3)
    settings = draw_cache(rng, draw_settings(rng, data), case.folder)
    reference = Reference(data, settings, case.folder)
    settings = draw_batch_size(rng, settings, len(data), 1) | {"on_error": "raise"}
    loader = _loader(case, data, settings)
    loader.set_epoch(3)
    got: list[list[Image]] = []
    plan, bad = planned(loader, 3, data.bad), bad_met(loader, [3], data.bad)
    if bad:
        with expected(fa.BadFileError, printable(data.samples.paths[bad[0]])):
            for batch in loader:
                got += case.noted([batch])
        first = next(i for i, batch in enumerate(parts(loader, 3)) if bad[0] in [row for row, _ in batch])
        plan = plan[:first]
    else:
        got = case.images(loader)
    expect(got, plan, reference.images(3))


@scenario(3)
def forked(case: Case) -> None:
    """A process forks before, in the middle of, or after an iteration; both go on."""
    rng, data = case.rng, case.data(most=40)
    settings = draw_cache(rng, draw_settings(rng, data), case.folder)
    settings["decoder"] = "jpeg"  # DALI's threads do not come along
    reference = Reference(data, settings, case.folder)
    settings = draw_batch_size(rng, settings, len(data), 1) | draw_machinery(rng)
    loader = _loader(case, data, settings)
    before = rng.choice([None, 0, rng.randint(0, len(loader))])
    with children.processes() as begin:
        parent, child = begin(children.fork, data.samples, settings, before, rng.choice([0, 5])).end()
    case.counts["forks"] += 1
    for epoch, images in parent + child:
        expect(images, planned(loader, epoch, data.bad), reference.images(epoch))


@scenario(3)
def together(case: Case) -> None:
    """Processes that torch.distributed has joined: their shards, and one cache in memory or a folder for all."""
    rng, data = case.rng, case.data(most=40)
    settings = draw_cache(rng, draw_settings(rng, data), case.folder)
    reference = Reference(data, settings, case.folder)
    world, epochs = rng.choice([2, 3]), 2
    settings = draw_batch_size(rng, settings, len(data), world)
    with children.processes() as begin:
        ranks = [
            begin(
                children.join,
                data.samples,
                settings | draw_machinery(rng),
                str(case.folder / "store"),
                rank,
                world,
                epochs,
            )
            for rank in range(world)
        ]
        got = [child.end() for child in ranks]
    loaders = [_loader(case, data, settings, (rank, world)) for rank in range(world)]
    for epoch in range(epochs):
        for loader, batches in zip(loaders, got, strict=True):
            expect(batches[epoch], planned(loader, epoch, data.bad), reference.images(epoch))
        expect_once(loaders, [batches[epoch] for batches in got], epoch, data.bad)


@scenario(3)
def trained(case: Case) -> None:
    """A training that is killed again and again ends with the weights of one that was not."""
    rng, data = case.rng, case.data(layout=_files(case.rng), most=40)
    augment = fa.aug_transforms(size=12, min_scale=0.75)
    settings = draw_settings(rng, data, augment=augment, views=1, channels=3, training=True)
    settings.pop("decoder", None)
    settings = draw_batch_size(rng, draw_cache(rng, settings, case.folder), len(data), 1)
    calls = [rng.randint(1, 3) for _ in range(rng.randint(1, 2))]
    every = rng.choice([None, 1, 2])
    with children.processes() as begin:
        straight = begin(children.train, data.samples, settings, str(case.folder / "a.pt"), calls, every, 0.0)
        assert straight.hear() == "ready"
        right = straight.end()
    out = case.folder / "checkpoints"
    out.mkdir()
    for tries in (3, 2, 1, 0):
        with children.processes() as begin:
            how = {**settings, **draw_machinery(rng)}
            child = begin(children.train, data.samples, how, str(out / "b.pt"), calls, every, 0.01)
            assert child.hear() == "ready"
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


@scenario(4)
def full_disks(case: Case) -> None:
    """No room for the cache, the index of archives, or a checkpoint: it is said, and nothing else is lost."""
    kind = case.rng.choice(["cache", "cache", "index", "checkpoint"])
    disk = case.folder / "disk"
    disk.mkdir()
    room = case.rng.choice([4, 64, 300]) * 1024 if kind == "cache" else 64 * 1024
    with small_disk(disk, room) as fill:
        case.counts["full disks"] += 1
        {"cache": _full_cache, "index": _full_index, "checkpoint": _full_checkpoint}[kind](case, disk, fill)


def _full_cache(case: Case, disk: Path, fill: Callable[[bool], None]) -> None:
    rng, data = case.rng, case.data()
    settings = draw_cache(rng, draw_settings(rng, data), disk, "folder") | {"cache_bytes": 1 << 26}
    reference = Reference(data, settings, case.folder)
    settings = draw_batch_size(rng, settings, len(data), 1)
    fill(rng.random() < 0.3)
    for epoch in range(3):
        loader = _loader(case, data, settings)
        loader.set_epoch(epoch)
        expect(case.images(loader), planned(loader, epoch, data.bad), reference.images(epoch))


def _full_index(case: Case, disk: Path, fill: Callable[[bool], None]) -> None:
    data = case.data(layout="archives")
    archives = str(data.folder / "part-*.tar")
    fill(True)
    with expected(DiskFullError, "disk full"):
        fa.Samples.from_tar(archives, index=disk / "index.npz")
    expect_files(disk, {"full"})
    fill(False)
    for _ in range(2):
        samples = fa.Samples.from_tar(archives, index=disk / "index.npz")
        assert list(samples.paths) == list(data.samples.paths), "another index"
    expect_files(disk, {"index.npz"})


def _full_checkpoint(case: Case, disk: Path, fill: Callable[[bool], None]) -> None:
    learner = children.learner(case.rng.randrange(2**30))
    path = disk / "model.pt"
    learner.save(path)
    before = path.read_bytes()
    learner.epoch = 5
    fill(True)
    with expected(DiskFullError, "disk full"):
        learner.save(path)
    assert path.read_bytes() == before, "the checkpoint that there was"
    expect_files(disk, {"full", "model.pt"})
    fill(False)
    learner.save(path)
    other = children.learner(0)
    other.load(path)
    assert other.epoch == 5
    assert not differences(other.model.state_dict(), learner.model.state_dict())
    expect_files(disk, {"model.pt"})
