"""Pictures by name in two files: whole or not there, whoever fills them and whatever happens to them."""

from __future__ import annotations

import errno
import fcntl
import gc
import logging
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from fastaug import files
from fastaug.caching import folder, index, pixels, shared_memory
from fastaug.caching.folder import folder_name, open_folder
from fastaug.caching.index import HEADER_BYTES, RECORD_BYTES, Entry, Header, Index
from fastaug.caching.store import Picture, Source, Store

SETTINGS = {"cache_size": 460, "decoder": "jpeg", "scale": "auto"}
PLENTY = 1 << 40


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "SEGMENT_BYTES", 1 << 16)


def source(number: int, size: int = 100, time_ns: int = 7) -> Source:
    return Source.of(f"/photos/{number}.jpg", size, time_ns)


def picture(number: int, height: int = 30, width: int = 40) -> Picture:
    drawn = np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)
    return Picture(drawn, (height * 2, width * 2 + 1), (0.5, 0.51, 0.25, -0.125))


def opened(path: Path) -> Store:
    made = open_folder(path, SETTINGS)
    assert made is not None
    return made


def of_its_own(path: Path) -> Store:
    """As another process would open it."""
    folder._open.clear()
    return opened(path)


def fill(made: Store, numbers: range, budget: int = PLENTY) -> None:
    for number in numbers:
        made.put([(source(number), picture(number))], budget)


def served(made: Store, numbers: range) -> list[int]:
    """Those that are there; each must be right."""
    found = []
    for number, slot in zip(numbers, made.find([source(number) for number in numbers]), strict=True):
        kept = None if slot is None else made.get(slot)
        if slot is not None and kept is not None:
            expected = picture(number)
            assert np.array_equal(kept, expected.pixels)
            entry = slot.entry
            assert (entry.original_height, entry.original_width) == expected.original
            assert (entry.sx, entry.sy, entry.tx, entry.ty) == expected.scale
            found.append(number)
    return found


def test_what_was_put_in_comes_out_here_and_in_another_process(tmp_path: Path) -> None:
    made = opened(tmp_path)
    fill(made, range(50))
    assert served(made, range(60)) == list(range(50))
    assert served(of_its_own(tmp_path), range(60)) == list(range(50))


def test_a_wrong_picture_would_be_noticed(tmp_path: Path) -> None:
    made = opened(tmp_path)
    made.put([(source(1), picture(2))], PLENTY)
    with pytest.raises(AssertionError):
        served(made, range(3))


def test_each_setting_has_a_folder_and_loaders_of_a_process_share_what_is_open(tmp_path: Path) -> None:
    other = {**SETTINGS, "cache_size": 256}
    assert folder_name(SETTINGS) == "460-jpeg-auto"
    first = opened(tmp_path)
    fill(first, range(3))
    second = open_folder(tmp_path, other)
    assert second is not None
    assert served(second, range(3)) == []
    assert opened(tmp_path) is first
    assert {path.name for path in tmp_path.iterdir()} == {"460-jpeg-auto", "256-jpeg-auto"}


def test_what_others_add_is_found_without_opening_it_again(tmp_path: Path) -> None:
    one, other = opened(tmp_path), of_its_own(tmp_path)
    fill(other, range(10))
    assert served(one, range(12)) == list(range(10))
    fill(one, range(12))  # adds two
    assert len(one) == 12
    assert served(other, range(12)) == list(range(12))


def test_a_source_that_changed_is_not_there_and_refills_its_slot(tmp_path: Path) -> None:
    made = opened(tmp_path)
    fill(made, range(3))
    changed = source(1, time_ns=8)
    assert made.find([changed]) == [None]
    made.put([(changed, picture(7))], PLENTY)
    for one in (made, of_its_own(tmp_path)):
        (slot,) = one.find([changed])
        assert slot is not None
        kept = one.get(slot)
        assert kept is not None
        assert np.array_equal(kept, picture(7).pixels)
        assert served(one, range(3)) == [0, 2]
    assert made.find([source(1, size=99)]) == [None]


def test_a_full_cache_stays_as_it_is_but_has_room_for_what_changed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = opened(tmp_path)
    fill(made, range(50), budget=100_000)
    there = served(made, range(50))
    assert there == list(range(len(there)))
    assert 20 < len(there) < 30
    assert made.given_out() <= 100_000
    fill(made, range(50), budget=100_000)
    assert served(made, range(50)) == there
    for number in (3, 4):
        made.put([(source(number, time_ns=8), picture(number))], 100_000)
    assert None not in made.find([source(number, time_ns=8) for number in (3, 4)])
    for time_ns in range(9, 30):
        made.put([(source(3, time_ns=time_ns), picture(3))], 100_000)
    assert made.given_out() <= 100_000 * 9 // 8
    assert made.find([source(3, time_ns=29)]) == [None]
    (record,) = caplog.records
    assert "full, also of pixels of files that changed since; `fastaug cache --clean`" in record.getMessage()


def test_a_picture_larger_than_a_segment_has_one_of_its_own(tmp_path: Path) -> None:
    made = opened(tmp_path)
    large = picture(1, 200, 300)
    made.put([(source(0), picture(0)), (source(1), large), (source(2), picture(2))], PLENTY)
    (slot,) = made.find([source(1)])
    assert slot is not None
    kept = made.get(slot)
    assert kept is not None
    assert np.array_equal(kept, large.pixels)
    assert served(of_its_own(tmp_path), range(0, 3, 2)) == [0, 2]


def test_segments_follow_each_other_and_each_is_twice_as_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "SEGMENT_BYTES", 100)
    monkeypatch.setattr(pixels, "_ALIGNED", 64)
    ends = [pixels.Segment.at(offset) for offset in (0, 99, 100, 299, 300, 699, 700)]
    assert [tuple(end) for end in ends] == [
        (0, 0, 100), (0, 0, 100), (1, 100, 300), (1, 100, 300), (2, 300, 700), (2, 300, 700), (3, 700, 1500),
    ]  # fmt: skip
    assert pixels.place_for(30, after=1) == 64
    assert pixels.place_for(50, after=60) == 100
    assert pixels.place_for(250, after=0) == 300


def test_writing_to_what_is_served_changes_no_file(tmp_path: Path) -> None:
    made = opened(tmp_path)
    fill(made, range(1))
    (slot,) = made.find([source(0)])
    assert slot is not None
    kept = made.get(slot)
    assert kept is not None
    kept[:] = 0
    assert served(of_its_own(tmp_path), range(1)) == [0]


@pytest.mark.parametrize("place", [0, 70, 1800, 3599, 3605])
def test_a_damaged_slot_is_not_served_and_is_made_again(tmp_path: Path, place: int) -> None:
    """place: of the byte that is another one; from 3600 on they are the name's."""
    fill(opened(tmp_path), range(3))
    path = tmp_path / "460-jpeg-auto" / "pixels"
    made = of_its_own(tmp_path)
    (slot,) = made.find([source(1)])
    assert slot is not None
    content = bytearray(path.read_bytes())
    content[slot.entry.offset + place] ^= 1
    path.write_bytes(content)
    assert served(made, range(3)) == [0, 2]
    fill(made, range(3))
    assert served(made, range(3)) == [0, 1, 2]
    assert served(of_its_own(tmp_path), range(3)) == [0, 1, 2]


def test_a_damaged_record_counts_as_none(tmp_path: Path) -> None:
    fill(opened(tmp_path), range(3))
    path = tmp_path / "460-jpeg-auto" / "index"
    for byte in range(RECORD_BYTES):
        content = bytearray(path.read_bytes())
        content[HEADER_BYTES + RECORD_BYTES + byte] ^= 0x10
        path.with_name("spoilt").write_bytes(content)
        there = Index(os.open(path.with_name("spoilt"), os.O_RDWR))
        there.refresh()
        assert [there.entry(number) is None for number in range(3)] == [False, True, False]
        os.close(there.file)


@pytest.mark.parametrize("bit", range(0, 64, 3))
@pytest.mark.parametrize("place", [16, HEADER_BYTES + 2 * RECORD_BYTES + 24])
def test_a_number_that_was_damaged_leaves_room_for_the_rest(tmp_path: Path, place: int, bit: int) -> None:
    """place: of what is given out, and of the offset of a slot."""
    fill(opened(tmp_path), range(5))
    path = tmp_path / "460-jpeg-auto" / "index"
    content = bytearray(path.read_bytes())
    content[place + bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    made = of_its_own(tmp_path)
    fill(made, range(8), budget=1 << 22)
    assert served(made, range(8)) == list(range(8))
    assert served(of_its_own(tmp_path), range(8)) == list(range(8))
    assert (path.parent / "pixels").stat().st_size < 1 << 22


def test_records_after_one_that_was_cut_off_are_read(tmp_path: Path) -> None:
    fill(opened(tmp_path), range(5))
    path = tmp_path / "460-jpeg-auto" / "index"
    os.truncate(path, HEADER_BYTES + 3 * RECORD_BYTES + 40)
    made = of_its_own(tmp_path)
    assert served(made, range(5)) == [0, 1, 2]
    fill(made, range(7))
    assert served(made, range(7)) == list(range(7))
    assert served(of_its_own(tmp_path), range(7)) == list(range(7))


def test_bytes_of_slots_are_not_given_out_again_if_a_power_failure_undid_the_note_of_them(tmp_path: Path) -> None:
    made = opened(tmp_path)
    fill(made, range(5))
    made._index.give_out(0, 0)
    made = of_its_own(tmp_path)
    fill(made, range(10))
    assert served(made, range(10)) == list(range(10))
    assert served(of_its_own(tmp_path), range(10)) == list(range(10))


@pytest.mark.parametrize("length", [0, 100, 1 << 15, 1 << 16])
def test_pixels_that_were_cut_off_are_not_looked_at(tmp_path: Path, length: int) -> None:
    """Who looked at them would end with SIGBUS."""
    made = opened(tmp_path)
    fill(made, range(30))
    assert served(made, range(30)) == list(range(30))
    os.truncate(tmp_path / "460-jpeg-auto" / "pixels", length)
    kept = served(made, range(30))
    assert len(kept) < 30
    fill(made, range(30))
    assert served(made, range(30)) == list(range(30))
    assert served(of_its_own(tmp_path), range(30)) == list(range(30))


def test_a_cache_without_its_pixels_or_its_index_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "460-jpeg-auto"
    old = opened(tmp_path)
    fill(old, range(5))
    (path / "pixels").unlink()
    made = of_its_own(tmp_path)
    assert served(made, range(5)) == []
    fill(made, range(5))
    assert served(made, range(5)) == list(range(5))
    (path / "index").unlink()
    made = opened(tmp_path)  # though the other one is still open in this process
    assert made is not old
    assert served(made, range(5)) == []
    fill(made, range(6))
    assert served(made, range(6)) == list(range(6))
    assert served(old, range(5)) == list(range(5))  # its files are there as long as it has them


@pytest.mark.parametrize("spoil", ["settings", "cut off", "garbage in it", "zeros", "empty"])
def test_a_damaged_header_makes_it_anew(tmp_path: Path, spoil: str) -> None:
    fill(opened(tmp_path), range(5))
    path = tmp_path / "460-jpeg-auto" / "index"
    content = path.read_bytes()
    changed = {
        "settings": content.replace(b'"auto"', b'"some"'), "cut off": content[:900],
        "zeros": bytes(HEADER_BYTES) + content[HEADER_BYTES:], "empty": b"",
        "garbage in it": content[:60] + b"\xff" * 50 + content[110:],
    }[spoil]  # fmt: skip
    path.write_bytes(changed)
    made = of_its_own(tmp_path)
    assert served(made, range(5)) == []
    fill(made, range(5))
    assert served(of_its_own(tmp_path), range(5)) == list(range(5))


def test_the_index_cut_off_while_it_is_open_ends_filling_not_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = opened(tmp_path)
    fill(made, range(5))
    os.truncate(tmp_path / "460-jpeg-auto" / "index", 10)
    assert served(made, range(5)) == []
    with caplog.at_level(logging.WARNING, "fastaug"):
        fill(made, range(5))
    assert "cannot be filled (its index was cut off)" in caplog.text
    assert len(caplog.records) == 1


def test_a_file_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match=r"expected a folder, or none yet, got '.*file'. Name another one."):
        open_folder(tmp_path / "file", SETTINGS)


def failing(monkeypatch: pytest.MonkeyPatch, name: str, error: int, after: int = 0) -> None:
    """From its call number `after` on, a function of os fails."""
    real, calls = getattr(os, name), iter(range(10**9))

    def call(*arguments: object, **options: object) -> object:
        if next(calls) >= after:
            raise OSError(error, os.strerror(error))
        return real(*arguments, **options)

    monkeypatch.setattr(os, name, call)


@pytest.mark.parametrize(
    ("name", "after"), [("pwrite", 5), ("pwrite", 6), ("pwritev", 0), ("pwritev", 2), ("ftruncate", 0)]
)
def test_a_full_disk_is_said_once_and_what_is_there_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str, after: int
) -> None:
    made = opened(tmp_path)
    with monkeypatch.context() as patched, caplog.at_level(logging.WARNING, "fastaug"):
        failing(patched, name, errno.ENOSPC, after)
        fill(made, range(5))
    assert [record.getMessage() for record in caplog.records] == [
        f"cache {tmp_path}/460-jpeg-auto: cannot be filled (No space left on device). What it has is used, everything "
        "else is decoded each time."
    ]
    there = served(made, range(5))
    assert there == list(range(len(there)))
    fill(made, range(5))
    assert served(made, range(5)) == there, "it was said that it is not filled any more"
    fill(of_its_own(tmp_path), range(5))
    assert served(of_its_own(tmp_path), range(5)) == list(range(5))


def test_a_read_only_cache_is_served_and_one_that_is_not_there_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fill(opened(tmp_path / "there"), range(5))
    folder._open.clear()
    real = os.open

    def read_only(path: str, flags: int, *mode: int) -> int:
        if flags & (os.O_RDWR | os.O_CREAT):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return real(path, flags, *mode)

    monkeypatch.setattr(os, "open", read_only)
    with caplog.at_level(logging.WARNING, "fastaug"):
        made = opened(tmp_path / "there")
        fill(made, range(8))
        assert served(made, range(8)) == list(range(5))
        assert open_folder(tmp_path / "not there", SETTINGS) is None
    first, second = (record.getMessage() for record in caplog.records)
    assert "cannot be filled (Read-only file system)" in first
    assert "there is none, and it cannot be made (Read-only file system)" in second


def test_a_file_system_without_locks_is_not_filled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fill(opened(tmp_path), range(5))

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with caplog.at_level(logging.WARNING, "fastaug"):
        made = of_its_own(tmp_path)
        fill(made, range(8))
        assert served(made, range(8)) == list(range(5))
    assert len(caplog.records) == 1


def test_a_system_without_locks_or_reading_at_a_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As Windows is."""
    file = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    monkeypatch.delattr(os, "pread")
    monkeypatch.delattr(os, "pwrite")
    monkeypatch.delattr(os, "pwritev")
    monkeypatch.setattr(files, "fcntl", None)
    files.write_at(file, b"abcdef", 2)
    files.write_at(file, np.arange(3, dtype=np.uint8), 0)
    with files.locked(file):
        assert files.read_at(file, 4, 1) == b"\x01\x02bc"
    os.close(file)
    monkeypatch.setattr(folder, "HAS_LOCKS", False)
    assert open_folder(tmp_path / "cache", SETTINGS) is None
    assert "no locks" in caplog.text


@pytest.mark.parametrize("most", [1, 100, 3600, 3607])
def test_calls_that_write_less_than_they_should(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """As where a signal comes, or a limit is near. The pixels are 3,600 bytes, then the name's follow."""
    real, at_once = os.pwrite, os.pwritev
    monkeypatch.setattr(os, "pwrite", lambda file, content, place: real(file, content[: max(most, 500)], place))
    monkeypatch.setattr(os, "pwritev", lambda file, parts, place: at_once(file, [b"".join(parts)[:most]], place))
    fill(opened(tmp_path), range(2))
    assert served(of_its_own(tmp_path), range(2)) == [0, 1]


def test_many_threads_fill_and_read_one(tmp_path: Path) -> None:
    made = opened(tmp_path)
    errors: list[BaseException] = []

    def work(first: int) -> None:
        try:
            for number in range(60):
                one = (first * 7 + number) % 60
                fill(made, range(one, one + 1))
                served(made, range(60))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(made) == 60
    assert served(of_its_own(tmp_path), range(60)) == list(range(60))


def test_a_forked_child_has_a_lock_of_its_own(tmp_path: Path) -> None:
    made = opened(tmp_path)
    fill(made, range(2))
    child = os.fork()
    if child == 0:
        try:
            fill(made, range(100))
        finally:
            os._exit(0)
    fill(made, range(100))
    os.waitpid(child, 0)
    assert served(made, range(100)) == list(range(100))
    assert len(of_its_own(tmp_path)) == 100
    ends = 0
    for number in np.argsort([made._index.entry(number).offset for number in range(100)]):  # type: ignore[union-attr]
        entry = made._index.entry(int(number))
        assert entry is not None
        assert entry.offset >= ends
        ends = entry.end


def test_nothing_stays_open_when_nobody_has_it_any_more(tmp_path: Path) -> None:
    gc.collect()  # what earlier tests left
    before = set(os.listdir("/proc/self/fd"))
    made = opened(tmp_path)
    fill(made, range(30))
    assert served(made, range(30))
    del made
    gc.collect()
    assert set(os.listdir("/proc/self/fd")) == before
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "_MOST_RECENT", 10)
    monkeypatch.setattr(index, "_READ_AT_ONCE", 7)


@pytest.mark.usefixtures("many")
def test_the_latest_record_of_a_key_counts_however_they_came(tmp_path: Path) -> None:
    path = tmp_path / "index"
    file = os.open(path, os.O_RDWR | os.O_CREAT)
    Header({}, 0, b"").write(file)
    there, rng, latest = Index(file), np.random.default_rng(0), dict[int, int]()
    for _ in range(40):
        keys = rng.integers(0, 60, rng.integers(1, 25)).tolist()
        numbers = range(len(there), len(there) + len(keys))
        there.add([Entry(key, *[0] * 9, 1.0, 1.0, 0.0, 0.0, 0) for key in keys])
        latest |= zip(keys, numbers, strict=True)
        assert there.find(range(70)) == [latest.get(key) for key in range(70)]
    afresh = Index(file)
    assert afresh.refresh()
    assert not afresh.refresh()
    assert afresh.find(range(70)) == [latest.get(key) for key in range(70)]
    os.close(file)


def test_two_names_of_one_key(tmp_path: Path) -> None:
    """It is not to be expected. Neither gets the other's picture."""
    made = opened(tmp_path)
    one, other = source(1), source(2)._replace(key=source(1).key)
    made.put([(one, picture(1))], PLENTY)
    made.put([(other, picture(2))], PLENTY)
    slots = made.find([one, other])
    kept = [slot and made.get(slot) for slot in slots]
    assert kept[0] is not None
    assert np.array_equal(kept[0], picture(1).pixels)
    assert kept[1] is None


def test_memory_is_the_same_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for without in (False, True):
        if without:
            monkeypatch.delattr(os, "memfd_create")
        made = shared_memory.open_memory({**SETTINGS, "without": without}, PLENTY, None)
        fill(made, range(20))
        assert served(made, range(30)) == list(range(20))
        assert shared_memory.open_memory({**SETTINGS, "without": without}, 1, None) is made
        assert made.budget == PLENTY


class Board:
    """As torch.distributed's store."""

    def __init__(self) -> None:
        self.notes: dict[str, str] = {}

    def compare_set(self, key: str, expected: str, desired: str) -> bytes:
        if self.notes.get(key, "") == expected:
            self.notes[key] = desired
        return self.notes[key].encode()


def test_memory_of_one_process_is_filled_by_many_threads_and_not_by_a_fork() -> None:
    made = shared_memory.open_memory({**SETTINGS, "of": "one"}, PLENTY, None)
    threads = [threading.Thread(target=fill, args=(made, range(k, 100, 4))) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert served(made, range(100)) == list(range(100))
    child = os.fork()
    if child == 0:
        status = 1
        try:
            fill(made, range(100, 200))
            status = int(served(made, range(200)) != [])
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    fill(made, range(100, 150))
    assert served(made, range(200)) == list(range(150))


def test_processes_that_train_together_share_memory() -> None:
    board = Board()
    first = shared_memory.open_memory(SETTINGS, 12345678, board)
    fill(first, range(5))
    shared_memory._open.clear()
    second = shared_memory.open_memory(SETTINGS, 1, board)
    assert second is not first
    assert second.budget == 12345678
    assert served(second, range(5)) == list(range(5))
    fill(second, range(10))
    assert served(first, range(10)) == list(range(10))
    shared_memory._open.clear()
    assert served(shared_memory.open_memory({**SETTINGS, "cache_size": 1}, 1, board), range(5)) == []
    # who has left the note ends: the others go on, and whoever comes later makes another one
    del first
    gc.collect()
    assert served(second, range(10)) == list(range(10))
    shared_memory._open.clear()
    third = shared_memory.open_memory(SETTINGS, PLENTY, board)
    assert served(third, range(10)) == []
    shared_memory._open.clear()
    fill(third, range(3))
    assert served(shared_memory.open_memory(SETTINGS, 1, board), range(3)) == [0, 1, 2]


def test_the_note_of_a_process_of_which_that_number_is_another_file_is_not_believed(tmp_path: Path) -> None:
    made = opened(tmp_path)
    note = f"{os.getpid()} {made.files[0]} {made.files[1]} {b'another token...'.hex()}"
    assert shared_memory._opened(note) is None
    assert shared_memory._opened("999999999 3 4 00") is None
