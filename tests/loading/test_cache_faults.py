"""What befalls a cache: killed processes, full disks, damage, several who fill it. Never a wrong picture."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule

import fastaug as fa
from fastaug.caching.index import HEADER_BYTES as HEADER
from fastaug.caching.index import RECORD_BYTES as RECORD
from fastaug.caching.index import Index
from fastaug.caching.pixels import Pixels
from tests.factories import PATIENCE_S, jpeg
from tests.loading import children
from tests.loading.by_hand import assert_right, kept, make_cached, served, slots, write_crowd
from tests.loading.children import Child, in_child, refuse, said, three_epochs

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc, and forks"),
    pytest.mark.usefixtures("one_thread"),
]


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> fa.Samples:
    return write_crowd(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> fa.Samples:
    return write_crowd(tmp_path_factory.mktemp("many"), 48)


@pytest.fixture(scope="module")
def filled(crowd: fa.Samples, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that holds them all; to be copied."""
    folder = tmp_path_factory.mktemp("filled") / "cache"
    assert_right(make_cached(crowd, folder), 0)
    return folder


def copied(folder: Path, to: Path) -> Path:
    """Its `index` and `pixels`, of which the holes stay holes. Returns the folder that they are in."""
    subprocess.run(["cp", "-r", "--sparse=always", str(folder), str(to)], check=True)
    (inner,) = to.iterdir()
    return inner


def records(folder: Path) -> np.ndarray:
    """uint8 [N, RECORD]."""
    content = np.fromfile(folder / "index", np.uint8)[HEADER:]
    return content[: len(content) // RECORD * RECORD].reshape(-1, RECORD)


def assert_heals(samples: fa.Samples, folder: Path) -> tuple[int, int]:
    """Right pixels now; then all are served, to this loader and another. Returns what came from where at first."""
    loader = make_cached(samples, folder, batch_size=4)
    assert len(assert_right(loader, 0)) == len(samples)
    first = served(loader)
    assert_right(loader, 1)
    assert served(loader) == (len(samples), 0), "not all are served after an epoch"
    loader = make_cached(samples, folder, batch_size=4)
    assert_right(loader, 0)
    assert served(loader) == (len(samples), 0), "not all are served to another loader"
    return first


# Killed.


def finished_in(folder: Path) -> int:
    """Records that are whole."""
    return sum(max(index.stat().st_size - HEADER, 0) // RECORD for index in folder.glob("*/index"))


def test_killed_fifty_times_at_any_moment(many: fa.Samples, tmp_path: Path) -> None:
    """After each: every finished slot is served, no other, with right pixels; two fill it at a time in every other."""
    chance, folder, n = random.Random(0), tmp_path / "cache 0", len(many)
    kills, before, moments = 0, 0, []
    while kills < 50:
        fillers = [Child(children.fill, many, str(folder), seed) for seed in range(1 + kills % 2)]
        for filler in fillers:
            assert filler.hear() == "ready"
        enough = min(before + chance.randrange(10), n)
        end = time.monotonic() + PATIENCE_S
        while finished_in(folder) < enough and time.monotonic() < end:
            time.sleep(0.0002)
        time.sleep(chance.uniform(0, 0.003))
        for filler in fillers:
            filler.kill()
        kills += len(fillers)
        finished = finished_in(folder)
        copy = tmp_path / "copy"
        if folder.exists():
            copied(folder, copy)
        loader = make_cached(many, copy, training=False, augment=None, batch_size=16)
        assert assert_right(loader, 0) == list(range(n))
        assert served(loader) == (finished, n - finished), "finished slots are served, and no others"
        assert finished >= before
        del loader
        shutil.rmtree(copy)
        moments.append(finished)
        before = finished
        if finished == n:
            assert sorted(set(slots(next(folder.iterdir()), many))) == list(range(n))
            folder, before = tmp_path / f"cache {kills}", 0
    assert sum(0 < finished < n for finished in moments) >= 12, f"the moments show little: {moments}"


@pytest.mark.parametrize("when", ["before", "within"])
def test_killed_at_each_call_to_the_system(crowd: fa.Samples, tmp_path: Path, when: str) -> None:
    few, number = crowd.subset(range(3)), 0
    folder = tmp_path / "cache"
    total = in_child(children.killed_at_call, few, str(tmp_path / "whole"), 0, when)
    assert total >= 6, "files are made, pixels and records written"
    step = 1 if total < 25 else total // 12
    for number in range(1, total + 1, step):
        Child(children.killed_at_call, few, str(folder), number, when).end_killed()
        assert_heals(few, folder)
        (inner,) = folder.iterdir()
        assert sorted(set(slots(inner, few))) == [0, 1, 2]
        assert len(records(inner)) == 3, "each has one record"
        shutil.rmtree(folder)


# Several.


def test_several_processes_fill_one_folder(many: fa.Samples, tmp_path: Path) -> None:
    folder, n = tmp_path / "cache", len(many)
    fillers = [Child(children.fill_at_once, many, str(folder), seed) for seed in range(3)]
    for filler in fillers:
        assert filler.hear() == "ready"
    for filler in fillers:
        filler.pipe.send("go")
    found = [filler.end() for filler in fillers]
    (inner,) = folder.iterdir()
    assert sorted(set(slots(inner, many))) == list(range(n)), "none over another"
    assert len(records(inner)) == n, "one record each"
    assert len(np.unique(records(inner), axis=0)) == n
    assert [first[0] + first[1] for first, _ in found] == [n] * 3
    assert sum(first[0] for first, _ in found) > 0, "nobody profited from the others"
    assert assert_heals(many, folder) == (n, 0)


@pytest.mark.parametrize(("kind", "name"), [(Index, "refresh"), (Pixels, "write")], ids=["looked for", "written"])
def test_records_that_come_while_they_are(
    crowd: fa.Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any, name: str
) -> None:
    """By another process, with pixels in a part of the file that was not there when this one looked last."""
    folder, original, calls = tmp_path / "cache", getattr(kind, name), 0
    loader = make_cached(crowd, folder, num_threads=1, prefetch_batches=1)

    def late(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1:
            in_child(children.fill_once, crowd, str(folder))
        return original(*arguments)

    monkeypatch.setattr(kind, name, late)
    assert len(assert_right(loader, 0)) == 12
    assert calls
    (inner,) = folder.iterdir()
    assert len(records(inner)) == 12, "one record each"
    assert_right(loader, 1)
    assert served(loader) == (12, 0)


@pytest.mark.parametrize("kind", ["folder", "memory"])
def test_forked_processes_that_have_the_same_files_open(many: fa.Samples, tmp_path: Path, kind: str) -> None:
    """A lock of an open file is one lock for all who inherited that. Memory of one process is not its children's."""
    folder = tmp_path / "cache"
    cached, decoded = in_child(children.fill_forked, many, "memory" if kind == "memory" else str(folder))
    assert cached + decoded == len(many)
    if kind == "memory":
        assert 0 < cached < len(many), "what the process itself has kept, and nothing of its children's"
    else:
        assert decoded == 0, "some were written over by others"
        (inner,) = folder.iterdir()
        assert sorted(set(slots(inner, many))) == list(range(len(many)))
        assert_heals(many, folder)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.mark.parametrize("end", ["normal", "exception", "kill"])
def test_ranks_share_memory(crowd: fa.Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    before, port = set(os.listdir("/dev/shm")), free_port()
    ranks = [Child(children.a_rank, crowd, "memory", rank, port, end) for rank in range(2)]
    if end == "normal":
        found = [rank.end() for rank in ranks]
        assert [result["shard"] for result in found] == [(0, 2), (1, 2)]
        for epoch in range(3):
            assert sorted(found[0]["rows"][epoch] + found[1]["rows"][epoch]) == list(range(12))
        assert set(found[0]["rows"][0]) != set(found[0]["rows"][1]), "each gets what the other had"
        assert [result["served"] for result in found] == [[(0, 6), (6, 0), (6, 0)]] * 2
        assert found[0]["memory"].keys() == found[1]["memory"].keys(), "each has its own"
        pixels = sum(kept(Path(path).read_bytes(), 64).pixels.numel() for path in crowd.paths)
        assert pixels <= sum(found[0]["memory"].values()) <= 1.2 * pixels + 20_000
        assert [result["named"] for result in found] == [[], []]
        assert found[0]["alone"] == (12, 0)
    elif end == "exception":
        for rank in ranks:
            with pytest.raises(AssertionError, match="as planned"):
                rank.end()
    else:
        for rank in ranks:
            assert rank.hear() == "now"
            rank.end_killed()
    left = set(os.listdir("/dev/shm")) - before
    assert not [name for name in left if "fastaug" in name or "cache" in name]
    assert not [name for name in os.listdir(tempfile.gettempdir()) if name.startswith("fastaug")]


def test_ranks_share_a_folder(crowd: fa.Samples, tmp_path: Path) -> None:
    port = free_port()
    ranks = [Child(children.a_rank, crowd, str(tmp_path / "cache"), rank, port, "normal") for rank in range(2)]
    found = [rank.end() for rank in ranks]
    assert [result["served"] for result in found] == [[(0, 6), (6, 0), (6, 0)]] * 2


# Full, read-only, without locks.


@pytest.mark.parametrize("limit", [2000, 60_000])
def test_a_full_disk(crowd: fa.Samples, tmp_path: Path, limit: int) -> None:
    """Files above a length are refused, a write that would go beyond is cut off there."""
    warnings, (cached, decoded) = in_child(children.with_file_limit, crowd, str(tmp_path / "cache"), limit)
    assert len(warnings) == 1, warnings
    assert "cache" in warnings[0]
    assert cached + decoded == 12
    assert decoded > 0
    assert_heals(crowd, tmp_path / "cache")


@pytest.mark.parametrize("after", [0, 1, 4])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_writes_that_fail(
    crowd: fa.Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int, number: int
) -> None:
    write, calls = os.pwrite, 0

    def writes(*arguments: Any) -> int:
        nonlocal calls
        calls += 1
        return write(*arguments) if calls <= after else refuse(number)()

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", writes)
        warnings, (cached, decoded) = three_epochs(crowd, str(tmp_path / "cache"))
    assert calls > after, "pixels are written by something else"
    assert len(warnings) == 1, warnings
    assert os.strerror(number) in warnings[0]
    assert cached + decoded == 12
    assert decoded > 0
    assert_heals(crowd, tmp_path / "cache")


def test_a_write_that_writes_a_part(crowd: fa.Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.pwrite
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", lambda fd, content, at: write(fd, memoryview(content).cast("B")[:5000], at))
        warnings, (cached, decoded) = three_epochs(crowd, str(tmp_path / "cache"))
    assert cached == 12 or (decoded > 0 and len(warnings) == 1)
    assert_heals(crowd, tmp_path / "cache")


def test_no_room_for_a_longer_file(crowd: fa.Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        for name in ("ftruncate", "truncate", "posix_fallocate"):
            patched.setattr(os, name, refuse(errno.ENOSPC))
        warnings, (cached, decoded) = three_epochs(crowd, str(tmp_path / "cache"))
    assert (cached, decoded) == (12, 0) or len(warnings) == 1
    assert len(warnings) <= 1
    assert_heals(crowd, tmp_path / "cache")


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL])
@pytest.mark.parametrize("has", ["nothing", "all"])
def test_a_file_system_without_locks(
    crowd: fa.Samples, filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, has: str
) -> None:
    if has == "all":
        copied(filled, tmp_path / "cache")
    monkeypatch.setattr(fcntl, "flock", refuse(number))
    monkeypatch.setattr(fcntl, "lockf", refuse(number))
    warnings, found = three_epochs(crowd, str(tmp_path / "cache"))
    assert found == ((12, 0) if has == "all" else (0, 12))
    assert len(warnings) == 1 or (has == "all" and not warnings), warnings


@pytest.fixture
def open_to_all() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    subprocess.run(["chmod", "-R", "u+w", str(folder)], check=True)
    shutil.rmtree(folder)


@pytest.mark.parametrize("has", ["no folder", "an empty folder", "half", "all"])
def test_a_folder_that_may_only_be_read(open_to_all: Path, has: str) -> None:
    (open_to_all / "photos").mkdir()
    samples, folder = write_crowd(open_to_all / "photos"), open_to_all / "below" / "cache"
    (open_to_all / "below").mkdir()
    if has != "no folder":
        folder.mkdir()
    subprocess.run(["chmod", "-R", "a-w,a+rX", str(open_to_all / "photos")], check=True)
    if has in ("half", "all"):
        list(make_cached(samples if has == "all" else samples.subset(range(6)), folder))
    (open_to_all / "below").chmod(0o555)
    subprocess.run(["chmod", "-R", "a-w,a+rX", str(folder.parent)], check=True)
    warnings, found = in_child(children.without_permission, samples, str(folder))
    assert found == {"half": (6, 6), "all": (12, 0)}.get(has, (0, 12))
    assert len(warnings) == 1 or (has == "all" and not warnings), warnings


def test_one_warning_names_the_folder_and_what_happens(
    crowd: fa.Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "pwrite", refuse(errno.ENOSPC))
    with said() as found:
        for _ in range(2):  # a validation loader beside the one for training may say it too
            list(make_cached(crowd, tmp_path / "cache"))
    assert 1 <= len(found) <= 2
    assert str(tmp_path / "cache") in found[0]
    assert "No space left" in found[0]


# Damaged.


def damage_at(path: Path, place: float, content: bytes) -> None:
    """Overwrite what lies there, at this share of what was written."""
    size = min(path.stat().st_size, path.stat().st_blocks * 512)
    at = int(place * (size - 1))
    with open(path, "r+b") as file:
        file.seek(at)
        before = file.read(len(content))
        file.seek(at)
        file.write(bytes(a ^ b for a, b in zip(before, content, strict=False)))


bits = st.binary(min_size=1, max_size=9).filter(any)
shares = st.floats(0, 1)
damages = st.one_of(
    st.tuples(st.just("flip"), st.sampled_from(["pixels", "index"]), shares, bits),
    st.tuples(st.just("flip record"), st.integers(0, 11), st.integers(0, RECORD - 1), bits),
    st.tuples(st.just("flip header"), st.integers(0, 300), bits),
    st.tuples(st.just("cut"), st.sampled_from(["pixels", "index"]), shares),
    st.tuples(st.just("cut in a record"), st.integers(0, 12 * RECORD)),
    st.tuples(st.just("longer"), st.sampled_from(["pixels", "index"]), st.binary(min_size=1, max_size=200)),
    st.tuples(st.just("exchange records"), st.integers(0, 11), st.integers(0, 11)),
    st.tuples(st.just("zeros"), st.sampled_from(["pixels", "index"]), shares),
)


def do_damage(folder: Path, what: str, *how: Any) -> None:
    index = folder / "index"
    if what == "flip":
        damage_at(folder / how[0], *how[1:])
    elif what in ("flip record", "flip header"):
        content = bytearray(index.read_bytes())
        at = HEADER + RECORD * how[0] + how[1] if what == "flip record" else how[0]
        for i, bit in enumerate(how[-1]):
            if at + i < len(content):
                content[at + i] ^= bit
        index.write_bytes(content)
    elif what == "cut":
        path = folder / how[0]
        os.truncate(path, int(how[1] * min(path.stat().st_size, path.stat().st_blocks * 512)))
    elif what == "cut in a record":
        os.truncate(index, min(HEADER + how[0], index.stat().st_size))
    elif what == "longer":
        with open(folder / how[0], "ab") as file:
            file.write(how[1])
    elif what == "exchange records":
        content = bytearray(index.read_bytes())
        a, b = (slice(HEADER + RECORD * row, HEADER + RECORD * (row + 1)) for row in how)
        content[a], content[b] = content[b], content[a]
        index.write_bytes(content)
    else:
        path = folder / how[0]
        size = min(path.stat().st_size, path.stat().st_blocks * 512)
        with open(path, "r+b") as file:
            file.seek(int(how[1] * size))
            file.write(bytes(3000))


@given(damage=st.lists(damages, min_size=1, max_size=3))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damage_of_any_kind(crowd: fa.Samples, filled: Path, damage: list[tuple[Any, ...]]) -> None:
    """Never a wrong picture, and after an epoch all are served again."""
    with tempfile.TemporaryDirectory() as root, said():
        inner = copied(filled, Path(root) / "cache")
        for what, *how in damage:
            do_damage(inner, what, *how)
        assert_heals(crowd, Path(root) / "cache")


@pytest.mark.parametrize("name", ["pixels", "index"])
@pytest.mark.parametrize("what", ["empty", "gone", "text", "a folder", "of another cache"])
def test_a_file_of_it_is_another(crowd: fa.Samples, filled: Path, tmp_path: Path, name: str, what: str) -> None:
    folder = tmp_path / "cache"
    inner = copied(filled, folder)
    path = inner / name
    if what == "of another cache":
        list(make_cached(crowd.subset(reversed(range(12))), tmp_path / "other", seed=5))
        shutil.copy(next((tmp_path / "other").iterdir()) / name, path)
    else:
        path.unlink()
    if what in ("empty", "text"):
        path.write_bytes(b"no cache" * 1000 if what == "text" else b"")
    if what == "a folder":
        path.mkdir()
        with pytest.raises(ValueError, match=r"cache: expected .*, got"):
            make_cached(crowd, folder)
        return
    with said(), contextlib.suppress(*[ValueError] * (what == "text" and name == "index")):  # it may be somebody's
        assert_heals(crowd, folder)


def test_each_slot_is_looked_at_before_its_first_use(crowd: fa.Samples, filled: Path, tmp_path: Path) -> None:
    """A bit of each of three slots, and only they are decoded again."""
    folder = tmp_path / "cache"
    inner = copied(filled, folder)
    with open(inner / "pixels", "r+b") as file:
        content = file.read(1 << 20)
        for row in (0, 4, 11):
            pixels = kept(Path(crowd.paths[row]).read_bytes(), 64).pixels.numpy().tobytes()
            at = content.index(pixels) + len(pixels) - 1 - row
            file.seek(at)
            file.write(bytes([content[at] ^ 1]))
    assert assert_heals(crowd, folder) == (9, 3)


def test_a_damaged_slot_has_the_same_pixels_again(tmp_path: Path) -> None:
    """Also of a photo whose header does not tell how it lies, and which is decoded at a smaller scale elsewhere."""
    xmp = b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
    (tmp_path / "a.jpg").write_bytes(jpeg(600, 400, xmp=b"http://ns.adobe.com/xap/1.0/" + xmp))
    samples = fa.Samples([str(tmp_path / "a.jpg")], [0], ["a"])
    settings: dict[str, Any] = {"scale": "auto", "augment": None, "training": False, "batch_size": 1}
    loader = make_cached(samples, tmp_path / "cache", **settings)
    ((first, _, info),) = list(loader)
    assert info.sizes.tolist() == [[600, 400]]
    del loader
    (inner,) = (tmp_path / "cache").iterdir()
    damage_at(inner / "pixels", 0.0, b"\1")
    loader = make_cached(samples, tmp_path / "cache", **settings)
    ((again, _, _),) = list(loader)
    assert served(loader) == (0, 1)
    assert torch.equal(again, first)


@pytest.mark.parametrize("first", range(3))
def test_each_byte_of_a_record_counts(crowd: fa.Samples, filled: Path, tmp_path: Path, first: int) -> None:
    """Its shape, matrix and size of the original, as its checksum."""
    inner, two = copied(filled, tmp_path / "cache"), crowd.subset(range(2))
    content = (inner / "index").read_bytes()
    for at in range(first, RECORD, 3):
        spoilt = bytearray(content)
        for record in range(12):
            spoilt[HEADER + RECORD * record + at] ^= 0x51
        (inner / "index").write_bytes(spoilt)
        loader = make_cached(two, tmp_path / "cache", augment=None, num_threads=1)
        assert len(assert_right(loader, 0)) == 2
        assert served(loader) == (0, 2), f"byte {at}"


def test_names_that_have_one_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is the other's only by its name: of files of one size and time."""
    samples, digest = write_crowd(tmp_path), hashlib.blake2b
    monkeypatch.setattr(hashlib, "blake2b", lambda content, **options: digest(b"", **options))
    for path in samples.paths:
        content = Path(path).read_bytes()
        Path(path).write_bytes(content.ljust(9000, b"\0"))
        os.utime(path, (2**32, 2**32))  # later than any ctime
    loader = make_cached(samples, tmp_path / "cache")
    for epoch in range(3):
        assert len(assert_right(loader, epoch)) == 12
    assert served(loader)[1] >= 11, "the keys are others"
    assert len(assert_right(make_cached(samples, tmp_path / "cache"), 0)) == 12


def test_a_header_of_another_version(crowd: fa.Samples, filled: Path, tmp_path: Path) -> None:
    """Whatever its pixels mean: they are not taken for ours."""
    folder = tmp_path / "cache"
    inner = copied(filled, folder)
    content = (inner / "index").read_bytes()
    start, end = content.index(b'{"'), content[:HEADER].rindex(b"}") + 1
    digits = [at for at in range(start, end) if content[at : at + 1].isdigit()]
    assert digits, content[start:end]
    for at in digits[:6]:
        other = bytearray(content)
        other[at] = ord("9") if content[at] != ord("9") else ord("8")
        (inner / "index").write_bytes(other)
        with said():
            loader = make_cached(crowd, folder)
            assert len(assert_right(loader, 0)) == 12
        assert served(loader) == (0, 12), f"taken for ours: {other[start:end]!r}"
        del loader  # or the next one would have its files, as they were


@pytest.mark.parametrize(
    "damage",
    ["pixels emptied", "pixels halved", "pixels shortened", "index emptied", "index shortened", "folder removed"],
)
def test_damage_while_it_is_open(crowd: fa.Samples, filled: Path, tmp_path: Path, damage: str) -> None:
    """Between two epochs: what is gone from a mapped file ends the process that looks at it."""
    copied(filled, tmp_path / "cache")
    in_child(children.damaged_while_open, crowd, str(tmp_path / "cache"), damage)


# Everything together.


PICTURES = [jpeg(100 + 7 * k, 90 - 5 * k, quality=60 + 4 * k) for k in range(7)]


class Life(RuleBasedStateMachine):
    """Loaders of all kinds come and go, files change, the cache is cut and spoilt: no image is ever another one's."""

    loaders = Bundle("loaders")

    @initialize()
    def begin(self) -> None:
        self.root = Path(tempfile.mkdtemp())
        self.now = 0
        self.living: list[fa.ImageLoader] = []
        paths = [str(self.root / f"{row}.jpg") for row in range(8)]
        self.samples = fa.Samples(paths, [row % 2 for row in range(8)], ["a", "b"])
        for row in range(8):
            self.change(row, row % len(PICTURES))

    @rule(row=st.integers(0, 7), picture=st.integers(0, len(PICTURES) - 1))
    def change(self, row: int, picture: int) -> None:
        """Another picture, and a time that no version of it had before."""
        self.now += 1
        path = self.samples.paths[row]
        Path(path).write_bytes(PICTURES[picture])
        os.utime(path, ns=(self.now * 10**9, self.now * 10**9))

    @rule(
        size=st.sampled_from([64, 64, 30]),
        mode=st.sampled_from(["resize", "direct"]),
        shard=st.sampled_from([(0, 1), (0, 1), (0, 2), (1, 2), (2, 3)]),
        training=st.booleans(),
        budget=st.sampled_from([None, None, 0x8000, 0x18000]),
        threads=st.integers(1, 3),
    )
    def open(
        self, size: int, mode: Any, shard: tuple[int, int], training: bool, budget: int | None, threads: int
    ) -> None:
        arguments: dict[str, Any] = {"mode": mode, "shard": shard, "training": training, "num_threads": threads}
        arguments |= {"cache_size": size, "cache_bytes": budget, "batch_size": 2, "prefetch_batches": 2}
        self.living.append(make_cached(self.samples, self.root / "cache", **arguments))
        self.living[-1].expected_size = size  # type: ignore[attr-defined]

    @precondition(lambda self: self.living)
    @rule(which=st.integers(0, 9), epoch=st.integers(0, 5), batches=st.integers(1, 5))
    def deliver(self, which: int, epoch: int, batches: int) -> None:
        """Some batches of an epoch; then the iteration is broken off."""
        loader = self.living[which % len(self.living)]
        loader.set_epoch(epoch)
        iteration = iter(loader)
        some = [batch for batch, _ in zip(iteration, range(batches), strict=False)]
        iteration.close()
        assert_right(loader, epoch, loader.expected_size, some)

    @precondition(lambda self: self.living)
    @rule(which=st.integers(0, 9))
    def leave(self, which: int) -> None:
        self.living.pop(which % len(self.living))

    @precondition(lambda self: self.living)
    @rule(which=st.integers(0, 9))
    def close(self, which: int) -> None:
        self.living[which % len(self.living)].close()

    @rule(damage=damages, which=st.integers(0, 1))
    def spoil(self, damage: tuple[Any, ...], which: int) -> None:
        """While nobody has it open."""
        self.living.clear()
        there = sorted((self.root / "cache").glob("*/index"))
        if there:
            with contextlib.suppress(FileNotFoundError, IndexError):
                do_damage(there[which % len(there)].parent, *damage)

    @invariant()
    def files_stay_files(self) -> None:
        if (cache := self.root / "cache").exists():
            assert all({path.name for path in inner.iterdir()} <= {"index", "pixels"} for inner in cache.iterdir())

    def teardown(self) -> None:
        self.living.clear()
        shutil.rmtree(self.root)


Life.TestCase.settings = settings(max_examples=12, stateful_step_count=16, deadline=None)
TestLife = Life.TestCase
