"""A loader with a cache: the same pixels in every epoch, served and not decoded; what is kept, how much, and where."""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import os
import pickle
import shutil
import warnings
import weakref
from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

import fastaug as fa
from fastaug.caching import shared_memory
from fastaug.caching.index import HEADER_BYTES, RECORD_BYTES
from fastaug.loading import cache as cache_module
from fastaug.loading.loader import BadFileError
from fastaug.loading.stats import merge_stats
from fastaug.samples.sources import Reader
from tests.compare import assert_same_batches
from tests.factories import by_sample, encode, jpeg, make_loader, write_tar
from tests.loading.by_hand import (
    AUGMENT,
    CACHE_SIZE,
    assert_right,
    images_by_hand,
    kept,
    make_cached,
    served,
    slots,
    write_crowd,
)

pytestmark = pytest.mark.usefixtures("one_thread")
MODES = ["resize", "direct"]


@pytest.fixture
def crowd(tmp_path: Path) -> fa.Samples:
    (tmp_path / "photos").mkdir()
    return write_crowd(tmp_path / "photos")


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loaders of a process share what they have open: not with those that a test that failed left behind."""
    monkeypatch.setattr(shared_memory, "_open", weakref.WeakValueDictionary())
    monkeypatch.setattr(cache_module, "_devices", weakref.WeakValueDictionary())


@pytest.fixture(params=["memory", "folder", "device"])
def cache(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "cache") if request.param == "folder" else request.param


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


# What the tests compare with.


@pytest.mark.parametrize(("mode", "augment"), [("resize", AUGMENT), ("resize", None), ("direct", AUGMENT)])
@pytest.mark.parametrize("training", [True, False])
def test_by_hand_without_a_cache_is_what_the_loader_delivers(
    crowd: fa.Samples, mode: str, augment: fa.Augment | None, training: bool
) -> None:
    loader = make_cached(crowd, None, mode=mode, augment=augment, training=training)
    for epoch in (0, 3):
        assert sorted(assert_right(loader, epoch, None)) == list(range(12))


def test_the_comparison_rejects_what_is_wrong(crowd: fa.Samples) -> None:
    loader = make_cached(crowd, None, mode="direct", training=False, batch_size=12)
    ((x, y, info),) = list(loader)
    right = images_by_hand(loader, list(range(12)), 0, CACHE_SIZE)
    assert_right(loader, 0, CACHE_SIZE, [(right, y, info)])
    one_level = right.clone()
    one_level[7, 1, 5, 5] += 1 / 255
    other_sizes = deepcopy(info)
    other_sizes.sizes[0, 0] = CACHE_SIZE
    for wrong in (
        (x, y, info),  # of the whole photos
        (right.roll(1, 0), y, info),
        (right.flip(1), y, info),
        (one_level, y, info),
        (right, y.roll(1), info),
        (right, y, other_sizes),
        (images_by_hand(loader, list(range(12)), 0, CACHE_SIZE - 1), y, info),
    ):
        with pytest.raises(AssertionError):
            assert_right(loader, 0, CACHE_SIZE, [wrong])
    with pytest.raises(AssertionError, match="came twice"):
        assert_right(loader, 0, CACHE_SIZE, [(right, y, info)] * 2)


# Pixels.


def every_kind() -> dict[str, bytes]:
    """Files as they turn up among photos, by the name that they have."""
    cat = Image.fromarray(skimage.data.chelsea()[100:190, 100:220])
    found = {
        "larger.jpg": jpeg(120, 90),
        "smaller.jpg": jpeg(50, 40),
        "as large.jpg": jpeg(80, CACHE_SIZE),
        "a pixel larger.jpg": jpeg(80, CACHE_SIZE + 1),
        "one pixel.jpg": jpeg(1, 1),
        "wide and thin.jpg": jpeg(3000, 1),
        "high and thin.jpg": jpeg(1, 3000),
        "long.jpg": jpeg(2000, 100),
        "longer than a JPEG.png": encode(cat.resize((70_000, 3)), "PNG"),
        "progressive.jpg": jpeg(progressive=True),
        "4:2:2.jpg": jpeg(subsampling="4:2:2"),
        "cmyk.jpg": encode(cat.convert("CMYK")),
        "gray.jpg": encode(cat.convert("L")),
        "colour.png": encode(cat, "PNG"),
        "transparent.png": encode(cat.convert("RGBA"), "PNG"),
        "a picture.webp": encode(cat, "WEBP"),
        "Größe фото 写真.jpg": jpeg(110, 80),
        "two\nlines.jpg": jpeg(100, 80),
        os.fsdecode(b"no UTF-8 \xff\xfe.jpg"): jpeg(90, 75),
    }
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        found[f"orientation {orientation}.jpg"] = encode(cat.crop((0, 0, 121, 70 + orientation)), exif=exif)
    return found


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> fa.Samples:
    """As files, and the same again in an archive."""
    root, contents = tmp_path_factory.mktemp("every kind"), every_kind()
    for name, content in contents.items():
        (root / name).write_bytes(content)
    members = {f"{i}/a.{name.rsplit('.')[-1]}": content for i, (name, content) in enumerate(contents.items())}
    paths = [str(root / name) for name in contents]
    paths += fa.Samples.from_tar(write_tar(root / "an archive.tar", members), target="folder").paths
    return fa.Samples(paths, range(len(paths)), map(str, range(len(paths))))


@pytest.mark.parametrize("mode", MODES)
def test_pixels_of_every_kind_of_file_while_filling_and_later(zoo: fa.Samples, cache: str, mode: str) -> None:
    loader = make_cached(zoo, cache, mode=mode)
    n = len(zoo)
    assert sorted(assert_right(loader, 0)) == list(range(n))
    assert served(loader) == (0, n)
    for epoch in (0, 1):
        assert sorted(assert_right(loader, epoch)) == list(range(n))
        assert served(loader) == (n, 0)
    assert loader.quarantined == []


def test_a_folder_is_read_by_later_loaders_in_both_modes_and_without_chance(zoo: fa.Samples, folder: Path) -> None:
    n = len(zoo)
    assert_right(make_cached(zoo, folder), 0)
    changes: list[dict[str, Any]] = [
        {},
        {"mode": "direct", "seed": 3},
        {"training": False},
        {"augment": None, "presize": 32},
        {"presize": CACHE_SIZE},
        {"shard": (1, 2)},
        {"num_threads": 1, "prefetch_batches": 1, "batch_size": 1},
        {"num_threads": 5, "prefetch_batches": 9, "batch_size": 7},
    ]
    for change in changes:
        loader = make_cached(zoo, str(folder), **change)
        rows = assert_right(loader, 0)
        assert served(loader) == (len(rows), 0), change
        assert len(rows) == n // (2 if "shard" in change else 1)


def test_without_an_augment(crowd: fa.Samples, cache: str) -> None:
    loader = make_cached(crowd, cache, augment=None)
    for epoch in (0, 0, 1):
        assert_right(loader, epoch)
    assert served(loader) == (12, 0)


def test_what_is_kept_is_at_most_as_large_as_the_presize_unless_said(crowd: fa.Samples, cache: str) -> None:
    loader = make_cached(crowd, cache, cache_size=None, presize=40)
    for epoch in (0, 0, 1):
        assert_right(loader, epoch, 40)
    assert served(loader) == (12, 0)


def test_what_is_kept_is_the_whole_photo_raw(crowd: fa.Samples, folder: Path) -> None:
    """Uncropped, upright, uint8, one after the other."""
    loader = make_cached(crowd, folder)
    list(loader)
    (settings,) = folder.iterdir()
    assert sorted(path.name for path in settings.iterdir()) == ["index", "pixels"]
    found = slots(settings, crowd)
    assert sorted(found) == list(range(12)), "each once"
    assert kept(Path(crowd.paths[0]).read_bytes(), CACHE_SIZE).pixels.shape == (64, 85, 3)
    sizes = sum(kept(Path(path).read_bytes(), CACHE_SIZE).pixels.numel() for path in crowd.paths)
    assert (settings / "pixels").stat().st_blocks * 512 <= sizes + 12 * (300 + 4096), "more than raw pixels in pages"
    assert (settings / "index").stat().st_size == HEADER_BYTES + RECORD_BYTES * 12


@pytest.mark.parametrize("mode", MODES)
def test_pixels_depend_on_file_and_settings_not_on_what_was_drawn_when(tmp_path: Path, cache: str, mode: str) -> None:
    """With scale='auto', where a loader without a cache decodes as fine as the draws of the moment need it."""
    samples = fa.Samples([str(tmp_path / f"{i}.jpg") for i in range(4)], [0] * 4, ["a"])
    for i, path in enumerate(samples.paths):
        exif = Image.Exif()
        exif[0x0112] = (1, 3, 6, 8)[i]
        subsampling = "4:2:2" if i % 2 else "4:2:0"
        Path(path).write_bytes(jpeg(401 + 37 * i, 303 + 50 * i, subsampling=subsampling, exif=exif))
    settings: dict[str, Any] = {"mode": mode, "scale": "auto", "augment": fa.aug_transforms(size=24, min_scale=0.1)}
    folders = (f"{cache} {k}" if os.sep in cache else cache for k in itertools.count())

    def epochs(*numbers: int, **changes: Any) -> list[dict[int, torch.Tensor]]:
        """Of a loader with a new cache, these epochs, one after the other."""
        loader, found = make_cached(samples, next(folders), **{**settings, **changes}), []
        for number in numbers:
            loader.set_epoch(number)
            found.append({row: image for row, (image, _) in by_sample(loader).items()})
            assert served(loader) == ((4, 0) if len(found) > 1 and "cache_bytes" not in changes else (0, 4))
        return found

    first, later, again = epochs(0, 1, 0)
    later_first, first_later = epochs(1, 0)
    first_decoded, later_decoded = epochs(0, 1, cache_bytes=100)
    (exact,) = epochs(0, scale="exact")
    for row in range(4):
        assert torch.equal(first[row], again[row])
        assert torch.equal(first[row], first_later[row])
        assert torch.equal(first[row], first_decoded[row])
        assert torch.equal(later[row], later_first[row])
        assert torch.equal(later[row], later_decoded[row])
        assert not torch.equal(later[row], first[row])
        assert (exact[row] - first[row]).abs().mean() < 0.05, "of 1 / 0.22: some 3 levels"


@pytest.mark.parametrize("mode", MODES)
def test_the_same_place_of_the_photo_as_without_a_cache(crowd: fa.Samples, cache: str, mode: str) -> None:
    """Nearer than a pixel."""
    settings: dict[str, Any] = {"mode": mode, "presize": CACHE_SIZE, "augment": fa.aug_transforms(size=48)}
    cached, plain = by_sample(make_cached(crowd, cache, **settings)), by_sample(make_cached(crowd, None, **settings))
    for row, (image, matrix) in cached.items():
        other, other_matrix = plain[row]
        assert torch.equal(matrix, other_matrix)
        apart = (image - other).abs().mean()
        for axis in (1, 2):
            for step in (-1, 1):
                assert apart < 0.5 * (image - other.roll(step, axis)).abs().mean()


def test_what_the_consumer_does_to_a_batch_changes_nothing(crowd: fa.Samples, cache: str) -> None:
    for augment in (None, AUGMENT):
        loader = make_cached(crowd, cache, augment=augment, presize=CACHE_SIZE)
        for _ in range(2):
            for x, _, _ in loader:
                x.zero_()
        assert_right(loader, 0)


def test_another_presize_later_and_a_schedule(crowd: fa.Samples, cache: str) -> None:
    """What is kept stays; the batches follow."""
    loader = make_cached(crowd, cache, mode="resize")
    list(loader)
    loader.presize = 32
    assert_right(loader, 0)
    assert served(loader) == (12, 0)
    scheduled = make_cached(crowd, cache, schedule=lambda epoch: (16 + 8 * epoch, 32 + 8 * epoch))
    epochs = [by_sample(scheduled) for _ in range(2)]
    for epoch in range(2):
        scheduled.set_epoch(epoch)
        again = by_sample(scheduled)
        assert served(scheduled) == (12, 0)
        assert all(torch.equal(again[row][0], epochs[epoch][row][0]) for row in again)
        loader = make_cached(crowd, cache, augment=AUGMENT.with_size(16 + 8 * epoch), presize=32 + 8 * epoch)
        for row, image in enumerate(images_by_hand(loader, list(range(12)), epoch, CACHE_SIZE)):
            assert torch.equal(again[row][0], image)


def test_a_summary_shows_what_is_delivered(crowd: fa.Samples, cache: str) -> None:
    loader = make_cached(crowd, cache, mode="direct")
    for _ in range(2):  # nothing is kept yet; everything is
        summary, batch = loader.walk(3)
        assert batch is not None
        assert not summary.failed
        epoch = loader.state_dict()["epoch"]
        assert torch.equal(batch[0], images_by_hand(loader, [3], epoch, CACHE_SIZE))
        list(loader)


# Draws, targets, order.


def test_everything_random_is_drawn_anew(crowd: fa.Samples, cache: str) -> None:
    loader, plain = make_cached(crowd, cache), make_cached(crowd, None)
    epochs = [by_sample(loader) for _ in range(3)]
    expected = [by_sample(plain) for _ in range(3)]
    assert served(loader) == (12, 0)
    for a, b in itertools.combinations(epochs, 2):
        assert all(not torch.equal(a[row][1], b[row][1]) for row in a), "the same matrix twice"
        assert all(not torch.equal(a[row][0], b[row][0]) for row in a), "the same image twice"
    for cached, uncached in zip(epochs, expected, strict=True):
        assert list(cached) == list(uncached), "another order"
        assert all(torch.equal(cached[row][1], uncached[row][1]) for row in cached), "other draws than without a cache"


def test_targets_are_not_in_it(crowd: fa.Samples, folder: Path) -> None:
    list(make_cached(crowd, folder))
    other = fa.Samples(list(reversed(crowd.paths)), range(12), map(str, range(12)))
    loader = make_cached(other, folder)
    assert sorted(assert_right(loader, 0)) == list(range(12))
    assert served(loader) == (12, 0)


@pytest.mark.parametrize("shard", [None, (1, 2)])
@pytest.mark.parametrize("mode", MODES)
def test_resumed_in_the_middle_of_filling_bit_for_bit(
    crowd: fa.Samples, cache: str, mode: str, shard: tuple[int, int] | None
) -> None:
    arguments: dict[str, Any] = {"mode": mode, "shard": shard, "batch_size": 2, "drop_last": True}
    whole = make_cached(crowd, f"{cache} of the whole" if os.sep in cache else cache, **arguments)
    expected = list(whole) + list(whole)
    interrupted = make_cached(crowd, cache, **arguments)
    first = list(itertools.islice(interrupted, 2))
    state = json.loads(json.dumps(interrupted.state_dict()))
    resumed = make_cached(crowd, cache, **arguments, prefetch_batches=1)
    resumed.load_state_dict(state)
    assert_same_batches([*first, *resumed, *resumed], expected)
    without = make_cached(crowd, None, **arguments)
    without.load_state_dict(state)
    assert [info.indices.tolist() for *_, info in without] == [
        info.indices.tolist() for *_, info in expected[2 : len(whole)]
    ], "a state knows of no cache"


def test_shards_share_nothing_and_fill_one_cache(crowd: fa.Samples, folder: Path) -> None:
    loaders = [make_cached(crowd, folder, shard=(rank, 2), batch_size=3) for rank in range(2)]
    for epoch in range(3):
        rows = [assert_right(loader, epoch) for loader in loaders]
        assert sorted(rows[0] + rows[1]) == list(range(12))
    assert [served(loader) for loader in loaders] == [(6, 0), (6, 0)]
    (settings,) = folder.iterdir()
    assert sorted(set(slots(settings, crowd))) == list(range(12))
    assert (settings / "index").stat().st_size == HEADER_BYTES + RECORD_BYTES * 12, "each has one record"


def test_a_file_that_comes_in_several_rows_is_kept_once(crowd: fa.Samples, folder: Path) -> None:
    paths = [crowd.paths[i % 3] for i in range(30)]
    samples = fa.Samples(paths, [0] * 30, ["a"])
    loader = make_cached(samples, folder, num_threads=4, batch_size=10)
    assert_right(loader, 0)
    assert_right(loader, 1)
    assert served(loader) == (30, 0)
    (settings,) = folder.iterdir()
    assert sorted(set(slots(settings, crowd))) == [0, 1, 2]
    assert (settings / "index").stat().st_size == HEADER_BYTES + RECORD_BYTES * 3


# Sources.


def rewrite(path: str, content: bytes, later_s: int = 1) -> None:
    """As somebody does later."""
    before = os.stat(path).st_mtime_ns
    Path(path).write_bytes(content)
    os.utime(path, ns=(before, before + later_s * 10**9))


def test_a_source_that_changed_refills_its_own_slot(crowd: fa.Samples, cache: str) -> None:
    loader = make_cached(crowd, cache)
    assert_right(loader, 0)
    original = Path(crowd.paths[0]).read_bytes()
    same_length = jpeg(120, 90, quality=30)
    same_length += bytes(len(original) - len(same_length))
    changes: list[tuple[str, Callable[[str], None]]] = [
        ("another picture", lambda path: rewrite(path, jpeg(99, 77))),
        ("another picture of the same length", lambda path: rewrite(path, same_length)),
        ("an older picture", lambda path: rewrite(path, jpeg(80, 100), later_s=-1000)),
        ("another length at the same time", lambda path: rewrite(path, jpeg(78, 100), later_s=0)),
        ("another time only", lambda path: os.utime(path, ns=(1, 1))),
        ("another kind of file", lambda path: rewrite(path, encode(Image.new("RGB", (70, 90), "red"), "PNG"))),
    ]
    for what, change in changes:
        change(crowd.paths[0])
        assert sorted(assert_right(loader, 0)) == list(range(12))
        assert served(loader) == (11, 1), what
        assert_right(loader, 1)
        assert served(loader) == (12, 0), what


@pytest.mark.parametrize("time_s", [-(10**9), 0, 10**10])
def test_times_that_cannot_be_true(crowd: fa.Samples, cache: str, time_s: int) -> None:
    for path in crowd.paths:
        os.utime(path, (time_s, time_s))
    loader = make_cached(crowd, cache)
    assert_right(loader, 0)
    assert_right(loader, 0)
    assert served(loader) == (12, 0)
    rewrite(crowd.paths[0], jpeg(99, 77))
    assert_right(loader, 0)
    assert served(loader) == (11, 1)


def test_sources_that_changed_places(tmp_path: Path, cache: str) -> None:
    """Of the same size and time, as files of an archive that was unpacked, or pictures without compression."""
    paths = [str(tmp_path / f"{name}.bmp") for name in "ab"]
    for path, colour in zip(paths, ("red", "blue"), strict=True):
        Image.new("RGB", (70, 80), colour).save(path)
        os.utime(path, ns=(10**18, 10**18))
    loader = make_cached(fa.Samples(paths, [0, 0], ["a"]), cache, batch_size=2)
    for _ in range(2):
        assert_right(loader, 0)
        os.rename(paths[0], tmp_path / "c")
        os.rename(paths[1], paths[0])
        os.rename(tmp_path / "c", paths[1])
    assert_right(loader, 0)


def test_sources_that_changed_while_nobody_looked(crowd: fa.Samples, folder: Path) -> None:
    assert_right(make_cached(crowd, folder), 0)
    rewrite(crowd.paths[4], jpeg(99, 77))
    os.replace(crowd.paths[5], crowd.paths[6])
    samples = crowd.subset([row for row in range(12) if row != 5])
    loader = make_cached(samples, folder)
    assert_right(loader, 0)
    assert served(loader) == (9, 2)
    loader = make_cached(samples, folder)
    assert_right(loader, 0)
    assert served(loader) == (11, 0)


def test_a_source_that_changes_while_it_is_read(crowd: fa.Samples, cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was read of the old file is not taken for the new one."""
    read, path = Reader.read_bytes, crowd.paths[2]
    loader = make_cached(crowd, cache)

    def read_then_change(reader: Reader, name: str) -> bytes | str:
        content = read(reader, name)
        if name == path:
            rewrite(path, jpeg(99, 77))
        return content

    with monkeypatch.context() as patched:
        patched.setattr(Reader, "read_bytes", read_then_change)
        list(loader)
    assert_right(loader, 0)
    assert served(loader) == (11, 1)


def test_bad_files_are_bad_as_without_a_cache(crowd: fa.Samples, cache: str, tmp_path: Path) -> None:
    contents = {"text.jpg": b"no picture", "empty.jpg": b"", "cut.jpg": jpeg()[:2000], "missing.jpg": None}
    for name, content in contents.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
    paths = [*crowd.paths, *(str(tmp_path / name) for name in contents)]
    samples = fa.Samples(paths, [0] * 16, ["a"])
    plain = make_cached(samples, None, training=False)
    list(plain)
    expected = plain.quarantined
    assert len(expected) == 4
    loader = make_cached(samples, cache, training=False)
    for _ in range(2):
        assert assert_right(loader, 0) == list(range(12))
        assert loader.quarantined == expected
    assert served(loader) == (12, 0)
    with pytest.raises(BadFileError, match="could not load"):
        list(make_cached(samples, cache, training=False, on_error="raise"))
    again = make_cached(samples, cache, training=False)
    again.load_state_dict(json.loads(json.dumps(loader.state_dict())))
    again.set_epoch(0)
    assert again.quarantined == expected
    assert assert_right(again, 0) == list(range(12))


@pytest.mark.parametrize("then", ["deleted", "text", "a folder"])
def test_a_source_that_became_bad(crowd: fa.Samples, cache: str, then: str) -> None:
    loader = make_cached(crowd, cache, training=False)
    list(loader)
    path = Path(crowd.paths[2])
    good = path.read_bytes()
    path.unlink()
    if then == "text":
        path.write_bytes(b"no picture")
    elif then == "a folder":
        path.mkdir()
    plain = make_cached(crowd, None, training=False)
    list(plain)
    assert len(plain.quarantined) == 1
    assert assert_right(loader, 0) == [row for row in range(12) if row != 2]
    assert loader.quarantined == plain.quarantined
    if then == "text" and os.sep in cache:  # and mended again: for another loader, since this one keeps it out
        rewrite(str(path), good)
        mended = make_cached(crowd, cache, training=False)
        assert assert_right(mended, 0) == list(range(12))
        assert mended.quarantined == []


def test_a_mended_file_is_taken_in(crowd: fa.Samples, folder: Path) -> None:
    good = Path(crowd.paths[0]).read_bytes()
    Path(crowd.paths[0]).write_bytes(good[:1500])
    loader = make_cached(crowd, folder)
    list(loader)
    assert len(loader.quarantined) == 1
    rewrite(crowd.paths[0], good)
    mended = make_cached(crowd, folder)
    assert sorted(assert_right(mended, 0)) == list(range(12))
    assert served(mended) == (11, 1)


def test_what_is_too_large_for_this_loader_is_bad_for_it(crowd: fa.Samples, folder: Path) -> None:
    """Whoever kept it."""
    list(make_cached(crowd, folder))
    loaders = [make_cached(crowd, where, max_pixels=8000, training=False) for where in (None, folder)]
    rows = [[row for *_, info in loader for row in info.indices.tolist()] for loader in loaders]
    assert rows[1] == rows[0] != list(range(12))
    assert loaders[1].quarantined == loaders[0].quarantined != []


def test_members_of_an_archive_that_was_written_anew(tmp_path: Path, cache: str) -> None:
    def write(names: list[str], first: int) -> fa.Samples:
        contents = {f"{name}/{i}.jpg": jpeg(100 + 7 * (first + i), 90) for i, name in enumerate(names)}
        return fa.Samples.from_tar(write_tar(tmp_path / "a.tar", contents), target="folder")

    samples = write(["x", "y", "x"], 0)
    loader = make_cached(samples, cache, batch_size=3)
    for _ in range(2):
        assert sorted(assert_right(loader, 0)) == [0, 1, 2]
    samples = write(["x", "y", "x"], 1)
    os.utime(tmp_path / "a.tar", ns=(5, 5))
    loader = make_cached(samples, cache, batch_size=3)
    for _ in range(2):
        assert sorted(assert_right(loader, 0)) == [0, 1, 2]


def test_a_relative_path_is_a_place_not_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(2):
        (tmp_path / str(i)).mkdir()
        (tmp_path / str(i) / "a.jpg").write_bytes(jpeg(100 + 10 * i, 90).ljust(9000, b"\0"))
        os.utime(tmp_path / str(i) / "a.jpg", (2**32, 2**32))  # later than any ctime
    samples = fa.Samples(["a.jpg"], [0], ["a"])
    for i in (0, 1, 0):
        monkeypatch.chdir(tmp_path / str(i))
        for _ in range(2):
            assert assert_right(make_cached(samples, tmp_path / "cache", batch_size=1), 0) == [0]


# Settings.


def test_another_setting_is_another_cache(crowd: fa.Samples, folder: Path) -> None:
    settings: list[dict[str, Any]] = [{}, {"cache_size": 40}, {"cache_size": 1000}, {"scale": "auto"}]
    for k, change in enumerate(settings, 1):
        loader = make_cached(crowd, folder, **change)
        first = by_sample(loader)
        assert served(loader) == (0, 12), f"{change}: pixels of another one"
        assert len(list(folder.iterdir())) == k
        loader.set_epoch(0)
        again = by_sample(loader)
        assert served(loader) == (12, 0)
        assert all(torch.equal(again[row][0], first[row][0]) for row in first)
    for change in settings[:3]:
        loader = make_cached(crowd, folder, **change)
        assert_right(loader, 0, change.get("cache_size", CACHE_SIZE))
        assert served(loader) == (12, 0), f"{change}: another one took its place"


def test_loaders_side_by_side_see_what_each_other_keeps(crowd: fa.Samples, folder: Path) -> None:
    first, second = make_cached(crowd, folder), make_cached(crowd, folder, mode="direct", training=False)
    next(iter(second))
    assert_right(first, 0)
    assert_right(second, 0)
    assert served(second) == (12, 0)
    rewrite(crowd.paths[1], jpeg(99, 77))
    assert_right(second, 0)
    assert served(second) == (11, 1)
    assert_right(first, 0)
    assert served(first) == (12, 0)


def test_two_loaders_by_turns(crowd: fa.Samples, folder: Path) -> None:
    loaders = [make_cached(crowd, folder, seed=seed, batch_size=2) for seed in range(2)]
    for epoch in range(2):
        for loader in loaders:
            loader.set_epoch(epoch)
        pairs = list(zip(*loaders, strict=True))
        for k, loader in enumerate(loaders):
            assert len(assert_right(loader, epoch, batches=[pair[k] for pair in pairs])) == 12
    (settings,) = folder.iterdir()
    assert sorted(set(slots(settings, crowd))) == list(range(12))
    assert (settings / "index").stat().st_size == HEADER_BYTES + RECORD_BYTES * 12, "each has one record"


# Budget and stats.


def one_by_one(samples: fa.Samples, folder: Path, **arguments: Any) -> list[int]:
    """The rows that are served from the cache."""
    found = []
    for row in range(len(samples)):
        loader = make_cached(samples.subset([row]), folder, batch_size=1, num_threads=1, **arguments)
        assert_right(loader, 0)
        found += [row] * served(loader)[0]
    return found


@pytest.mark.parametrize("mode", MODES)
def test_what_does_not_fit_is_decoded_each_time_the_same_samples(crowd: fa.Samples, cache: str, mode: str) -> None:
    budget = 70_000  # of 4 × 16,320, 4 × 17,472 and 4 × 6,000 bytes
    loader = make_cached(crowd, cache, mode=mode, cache_bytes=budget)
    counts = []
    for epoch in (0, 0, 1, 2):
        assert sorted(assert_right(loader, epoch)) == list(range(12))
        counts.append(served(loader))
    assert counts[0] == (0, 12)
    assert counts[1:] == [counts[1]] * 3
    assert 3 <= counts[1][0] < 12
    assert sum(counts[1]) == 12
    if os.sep in cache:
        before = one_by_one(crowd, Path(cache), cache_bytes=budget)
        assert len(before) == counts[1][0]
        assert_right(loader, 3)
        assert one_by_one(crowd, Path(cache), cache_bytes=budget) == before
        (settings,) = Path(cache).iterdir()
        assert (settings / "pixels").stat().st_blocks * 512 <= budget + 8192


@pytest.mark.parametrize("kind", ["memory", "folder", "device"])
def test_half_of_what_is_left_is_taken(
    crowd: fa.Samples, folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    for name in ("memory_left", "disk_left"):
        monkeypatch.setattr(cache_module, name, lambda *where: 2 * 70_000)
    loader = make_cached(crowd, folder if kind == "folder" else kind)
    list(loader)
    assert_right(loader, 0)
    assert 3 <= served(loader)[0] <= 6, "of 4 × 16,320, 4 × 17,472 and 4 × 6,000 bytes"


def test_a_larger_budget_takes_in_the_rest(crowd: fa.Samples, folder: Path) -> None:
    small = make_cached(crowd, folder, cache_bytes=40_000)
    list(small)
    assert_right(small, 0)
    kept_before = served(small)[0]
    assert 1 <= kept_before <= 6
    large = make_cached(crowd, folder, cache_bytes=10_000_000)
    assert_right(large, 0)
    assert served(large) == (kept_before, 12 - kept_before)
    assert_right(large, 1)
    assert served(large) == (12, 0)


@pytest.mark.parametrize("cache", ["memory", "folder"], indirect=True)
def test_a_changed_source_has_its_place_where_nothing_else_fits(crowd: fa.Samples, cache: str) -> None:
    """The slot of the old picture is its own."""
    sizes = [len(path) + kept(Path(path).read_bytes(), CACHE_SIZE).pixels.numel() for path in crowd.paths]
    budget = sum(-(-size // 4096) * 4096 for size in sizes)  # slots begin at pages
    tight = make_cached(crowd, cache, cache_bytes=budget)
    list(tight)
    assert_right(tight, 0)
    assert served(tight) == (12, 0), "they fit, but no other would"
    rewrite(crowd.paths[0], Path(crowd.paths[0]).read_bytes())
    assert_right(tight, 0)
    assert served(tight) == (11, 1)
    assert_right(tight, 1)
    assert served(tight) == (12, 0)


def test_stats_say_what_was_served_from_where(crowd: fa.Samples, cache: str) -> None:
    plain = make_cached(crowd, None)
    list(plain)
    assert served(plain) == (0, 12)
    assert "cache" not in str(plain.stats())
    loader = make_cached(crowd, cache)
    list(loader)
    first = loader.stats()
    assert (first.cached, first.decoded) == (0, 12)
    list(loader)
    second = loader.stats()
    assert (second.cached, second.decoded) == (12, 0)
    assert second.images == 12
    assert "decode" not in second.stages
    assert "cache" in str(second)
    both = merge_stats([first, second])
    assert (both.cached, both.decoded) == (12, 12)


def test_repr_names_it(crowd: fa.Samples, cache: str) -> None:
    loader = make_cached(crowd, cache)
    assert cache in repr(loader)
    assert cache in loader._repr_html_()
    assert "cache" not in repr(make_cached(crowd, None)).replace("ImageLoader", "")
    list(loader)
    assert cache in repr(loader)


# Arguments.


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"cache": 7}, TypeError, "expected cache .*got 7"),
        ({"cache": True}, TypeError, "expected cache .*got True"),
        ({"cache": b"folder"}, TypeError, "expected cache .*got b'folder'"),
        ({"cache": ""}, (TypeError, ValueError), "expected cache .*got ''"),
        ({"cache": "memory", "cache_size": 0}, ValueError, "expected cache_size of at least 1, got 0"),
        ({"cache": "memory", "cache_size": 1.5}, TypeError, "expected cache_size as a whole number, got 1.5"),
        ({"cache": "memory", "cache_size": "64"}, TypeError, "expected cache_size as a whole number, got '64'"),
        ({"cache": "memory", "cache_bytes": -1}, ValueError, "expected cache_bytes of at least [01], got -1"),
        ({"cache": "memory", "cache_bytes": 0.5}, TypeError, "expected cache_bytes as a whole number, got 0.5"),
        ({"cache": None, "cache_size": 64}, ValueError, "cache_size needs a cache, got cache=None. Give one, or"),
        ({"cache": None, "cache_bytes": 1 << 20}, ValueError, "cache_bytes needs a cache, got cache=None"),
    ],
)
def test_refusals(crowd: fa.Samples, arguments: dict[str, Any], error: Any, message: str) -> None:
    with pytest.raises(error, match=f"ImageLoader: .*{message}"):
        make_loader(crowd, **arguments)


@pytest.mark.parametrize("below", [False, True])
def test_a_file_is_no_folder(crowd: fa.Samples, tmp_path: Path, below: bool) -> None:
    (tmp_path / "file").write_bytes(b"precious")
    where = tmp_path / "file" / "cache" if below else tmp_path / "file"
    with pytest.raises(ValueError, match=r"cache: expected a folder, or none yet, got '.*/file.*'\. Name another one"):
        make_cached(crowd, where)
    assert (tmp_path / "file").read_bytes() == b"precious"


def test_numpys_numbers_and_paths(crowd: fa.Samples, tmp_path: Path) -> None:
    where = tmp_path / "not" / "there yet" / os.fsdecode(b"\xff")
    loader = make_cached(crowd, where, cache_size=np.int64(64), cache_bytes=np.int64(1 << 30))
    assert_right(loader, 0)
    assert_right(loader, 0)
    assert served(loader) == (12, 0)


def test_a_folder_beside_other_things_leaves_them_alone(crowd: fa.Samples, tmp_path: Path) -> None:
    """Also where it is the folder of the photos."""
    root = Path(crowd.paths[0]).parent
    before = {path.name: path.read_bytes() for path in root.iterdir()}
    loader = make_cached(crowd, root)
    assert_right(loader, 0)
    assert {path.name: path.read_bytes() for path in root.iterdir() if path.is_file()} == before
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert fa.Samples.from_filenames(root, "(.).*").paths == crowd.paths


# What it holds, and gives back.


def held() -> list[str]:
    """Files that this process has open, and those that it has mapped that may be of a cache."""
    names = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            names.append(os.readlink(f"/proc/self/fd/{name}"))
    mapped = [line.split(maxsplit=5)[5] for line in Path("/proc/self/maps").read_text().splitlines() if "/" in line]
    return names + [name for name in mapped if "memfd" in name or name.removesuffix(" (deleted)").endswith("pixels")]


def interrupted(loader: fa.ImageLoader) -> None:
    for _ in loader:
        raise KeyboardInterrupt


def use(samples: fa.Samples, cache: str, leave: str) -> None:
    """Fill it, serve from it, and leave it in this way."""
    loader = make_cached(samples, cache, batch_size=2)
    list(loader)
    if leave == "over":
        list(loader)
    elif leave == "broken off":
        next(iter(loader))
    elif leave == "exception":
        with pytest.raises(KeyboardInterrupt):
            interrupted(loader)
    elif leave == "closed":
        batches = iter(loader)
        next(batches)
        loader.close()
        assert list(batches) == []
        assert sorted(assert_right(loader, 0)) == list(range(12)), "and may be used again"
    else:
        with loader:
            next(iter(loader))


def test_nothing_is_held_when_the_loader_is_gone(crowd: fa.Samples, cache: str) -> None:
    before = Counter(held())
    for leave in ("over", "broken off", "exception", "closed", "with"):
        use(crowd, cache, leave)
    gc.collect()
    assert not Counter(held()) - before


def test_a_batch_outlives_its_loader(crowd: fa.Samples, cache: str) -> None:
    loader = make_cached(crowd, cache, augment=None)
    list(loader)
    loader.set_epoch(0)
    batches = list(loader)
    expected = [x.clone() for x, _, _ in batches]
    del loader
    assert all(torch.equal(x, other) for (x, _, _), other in zip(batches, expected, strict=True))


def test_a_loader_with_a_cache_is_copied_and_pickled(crowd: fa.Samples, cache: str) -> None:
    loader = make_cached(crowd, cache)
    list(loader)
    batches = iter(loader)
    next(batches)
    copies = [deepcopy(loader), pickle.loads(pickle.dumps(loader))]
    batches.close()
    for copy in copies:
        for _ in range(2):
            assert sorted(assert_right(copy, 0)) == list(range(12))
        assert served(copy) == (12, 0)
        assert cache in repr(copy)
    del copies, copy
    assert_right(loader, 0)
    assert served(loader) == (12, 0), "a copy took it away"
    state = pickle.dumps(loader)
    assert len(state) < 20_000, "the pixels are not in it"


def test_nothing_has_a_name_but_the_folder(crowd: fa.Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory: not in /dev/shm, and not in the folder for temporary files."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "t"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "t").mkdir()
    before = set(os.listdir("/dev/shm"))
    loader = make_cached(crowd, "memory")
    list(loader)
    assert list((tmp_path / "t").iterdir()) == []
    assert not [name for name in set(os.listdir("/dev/shm")) - before if "fastaug" in name]
    assert not [name for name in held() if name.startswith("/dev/shm") and "deleted" not in name]
    shutil.rmtree(tmp_path / "t")
    assert_right(loader, 0)
