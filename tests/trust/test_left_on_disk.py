"""What is left on disk: whole files whatever happens, at unpredictable names meanwhile; what is said of full disks."""

from __future__ import annotations

import contextlib
import csv
import errno
import json
import os
import re
import subprocess
import sys
import threading
import tomllib
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer.main

import fastaug as fa
from fastaug.cli.app import app
from fastaug.config import use_config, write_config
from tests.trust import children
from tests.trust.faults import Storage, fails, one_line, regular, small_loader, small_photos, write_photo

WRITTEN = {"history": ["history.csv", "history.json"], "checkpoint": ["run.pth"]}
EVERY: dict[str, Callable[[Path], Any]] = {
    "history": lambda folder: children.write_history(folder, 2),
    "checkpoint": lambda folder: children.write_checkpoint(folder, 2),
    "model": lambda folder: children.write_model(folder, 2),
    "list": lambda folder: fa.Samples(["a.jpg", "b.jpg"], [0, 1], ["a", "b"]).to_csv(folder / "list.csv"),
    "config": lambda folder: write_config(context_of("train", "photos"), folder / "config.toml"),
}


def context_of(name: str, *arguments: str) -> Any:
    """Of a command that is called so, before it runs."""
    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    return command.make_context(name, list(arguments))


def is_whole(folder: Path, writer: str) -> list[int]:
    """Of how many epochs the files tell; each must be whole. None of those that are not there."""
    told = []
    for name in WRITTEN[writer]:
        path = folder / name
        if not path.exists():
            continue
        if name.endswith(".json"):
            told.append(len(json.loads(path.read_text("utf-8"))["epochs"]))
        elif name.endswith(".csv"):
            text = path.read_text("utf-8")
            assert text.endswith("\n")
            rows = list(csv.DictReader(text.splitlines()))
            assert all(None not in row.values() for row in rows)
            told.append(len(rows))
        else:
            told.append(torch.load(path, weights_only=True)["epoch"])
    return told


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


# Kills


@pytest.mark.parametrize("writer", WRITTEN)
def test_killed_at_any_call(tmp_path: Path, writer: str) -> None:
    """What was there is there, or what is new; the next one that writes leaves nothing else behind."""
    write = children.WRITERS[writer]
    small_photos(tmp_path / "photos", 4)
    with quiet():
        write(tmp_path, 1)
    calls = children.calls_of(lambda: write(tmp_path, 1), str(tmp_path))
    assert calls >= 1
    numbers = [*range(1, calls + 1)]
    for number in numbers if len(numbers) < 8 else numbers[:: -(-len(numbers) // 8)]:
        assert children.calls_of(lambda: write(tmp_path, 2), str(tmp_path), number) == -1
        told = is_whole(tmp_path, writer)
        assert len(told) == len(WRITTEN[writer])
        assert set(told) <= {1, 2}
        with quiet():
            write(tmp_path, 1)
        assert regular(tmp_path) == WRITTEN[writer], "what was left is removed by the next one"


def test_killed_at_the_first_write_ever(tmp_path: Path) -> None:
    assert children.calls_of(lambda: children.write_history(tmp_path, 1), str(tmp_path), 2) == -1
    assert all(told == 1 for told in is_whole(tmp_path, "history"))
    children.write_history(tmp_path, 2)
    assert is_whole(tmp_path, "history") == [2, 2]
    assert regular(tmp_path) == WRITTEN["history"]


def test_nothing_of_others_is_removed(tmp_path: Path) -> None:
    others = ["history.json.bak", "history.json~", ".history.json.swp", "notes.unfinished", "history.json.old", "h.tmp"]
    for name in others:
        (tmp_path / name).write_text("mine")
    for epochs in (1, 2):
        children.write_history(tmp_path, epochs)
    assert regular(tmp_path) == sorted([*others, *WRITTEN["history"]])
    assert {(tmp_path / name).read_text() for name in others} == {"mine"}


def test_a_write_that_fails_leaves_what_was_there_and_nothing_else(tmp_path: Path) -> None:
    from fastaug.files import whole_file

    path = tmp_path / "b.bin"
    path.write_bytes(b"before")
    for failure in (RuntimeError, KeyboardInterrupt, SystemExit):

        def write(failure: type[BaseException] = failure) -> None:
            with whole_file(path) as file:
                file.write(b"half")
                raise failure

        with pytest.raises(failure):
            write()
        assert path.read_bytes() == b"before"
        assert regular(tmp_path) == ["b.bin"]


def test_what_is_written_reaches_the_disk_before_it_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[tuple[str, str]] = []
    for name in ("fsync", "fdatasync"):
        real = getattr(os, name)

        def synced(file: Any, real: Callable[[Any], None] = real) -> None:
            number = file if isinstance(file, int) else file.fileno()
            done.append(("sync", os.readlink(f"/proc/self/fd/{number}")))
            real(file)

        monkeypatch.setattr(os, name, synced)
    for name in ("replace", "rename"):
        move = getattr(os, name)

        def moved(a: Any, b: Any, move: Callable[..., None] = move, **options: Any) -> None:
            done.append(("move", os.fspath(b)))
            move(a, b, **options)

        monkeypatch.setattr(os, name, moved)
    children.write_history(tmp_path, 1)
    kinds = [kind for kind, path in done if path != str(tmp_path)]
    assert kinds == ["sync", "move"] * 2, done


# Names meanwhile


@pytest.fixture(scope="module")
def opened() -> Iterator[list[tuple[str, int]]]:
    """(path, flags) of what is opened, of this process."""
    found: list[tuple[str, int]] = []
    on = [True]

    def look(event: str, arguments: tuple[Any, ...]) -> None:
        if on[0] and event == "open" and isinstance(arguments[0], str | os.PathLike):
            found.append((os.fspath(arguments[0]), arguments[2] or 0))

    sys.addaudithook(look)
    yield found
    on[0] = False


@pytest.mark.parametrize("writer", EVERY)
def test_names_meanwhile_are_unpredictable_and_new(tmp_path: Path, opened: list[tuple[str, int]], writer: str) -> None:
    small_photos(tmp_path / "photos", 4)
    names: list[set[str]] = []
    for _ in range(2):
        opened.clear()
        with quiet():
            EVERY[writer](tmp_path)
        wanted = os.O_WRONLY | os.O_RDWR
        written = [(path, flags) for path, flags in opened if os.path.dirname(path) == str(tmp_path) and flags & wanted]
        final = set(regular(tmp_path))
        names.append({os.path.basename(path) for path, _ in written})
        created = [(path, flags) for path, flags in written if flags & os.O_CREAT]
        assert created, "nothing was made as a new file"
        for path, flags in created:
            assert os.path.basename(path) not in final, "written in place"
            assert flags & os.O_EXCL, f"{path} may be there already, as somebody's link"
            assert flags & os.O_NOFOLLOW, path
    assert not names[0] & names[1], "the same name twice"
    for name in names[0]:
        rest = re.sub(rf"{os.getpid()}|history|json|csv|pth|run|model|safetensors|config|toml|list|[._-]", "", name)
        assert len(re.sub("unfinished|tmp|part", "", rest)) >= 6, f"{name} can be guessed"


@pytest.mark.parametrize("writer", EVERY)
def test_planted_links_are_not_followed(tmp_path: Path, writer: str) -> None:
    small_photos(tmp_path / "photos", 4)
    out, victim = tmp_path / "out", tmp_path / "victim"
    out.mkdir()
    victim.write_text("precious")
    finals = ["history.csv", "history.json", "run.pth", "model.safetensors", "list.csv", "config.toml"]
    for name in finals:
        for planted in (f"{name}.unfinished", f"{name}.{os.getpid()}.unfinished", f"{name}.tmp", f".{name}.tmp"):
            (out / planted).symlink_to(victim)
    with quiet():
        EVERY[writer](out)
    assert victim.read_text() == "precious"
    for name in finals:
        assert not (out / name).is_symlink()


def test_what_is_written_may_be_read_by_whom_the_umask_lets(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        children.write_history(tmp_path, 1)
    finally:
        os.umask(before)
    assert (tmp_path / "history.json").stat().st_mode & 0o777 == 0o640


# Full disks


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_named_with_what_is_needed(tmp_path: Path, storage: Storage, number: int) -> None:
    small_photos(tmp_path / "photos", 4)
    with quiet():
        children.write_checkpoint(tmp_path, 1)
    needed = (tmp_path / "run.pth").stat().st_size
    storage.room[f"{tmp_path}/"] = [2000]
    storage.full = number
    with pytest.raises(OSError, match="disk full") as caught, quiet():
        children.write_checkpoint_of(tmp_path, 2)
    assert caught.value.errno == number
    text = one_line(caught.value)
    assert "run.pth" in text
    figures = [int(figure.replace(",", "")) for figure in re.findall(r"\d[\d,]*(?= bytes)", text)]
    assert any(0.95 * needed <= figure <= 1.2 * needed for figure in figures), f"{needed:,} are needed: {text}"
    storage.room.clear()
    assert is_whole(tmp_path, "checkpoint") == [1], "and what was there is there"
    assert regular(tmp_path) == ["run.pth"]


@pytest.mark.parametrize("writer", ["history", "model", "list", "config"])
def test_full_disks_of_everything_that_is_written(tmp_path: Path, storage: Storage, writer: str) -> None:
    storage.room[f"{tmp_path}/"] = [20]
    with pytest.raises(OSError, match="disk full") as caught, quiet():
        EVERY[writer](tmp_path)
    one_line(caught.value)
    storage.room.clear()
    assert regular(tmp_path) == []
    with quiet():
        EVERY[writer](tmp_path)
    assert regular(tmp_path)


@pytest.mark.parametrize("room", [0, 30, 300])
def test_history_on_a_full_disk_stays_what_it_was(tmp_path: Path, storage: Storage, room: int) -> None:
    children.write_history(tmp_path, 1)
    storage.room[f"{tmp_path}/"] = [room]
    with contextlib.suppress(OSError), quiet():
        children.write_history(tmp_path, 5)
    storage.room.clear()
    told = is_whole(tmp_path, "history")
    assert len(told) == 2
    assert set(told) <= {1, 5}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("no mount")
    if done.returncode:
        pytest.skip("nothing can be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_real_full_disk(tmp_path: Path, small_disk: Path) -> None:
    (small_disk / "ballast").write_bytes(bytes(48_000))  # a model needs more than what is left, a history does not
    with pytest.raises(OSError, match="disk full") as caught, quiet():
        children.write_model(small_disk, 1)
    assert caught.value.errno == errno.ENOSPC
    text = one_line(caught.value)
    with quiet():
        children.write_model(tmp_path, 1)
    needed = (tmp_path / "model.safetensors").stat().st_size
    assert f"{needed:,} bytes" in text
    assert regular(small_disk) == ["ballast"]
    with quiet():
        children.write_history(small_disk, 1)
    assert is_whole(small_disk, "history") == [1, 1]


@pytest.fixture
def in_threads(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What nobody caught in a thread, as of TensorBoard's, which are its own."""
    found: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", lambda failure: found.append(failure.exc_value))
    return found


def a_training(folder: Path, log: Path) -> fa.Learner:
    from fastaug.training.results import RunLog

    settings: dict[str, Any] = {"batch_size": 4, "augment": children.AUGMENT, "return_info": False}
    train = small_loader(small_photos(folder / "photos", 8), **settings)
    with quiet():
        runs = RunLog(log)
    return children.a_learner(train, checkpoint=folder / "run.pth", after_epoch=[runs])


@pytest.mark.usefixtures("in_threads")
def test_a_full_log_disk_does_not_cost_the_checkpoint(tmp_path: Path, storage: Storage) -> None:
    log = tmp_path / "log"
    learn = a_training(tmp_path, log)
    storage.room[f"{log}/"] = [10]
    with quiet(), contextlib.suppress(OSError):
        learn.fit(1, 1e-3)
    storage.room.clear()
    assert is_whole(tmp_path, "checkpoint") == [1]
    assert len(learn.history.epochs) == 1


@pytest.mark.usefixtures("in_threads")
def test_a_full_log_disk_is_said(tmp_path: Path, storage: Storage, caplog: pytest.LogCaptureFixture) -> None:
    log = tmp_path / "log"
    learn = a_training(tmp_path, log)
    storage.room[f"{log}/"] = [10]
    said = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            learn.fit(1, 1e-3)
        except OSError as failure:
            said.append(str(failure))
    storage.room.clear()
    said += [*(str(one.message) for one in caught), *caplog.messages]
    assert any("disk full" in text for text in said), said


@pytest.mark.usefixtures("in_threads")
def test_a_full_log_disk_that_gets_room_again(tmp_path: Path, storage: Storage) -> None:
    log = tmp_path / "log"
    learn = a_training(tmp_path, log)
    storage.room[f"{log}/"] = [10]
    with quiet():
        with contextlib.suppress(OSError):
            learn.fit(1, 1e-3)
        storage.room.clear()
        learn.fit(1, 1e-3)
    assert is_whole(log, "history") == [2, 2]
    assert is_whole(tmp_path, "checkpoint") == [2]


@pytest.mark.usefixtures("in_threads")
def test_a_log_folder_that_may_not_be_written(tmp_path: Path, storage: Storage) -> None:
    """It does not cost the checkpoint either."""
    log = tmp_path / "log"
    learn = a_training(tmp_path, log)
    storage.faults[f"{log}/"] = fails(errno.EROFS, on=("open", "write"))
    with quiet(), contextlib.suppress(OSError):
        learn.fit(1, 1e-3)
    storage.faults.clear()
    assert is_whole(tmp_path, "checkpoint") == [1]


# config.toml

PATHS = [
    "plain",
    "quotes\"and'",
    "back\\slash\\",
    "new\nline",
    "carriage\rreturn",
    "tab\there",
    "\x1b[31mred",
    "del\x7f",
    "c1\x9b",
    "bytes\udce9\udcff",
    "line\u2028sep",
    "\u202eturned",
    "# no = 1",
    '"""',
    "]\n[table]",
    "😀",
    "\x01\x08\x0b\x0c\x1f",
    " ",
    "x" * 200,
]


@pytest.mark.parametrize("name", PATHS)
def test_config_survives_any_path(tmp_path: Path, name: str) -> None:
    """As FOLDER, as the folder that it lies in, and as what else a path may be."""
    out = tmp_path / name
    path = out / "config.toml"
    context = context_of("train", f"/{name}", "--out", str(out), "--pattern", name, "--cache", name)
    write_config(context, path)
    values = tomllib.loads(path.read_bytes().decode("utf-8", "surrogateescape"))
    assert len(values) >= 8
    assert not [key for key in values if isinstance(values[key], dict)]
    again = context_of("train", "--config", str(path))
    for key in ("folder", "cache", "out", "pattern", "seed", "size"):
        assert str(again.params[key]) == str(context.params[key]), key


def test_config_of_every_name_at_once_has_a_line_each(tmp_path: Path) -> None:
    context = context_of("train", "".join(PATHS), "--pattern", "\n".join(PATHS))
    write_config(context, tmp_path / "config.toml")
    lines = (tmp_path / "config.toml").read_bytes().split(b"\n")
    assert all(not line or line.startswith(b"#") or b" = " in line for line in lines)
    for line in lines:
        assert not re.search(rb"[\x00-\x08\x0b-\x1f\x7f]", line), "TOML has no such characters"


@pytest.mark.parametrize(
    "content",
    [b"\xff\xfe", b"\x00", b"seed = ", b"a = [" * 5000, b"seed = 1\nseed = 2", b"[seed]\nx = 1", b"size = inf", b"= 1"],
)
def test_broken_configs_are_one_line(tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(content)
    with pytest.raises((typer.Exit, SystemExit, Exception)) as caught:
        context_of("train", "photos", "--config", str(path))
    assert not isinstance(caught.value, RecursionError)
    one_line(capsys.readouterr().err.strip() or caught.value)


def test_use_config_leaves_none_alone() -> None:
    assert use_config(context_of("train", "photos"), None) is None


# The helpers reject wrong answers


def test_what_is_not_whole_is_found(tmp_path: Path) -> None:
    children.write_history(tmp_path, 2)
    assert is_whole(tmp_path, "history") == [2, 2]
    text = (tmp_path / "history.json").read_text()
    (tmp_path / "history.json").write_text(text[:-20])
    with pytest.raises(ValueError, match="line"):
        is_whole(tmp_path, "history")
    (tmp_path / "history.json").write_text(text)
    table = (tmp_path / "history.csv").read_text()
    (tmp_path / "history.csv").write_text(table[:-8])
    with pytest.raises(AssertionError):
        is_whole(tmp_path, "history")


def test_a_disk_is_full_for_every_way_to_write(tmp_path: Path, storage: Storage) -> None:
    def by_descriptor(path: Path) -> None:
        file = os.open(path, os.O_WRONLY | os.O_CREAT)
        try:
            os.write(file, bytes(100))
        finally:
            os.close(file)

    def opened(path: Path) -> None:
        with open(path, "wb") as file:
            file.write(bytes(100))

    def adopted(path: Path) -> None:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT), "wb") as file:
            file.write(bytes(100))

    for write in (
        by_descriptor,
        opened,
        adopted,
        lambda path: path.write_bytes(bytes(100)),
        lambda path: path.write_text("x" * 100),
    ):
        storage.room = {f"{tmp_path}/": [150]}
        write(tmp_path / "a")
        with pytest.raises(OSError, match="No space"):
            write(tmp_path / "a")
    write_photo(tmp_path.parent / "elsewhere.jpg")


def test_a_kill_is_one(tmp_path: Path) -> None:
    path = tmp_path / "a"

    def write() -> None:
        for text in ("one", "two"):
            path.write_text(text)

    assert children.calls_of(write, str(tmp_path)) == 2
    assert path.read_text() == "two"
    assert children.calls_of(write, str(tmp_path), 2) == -1
    assert path.read_text() == "one"
