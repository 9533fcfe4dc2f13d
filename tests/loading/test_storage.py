"""Storage that stumbles, hangs or fails: what is tried again, and that no file is blamed for it."""

from __future__ import annotations

import copy
import errno
import json
import logging
import os
import socket
import threading
import time
import weakref
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import fastaug as fa
from fastaug.loading.reading import Readers
from fastaug.samples import sources
from fastaug.samples.sources import Reader, read_bytes
from fastaug.samples.storage import StorageReason, retried
from tests.compare import assert_same_batches
from tests.factories import encode, jpeg, make_loader, run_python, wait_until, write_tar

STORAGES = ("EIO", "ESTALE", "EMFILE", "ENFILE", "ENOMEM", "ETIMEDOUT", "EAGAIN", "EBUSY", "ENOTCONN", "EHOSTUNREACH")
FILES = ("ENOENT", "EACCES", "EPERM", "ENAMETOOLONG", "ELOOP")


class Storage:
    """Between the readers and the system: it fails, or hangs, for the paths that it is told.

    Attributes:
        faults: by path: errors that come in turn, one for each time; the last one again and again if `stays`.
        held: by path: what is waited for before it is read.
        opened: how often each was.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.faults: dict[str, list[BaseException | None]] = {}
        self.held: dict[str, threading.Event] = {}
        self.stays, self.when = False, "open"
        self.opened: Counter[str] = Counter()
        self._paths: dict[int, str] = {}
        for name in ("open", "read", "pread"):
            patch.setattr(os, name, self._instead(name, getattr(os, name)))

    def _instead(self, name: str, call: Any) -> Any:
        def called(file: Any, *arguments: Any, **options: Any) -> Any:
            path = os.fspath(file) if name == "open" else self._paths.get(file, "")
            if name == "open":
                self.opened[path] += 1
            if name[-4:] == self.when[-4:]:
                if path in self.held:
                    self.held[path].wait()
                errors = self.faults.get(path)
                if errors:
                    error = errors[0] if self.stays and len(errors) == 1 else errors.pop(0)
                    if error is not None:
                        raise error
            result = call(file, *arguments, **options)
            if name == "open":
                self._paths[result] = path
            return result

        return called

    def fail(self, path: str, code: str, times: int | None = None) -> None:
        """times: None: always."""
        error = OSError(getattr(errno, code), os.strerror(getattr(errno, code)))
        self.faults[path] = [error] * (10**6 if times is None else times)

    def hold(self, *paths: str) -> threading.Event:
        go = threading.Event()
        self.held |= dict.fromkeys(paths, go)
        return go


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Storage]:
    monkeypatch.setattr("fastaug.samples.storage.WAITS_S", (0.001, 0.002, 0.003))
    made = Storage(monkeypatch)
    yield made
    for event in made.held.values():  # or their threads would stay
        event.set()


@pytest.fixture
def photos(tmp_path: Path) -> fa.Samples:
    """20 small photographs, all different."""
    (tmp_path / "photos").mkdir()
    for i in range(20):
        (tmp_path / "photos" / f"{i:02}.jpg").write_bytes(jpeg(60 + i, 50))
    paths = sorted(str(path) for path in (tmp_path / "photos").iterdir())
    return fa.Samples(paths, [i % 2 for i in range(20)], ["a", "b"])


def in_order(samples: fa.Samples, **settings: Any) -> fa.ImageLoader:
    return make_loader(samples, **{"training": False, "batch_size": 5, "presize": 32, **settings})


def rows_of(loader: fa.ImageLoader) -> list[int]:
    return [int(row) for *_, info in loader for row in info.indices]


# One file


@pytest.mark.parametrize("when", ["open", "read"])
@pytest.mark.parametrize("code", STORAGES)
def test_what_is_the_storages_is_tried_again(storage: Storage, tmp_path: Path, code: str, when: str) -> None:
    (tmp_path / "1.jpg").write_bytes(b"content")
    path, storage.when = str(tmp_path / "1.jpg"), when
    storage.fail(path, code, 3)
    assert read_bytes(path) == b"content"
    assert storage.opened[path] == 4, "opened anew each time: a handle may be stale"
    storage.fail(path, code)
    reason = read_bytes(path)
    assert isinstance(reason, StorageReason)
    assert reason == os.strerror(getattr(errno, code))
    assert storage.opened[path] == 8


@pytest.mark.parametrize("code", FILES)
def test_what_is_the_files_is_not(storage: Storage, tmp_path: Path, code: str) -> None:
    path = str(tmp_path / "1.jpg")
    storage.fail(path, code)
    reason = read_bytes(path)
    assert reason == os.strerror(getattr(errno, code))
    assert not isinstance(reason, StorageReason)
    assert storage.opened[path] == 1


@pytest.mark.parametrize("error", [MemoryError(), TimeoutError("slow"), ConnectionError("gone")])
def test_errors_without_a_number(storage: Storage, tmp_path: Path, error: BaseException) -> None:
    (tmp_path / "1.jpg").write_bytes(b"content")
    path = str(tmp_path / "1.jpg")
    storage.faults[path] = [error]
    assert read_bytes(path) == b"content"
    storage.faults[path], storage.stays = [error], True
    assert isinstance(read_bytes(path), StorageReason)


def test_no_descriptor_is_left(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "1.jpg").write_bytes(b"content")
    path, storage.when = str(tmp_path / "1.jpg"), "read"
    before = len(os.listdir("/proc/self/fd"))
    storage.fail(path, "EIO")
    for _ in range(3):
        read_bytes(path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_waits_grow_and_differ_and_leave_the_global_random_numbers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    import random

    waited: list[float] = []
    monkeypatch.setattr(threading.Event, "wait", lambda self, seconds: waited.append(seconds) or False)

    def work() -> None:
        raise OSError(errno.EIO, "")

    state = random.getstate()
    for _ in range(2):
        with pytest.raises(OSError, match="5"):
            retried(work)
    assert random.getstate() == state
    first, again = waited[:3], waited[3:]
    assert all(least <= wait <= 1.5 * least for least, wait in zip((0.1, 0.4, 1.6), first, strict=True))
    assert first != again, "many readers do not come back at once"


def test_waiting_ends_when_it_is_stopped_or_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastaug.samples.storage.WAITS_S", (60.0,))
    tries: list[int] = []

    def work() -> None:
        tries.append(1)
        raise OSError(errno.EIO, "")

    stopped = threading.Event()
    stopped.set()
    for options in ({"stopped": stopped}, {"until": time.monotonic() + 1}):
        with pytest.raises(OSError, match="5"):
            retried(work, **options)  # type: ignore[arg-type]
    assert len(tries) == 2


def test_an_outage_ends_the_epoch_at_last(
    storage: Storage, photos: fa.Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not after a moment of it, and not after one file that stays away; or a million files are waited for."""
    monkeypatch.setattr("fastaug.loading.reading.OUTAGE_S", 0.0)
    storage.fail(photos.paths[0], "EIO")
    readers = Readers(2)
    for _ in range(3):
        assert isinstance(readers.read(photos.paths[:1])[0], StorageReason)
        assert isinstance(readers.read(photos.paths[1:2])[0], bytes)
    for path in photos.paths:
        storage.fail(path, "EIO")
    readers.read(photos.paths[:2])
    with pytest.raises(fa.StorageError, match=r"a storage that answers, got no file at all within .* s: Input"):
        readers.read(photos.paths[2:4])
    readers.close()
    loader = make_loader(photos, batch_size=2, max_bad_share=1.0)
    with pytest.raises(fa.StorageError, match="no file at all"):
        list(loader)


@pytest.mark.parametrize("when", ["open", "pread"])
def test_archives_are_opened_again(storage: Storage, tmp_path: Path, when: str) -> None:
    archive = write_tar(tmp_path / "a.tar", {f"c/{i}.jpg": bytes([65 + i]) * 700 for i in range(3)})
    samples = fa.Samples.from_tar(archive, pattern="(c)/")
    storage.when = when
    storage.opened.clear()
    with Reader() as reader:
        storage.fail(str(archive), "ESTALE", 2)
        assert [reader.read_bytes(path) for path in samples.paths] == [bytes([65 + i]) * 700 for i in range(3)]
        assert storage.opened[str(archive)] == 3, "and not once a member"
        if when == "pread":
            storage.fail(str(archive), "EIO")
            assert isinstance(reader.read_bytes(samples.paths[0]), StorageReason)
    assert not any("a.tar" in os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")
                   if os.path.exists(f"/proc/self/fd/{fd}"))  # fmt: skip


def test_short_reads_of_archives_are_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = write_tar(tmp_path / "a.tar", {f"c/{i}.jpg": bytes([65 + i]) * 700 for i in range(3)})
    samples, pread = fa.Samples.from_tar(archive, pattern="(c)/"), os.pread
    monkeypatch.setattr(os, "pread", lambda file, size, offset: pread(file, min(size, 5), offset))
    assert [read_bytes(path) for path in samples.paths] == [bytes([65 + i]) * 700 for i in range(3)]


def test_what_is_not_a_regular_file_is_named_at_once(tmp_path: Path) -> None:
    """Nobody writes into the FIFO, and the device has no end."""
    os.mkfifo(tmp_path / "fifo.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "linked.jpg").symlink_to(tmp_path / "fifo.jpg")
    bound = socket.socket(socket.AF_UNIX)
    os.chdir(tmp_path)  # the name of a socket may have 108 bytes
    bound.bind("socket.jpg")
    bound.close()
    expected = {"fifo": "a FIFO", "zero": "a device", "folder": "a folder", "linked": "a FIFO", "socket": "a socket"}
    reasons = {name: read_bytes(str(tmp_path / f"{name}.jpg")) for name in expected}
    for name, words in expected.items():
        assert reasons[name].startswith(words), reasons  # type: ignore[arg-type]
        assert not isinstance(reasons[name], StorageReason)
    archive = f"{tmp_path}/fifo.jpg//1.jpg@1536+9"
    assert read_bytes(archive).startswith("a FIFO")  # type: ignore[arg-type]


def test_files_that_are_too_large_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open(tmp_path / "sparse.jpg", "wb") as file:
        file.truncate(1 << 40)
    (tmp_path / "1.jpg").write_bytes(bytes(1000))
    archive = write_tar(tmp_path / "a.tar", {"1.jpg": bytes(1000)})
    with Reader(max_bytes=1000) as reader:
        assert len(reader.read_bytes(str(tmp_path / "1.jpg"))) == 1000
        assert len(reader.read_bytes(f"{archive}//1.jpg@512+1000")) == 1000
    (tmp_path / "2.jpg").write_bytes(bytes(1001))
    monkeypatch.setattr(os, "read", None)
    monkeypatch.setattr(os, "pread", None)
    with Reader(max_bytes=1000) as reader:
        assert "1,001 bytes" in reader.read_bytes(str(tmp_path / "2.jpg"))  # type: ignore[operator]
        assert "1,001 bytes" in reader.read_bytes(f"{archive}//1.jpg@512+1001")  # type: ignore[operator]
    reason = read_bytes(str(tmp_path / "sparse.jpg"))
    assert "1,099,511,627,776 bytes" in reason
    assert "max_file_bytes" in reason


def test_a_file_that_grows_while_it_is_read_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an endless one that says it has a size; and short reads are gone on with."""
    (tmp_path / "1.jpg").write_bytes(bytes(100))
    path = str(tmp_path / "1.jpg")
    monkeypatch.setattr(os, "read", lambda file, size: b"x" * min(size, 7))
    with Reader(max_bytes=1000) as reader:
        assert "more than 1,000 bytes" in reader.read_bytes(path)  # type: ignore[operator]
    parts = [b"abc", b"d", b"efg", b""]
    monkeypatch.setattr(os, "read", lambda file, size: parts.pop(0))
    assert read_bytes(path) == b"abcdefg"


# A loader


def test_missed_files_are_no_bad_files_and_are_tried_in_the_next_epoch(
    storage: Storage, photos: fa.Samples, caplog: pytest.LogCaptureFixture
) -> None:
    loader = in_order(photos, augment=fa.aug_transforms(size=24))
    expected = list(loader)
    storage.fail(photos.paths[3], "EIO")
    storage.fail(photos.paths[12], "ESTALE", 2)
    with caplog.at_level(logging.WARNING, "fastaug"):
        assert rows_of(loader) == [row for row in range(20) if row != 3]
    ((path, reason),) = loader.missed
    assert path == photos.paths[3]
    assert "Input/output error" in reason
    (line,) = caplog.messages
    assert photos.paths[3] in line
    assert "tried again in the next" in line
    assert loader.quarantined == []
    assert loader.state_dict()["quarantined"] == []
    storage.faults.clear()
    assert_same_batches(list(loader), expected)
    assert loader.missed == []


def test_what_a_copy_meets_is_its_own(storage: Storage, photos: fa.Samples) -> None:
    """As a Learner makes one, to look at the images of a training in order."""
    loader = in_order(photos)
    storage.fail(photos.paths[3], "EIO")
    list(loader)
    storage.faults.clear()
    assert rows_of(copy.copy(loader)) == list(range(20))
    assert [path for path, _ in loader.missed] == [photos.paths[3]]


def test_nothing_but_the_missing_file_differs(storage: Storage, photos: fa.Samples) -> None:
    """Retries change no order and no pixel."""
    loader = make_loader(photos, augment=fa.aug_transforms(size=24), batch_size=5, presize=32, drop_last=False)
    expected = list(loader)
    for row in range(0, 20, 3):
        storage.fail(photos.paths[row], "EIO", 2)
    loader.set_epoch(0)
    assert_same_batches(list(loader), expected)


def test_it_is_the_storages_with_on_error_raise(storage: Storage, photos: fa.Samples, tmp_path: Path) -> None:
    storage.fail(photos.paths[3], "EIO")
    with pytest.raises(fa.StorageError, match=r"03\.jpg: Input/output error.*not the file's fault"):
        list(in_order(photos, on_error="raise"))
    predictor = fa.Predictor(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2)), ["a", "b"],
                             fa.Augment([], size=8), device="cpu")  # fmt: skip
    with pytest.raises(fa.StorageError, match=r"03\.jpg"):
        predictor.get_preds(photos.paths)
    assert issubclass(fa.StorageError, fa.BadFileError)


def test_a_state_goes_on_with_the_batch_that_was_an_error(storage: Storage, photos: fa.Samples) -> None:
    storage.fail(photos.paths[7], "EIO")
    loader, rows = in_order(photos, on_error="raise"), list[int]()
    with pytest.raises(fa.StorageError):
        rows.extend(int(row) for *_, info in loader for row in info.indices)
    storage.faults.clear()
    resumed = in_order(photos, on_error="raise")
    resumed.load_state_dict(json.loads(json.dumps(loader.state_dict())))
    assert rows + rows_of(resumed) == list(range(20))


def test_too_many_missed_files_are_an_error_of_the_storage(
    storage: Storage, photos: fa.Samples, tmp_path: Path
) -> None:
    (tmp_path / "text.jpg").write_bytes(b"no picture")
    paths = [*photos.paths[:14], *[str(tmp_path / "text.jpg")] * 6]
    samples = fa.Samples(paths, [0] * 20, ["a"])
    for path in photos.paths[:6]:
        storage.fail(path, "EIO")
    assert len(rows_of(in_order(samples, max_bad_share=0.6))) == 8
    with pytest.raises(fa.StorageError, match=r"at most 55% .* got 12 of 20, 6 of them .*storage"):
        rows_of(in_order(samples, max_bad_share=0.55))
    with pytest.raises(fa.BadFileError) as raised:  # the bad ones alone are too many
        rows_of(in_order(samples.subset(range(19, -1, -1)), max_bad_share=0.2))
    assert not isinstance(raised.value, fa.StorageError)


def test_a_mask_that_is_missed(storage: Storage, photos: fa.Samples, tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    for i in range(20):
        (tmp_path / "masks" / f"{i:02}.png").write_bytes(encode(Image.new("L", (60 + i, 50)), "PNG"))
    samples = fa.Samples.from_folders(tmp_path / "photos", tmp_path / "masks", classes=["a"])
    mask = str(tmp_path / "masks" / "07.png")
    storage.fail(mask, "EIO")
    loader = in_order(samples, augment=fa.aug_transforms(size=24))
    assert len(rows_of(loader)) == 19
    assert loader.quarantined == []
    ((path, reason),) = loader.missed
    assert path == samples.paths[7]
    assert reason.startswith(f"its mask {mask}: Input/output error")
    summary = loader.summary(7)
    assert summary.failed == "target"
    assert "Input/output error" in summary.reason


def test_the_orientation_of_a_cached_photo_that_is_missed(storage: Storage, photos: fa.Samples, tmp_path: Path) -> None:
    """Whose mask cannot be turned without it."""
    (tmp_path / "masks").mkdir()
    for i in range(20):
        (tmp_path / "masks" / f"{i:02}.png").write_bytes(encode(Image.new("L", (60 + i, 50)), "PNG"))
    samples = fa.Samples.from_folders(tmp_path / "photos", tmp_path / "masks", classes=["a"])
    settings: dict[str, Any] = {"augment": fa.aug_transforms(size=24), "cache": tmp_path / "cache"}
    list(in_order(samples, **settings))
    storage.fail(samples.paths[7], "EIO")
    loader = in_order(samples, **settings)
    assert len(rows_of(loader)) == 19
    assert loader.quarantined == []
    ((path, reason),) = loader.missed
    assert path == samples.paths[7]
    assert "orientation is not known: Input/output error" in reason


def test_a_cache_that_is_not_told_the_time_of_a_file(
    storage: Storage, photos: fa.Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is read: it is neither bad, nor served without a look."""
    settings: dict[str, Any] = {"augment": fa.aug_transforms(size=24), "cache": tmp_path / "cache"}
    expected = list(in_order(photos, **settings))
    stat, broken = os.stat, {photos.paths[4]}

    def refusing(path: Any, **options: Any) -> Any:
        if path in broken:
            raise OSError(errno.EIO, "Input/output error")
        return stat(path, **options)

    monkeypatch.setattr(os, "stat", refusing)
    loader = in_order(photos, **settings)
    assert_same_batches(list(loader), expected)
    assert (loader.quarantined, loader.missed) == ([], [])
    assert loader.stats().cached == 19
    storage.fail(photos.paths[4], "EIO")
    assert len(rows_of(loader)) == 19
    assert [path for path, _ in loader.missed] == [photos.paths[4]]
    assert loader.quarantined == []


def test_who_cleans_a_cache_is_told_that_a_file_cannot_be_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastaug.samples.storage.WAITS_S", (0.0,))

    def refusing(path: Any) -> Any:
        raise OSError(errno.EIO, "Input/output error", path)

    monkeypatch.setattr(os, "stat", refusing)
    assert sources.stamps(["a.jpg"]) == [None]
    with pytest.raises(OSError, match="Input/output error"):
        sources.stamps(["a.jpg"], strict=True)


def test_memory_that_is_not_there_is_not_the_files_fault(photos: fa.Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastaug.loading import cpu_decoder
    from fastaug.loading import jpeg as jpegs

    decode, scarce, fails = jpegs.decode, {Path(photos.paths[4]).read_bytes()}, [True]

    def refusing(content: bytes, *arguments: Any) -> Any:
        if content in scarce and fails[0]:
            raise MemoryError
        return decode(content, *arguments)

    monkeypatch.setattr(jpegs, "decode", refusing)
    loader = in_order(photos)
    assert len(rows_of(loader)) == 19
    assert loader.missed == []
    assert loader.quarantined == [(photos.paths[4], "the header asks for more memory than there is")]
    loader = in_order(photos)
    monkeypatch.setattr(cpu_decoder, "can_be_had", lambda size: False)
    assert len(rows_of(loader)) == 19
    assert loader.quarantined == []
    ((path, reason),) = loader.missed
    assert path == photos.paths[4]
    assert reason.startswith("there is not enough memory")
    fails[0] = False
    assert len(rows_of(loader)) == 20


# Reads that hang


def threads_that_read() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("fastaug-read")]


def test_a_read_that_hangs_is_given_up(storage: Storage, photos: fa.Samples) -> None:
    go = storage.hold(photos.paths[3], photos.paths[4])
    loader = in_order(photos, read_timeout=0.2)
    assert rows_of(loader) == [row for row in range(20) if row not in (3, 4)]
    assert [path for path, _ in loader.missed] == photos.paths[3:5]
    assert all("no answer within 0.2 s" in reason for _, reason in loader.missed)
    assert loader.quarantined == []
    go.set()
    wait_until(lambda: not threads_that_read())
    assert len(rows_of(loader)) == 20
    assert loader.missed == []


def test_a_read_that_fails_until_the_time_is_over_says_why(storage: Storage, photos: fa.Samples) -> None:
    storage.fail(photos.paths[3], "EIO")
    readers = Readers(1, read_timeout=0.05)
    (reason,) = readers.read([photos.paths[3]])
    readers.close()
    assert isinstance(reason, StorageReason)
    assert "Input/output error" in reason


def test_too_many_that_hang_end_the_epoch(storage: Storage, photos: fa.Samples) -> None:
    go = storage.hold(*photos.paths[:9])
    with pytest.raises(fa.StorageError, match=r"5 reads .* no answer"):
        rows_of(in_order(photos, num_threads=1, read_timeout=0.02, max_bad_share=1.0))
    assert len(threads_that_read()) <= 6
    go.set()
    wait_until(lambda: not threads_that_read())


@pytest.mark.parametrize("cache", [None, "memory"])
def test_closing_does_not_wait_for_a_read_that_hangs(
    storage: Storage, photos: fa.Samples, cache: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a time limit too. With a cache it is the look at the file that hangs."""
    go = storage.hold(photos.paths[12])
    stat = os.stat

    def held(path: Any, **options: Any) -> Any:
        if path == photos.paths[12]:
            go.wait()
        return stat(path, **options)

    if cache:
        monkeypatch.setattr(os, "stat", held)
    loader = in_order(photos, cache=cache)
    batches = iter(loader)
    next(batches)
    wait_until(lambda: storage.opened[photos.paths[11]] > 0 or cache is not None)
    start = time.monotonic()
    loader.close()
    assert time.monotonic() - start < 30
    assert len(threads_that_read()) <= 1
    go.set()
    wait_until(lambda: not threads_that_read())


def test_a_process_ends_while_reads_hang(photos: fa.Samples) -> None:
    code = """
        import os, sys, threading, fastaug as fa
        opened, go, reached = os.open, threading.Event(), threading.Event()
        def held(path, *rest, **options):
            if str(path).endswith("12.jpg"):
                reached.set()
                go.wait()
            return opened(path, *rest, **options)
        os.open = held
        loader = fa.ImageLoader(fa.Samples(sys.argv[1:], [0] * 20, ["a"]), 4, 32, device="cpu", training=False)
        batches = iter(loader)
        next(batches)
        reached.wait()
        print("end")
    """
    assert run_python(code, *photos.paths).strip() == "end"


class Content:
    """What a file may hold, and may be let go of."""


def test_what_was_read_is_let_go_of_by_threads_that_wait_and_that_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would keep the files of a whole batch."""
    go, readers = threading.Event(), Readers(2, read_timeout=0.05)

    def read(self: Reader, path: str) -> Any:
        if path == "hangs":
            go.wait()
        return Content()

    monkeypatch.setattr(Reader, "read_bytes", read)
    readers._files = Reader()
    contents = readers.read(["hangs", "a", "b"])
    kept = [weakref.ref(content) for content in contents if isinstance(content, Content)]
    assert len(kept) == 2
    del contents
    assert [content() for content in kept] == [None, None]
    go.set()
    readers.close()


def test_files_that_fail_are_no_outage_while_others_can_be_looked_at(
    storage: Storage, photos: fa.Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a data set that is in a cache but for them: they are all that is read."""
    monkeypatch.setattr("fastaug.loading.reading.OUTAGE_S", 0.0)
    readers = Readers(2)
    for path in photos.paths[:3]:
        storage.fail(path, "EIO")
        assert all(readers.stamps(photos.paths))
        assert isinstance(readers.read([path])[0], StorageReason)
    readers.close()


# `fastaug check` and others


def test_check_names_missed_files_apart(photos: fa.Samples, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from fastaug.cli.app import app

    (tmp_path / "sitecustomize.py").write_text(
        "import errno, os\n"
        "import fastaug.samples.storage as storage\n"
        "storage.WAITS_S = (0.0,)\n"
        "def opened(path, *rest, call=os.open, **options):\n"
        "    if str(path).endswith('03.jpg'): raise OSError(errno.EIO, 'Input/output error')\n"
        "    return call(path, *rest, **options)\n"
        "os.open = opened\n"
    )
    Path(photos.paths[5]).write_bytes(b"no picture")
    photos.to_csv(tmp_path / "all.csv")
    root, clean = str(Path(fa.__file__).parents[1]), tmp_path / "clean.csv"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), root]))
        options = ["--clean", str(clean), "--json", "--read-timeout", "60"]
        result = CliRunner().invoke(app, ["check", str(tmp_path / "all.csv"), *options])
    assert result.exit_code == 1, result.output
    said = json.loads(result.stdout)
    assert [bad["path"] for bad in said["bad"]] == [photos.paths[5]]
    assert [bad["path"] for bad in said["missed"]] == [photos.paths[3]]
    assert "Input/output error" in said["missed"][0]["reason"]
    assert fa.Samples.from_csv(clean).paths == [path for path in photos.paths if path != photos.paths[5]]


def test_prepare_names_missed_files_apart(storage: Storage, photos: fa.Samples, tmp_path: Path) -> None:
    from fastaug.loading.prepare import prepare

    Path(photos.paths[5]).write_bytes(b"no picture")
    storage.fail(photos.paths[3], "EIO")
    came = prepare(photos, tmp_path / "cache", 32, device="cpu", num_threads=2)
    assert (came.made, list(came.bad), list(came.missed)) == (18, [5], [3])
    storage.faults.clear()
    came = prepare(photos, tmp_path / "cache", 32, device="cpu", num_threads=2)
    assert (came.made, list(came.bad), came.missed) == (1, [5], {})


def test_prepare_does_not_say_of_files_that_cannot_be_looked_at_that_there_is_no_room(
    photos: fa.Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their photos are not kept: nobody could tell whether the file is the same later."""
    from fastaug.loading import prepare

    look = sources.stamps
    monkeypatch.setattr(
        Readers, "stamps", lambda self, paths: [None if "03" in path else look([path])[0] for path in paths]
    )
    came = prepare.prepare(photos, tmp_path / "cache", 32, device="cpu", num_threads=2)
    assert (came.made, came.without_room, came.bad, list(came.missed)) == (19, 0, {}, [3])
