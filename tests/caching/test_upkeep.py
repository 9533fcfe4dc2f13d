"""What is of no use in a cache, and how it is left out: photos of noise, of files that are only names."""

from __future__ import annotations

import errno
import os
import re
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastaug.caching import folder as folders
from fastaug.caching.folder import is_at, open_folder
from fastaug.caching.index import HEADER_BYTES, RECORD_BYTES
from fastaug.caching.pixels import _ALIGNED
from fastaug.caching.store import Picture, Source, Store
from fastaug.caching.upkeep import Survey, Upkeep, _new_files, caches_in

SETTINGS = {"cache_size": 8, "decoder": "jpeg", "scale": "auto"}
BUDGET = 1 << 30


class Files:
    """Names of files, with what the kernel says of them now."""

    def __init__(self, *names: str) -> None:
        self.known: dict[str, tuple[int, int]] = dict.fromkeys(names, (100, 1))

    def stamps(self, names: Sequence[str]) -> list[tuple[int, int] | None]:
        return [self.known.get(name) for name in names]

    def source(self, name: str) -> Source:
        return Source.of(name, *self.known[name])


def picture(name: str, time: int = 1) -> Picture:
    rng = np.random.default_rng([*name.encode(), time])
    return Picture(rng.integers(0, 255, (40, 50 + len(name), 3), np.uint8), (80, 100), (0.5, 0.5, 0.0, 0.0))


def put(store: Store, files: Files, *names: str) -> None:
    for name in names:
        source = files.source(name)
        store.put([(source, picture(name, source.time_ns))], BUDGET)


def served(store: Store, files: Files) -> set[str]:
    """The names of the files of which there are photos, all of them the right ones."""
    names = list(files.known)
    found = set()
    for name, slot in zip(names, store.find([files.source(name) for name in names]), strict=True):
        pixels = None if slot is None else store.get(slot)
        if pixels is not None:
            assert np.array_equal(pixels, picture(name, files.known[name][1]).pixels), name
            found.add(name)
    return found


def opened(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """As by another process."""
    monkeypatch.setattr(folders, "_open", {})
    store = open_folder(folder, SETTINGS)
    assert store is not None
    return store


def flip(path: Path, place: int) -> None:
    with open(path, "r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 255]))


def number_of(store: Store, files: Files, name: str) -> int:
    (slot,) = store.find([files.source(name)])
    assert slot is not None
    return slot.number


@pytest.fixture
def worn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Files, Store]:
    """A cache with one of everything, opened anew: of ten photos "a", "e", "g", "h", "i" and "j" count."""
    files = Files(*"abcdefghij")
    store = opened(tmp_path, monkeypatch)
    put(store, files, *"abcdef")
    with store._filling():  # by a process that is killed then
        store._place([(Source.of("killed", 1, 1), picture("killed" * 100))], BUDGET)
    put(store, files, *"ghij")
    inner = Path(store.where)
    (b,) = store.find([files.source("b")])
    assert b is not None
    flip(inner / "pixels", b.entry.offset + 100)  # damaged
    flip(inner / "index", HEADER_BYTES + number_of(store, files, "c") * RECORD_BYTES + 40)  # its record is
    files.known["d"] = (100, 2)  # changed
    files.known["e"] = (100, 2)  # changed, and kept again
    put(store, files, "e")
    del files.known["f"]  # gone
    return inner, files, opened(tmp_path, monkeypatch)


def test_everything_is_counted(worn: tuple[Path, Files, Store]) -> None:
    folder, files, _ = worn
    (folder / "pixels.unfinished").write_bytes(b"x" * 5000)  # by a clean that was killed
    left = os.stat(folder / "pixels.unfinished").st_blocks * 512
    upkeep, told = Upkeep(folder), list[int]()
    survey = upkeep.survey(files.stamps, done=told.append)
    assert sum(told) == len(upkeep) == 11
    size = sum(picture(name).pixels.nbytes + len(name) for name in "aeghij")
    ended = [picture("killed" * 100).pixels.nbytes, picture("c").pixels.nbytes]  # the photo without a record too
    assert sum(ended) < survey.lost_bytes - left < sum(ended) + 3 * _ALIGNED
    disk = sum(path.stat().st_blocks for path in folder.iterdir()) * 512
    assert survey == Survey(folder, SETTINGS, 6, size, disk, 1, 1, 2, 1, survey.lost_bytes)
    assert survey.useless
    quick = upkeep.survey(files.stamps, quick=True)
    assert (quick.slots, quick.damaged) == (7, 1)


def test_nothing_of_a_whole_cache_is_useless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Photos of odd sizes too, and across the ends of segments."""
    monkeypatch.setattr("fastaug.caching.pixels.SEGMENT_BYTES", 1 << 15)
    files = Files(*(f"{i}" * i for i in range(1, 30)))
    store = opened(tmp_path, monkeypatch)
    put(store, files, *files.known)
    survey = Upkeep(Path(store.where)).survey(files.stamps)
    assert (survey.slots, survey.useless) == (29, False)
    assert os.stat(Path(store.where) / "pixels").st_size > 1 << 17


def test_what_counts_is_copied_and_who_has_the_old_files_goes_on(
    worn: tuple[Path, Files, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, files, store = worn
    assert served(store, files) == set("aeghij")
    (folder / "index.unfinished").write_bytes(b"left by a clean that was killed" * 1000)
    before = {name: os.stat(folder / name).st_ino for name in ("index", "pixels")}
    os.chmod(folder / "index", 0o660)
    upkeep, told = Upkeep(folder), list[int]()
    survey = upkeep.survey(files.stamps)
    disk = upkeep.clean(told.append)
    assert sum(told) == survey.slots
    assert {path.name for path in folder.iterdir()} == {"index", "pixels"}
    assert all(os.stat(folder / name).st_ino != inode for name, inode in before.items())
    assert os.stat(folder / "index").st_mode & 0o777 == 0o660
    again = Upkeep(folder).survey(files.stamps)
    assert again == Survey(folder, SETTINGS, 6, survey.slot_bytes, disk, 0, 0, 0, 0, 0)
    assert disk < survey.disk_bytes
    new = opened(folder.parent, monkeypatch)
    assert served(new, files) == set("aeghij")
    assert served(store, files) == set("aeghij")
    put(new, files, "d")
    files.known["k"] = (100, 1)
    put(store, files, "k")  # where nobody finds it any more
    assert served(new, files) == set("adeghij")


def test_what_is_added_meanwhile_is_taken_along(
    worn: tuple[Path, Files, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, files, store = worn
    upkeep = Upkeep(folder)
    upkeep.survey(files.stamps)
    added = iter(["k", "l"])

    def add(*_: Any) -> None:
        name = next(added)
        files.known[name] = (100, 1)
        put(store, files, name)

    copied = Upkeep._copy

    def copy(self: Upkeep, numbers: Sequence[int], to: Any) -> None:
        copied(self, numbers, to)
        if next(counted) == 1:  # after the first look at what was added
            add()

    counted = iter(range(10))
    monkeypatch.setattr(Upkeep, "_copy", copy)
    upkeep.clean(add)
    assert served(opened(folder.parent, monkeypatch), files) == set("aeghijkl")
    assert not Upkeep(folder).survey(files.stamps).useless


def test_killed_between_the_two_names_nothing_wrong_is_served(
    worn: tuple[Path, Files, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, files, _ = worn
    upkeep = Upkeep(folder)
    upkeep.survey(files.stamps)
    replaced: list[str] = []

    def replace(new: Path, old: Path, known: Callable[..., None] = os.replace) -> None:
        if replaced:
            raise KeyboardInterrupt
        replaced.append(old.name)
        known(new, old)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        with pytest.raises(KeyboardInterrupt):
            upkeep.clean()
    assert replaced == ["pixels"]
    store = opened(folder.parent, monkeypatch)
    assert served(store, files) < set("aeghij")  # "a" is where it was
    put(store, files, *"aeghijbcd")
    assert served(opened(folder.parent, monkeypatch), files) == set("abcdeghij")


def test_a_disk_that_is_full_leaves_everything(
    worn: tuple[Path, Files, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, files, store = worn
    upkeep = Upkeep(folder)
    survey = upkeep.survey(files.stamps)
    before = {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr("fastaug.caching.upkeep.disk_left", lambda folder: survey.slot_bytes - 1)
        with pytest.raises(OSError, match=r"expected 3\d,\d{3} free bytes to copy what counts in '.*', got 3"):
            upkeep.clean()

        def full(*_: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr("fastaug.caching.upkeep.disk_left", lambda folder: survey.slot_bytes)
        patch.setattr("fastaug.caching.pixels.Pixels.write", full)
        with pytest.raises(OSError, match="No space left"):
            upkeep.clean()
    assert {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.iterdir()} == before
    assert served(store, files) == set("aeghij")


def test_a_disk_that_fails_is_damage(worn: tuple[Path, Files, Store], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, files, _ = worn
    upkeep = Upkeep(folder)

    def fail(file: int, size: int, offset: int) -> bytes:
        if size > 1000:
            raise OSError(errno.EIO, "Input/output error")
        return os.pread(file, size, offset)

    monkeypatch.setattr("fastaug.caching.upkeep.read_at", fail)
    survey = upkeep.survey(files.stamps)
    assert (survey.slots, survey.damaged) == (0, 8)


def test_another_clean_meanwhile(worn: tuple[Path, Files, Store]) -> None:
    folder, files, _ = worn
    first, second = Upkeep(folder), Upkeep(folder)
    for upkeep in (first, second):
        upkeep.survey(files.stamps)
    first.clean()
    with pytest.raises(OSError, match=r"expected '.*' as it was looked at, got another one: a process has cleaned"):
        second.clean()
    assert {path.name for path in folder.iterdir()} == {"index", "pixels"}


def test_the_sources_disk_is_not_there(worn: tuple[Path, Files, Store]) -> None:
    folder, _, _ = worn
    upkeep = Upkeep(folder)
    assert upkeep.survey(lambda names: [None] * len(names)).gone == 9
    with pytest.raises(
        ValueError, match=r"the files that the 9 photos in '.*' were made of, can reach none\. Is their"
    ):
        upkeep.clean()


def test_what_is_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    for name, got in (("", "a folder without one"), ("file", "a file"), ("no\x1b", "no such folder")):
        with pytest.raises(ValueError, match=f"expected the folder of a cache, got .*{got}"):
            caches_in(tmp_path / name)
    store = opened(tmp_path, monkeypatch)
    inner = Path(store.where)
    assert caches_in(tmp_path) == caches_in(inner) == [inner]
    for content in (b"my notes", b"fastaug cache 1\n", (inner / "index").read_bytes().replace(b"{", b"(")):
        (inner / "index").write_bytes(content)
        with pytest.raises(ValueError, match=f"expected an index of fastaug in {re.escape(repr(str(inner)))}, got ano"):
            Upkeep(inner)


def test_who_wants_the_same_new_files_waits(tmp_path: Path) -> None:
    paths, like = [tmp_path / "a.new", tmp_path / "b.new"], [tmp_path / "a", tmp_path / "b"]
    for path in like:
        path.write_bytes(b"old")
    begun, named = threading.Event(), list[bool]()

    def other() -> None:
        begun.set()
        with _new_files(paths, like) as files:
            named.extend(is_at(file, path) for file, path in zip(files, paths, strict=True))

    thread = threading.Thread(target=other)
    with _new_files(paths, like) as files:
        thread.start()
        begun.wait()
        os.write(files[0], b"new")
        for path, old in [*zip(paths, like, strict=True)][::-1]:  # the one that is locked last, as `clean` does
            assert named == []
            os.replace(path, old)
    thread.join()
    assert named == [True, True]
    assert [path.read_bytes() for path in like] == [b"new", b""]
    assert not any(path.exists() for path in paths)
