"""Scenarios of files: changed, bad, on a storage that fails, and on disks that are full."""

from __future__ import annotations

import contextlib
import copy
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import fastaug as fa
from fastaug.caching.upkeep import Upkeep, caches_in
from fastaug.files import DiskFullError
from fastaug.samples import sources, storage
from fastaug.text import printable
from tests.compare import differences
from tests.soaking import children
from tests.soaking.cases import Case, draw_layout, expected, loader_of, scenario
from tests.soaking.datasets import DataSet
from tests.soaking.disks import small_disk
from tests.soaking.faults import CALLS, ERRORS, MOST, Faults
from tests.soaking.leftovers import expect_files
from tests.soaking.pictures import damaged
from tests.soaking.runs import (
    Image,
    Reference,
    bad_met,
    bad_shares_of,
    draw_batch_size,
    draw_cache,
    draw_settings,
    expect,
    expect_missed,
    expect_once,
    expect_quarantined,
    parts,
    planned,
    through_json,
)


@scenario(8)
def changed(case: Case) -> None:
    """Files that are written anew, exchanged, cut, removed and mended between epochs. Never another picture."""
    rng = case.rng
    data = case.data(layout=rng.choice(["folder", "list", "archives", "masks", "nothing"]))
    cache = rng.choice(["none", "memory", "folder", "folder"])
    settings = draw_cache(rng, draw_settings(rng, data), case.folder, cache)
    reference = Reference(data, settings, case.folder)
    settings = draw_batch_size(rng, settings, len(data), 1)
    loader = loader_of(case, data, settings)
    known: list[int] = []
    for epoch in range(rng.randint(2, 4)):
        plan = planned(loader, epoch, {*data.bad, *known})
        expect(case.images(loader), plan, reference.images(epoch))
        known += [row for row in bad_met(loader, [epoch], data.bad) if row not in known]
        expect_quarantined(loader, known)
        time.sleep(0.02)  # the time of change must be another one, which the system counts in steps of 4 ms
        case.counts["changed files"] += _change(rng, data)
        reference.forget()
        if cache == "folder" and rng.random() < 0.3 and any(map(os.path.exists, map(data.file, range(len(data))))):
            _clean(settings["cache"])
            case.counts["cleaned caches"] += 1
        if rng.random() < 0.3:
            state = through_json(loader.state_dict())
            del loader
            if cache == "folder" and rng.random() < 0.5:
                _damage(rng, Path(settings["cache"]))
                case.counts["damaged caches"] += 1
            loader = loader_of(case, data, settings)
            loader.load_state_dict(state)
            case.counts["resumes"] += 1


def _clean(cache: str) -> None:
    """As `fastaug cache --clean`, while a loader has it open."""
    for folder in caches_in(cache):
        upkeep = Upkeep(folder)
        if upkeep.survey(sources.stamps).useless:
            upkeep.clean()


def _damage(rng: random.Random, cache: Path) -> None:
    """Some bytes of a cache become others."""
    for path in [path for path in cache.rglob("*") if path.is_file()]:
        with open(path, "r+b") as file:
            written = min(path.stat().st_size, path.stat().st_blocks * 512)
            for _ in range(rng.randint(0, 3) if written else 0):
                file.seek(rng.randrange(written))
                file.write(rng.randbytes(rng.choice([1, 8, 100])))


def _change(rng: random.Random, data: DataSet) -> int:
    """Change some files; `data.bad` follows. Returns how many."""
    files = sorted({data.file(row) for row in range(len(data))})
    some = rng.sample(files, rng.randint(0, min(6, len(files))))
    some = [file for file in some if os.path.isfile(file) or not os.path.lexists(file)]  # no folders, no FIFOs
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


@scenario(6)
def stumbling(case: Case) -> None:
    """Storage that fails for a moment, which loses nothing, or as long as an epoch, which loses its files for that."""
    rng, data = case.rng, case.data()
    settings = draw_cache(rng, draw_settings(rng, data), case.folder)
    reference = Reference(data, settings, case.folder)
    world = rng.choice([1, 1, 2])
    settings = draw_batch_size(rng, settings, len(data), world)
    loaders = [loader_of(case, data, settings, (rank, world)) for rank in range(world)]
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
    waits_s = storage.WAITS_S
    storage.WAITS_S = waits_s if rng.random() < 0.1 else (0.001,) * len(waits_s)
    try:
        yield
    finally:
        storage.WAITS_S = waits_s


@scenario(2)
def hanging(case: Case) -> None:
    """Reads that never end are given up, and their files missed in that epoch."""
    rng = case.rng
    data = case.data(layout=rng.choice(["folder", "list", "nothing"]), most=30)
    settings = draw_cache(rng, draw_settings(rng, data), case.folder)
    reference = Reference(data, settings, case.folder)
    settings = draw_batch_size(rng, settings, len(data), 1) | {"read_timeout": 4.0}
    loader = loader_of(case, data, settings)
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
    loader = loader_of(case, data, settings)
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
    rng, data = case.rng, case.data(layout=draw_layout(case.rng), most=40, bad_share=0.4)
    settings = draw_settings(rng, data, augment=None, mode="resize", views=1, repeats=1, channels=3)
    settings.pop("weights", None)
    settings.pop("balance", None)
    world, epochs = rng.choice([1, 2, 4, 8]), rng.randint(2, 12)
    settings = draw_batch_size(rng, settings, len(data), world)
    loaders = [loader_of(case, data, settings, (rank, world)) for rank in range(world)]
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
    loader = loader_of(case, data, settings)
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
        loader = loader_of(case, data, settings)
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
