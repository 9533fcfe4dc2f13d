"""Photos and their masks, by name."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from fastaug.samples import pairs
from fastaug.samples.folders import Images, LeftOut
from fastaug.samples.samples import Samples
from fastaug.samples.targets import MaskFiles


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def names(root: Path, paths: Any) -> list[str]:
    return [Path(path).relative_to(root).as_posix() for path in paths]


def test_masks_by_the_same_name_with_another_ending(tmp_path: Path) -> None:
    touch(tmp_path, "images/b.jpg", "images/a.jpg", "images/more/a.1.JPEG", "images/.hidden.jpg", "images/notes.txt")
    touch(tmp_path, "masks/b.png", "masks/more/a.1.png", "masks/a.tif")
    samples = Samples.from_folders(tmp_path / "images", f"{tmp_path}/masks/", classes=["sky", "tree"])
    assert names(tmp_path / "images", samples.paths) == ["a.jpg", "b.jpg", "more/a.1.JPEG"]
    assert names(tmp_path / "masks", samples.targets) == ["a.tif", "b.png", "more/a.1.png"]
    assert (samples.kind, samples.classes, samples.targets.upright) == ("mask", ["sky", "tree"], False)
    assert isinstance(samples.targets, MaskFiles)
    assert samples[1][1] == samples.targets[1]
    assert repr(samples) == "Samples(3 images, a mask each, 2 classes: sky, tree)"
    assert repr(samples.targets) == "MaskFiles(3 files)"
    assert list(samples.targets[1:]) == samples.targets.paths[1:]


def test_masks_that_are_upright() -> None:
    assert Samples(["a.jpg"], MaskFiles(["a.png"], upright=True)).subset([0, 0]).targets.upright
    assert repr(MaskFiles([], upright=True)) == "MaskFiles(0 files, upright)"


def test_masks_with_a_suffix_beside_other_files(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.jpg", "masks/a_mask.png", "masks/a_color.png")
    samples = Samples.from_folders(tmp_path / "images", tmp_path / "masks", suffix="_mask", upright=True)
    assert names(tmp_path, samples.targets) == ["masks/a_mask.png"]
    assert samples.targets.upright


def test_masks_with_a_suffix_in_the_same_folder(tmp_path: Path) -> None:
    touch(tmp_path, "1/a.jpg", "1/a_mask.png", "2/b.jpg", "2/b_mask.png")
    samples = Samples.from_folders(tmp_path, tmp_path, suffix="_mask")
    assert names(tmp_path, samples.paths) == ["1/a.jpg", "2/b.jpg"]
    assert names(tmp_path, samples.targets) == ["1/a_mask.png", "2/b_mask.png"]
    assert Samples.from_folders(tmp_path, f"{tmp_path}/../{tmp_path.name}", suffix="_mask").paths == samples.paths
    with pytest.raises(ValueError, match=r"told apart, got .*suffix="):
        Samples.from_folders(tmp_path, tmp_path)
    touch(tmp_path, "1/a.png")
    with pytest.raises(ValueError, match=r"told apart, got .*suffix="):
        Samples.from_folders(tmp_path, tmp_path)


def test_other_files_beside_masks_with_a_suffix_may_have_one_name(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.jpg", "masks/a_mask.png", "masks/a.png", "masks/a.jpg")
    samples = Samples.from_folders(tmp_path / "images", tmp_path / "masks", suffix="_mask")
    assert names(tmp_path, samples.targets) == ["masks/a_mask.png"]


def test_many_masks_with_a_suffix(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In seconds: not every mask is looked at for every photo."""
    number = 20_000
    found = {"i": [f"i/{i}.jpg" for i in range(number)], "m": [f"m/{i}_mask.png" for i in range(number)]}
    touch(tmp_path, "i/0.jpg", "m/0_mask.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pairs, "find_images", lambda root, caller: Images(root, found[root], LeftOut(root)))
    start = time.process_time()
    assert len(Samples.from_folders("i", "m", suffix="_mask")) == number
    assert time.process_time() - start < 3


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ("i/a.jpg i/b.jpg m/a.png", r"masks in .*m' by the same names .*got 1 photos of 2 without .* \('.*b\.jpg'\)"),
        ("i/a.jpg m/a.png m/z.png", r"got 1 masks of 2 without the other \('.*z\.png'\)\. Add"),
        ("i/a.jpg m/b.png", r"1 photos of 1 .* and 1 masks of 1 "),
        ("i/0.jpg i/1.jpg i/2.jpg i/3.jpg i/4.jpg m/0.png", r"4 photos of 5 .*1\.jpg', '.*2\.jpg', '.*3\.jpg', …\)"),
        ("i/a.jpg i/a.png m/a.png", r"one file of each name in .*got '.*a\.jpg' and '.*a\.png'"),
        ("i/a.jpg m/a.png m/a.tif", r"one file of each name in .*m'"),
        ("i/a.jpg m/a.npy", r"expected images under .*m', got 1 \.npy"),
        ("m/a.png i/a.txt", r"expected images under .*i'"),
    ],
)
def test_photos_and_masks_that_do_not_fit(tmp_path: Path, files: str, message: str) -> None:
    touch(tmp_path, *files.split())
    with pytest.raises(ValueError, match=message):
        Samples.from_folders(tmp_path / "i", tmp_path / "m")


def test_no_such_folder(tmp_path: Path) -> None:
    touch(tmp_path, "i/a.jpg")
    with pytest.raises(FileNotFoundError, match=r"from_folders: expected a folder.*'.*/m'"):
        Samples.from_folders(tmp_path / "i", tmp_path / "m")


def test_what_else_may_be_an_image_is_said(tmp_path: Path) -> None:
    touch(tmp_path, "i/a.jpg", "i/b.heic", "m/a.png")
    with pytest.warns(UserWarning, match=r"from_folders: left out .*1 \.heic"):
        Samples.from_folders(tmp_path / "i", tmp_path / "m")
