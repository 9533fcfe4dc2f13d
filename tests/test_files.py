"""Files that are there as a whole or not at all."""

from __future__ import annotations

import csv
import errno
import fcntl
import io
import os
import resource
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from fastaug import files
from fastaug.files import DiskFullError, whole_file
from tests.factories import full_disk, run_command


def test_a_file_appears_whole_and_its_folder_is_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.txt"
    with whole_file(path) as file:
        file.write(b"first")
        assert not path.exists()
    assert path.read_text() == "first"
    with whole_file(str(path)) as file:
        file.write(b"second")
        assert path.read_text() == "first"
    assert path.read_text() == "second"
    assert os.listdir(path.parent) == ["b.txt"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_where_writing_fails_nothing_changes(error: type[BaseException], tmp_path: Path) -> None:
    path = tmp_path / "b.txt"
    path.write_text("before")

    def fail() -> None:
        with whole_file(path) as file:
            file.write(b"half")
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["b.txt"]


@pytest.mark.parametrize("link", [False, True])
def test_no_file_takes_the_place_of_what_is_none(link: bool, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    path = tmp_path / ("link" if link else "fifo")
    if link:
        path.symlink_to("fifo")
    with pytest.raises(OSError, match=f"a device, FIFO or socket.*{path}"), whole_file(path) as file:
        file.write(b"a")
    assert path.is_fifo()
    assert {*os.listdir(tmp_path)} == {"fifo", path.name}


def write_rows(file: BinaryIO) -> None:
    with io.TextIOWrapper(file, "utf-8", newline="") as text:
        csv.writer(text).writerows([["a", i] for i in range(10_000)])


def save_figure(file: BinaryIO, kind: str = "png") -> None:
    figure = Figure(figsize=(4, 4), dpi=100)
    figure.subplots().imshow(np.random.default_rng(0).random((200, 200)))
    figure.savefig(file, format=kind)


WRITERS: dict[str, Callable[[BinaryIO], Any]] = {
    "bytes": lambda file: file.write(bytes(100_000)),
    "torch": lambda file: torch.save({"a": torch.zeros(100_000), "b": torch.ones(7)}, file),
    "savez": lambda file: np.savez(file, a=np.zeros(100_000), b=np.ones(7)),
    "csv": write_rows,
    **{kind: lambda file, kind=kind: save_figure(file, kind) for kind in ("png", "pdf", "svg", "jpg")},  # type: ignore
}


@pytest.mark.parametrize("writer", WRITERS)
def test_every_writer_writes_what_it_writes_elsewhere(writer: str, tmp_path: Path) -> None:
    with whole_file(tmp_path / "a") as file:
        WRITERS[writer](file)
    with open(tmp_path / "b", "wb") as plain:
        WRITERS[writer](plain)
    found, wanted = (path.read_bytes() for path in (tmp_path / "a", tmp_path / "b"))
    assert len(found) == len(wanted)
    assert writer in ("pdf", "svg") or found == wanted  # these tell the time


# Full disks


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_says_how_much_is_needed(writer: str, tmp_path: Path) -> None:
    with whole_file(tmp_path / "a") as file:
        WRITERS[writer](file)
    size = (tmp_path / "a").stat().st_size
    (tmp_path / "a").write_text("before")
    with (
        full_disk(tmp_path, 10_000),
        pytest.raises(DiskFullError) as caught,
        whole_file(tmp_path / "a") as file,
    ):
        WRITERS[writer](file)
    assert caught.value.errno == errno.ENOSPC
    assert str(caught.value).startswith(f"disk full: '{tmp_path / 'a'}' needs {size:,} bytes, ")
    assert " are free" in str(caught.value)
    assert (tmp_path / "a").read_text() == "before"
    assert os.listdir(tmp_path) == ["a"]


def test_a_full_quota_and_other_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(room: int, number: int) -> None:
        with full_disk(tmp_path, room, number), whole_file(tmp_path / "a") as file:
            file.write(bytes(1234))

    with pytest.raises(DiskFullError, match=r"disk full: '.*/a' needs 1,234 bytes, .* quota") as full:
        write(1000, errno.EDQUOT)
    assert full.value.errno == errno.EDQUOT
    with pytest.raises(OSError, match=r"Input/output error: '.*/a'") as broken:
        write(1000, errno.EIO)
    assert not isinstance(broken.value, DiskFullError)
    with monkeypatch.context() as patch:  # what only the end of writing tells, as on NFS

        def fsync(file: int) -> None:
            raise OSError(errno.EDQUOT, "Disk quota exceeded")

        patch.setattr(os, "fsync", fsync)
        with pytest.raises(DiskFullError, match="needs 1,234 bytes"), whole_file(tmp_path / "a") as file:
            file.write(bytes(1234))
    with monkeypatch.context() as patch:  # without room for another file

        def no_inode(*arguments: Any, **more: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr(os, "open", no_inode)
        with pytest.raises(DiskFullError, match=r"disk full: '.*/a' needs a new file"), whole_file(tmp_path / "a"):
            pass
    assert os.listdir(tmp_path) == []


def test_a_limit_of_the_process(tmp_path: Path) -> None:
    plain = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, plain[1]))
    try:
        with pytest.raises(OSError, match=r"File too large: '.*/a'"), whole_file(tmp_path / "a") as file:
            torch.save(torch.zeros(10_000), file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, plain)
    assert os.listdir(tmp_path) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Of 64 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if (
        os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], check=False).returncode
    ):
        pytest.skip("only root can mount a disk")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def test_a_disk_that_is_full(small_disk: Path) -> None:
    (small_disk / "history.json").write_text("before")
    full = pytest.raises(DiskFullError, match=r"needs 40[0-9],[0-9]{3} bytes, 61,440 are free")
    with full as caught, whole_file(small_disk / "history.json") as file:
        torch.save({"a": torch.zeros(100_000)}, file)
    assert caught.value.errno == errno.ENOSPC
    assert (small_disk / "history.json").read_text() == "before"
    assert os.listdir(small_disk) == ["history.json"]


# Names


def names_made(monkeypatch: pytest.MonkeyPatch, *tokens: str) -> list[str]:
    """What files are made as; tokens: the random parts of the first names."""
    made, plain, random, left = list[str](), os.open, files.secrets.token_hex, list(tokens)

    def opened(path: Any, flags: int, *more: Any, **named: Any) -> int:
        if flags & os.O_CREAT:
            assert flags & os.O_EXCL
            assert flags & os.O_NOFOLLOW
            made.append(os.path.basename(path))
        return plain(path, flags, *more, **named)

    monkeypatch.setattr(os, "open", opened)
    monkeypatch.setattr(files.secrets, "token_hex", lambda size: left.pop(0) if left else random(size))
    return made


def test_a_name_cannot_be_known_before_and_no_link_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, victim = tmp_path / "b.txt", tmp_path / "victim"
    victim.write_text("mine")
    for name in ("b.txt.unfinished", f"b.txt.{os.getpid()}.unfinished"):  # as they were called once
        (tmp_path / name).symlink_to(victim)
    made = names_made(monkeypatch, "00", "00")
    for _ in range(3):
        with whole_file(path) as file:
            file.write(b"yours")
        (tmp_path / made[0]).unlink(missing_ok=True)
        (tmp_path / made[0]).symlink_to(victim)  # the second one gets the same name
    assert len(set(made)) == 3
    assert len(made) == 4
    assert (victim.read_text(), path.read_text()) == ("mine", "yours")
    assert not path.is_symlink()
    monkeypatch.setattr(files.secrets, "token_hex", lambda size: "00")
    with pytest.raises(FileExistsError, match=r"'.*/b\.txt'"), whole_file(path):
        pass
    assert (victim.read_text(), path.read_text()) == ("mine", "yours")


def test_a_link_in_the_files_place_is_replaced_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "a").symlink_to(tmp_path / "victim")
    with whole_file(tmp_path / "a") as file:
        file.write(b"yours")
    assert (tmp_path / "victim").read_text() == "mine"


@pytest.mark.parametrize("name", ["a" * 255, "é" * 127, "\udce9" * 255, "-", "a\nb", "*.txt"])
def test_any_name_will_do(name: str, tmp_path: Path) -> None:
    for content in (b"1", b"2"):
        with whole_file(tmp_path / name) as file:
            file.write(content)
    assert (tmp_path / name).read_bytes() == b"2"
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_the_mode_is_as_of_any_new_file(mask: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        with whole_file(tmp_path / "a") as file:
            assert os.fstat(file._file).st_mode & 0o777 == 0o666 & ~mask  # type: ignore[attr-defined]
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o666 & ~mask


def test_errors_name_the_file_not_what_it_is_called_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"'.*/file/a'$"), whole_file(tmp_path / "file" / "a"):
        pass
    with pytest.raises(OSError, match=r"File name too long: '.*aaa'$"), whole_file(tmp_path / ("a" * 256)):
        pass
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError, match=r"'.*/folder'$"), whole_file(tmp_path / "folder"):
        pass

    def refused(*arguments: Any, **more: Any) -> int:
        raise OSError(errno.EROFS, "Read-only file system", "something")

    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(OSError, match=r"Read-only file system: '.*/a'$"), whole_file(tmp_path / "a"):
        pass
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


# Several writers, and killed ones

KILLED = """
    import os, signal, sys
    from fastaug.files import whole_file
    with whole_file(sys.argv[1]) as file:
        file.write(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
"""


def killed_writer(path: Path) -> None:
    """Leaves what one leaves."""
    killed = run_command(sys.executable, "-c", textwrap.dedent(KILLED), str(path))
    assert killed.returncode == -signal.SIGKILL, killed.stderr


def test_what_killed_writers_leave_is_removed_by_the_next(tmp_path: Path) -> None:
    path, other = tmp_path / "a", tmp_path / "b"
    for _ in range(2):
        killed_writer(path)
    killed_writer(other)
    (tmp_path / "c.unfinished").touch()
    left = set(os.listdir(tmp_path))
    assert len(left) == 3  # of the first two one was removed already
    with whole_file(path) as file:
        file.write(b"whole")
    assert len(os.listdir(tmp_path)) == 3
    assert set(os.listdir(tmp_path)) - left == {"a"}
    with whole_file(other) as file:
        file.write(b"whole")
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "c.unfinished"]


def test_who_writes_at_the_same_time_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with whole_file(path) as one:
        one.write(b"one")
        with whole_file(path) as other:
            other.write(b"other")
        assert path.read_bytes() == b"other"
    assert path.read_bytes() == b"one"
    assert os.listdir(tmp_path) == ["a"]


def test_many_writers_of_one_file(tmp_path: Path) -> None:
    path, errors = tmp_path / "a", list[BaseException]()

    def write(number: int) -> None:
        try:
            for _ in range(50):
                with whole_file(path) as file:
                    file.write(bytes([number]) * 1000)
                assert len(set(path.read_bytes())) == 1
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(path.read_bytes()) == 1000
    assert os.listdir(tmp_path) == ["a"]


def test_a_new_file_that_was_taken_for_a_left_one_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between being made and being locked."""
    plain, taken = fcntl.flock, list[str]()

    def flock(file: int, how: int) -> None:
        if not taken:
            (name,) = os.listdir(tmp_path)
            taken.append(name)
            (tmp_path / name).unlink()
        plain(file, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with whole_file(tmp_path / "a") as file:
        file.write(b"whole")
    assert taken
    assert os.listdir(tmp_path) == ["a"]


def test_without_locks_files_are_whole_and_nothing_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(file: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    made = names_made(monkeypatch, "00")
    with whole_file(tmp_path / "a"):
        pass
    (tmp_path / made[0]).write_text("left")
    monkeypatch.setattr(fcntl, "flock", flock)
    with whole_file(tmp_path / "a") as file:
        file.write(b"whole")
    assert (tmp_path / "a").read_bytes() == b"whole"
    assert len(os.listdir(tmp_path)) == 2


def test_what_is_no_file_is_not_taken_for_a_left_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = names_made(monkeypatch, "00")
    with whole_file(tmp_path / "a") as file:
        file.write(b"whole")
    os.mkfifo(tmp_path / made[0])
    (tmp_path / "victim").write_text("mine")
    (tmp_path / made[0].replace("00", "01")).symlink_to(tmp_path / "victim")
    with whole_file(tmp_path / "a") as file:  # would wait for the other end of the FIFO
        file.write(b"whole")
    assert (tmp_path / "victim").read_text() == "mine"
    assert len(os.listdir(tmp_path)) == 4
