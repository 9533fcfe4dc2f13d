"""`fastaug prepare` and `fastaug cache`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from fastaug.caching import folder as folders
from fastaug.caching.store import Store
from fastaug.cli.options import _bytes
from fastaug.cli.printing import in_bytes
from fastaug.cli.samples import Source, find_samples
from fastaug.loading.loader import ImageLoader
from tests.cli.commands import error_line, run
from tests.factories import jpeg

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test opens folders as a process of its own."""
    monkeypatch.setattr(folders, "_open", {})


def make(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(jpeg(24, 18))
    return root


def test_prepare_says_what_it_made_and_a_training_finds_it(photos: Path, tmp_path: Path) -> None:
    root, cache = tmp_path / "photos", tmp_path / "cache"
    make(root, *(f"{part}/{name}/{i}.jpg" for part in ("train", "val") for name in ("cat", "dog") for i in range(3)))
    for i in range(5):
        (root / "train" / "cat" / f"bad\x1b{i}.jpg").write_bytes(b"no photo")
    command = ["prepare", root, "--cache", cache, "--device", "cpu"]
    result = run(*command)
    assert result.exit_code == 0, result.output
    *bad, more, counts, last = result.stdout.splitlines()
    assert len(bad) == 3
    assert bad[0].startswith(rf"bad: {root}/train/cat/bad\x1b0.jpg: not an image format that is read")
    assert more == "bad: 2 more; `fastaug check` lists them all"
    assert counts == "12 photos made, 0 were there, 5 files are bad"
    assert last.startswith(f"{cache}/460-jpeg-auto: ")
    assert last.endswith(" images/s")
    assert result.stderr == ""
    figures = json.loads(run(*command, "--json").stdout)
    assert [figures[name] for name in ("made", "there", "without_room", "images_per_s")] == [0, 12, 0, 0]
    assert {Path(one["path"]).name for one in figures["bad"]} == {f"bad\x1b{i}.jpg" for i in range(5)}
    loader = ImageLoader(find_samples(Source(root / "val")), 6, device="cpu", training=False, cache=cache)
    assert [len(y) for _, y in loader] == [6]
    assert (loader.stats().cached, loader.stats().decoded) == (6, 0)


def test_prepare_says_what_does_not_fit(photos: Path, tmp_path: Path) -> None:
    options = ["--cache", tmp_path / "c", "--cache-size", "32", "--device", "cpu"]
    result = run("prepare", photos, *options, "--cache-bytes", "20k", "--num-threads", "1")
    assert result.exit_code == 0, result.output
    made, without = (line.split(" ", 1) for line in result.stdout.splitlines()[:2])
    assert 0 < int(made[0]) < 5  # of 5 kB each
    assert made[1] == "photos made, 0 were there, 0 files are bad"
    assert int(without[0]) == 12 - int(made[0])
    assert without[1] == "did not fit and are decoded each time; more --cache-bytes keep them too"
    assert run("prepare", photos, *options, "--cache-bytes", "20Q").exit_code == 2
    assert run("prepare", photos).exit_code == 2


def test_bytes() -> None:
    assert [_bytes(text) for text in ("5", "20GB", "20g", "1.5 TB", "3k")] == [
        5, 20 * 10**9, 20 * 10**9, 15 * 10**11, 3000,
    ]  # fmt: skip
    assert [in_bytes(count) for count in (999, 1000, 5_060_000_000, 2 * 10**15)] == [
        "999 bytes", "1.0 kB", "5.1 GB", "2,000.0 TB",
    ]  # fmt: skip


def test_prepare_is_stopped_and_says_how_to_go_on(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = Store.put

    def stopped(self: Store, *arguments: Any) -> None:
        put(self, *arguments)
        raise KeyboardInterrupt

    command = ["prepare", photos, "--cache", tmp_path / "c", "--device", "cpu", "--num-threads", "1"]
    with monkeypatch.context() as patch:
        patch.setattr(Store, "put", stopped)
        result = run(*command)
    assert (result.exit_code, result.stdout) == (130, "")
    assert result.stderr == (
        f"stopped; what is finished stays in '{tmp_path}/c'. The same command goes on from there.\n"
    )
    assert "8 photos made, 4 were there" in run(*command).stdout


def test_a_cache_that_cannot_be_made(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    line = error_line("prepare", photos, "--cache", tmp_path / "file", "--device", "cpu")
    assert line == f"error: cache: expected a folder, or none yet, got '{tmp_path}/file'. Name another one.\n"

    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(folders, "_open_or_make", refuse)
    result = run("prepare", photos, "--cache", tmp_path / "c", "--device", "cpu")
    assert result.exit_code == 1
    said, error = result.stderr.splitlines()
    assert "it cannot be made (Permission denied)" in said
    assert error.startswith("error: prepare: expected a folder that can be made and written to, got ")


def test_cache_tells_what_is_in_it_and_cleans_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, cache = make(tmp_path / "p", *(f"{name}/{i}.jpg" for name in "ab" for i in range(4))), tmp_path / "c"
    for size in ("460", "10"):
        assert run("prepare", root, "--cache", cache, "--cache-size", size, "--device", "cpu").exit_code == 0
    result = run("cache", cache)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == f"{cache}/10-jpeg-auto: short side 10, decoder jpeg, scale auto, filter lanczos3"
    assert lines[2] == "  nothing of no use"
    assert lines[3].startswith(f"{cache}/460-jpeg-auto: short side 460, ")
    assert lines[4].startswith("  8 photos, 1")
    assert " kB on the disk" in lines[4]

    os.utime(root / "a" / "0.jpg", ns=(1, 1))
    (root / "a" / "1.jpg").write_bytes(jpeg(20, 20))
    (root / "b" / "2.jpg").unlink()
    inner = cache / "460-jpeg-auto"
    with open(inner / "pixels", "r+b") as file:
        file.write(b"damage")  # to whichever photo was the first
    (told,) = json.loads(run("cache", inner, "--json").stdout)
    damaged = told["damaged"]  # unless it is one of those that are of no use anyway
    assert (told["slots"], told["changed"], told["gone"]) == (5 - damaged, 2, 1)
    assert (told["settings"]["cache_size"], told["cleaned"]) == (460, False)
    result = run("cache", inner, "--clean")
    assert (
        f"  of no use: 2 of files that have changed, 1 of files that are gone{', 1 damaged' * damaged}\n  cleaned: "
        in (result.stdout)
    )
    before = os.stat(inner / "index")
    quick = run("cache", inner, "--quick", "--clean").stdout.splitlines()
    assert quick[1].startswith(f"  {5 - damaged} photos, ")
    assert quick[2:] == ["  nothing of no use", "  checksums were not looked at", "  there is nothing to clean"]
    assert (os.stat(inner / "index").st_ino, os.stat(inner / "index").st_mtime_ns) == (
        before.st_ino,
        before.st_mtime_ns,
    )
    monkeypatch.setattr(folders, "_open", {})
    assert (
        f"{3 + damaged} photos made, {5 - damaged} were there"
        in run("prepare", make(root, "b/2.jpg"), "--cache", cache, "--device", "cpu").stdout
    )


def test_cache_of_what_is_none_and_without_its_photos(photos: Path, tmp_path: Path) -> None:
    assert error_line("cache", photos) == (
        f"error: cache: expected the folder of a cache, got '{photos}', a folder without one. Name the one that was "
        "given as --cache, or as cache= of an ImageLoader.\n"
    )
    root = make(tmp_path / "p", "a/1.jpg", "b/1.jpg")
    run("prepare", root, "--cache", tmp_path / "c", "--device", "cpu")
    root.rename(tmp_path / "q")
    assert "Is their disk mounted? If they are gone for good, remove the folder." in error_line(
        "cache", tmp_path / "c", "--clean"
    )
    (tmp_path / "c" / "460-jpeg-auto" / "index").write_bytes(b"fastaug cache 1\n")
    assert "got another file, or a damaged one" in error_line("cache", tmp_path / "c")
