"""A cache that is filled without a training."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import fastaug as fa
from fastaug.caching import folder as folders
from fastaug.caching.upkeep import Upkeep, caches_in
from fastaug.loading.cpu_decoder import CpuDecoder
from fastaug.loading.prepare import prepare
from fastaug.samples.sources import Reader, stamps
from tests.factories import spoil


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many files each call of the decoder got."""
    counts: list[int] = []

    def decode(
        self: CpuDecoder, encoded: Sequence[bytes], *needs: Any, own: Callable[..., Any] = CpuDecoder.decode
    ) -> Any:
        counts.append(len(encoded))
        return own(self, encoded, *needs)

    monkeypatch.setattr(CpuDecoder, "decode", decode)
    return counts


def another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on folders are opened as by one."""
    monkeypatch.setattr(folders, "_open", {})


def test_the_loader_finds_everything(samples: fa.Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its own defaults, in both modes; smaller photos and larger ones than the presize, one of each twice."""
    twice = fa.Samples([*samples.paths, *samples.paths[:7]], [*samples.targets, *samples.targets[:7]], samples.classes)
    told: list[int] = []
    came = prepare(twice, tmp_path / "cache", device="cpu", num_threads=1, done=told.append)
    assert (came.made, came.there, came.without_room, came.bad) == (50, 0, 0, {})
    assert sum(told) == 57
    another_process(monkeypatch)
    for arguments in ({}, {"mode": "direct", "augment": fa.aug_transforms(size=32)}):
        loader = fa.ImageLoader(twice, 10, device="cpu", training=False, cache=tmp_path / "cache", **arguments)
        assert sum(len(y) for _, y in loader) == 57
        assert (loader.stats().cached, loader.stats().decoded) == (57, 0)
    assert [str(path) for path in (tmp_path / "cache").iterdir()] == [came.folder]
    assert sum(path.stat().st_blocks for path in Path(came.folder).iterdir()) * 512 > came.bytes - 50 * 64


def test_what_is_there_is_not_read(samples: fa.Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(samples.subset(range(30)), tmp_path, 32, device="cpu")
    another_process(monkeypatch)
    read: list[str] = []

    def read_bytes(self: Reader, path: str, own: Callable[..., Any] = Reader.read_bytes) -> Any:
        read.append(path)
        return own(self, path)

    monkeypatch.setattr(Reader, "read_bytes", read_bytes)
    came = prepare(samples, tmp_path, 32, device="cpu")
    assert (came.made, came.there) == (20, 30)
    assert sorted(read) == sorted(samples.paths[30:])


def test_bad_files_and_photos_without_room_are_told(samples: fa.Samples, tmp_path: Path) -> None:
    spoiled, bad = spoil(samples, tmp_path)
    come = prepare(spoiled, tmp_path / "cache", 32, device="cpu", num_threads=2)
    assert {spoiled.paths[row] for row in come.bad} == set(bad.values())
    assert list(come.bad) == sorted(come.bad)
    assert come.bad[40] == "No such file or directory"
    assert (come.made, come.without_room) == (50, 0)
    half = prepare(spoiled, tmp_path / "half", 32, come.bytes // 2, device="cpu", num_threads=2)
    assert half.made + half.without_room == 50
    assert 10 < half.made < 40
    assert half.bytes <= come.bytes // 2
    assert half.bad == come.bad


@pytest.fixture
def groups_of_four(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one thread; of these four are under way, or done, when the first one is told."""
    monkeypatch.setattr("fastaug.loading.prepare._CHUNKS", 1)


@pytest.mark.usefixtures("groups_of_four")
def test_stopped_and_gone_on_with(samples: fa.Samples, tmp_path: Path, decoded: list[int]) -> None:
    whole = samples.subset(range(48))

    def stop(count: int) -> None:
        if count:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(whole, tmp_path, 32, device="cpu", num_threads=1, done=stop)
    before = sum(decoded)
    assert 4 <= before <= 16
    came = prepare(whole, tmp_path, 32, device="cpu", num_threads=1)
    assert (came.there, came.made) == (before, 48 - before)
    assert sum(decoded) == 48


@pytest.mark.usefixtures("groups_of_four")
def test_two_at_the_same_time_share_the_work(
    samples: fa.Samples, tmp_path: Path, decoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, others = samples.subset(range(48)), []

    def go_on(count: int) -> None:
        if count and not others:
            another_process(monkeypatch)
            others.append(prepare(whole, tmp_path, 32, device="cpu", num_threads=1))

    came = prepare(whole, tmp_path, 32, device="cpu", num_threads=1, done=go_on)
    (other,) = others
    assert came.made + came.there == other.made + other.there == 48
    assert came.made >= 4
    assert other.made >= 32
    assert sum(decoded) <= 48 + 12  # what was under way when the other began may be made by both
    assert {path.name for path in tmp_path.iterdir()} == {Path(came.folder).name}


def test_a_cache_that_cannot_be_filled_is_an_error(
    samples: fa.Samples, tmp_path: Path, decoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("fastaug.caching.pixels.Pixels.write", full)
        with pytest.raises(
            OSError, match=r"prepare: the cache in '.*32-jpeg-auto' cannot be filled \(No space left on"
        ):
            prepare(samples, tmp_path, 32, device="cpu", num_threads=1)
    assert sum(decoded) < 50
    another_process(monkeypatch)
    some = samples.subset(range(40))
    assert prepare(some, tmp_path, 32, device="cpu").made == 40

    with monkeypatch.context() as patch:  # from here on it can only be read
        patch.setattr(folders, "_open_or_make", full)
        another_process(patch)
        assert prepare(some, tmp_path, 32, device="cpu").there == 40  # which is enough
        del decoded[:]
        with pytest.raises(OSError, match="cannot be filled"):
            prepare(samples, tmp_path, 32, device="cpu")
        assert len(decoded) == 0
        with pytest.raises(OSError, match=r"prepare: expected a folder that can be made and written to, got '.*none'"):
            prepare(samples, tmp_path / "none", 32, device="cpu")


@pytest.mark.usefixtures("groups_of_four")
def test_a_cache_that_is_cleaned_meanwhile_is_not_filled_for_nobody(samples: fa.Samples, tmp_path: Path) -> None:
    def clean(count: int) -> None:
        if count:
            (folder,) = caches_in(tmp_path)
            upkeep = Upkeep(folder)
            assert upkeep.survey(stamps).slots >= 4
            upkeep.clean()

    with pytest.raises(
        OSError, match=r"another process has cleaned or removed the cache in '.*32-jpeg-auto' meanwhile"
    ):
        prepare(samples, tmp_path, 32, device="cpu", num_threads=1, done=clean)
    came = prepare(samples, tmp_path, 32, device="cpu")
    assert came.there >= 4
    assert came.made + came.there == 50


def test_a_loader_opens_a_cache_again_that_was_cleaned(samples: fa.Samples, tmp_path: Path) -> None:
    """What it adds would be nobody's."""
    loader = fa.ImageLoader(samples, 10, 32, fa.aug_transforms(size=16), device="cpu", cache=tmp_path)
    next(iter(loader))
    (folder,) = tmp_path.iterdir()
    for name in ("index", "pixels"):
        (folder / name).unlink()
    for _ in loader:
        pass
    other = fa.ImageLoader(samples, 10, 32, fa.aug_transforms(size=16), device="cpu", cache=tmp_path)
    for _ in other:
        pass
    assert (other.stats().cached, other.stats().decoded) == (50, 0)


def test_what_is_no_folder(samples: fa.Samples, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a folder, or none yet"):
        prepare(samples, samples.paths[0], device="cpu")
    with pytest.raises(ValueError, match="prepare: expected a folder for the cache, got 'memory', which ends"):
        prepare(samples, "memory", device="cpu")
    with pytest.raises(ValueError, match="got 'device', which ends"):
        prepare(samples, Path("device"), device="cpu")


def test_the_same_command_again_takes_no_more_of_the_disk(
    samples: fa.Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By default half of what is left without the cache, however often it is opened, and however full it is then."""
    whole = prepare(samples, tmp_path / "whole", 32, device="cpu").bytes

    def left(folder: Path) -> int:
        stores = list(folders._open.values())
        return whole - sum(store.given_out() for store in stores if store.where.startswith(str(folder)))

    monkeypatch.setattr("fastaug.loading.cache.disk_left", left)
    another_process(monkeypatch)
    first, *others = [prepare(samples, tmp_path / "half", 32, device="cpu") for _ in range(3)]
    assert 0.4 * whole < first.bytes <= 0.5 * whole
    assert [(came.made, came.bytes) for came in others] == [(0, first.bytes)] * 2
