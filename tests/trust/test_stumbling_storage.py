"""Storage that stumbles: errors that pass, reads that hang, what is no file, folders that cannot be read."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import logging
import os
import random
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import fastaug as fa
from fastaug.cli.samples import Source, find_samples, split_samples
from tests.cli.commands import run
from tests.factories import write_tar
from tests.loading.children import Child
from tests.trust import children
from tests.trust.faults import (
    In,
    Storage,
    TooLong,
    error,
    fails,
    forbidden,
    gone,
    one_line,
    rows_of,
    small_loader,
    small_photos,
    threads,
    waits,
    within,
    write_photo,
)

PASSING = [
    *("EIO", "ESTALE", "EINTR", "EAGAIN", "EBUSY", "EMFILE", "ENFILE", "ENOMEM", "ETIMEDOUT", "ENOBUFS", "ENETDOWN"),
    *("ENETUNREACH", "ENETRESET", "ECONNRESET", "ECONNABORTED", "ECONNREFUSED", "EHOSTDOWN", "EHOSTUNREACH"),
    *("ENOLINK", "EREMOTEIO"),
]
NUMBERS = [getattr(errno, name) for name in PASSING if hasattr(errno, name)]


def reasons(loader: fa.ImageLoader) -> dict[str, str]:
    """Of the missed and of the bad files, by name."""
    return {Path(path).name: reason for path, reason in [*loader.missed, *loader.quarantined]}


def archived(folder: Path, samples: fa.Samples) -> fa.Samples:
    content = {f"{row:03}.jpg": Path(path).read_bytes() for row, path in enumerate(samples.paths)}
    content |= {f"{row:03}.cls": b"%d" % target for row, target in enumerate(samples.targets)}
    write_tar(folder / "a.tar", content)
    return fa.Samples.from_tar(folder / "a.tar")


# What is tried again


@pytest.mark.parametrize("operation", ["open", "read"])
def test_errors_that_pass_are_tried_again(tmp_path: Path, storage: Storage, operation: str) -> None:
    samples = small_photos(tmp_path, len(NUMBERS))
    for path, number in zip(samples.paths, NUMBERS, strict=True):
        storage.faults[path] = fails(number, 2, (operation,))
    loader = small_loader(samples, training=False, num_threads=len(NUMBERS))
    assert rows_of(loader) == list(range(len(NUMBERS)))
    assert loader.quarantined == []
    assert loader.missed == []


def test_memory_that_is_there_a_moment_later(tmp_path: Path, storage: Storage) -> None:
    samples, left = small_photos(tmp_path, 3), [1]

    def no_memory(operation: str) -> None:
        if operation == "read" and left:
            left.pop()
            raise MemoryError

    storage.faults[samples.paths[1]] = no_memory
    loader = small_loader(samples, training=False)
    assert rows_of(loader) == [0, 1, 2]
    assert (loader.quarantined, loader.missed) == ([], [])


@pytest.mark.parametrize("nth", [1, 2, 3, 4])
def test_an_error_at_the_nth_read_of_an_archive(tmp_path: Path, storage: Storage, nth: int) -> None:
    samples = archived(tmp_path, small_photos(tmp_path, 4))
    count = [0]

    def fault(operation: str) -> None:
        count[0] += operation == "read"
        if operation == "read" and count[0] == nth:
            raise error(errno.EIO)

    storage.faults[str(tmp_path / "a.tar")] = fault
    loader = small_loader(samples, training=False, num_threads=1)
    assert rows_of(loader) == [0, 1, 2, 3]
    assert count[0] > nth
    assert (loader.quarantined, loader.missed) == ([], [])


def test_no_descriptor_for_an_archive(tmp_path: Path, storage: Storage) -> None:
    samples = archived(tmp_path, small_photos(tmp_path, 4))
    storage.faults[str(tmp_path / "a.tar")] = fails(errno.EMFILE, 2, ("open",))
    loader = small_loader(samples, training=False, num_threads=1)
    assert rows_of(loader) == [0, 1, 2, 3]
    assert (loader.quarantined, loader.missed) == ([], [])


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EACCES, errno.ENAMETOOLONG])
def test_the_files_own_errors_are_not_tried_again(tmp_path: Path, storage: Storage, number: int) -> None:
    samples = small_photos(tmp_path, 3)
    storage.faults[samples.paths[1]] = fails(number, on=("open",))
    loader = small_loader(samples, training=False)
    assert rows_of(loader) == [0, 2]
    assert [path for path, _ in loader.quarantined] == [samples.paths[1]]
    assert loader.missed == []
    assert storage.seen[samples.paths[1], "open"] <= 2
    with pytest.raises(fa.BadFileError) as caught:
        rows_of(small_loader(samples, training=False, on_error="raise"))
    assert not isinstance(caught.value, fa.StorageError)


def test_it_is_tried_a_few_times_with_longer_and_longer_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With true waits: bounded, and in one loader beside files that come at once."""
    storage = Storage(monkeypatch)
    samples, times = small_photos(tmp_path, 3), list[float]()

    def fault(operation: str) -> None:
        if operation == "open":
            times.append(time.monotonic())
            raise error(errno.EIO)

    storage.faults[samples.paths[1]] = fault
    loader = small_loader(samples, training=False)
    assert rows_of(loader) == [0, 2]
    waited = np.diff(times)
    assert 2 <= len(waited) <= 8, "a few times"
    assert times[-1] - times[0] < 6, "bounded"
    assert (waited[1:] > 1.5 * waited[:-1]).all(), f"longer and longer, got {waited}"


def test_nobody_elses_random_numbers_are_drawn(tmp_path: Path, storage: Storage) -> None:
    samples = small_photos(tmp_path, 4)
    for path in samples.paths:
        storage.faults[path] = fails(errno.EIO, 1)

    def state() -> tuple[Any, ...]:
        return random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()  # noqa: NPY002

    before = state()
    assert len(rows_of(small_loader(samples, batch_size=4))) == 4
    assert state() == before


# What is not the file's fault


def test_missed_files_come_again_in_the_next_epoch(tmp_path: Path, storage: Storage) -> None:
    """16 of 40 good files, for one epoch."""
    samples = small_photos(tmp_path, 40)
    away = samples.paths[::5] + samples.paths[1::5]
    for path in away:
        storage.faults[path] = fails(errno.EIO)
    loader = small_loader(samples, num_threads=16, batch_size=10)
    expected = {row for row in range(40) if samples.paths[row] not in away}
    assert set(rows_of(loader)) == expected
    assert loader.quarantined == []
    assert sorted(path for path, _ in loader.missed) == sorted(away)
    for _, reason in loader.missed:
        assert os.strerror(errno.EIO).lower() in one_line(reason).lower()
    state = json.loads(json.dumps(loader.state_dict()))
    assert state["quarantined"] == []
    assert not any(Path(path).name in json.dumps(state) for path in away)
    storage.faults.clear()
    resumed = small_loader(samples, batch_size=10)
    resumed.load_state_dict(state)
    for one in (loader, resumed):
        assert sorted(rows_of(one)) == list(range(40))
        assert (one.missed, one.quarantined) == ([], []), "of the latest epoch"


@pytest.mark.parametrize("training", [True, False])
def test_every_file_fails_for_a_whole_epoch_and_then_none(tmp_path: Path, storage: Storage, training: bool) -> None:
    samples = small_photos(tmp_path, 8)
    storage.faults[f"{tmp_path}/"] = fails(errno.ESTALE, on=("open", "read"))
    loader = small_loader(samples, num_threads=8, training=training)
    with pytest.raises(fa.StorageError) as caught:
        rows_of(loader)
    one_line(caught.value)
    assert isinstance(caught.value, fa.BadFileError)
    assert loader.quarantined == []
    storage.faults.clear()
    for _ in range(2):
        assert sorted(rows_of(loader)) == list(range(8))
        assert (loader.missed, loader.quarantined) == ([], [])


def test_raise_says_that_it_is_the_storage(tmp_path: Path, storage: Storage) -> None:
    samples = small_photos(tmp_path, 3)
    storage.faults[samples.paths[1]] = fails(errno.EIO)
    with pytest.raises(fa.StorageError, match=r"0001\.jpg"):
        rows_of(small_loader(samples, training=False, on_error="raise"))


def test_a_missed_file_is_logged_once_an_epoch(
    tmp_path: Path, storage: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    samples = small_photos(tmp_path, 8)
    storage.faults[samples.paths[3]] = fails(errno.EIO)
    with caplog.at_level(logging.WARNING, "fastaug"):
        rows_of(small_loader(samples, training=False, batch_size=4))
    (said,) = (message for message in caplog.messages if "0003.jpg" in message)
    one_line(said)


def test_a_mask_on_stumbling_storage_is_not_its_photos_fault(tmp_path: Path, storage: Storage) -> None:
    for row in range(4):
        write_photo(tmp_path / "images" / f"{row}.jpg", row, (16, 16))
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(np.full((16, 16), row % 2, np.uint8)).save(tmp_path / "masks" / f"{row}.png")
    samples = fa.Samples.from_folders(tmp_path / "images", tmp_path / "masks", ["a", "b"])
    passing, staying = (str(tmp_path / "masks" / f"{row}.png") for row in (1, 2))
    storage.faults |= {passing: fails(errno.EIO, 2), staying: fails(errno.EIO)}
    loader = small_loader(samples, training=False)
    assert rows_of(loader) == [0, 1, 3]
    assert loader.quarantined == []
    assert [Path(path).name for path, _ in loader.missed] == ["2.jpg"]
    assert "mask" in loader.missed[0][1]
    storage.faults.clear()
    assert rows_of(loader) == [0, 1, 2, 3]


def test_missed_and_bad_files_together_are_too_many(tmp_path: Path, storage: Storage) -> None:
    """Five that are bad and five that are missed of sixteen: more than half."""
    samples = small_photos(tmp_path, 16, bad=5, every=1)
    for path in samples.paths[10:]:
        storage.faults[path] = fails(errno.EIO)
    with pytest.raises(fa.StorageError):
        rows_of(small_loader(samples, training=False, num_threads=8, batch_size=16))


def test_bad_files_alone_are_not_the_storages(tmp_path: Path) -> None:
    with pytest.raises(fa.BadFileError) as caught:
        rows_of(small_loader(small_photos(tmp_path, 8, bad=7), training=False))
    assert not isinstance(caught.value, fa.StorageError)


def test_the_learner_goes_on_where_files_are_missed(tmp_path: Path, storage: Storage) -> None:
    train, valid = small_photos(tmp_path / "train", 8), small_photos(tmp_path / "valid", 4)
    for path in (train.paths[1], valid.paths[2]):
        storage.faults[path] = fails(errno.EIO)
    settings: dict[str, Any] = {"augment": children.AUGMENT, "return_info": False, "batch_size": 4}
    loaders = small_loader(train, **settings), small_loader(valid, training=False, **settings)
    learn = children.a_learner(*loaders)
    learn.fit(1, 1e-3)
    assert learn.history.epochs[0]["valid_loss"] > 0
    assert [Path(loader.missed[0][0]).name for loader in loaders] == ["0001.jpg", "0002.jpg"]


def test_prepare_does_not_count_them_as_bad(tmp_path: Path, storage: Storage) -> None:
    for row in range(4):
        write_photo(tmp_path / "photos" / "a" / f"{row}.jpg", row)
    storage.faults[str(tmp_path / "photos" / "a" / "2.jpg")] = fails(errno.EIO)
    command = ["prepare", tmp_path / "photos", "--cache", tmp_path / "cache", "--cache-size", "16", "--device", "cpu"]
    result = run(*command)
    assert "3 photos made" in result.stdout, result.output
    assert "2.jpg" in result.output
    assert "0 files are bad" in result.stdout
    storage.faults.clear()
    again = run(*command)
    assert "1 photos made, 3 were there" in again.stdout.replace("1 photo made", "1 photos made"), again.output


@pytest.mark.parametrize("operation", ["stat", "open"])
def test_cached_photos_on_storage_that_stumbles(tmp_path: Path, storage: Storage, operation: str) -> None:
    """A look at a file that fails is no file that has gone."""
    samples = small_photos(tmp_path / "photos", 6)
    loader = small_loader(samples, training=False, batch_size=3, cache=tmp_path / "cache", cache_size=16)
    assert rows_of(loader) == list(range(6))
    for path in samples.paths[1:4]:
        storage.faults[path] = fails(errno.ESTALE, 2, (operation,))
    assert rows_of(loader) == list(range(6))
    assert (loader.quarantined, loader.missed) == ([], [])


# What is not a regular file


@pytest.fixture
def beside_what_is_none(tmp_path: Path, storage: Storage) -> Iterator[tuple[fa.Samples, Storage]]:
    """Two photos, and a FIFO, a socket, a device behind a link, a folder, a link to itself between them."""
    write_photo(tmp_path / "a.jpg"), write_photo(tmp_path / "z.jpg")
    os.mkfifo(tmp_path / "fifo.jpg")
    there = socket.socket(socket.AF_UNIX)
    here = os.getcwd()
    os.chdir(tmp_path)  # names of sockets are short
    there.bind("socket.jpg")
    os.chdir(here)
    (tmp_path / "device.jpg").symlink_to("/dev/zero")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    names = ["a", "device", "fifo", "folder", "loop", "socket", "z"]
    paths = [str(tmp_path / f"{name}.jpg") for name in names]
    for path in ("/dev/zero", paths[1]):
        storage.faults[path] = forbidden()
    yield fa.Samples(paths, [0] * len(paths), ["all"]), storage
    there.close()
    for _ in range(4):  # whoever waits for the FIFO is let go
        try:
            os.close(os.open(tmp_path / "fifo.jpg", os.O_WRONLY | os.O_NONBLOCK))
        except OSError:
            break
        time.sleep(0.1)


def test_what_is_not_a_regular_file_is_named_at_once(beside_what_is_none: tuple[fa.Samples, Storage]) -> None:
    samples, _ = beside_what_is_none
    loader = small_loader(samples, training=False, num_threads=4, max_bad_share=1.0)
    begun = time.monotonic()
    assert In(lambda: rows_of(loader)).result(5) == [0, 6]
    assert time.monotonic() - begun < 2
    found = {Path(path).stem: reason.lower() for path, reason in loader.quarantined}
    for name, word in (("fifo", "fifo"), ("socket", "socket"), ("device", "device"), ("folder", "folder")):
        assert word in found[name], found[name]
    assert "loop" in found
    assert loader.missed == []


def test_check_and_predict_do_not_wait_for_a_fifo(tmp_path: Path) -> None:
    from fastaug.samples.sources import read_bytes

    os.mkfifo(tmp_path / "fifo.jpg")
    answer = In(lambda: read_bytes(str(tmp_path / "fifo.jpg")))
    try:
        assert "fifo" in str(answer.result(3)).lower()
    finally:
        if answer.is_alive():
            os.close(os.open(tmp_path / "fifo.jpg", os.O_WRONLY | os.O_NONBLOCK))


def test_a_file_that_is_exchanged_for_a_fifo_between_two_epochs(tmp_path: Path) -> None:
    samples = small_photos(tmp_path, 4)
    loader = small_loader(samples, training=False)
    assert rows_of(loader) == [0, 1, 2, 3]
    os.unlink(samples.paths[1])
    os.mkfifo(samples.paths[1])
    answer = In(lambda: rows_of(loader))
    try:
        assert answer.result(5) == [0, 2, 3]
    finally:
        if answer.is_alive():
            os.close(os.open(samples.paths[1], os.O_WRONLY | os.O_NONBLOCK))


def test_folders_with_fifos_under_names_of_images(tmp_path: Path) -> None:
    write_photo(tmp_path / "cat" / "a.jpg"), write_photo(tmp_path / "dog" / "a.jpg")
    os.mkfifo(tmp_path / "cat" / "b.jpg")
    with pytest.warns(UserWarning, match=r"(?i)cat/b\.jpg") as said:
        samples = fa.Samples.from_folder(tmp_path)
    assert [Path(path).name for path in samples.paths] == ["a.jpg", "a.jpg"]
    one_line(str(said[0].message))


# Size limits


def test_a_sparse_terabyte_is_not_read(tmp_path: Path, storage: Storage) -> None:
    samples = small_photos(tmp_path, 3)
    os.truncate(samples.paths[1], 1 << 40)
    storage.faults[samples.paths[1]] = forbidden()
    loader = small_loader(samples, training=False)
    assert In(lambda: rows_of(loader)).result(5) == [0, 2]
    ((_, reason),) = loader.quarantined
    assert "bytes" in one_line(reason)
    assert storage.seen[samples.paths[1], "read"] == 0


def test_a_limit_of_ones_own(tmp_path: Path, storage: Storage) -> None:
    samples = small_photos(tmp_path, 4)
    size = os.path.getsize(samples.paths[0])
    with open(samples.paths[2], "ab") as file:
        file.write(b"\0")
    loader = small_loader(samples, training=False, max_file_bytes=size)
    assert rows_of(loader) == [0, 1, 3]
    assert f"{size + 1:,}" in loader.quarantined[0][1] or f"{size:,}" in loader.quarantined[0][1]
    (tmp_path / "t").mkdir()
    packed = archived(tmp_path / "t", samples)
    loader = small_loader(packed, training=False, max_file_bytes=size)
    assert rows_of(loader) == [0, 1, 3]
    assert len(loader.quarantined) == 1


@pytest.mark.parametrize("limit", [0, -1, "2GB", None, 1.5])
def test_limits_that_are_none(tmp_path: Path, limit: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="max_file_bytes") as caught:
        small_loader(small_photos(tmp_path, 2), max_file_bytes=limit)
    assert "unexpected keyword" not in one_line(caught.value)


# Reads that hang


@pytest.fixture
def released() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


@pytest.mark.parametrize("operation", ["open", "read", "stat"])
def test_a_read_that_hangs_is_given_up(
    tmp_path: Path, storage: Storage, released: threading.Event, operation: str
) -> None:
    samples, before = small_photos(tmp_path, 12), threads()
    # A way to look at a file that is not used hangs nobody, and delivers the file
    storage.faults[samples.paths[5]] = waits(released, (operation,))
    with small_loader(samples, training=False, batch_size=4, read_timeout=0.3) as loader:
        begun = time.monotonic()
        rows = In(lambda: rows_of(loader)).result(6)
        if operation != "stat" or storage.seen[samples.paths[5], "stat"]:
            assert rows == [row for row in range(12) if row != 5]
            assert [path for path, _ in loader.missed] == [samples.paths[5]]
            assert "no answer" in one_line(loader.missed[0][1])
            assert time.monotonic() - begun < 4
        assert loader.quarantined == []
        released.set()
        storage.faults.clear()
        assert rows_of(loader) == list(range(12)), "the next epoch has it"
    assert gone(before), "and no thread stays when it has come back"


def test_a_member_of_an_archive_that_hangs(tmp_path: Path, storage: Storage, released: threading.Event) -> None:
    samples = archived(tmp_path, small_photos(tmp_path, 4))
    count = [0]

    def fault(operation: str) -> None:
        count[0] += operation == "read"
        if operation == "read" and count[0] == 1:
            assert released.wait(60)

    storage.faults[str(tmp_path / "a.tar")] = fault
    loader = small_loader(samples, training=False, batch_size=4, num_threads=1, read_timeout=0.3)
    rows = In(lambda: rows_of(loader)).result(6)
    assert len(rows) == 3
    assert len(loader.missed) == 1


def test_a_slow_read_that_keeps_its_time_is_none_that_hangs(tmp_path: Path, storage: Storage) -> None:
    samples = small_photos(tmp_path, 6)
    storage.faults[f"{tmp_path}/"] = lambda operation: threading.Event().wait(0.03) and None
    loader = small_loader(samples, training=False, read_timeout=5)
    assert rows_of(loader) == list(range(6))
    assert loader.missed == []


def test_where_everything_hangs_the_epoch_ends(tmp_path: Path, storage: Storage, released: threading.Event) -> None:
    samples = small_photos(tmp_path, 40)
    storage.faults[f"{tmp_path}/"] = waits(released)
    loader = small_loader(samples, training=False, batch_size=40, num_threads=2, read_timeout=0.2, max_bad_share=1.0)
    before = threading.active_count()
    with pytest.raises(fa.StorageError) as caught:
        In(lambda: rows_of(loader)).result(10)
    one_line(caught.value)
    assert threading.active_count() - before < 4 * 2 + 12, "hanging threads are bounded"
    begun = time.monotonic()
    In(loader.close).result(5)
    assert time.monotonic() - begun < 3
    released.set()
    storage.faults.clear()
    assert rows_of(loader) == list(range(40))


def test_a_read_that_fails_again_and_again_keeps_the_time_of_all_tries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, samples = Storage(monkeypatch), small_photos(tmp_path, 3)
    storage.faults[samples.paths[1]] = fails(errno.EIO)
    loader = small_loader(samples, training=False, read_timeout=0.25)
    begun = time.monotonic()
    assert rows_of(loader) == [0, 2]
    assert time.monotonic() - begun < 1.5, "of one file, all tries together"
    assert len(loader.missed) == 1


def test_leaving_while_a_read_hangs(tmp_path: Path, storage: Storage, released: threading.Event) -> None:
    samples = small_photos(tmp_path, 12)
    storage.faults[samples.paths[11]] = waits(released)
    loader = small_loader(samples, training=False, batch_size=3, num_threads=1, read_timeout=0.4)

    def first() -> int:
        for _, _, info in loader:
            loader.close()
            return int(info.indices[0])
        return -1

    assert In(first).result(5) == 0


def test_the_process_ends_while_a_read_hangs(tmp_path: Path) -> None:
    child = Child(children.ends_while_a_read_hangs, str(tmp_path))
    try:
        assert child.pipe.poll(60), "it does not even read"
        kind, said = child.pipe.recv()
        assert kind == "returned", said
        assert "0002.jpg" in said
        child.process.join(5)
        assert child.process.exitcode == 0, "its threads keep it"
    finally:
        child.kill()


@pytest.mark.parametrize("timeout", [0, -1.0, float("nan"), "30", True])
def test_time_limits_that_are_none(tmp_path: Path, timeout: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="read_timeout") as caught:
        small_loader(small_photos(tmp_path, 2), read_timeout=timeout)
    assert "unexpected keyword" not in one_line(caught.value)


# Folders


def tree(root: Path) -> Path:
    for part in ("train", "val"):
        for name in ("cat", "dog"):
            for i in range(2):
                write_photo(root / part / name / f"{i}.jpg", i)
                mask = root / "masks" / part / name / f"{i}.png"
                mask.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.zeros((10, 12), np.uint8)).save(mask)
    return root


CALLERS: dict[str, Callable[..., Any]] = {
    "from_folder": lambda root: fa.Samples.from_folder(root / "train"),
    "from_filenames": lambda root: fa.Samples.from_filenames(root / "train", r"(\d)\.jpg"),
    "from_split_folders": lambda root: fa.Samples.from_split_folders(root),
    "from_folders": lambda root: fa.Samples.from_folders(root / "train", root / "masks" / "train", ["a"]),
    "from_yolo": lambda root: fa.Samples.from_yolo(root / "train", root / "texts", ["a"]),
    "commands": lambda root: find_samples(Source(root / "train")),
    "commands, split": lambda root: split_samples(Source(root), 0.5, 0),
}


def told(call: Callable[[], Any]) -> str:
    """What is said of it: its error, its warnings, the log and what is printed."""
    said: list[str] = []
    printed = io.StringIO()
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("fastaug").addHandler(handler)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(printed):
                    result = call()
                said.append(getattr(result, "output", ""))
            except (OSError, ValueError) as failure:
                said.append(one_line(failure))
    finally:
        logging.getLogger("fastaug").removeHandler(handler)
    return "\n".join([*said, printed.getvalue(), *(str(one.message) for one in caught)])


@pytest.mark.parametrize("caller", CALLERS)
def test_a_folder_that_cannot_be_read_is_never_left_out_in_silence(
    tmp_path: Path, storage: Storage, caller: str
) -> None:
    root = tree(tmp_path)
    (root / "texts").mkdir()
    (root / "texts" / "a.txt").write_text("")
    locked = root / "train" / "dog"
    storage.faults[f"{locked}/"] = fails(errno.EACCES, on=("list",))
    text = told(lambda: CALLERS[caller](root))
    assert "dog" in text or "1 not readable" in text, f"nothing said: {text!r}"
    assert "read" in text.lower(), text


def test_predict_says_which_folder_it_could_not_read(tmp_path: Path, storage: Storage, model_file: Path) -> None:
    root = tree(tmp_path)
    storage.faults[f"{root / 'train' / 'dog'}/"] = fails(errno.EACCES, on=("list",))
    result = run("predict", model_file, root / "train", "--device", "cpu")
    assert result.stdout.count(".jpg\t") == 2
    assert "dog" in result.stderr, result.output
    assert result.exit_code == 1, "as for files that cannot be read"


@pytest.mark.parametrize("caller", ["from_folder", "from_split_folders", "from_folders"])
def test_folders_are_tried_again_too(tmp_path: Path, storage: Storage, caller: str) -> None:
    root = tree(tmp_path)
    expected = str(CALLERS[caller](root))
    for folder in (root / "train", root / "train" / "dog", root):
        storage.faults[f"{folder}/"] = lambda operation: None
    left = {"EIO": 2}

    def fault(operation: str) -> None:
        if operation == "list" and left["EIO"]:
            left["EIO"] -= 1
            raise error(errno.EIO)

    storage.faults[f"{root / 'train'}/"] = fault
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert str(CALLERS[caller](root)) == expected
    assert not left["EIO"], "it met them"


def test_folders_on_storage_that_stays_away_are_an_error_or_counted(tmp_path: Path, storage: Storage) -> None:
    root = tree(tmp_path)
    storage.faults[f"{root / 'train' / 'dog'}/"] = fails(errno.EIO, on=("list",))
    text = told(lambda: fa.Samples.from_folder(root / "train"))
    assert "dog" in text, text


def test_a_root_that_is_not_there_and_one_that_may_not_be_read(tmp_path: Path, storage: Storage) -> None:
    root = tree(tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        fa.Samples.from_folder(root / "nothing")
    storage.faults[f"{root / 'train'}/"] = fails(errno.EACCES, on=("list",))
    text = told(lambda: fa.Samples.from_folder(root / "train"))
    assert "does not exist" not in text
    assert "permission" in text.lower() or "not be read" in text or "not readable" in text, text


def test_a_parent_that_may_not_be_entered_is_not_a_folder_that_does_not_exist(tmp_path: Path, storage: Storage) -> None:
    root = tree(tmp_path)
    storage.faults[f"{root / 'train'}/"] = fails(errno.EACCES, on=("list", "stat"))
    text = told(lambda: fa.Samples.from_folder(root / "train"))
    assert "does not exist" not in text, text


# The helpers reject wrong answers


def test_faults_are_met_by_every_way_to_read(tmp_path: Path, storage: Storage) -> None:
    path = write_photo(tmp_path / "a.jpg")
    expected = path.read_bytes()

    def by_descriptor() -> bytes:
        file = os.open(path, os.O_RDONLY)
        try:
            return os.read(file, 1 << 20)
        finally:
            os.close(file)

    def by_position() -> bytes:
        file = os.open(path, os.O_RDONLY)
        try:
            return os.pread(file, 1 << 20, 0)
        finally:
            os.close(file)

    def adopted() -> bytes:
        with open(os.open(path, os.O_RDONLY), "rb") as file:
            return file.read()

    def opened() -> bytes:
        with open(path, "rb") as file:
            return file.read()

    for read in (by_descriptor, by_position, adopted, opened, path.read_bytes):
        for operation in ("open", "read"):
            storage.faults = {str(path): fails(errno.EIO, 1, (operation,))}
            with pytest.raises(OSError, match="Input/output"):
                read()
            assert read() == expected
    storage.faults = {f"{tmp_path}/": fails(errno.EIO, on=("list",))}
    for look in (os.scandir, os.listdir):
        with pytest.raises(OSError, match="Input/output"):
            look(tmp_path)


def test_within_and_in_tell_what_takes_too_long() -> None:
    event = threading.Event()
    with pytest.raises(TooLong), within(0.05):
        event.wait(5)
    with pytest.raises(AssertionError, match="not done"):
        In(event.wait).result(0.05)
    event.set()
    with pytest.raises(AssertionError, match="more than a line"):
        one_line("a\nb")
    with pytest.raises(AssertionError, match="unprintable"):
        one_line("a\x1b[31m")
