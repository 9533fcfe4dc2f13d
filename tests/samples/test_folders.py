"""Folders of images as they are found: thumbnails, strays, splits, classes at several places."""

from __future__ import annotations

import errno
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fastaug.loading.decode import make_decoder
from fastaug.samples.samples import Samples
from fastaug.samples.sources import IMAGE_EXTENSIONS
from tests.factories import encode


def make(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def names_of(samples: Samples, root: Path) -> list[str]:
    return [Path(path).relative_to(root).as_posix() for path in samples.paths]


# What is left out


def test_thumbnails_and_what_systems_leave_behind_are_no_classes(tmp_path: Path) -> None:
    root = make(
        tmp_path, "cat/1.jpg", "cat/@eaDir/1.jpg/SYNOPHOTO_THUMB_M.jpg", "__MACOSX/cat/1.jpg",
        "cat/.ipynb_checkpoints/1.jpg", "#recycle/2.jpg", "cat/Thumbs.db", "desktop.ini", "cat/._1.jpg", ".DS_Store",
    )  # fmt: skip
    with pytest.warns(UserWarning, match=r"1 #recycle/ \('#recycle'\), 1 @eaDir/ \('cat/@eaDir'\), 1 __MACOSX/"):
        samples = Samples.from_folder(root)
    assert (names_of(samples, root), samples.classes) == (["cat/1.jpg"], ["cat"])


def test_what_every_system_leaves_behind_is_no_word_worth(tmp_path: Path) -> None:
    root = make(tmp_path, "cat/1.jpg", "cat/.1.jpg", "cat/Thumbs.db", ".git/1.jpg", "labels.csv", "cat/1.txt")
    assert len(Samples.from_folder(root)) == 1


def test_what_may_be_an_image_is_counted_by_ending(tmp_path: Path) -> None:
    kept = ("cat/1.jpg", "cat/2.JFIF", "cat/3.jpe")
    root = make(tmp_path, *kept, "cat/4.heic", "cat/5.HEIC", "cat/6.jpg_large", "cat/7", "cat/notes.txt")
    with pytest.warns(UserWarning, match="left out") as said:
        samples = Samples.from_folder(root)
    assert names_of(samples, root) == list(kept)
    (one,) = said
    assert str(one.message) == (
        f"from_folder: left out in '{root}': 2 .heic ('cat/4.heic'), 1 .jpg_large ('cat/6.jpg_large'), "
        "1 .txt ('cat/notes.txt'), 1 without an ending ('cat/7'). Convert or rename what should be loaded."
    )
    assert one.filename == __file__, "it points to the line that called"


def test_many_kinds_stay_one_line(tmp_path: Path) -> None:
    root = make(tmp_path, "cat/1.jpg", *(f"cat/{i}.x{i}" for i in range(12)))
    with pytest.warns(UserWarning, match=r"1 \.x0 \('cat/0\.x0'\), .*, 7 of 7 other kinds\. ") as said:
        Samples.from_folder(root)
    assert len(said) == 1


def test_strays_beside_the_classes_are_no_class(tmp_path: Path) -> None:
    root = make(tmp_path, "cat/1.jpg", "dog/1.jpg", "overview.png", "title.jpg")
    with pytest.warns(UserWarning, match=r"2 outside the class folders \('overview\.png'\)"):
        samples = Samples.from_folder(root)
    assert samples.classes == ["cat", "dog"]
    assert len(Samples.from_filenames(root, r"(\w)")) == 4, "where names tell the class, it may lie anywhere"


def test_nothing_but_what_cannot_be_read(tmp_path: Path) -> None:
    make(tmp_path, "cat/1.heic", "cat/2.heic")
    with pytest.raises(ValueError, match=r"expected images under .*, got 2 \.heic \('cat/1\.heic'\)\. Convert"):
        Samples.from_folder(tmp_path)


def test_a_folder_that_cannot_be_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def scandir(path: str, scan: Any = os.scandir) -> Any:
        if path.endswith("dog"):
            raise PermissionError(path)
        return scan(path)

    make(tmp_path, "cat/1.jpg", "dog/1.jpg")
    monkeypatch.setattr("os.scandir", scandir)
    with pytest.warns(UserWarning, match=r"1 not readable \('dog'\)"):
        assert Samples.from_folder(tmp_path).classes == ["cat"]


def test_names_of_any_kind_are_said_without_control(tmp_path: Path) -> None:
    make(tmp_path, "cat/1.jpg", "cat/a\n\x1b[31m.heic", "cat/1.\x1b[31mjpg")
    with pytest.warns(UserWarning, match="left out") as said:
        Samples.from_folder(tmp_path)
    assert str(said[0].message).isprintable()


# Order


def test_classes_are_sorted_as_text_as_others_do(tmp_path: Path) -> None:
    """ImageFolder and fastai: a model of theirs keeps its classes."""
    from torchvision.datasets import ImageFolder

    make(tmp_path, *(f"{name}/1.jpg" for name in ("0", "1", "2", "10", "B", "a", "é", "a-b")))
    assert Samples.from_folder(tmp_path).classes == ImageFolder(tmp_path).classes
    make(tmp_path / "flat", "10_1.jpg", "9_1.jpg")
    assert Samples.from_filenames(tmp_path / "flat", r"(\d+)_").classes == ["10", "9"]


# At which level the class is


def test_one_name_at_several_places_is_not_merged_in_silence(tmp_path: Path) -> None:
    root = make(tmp_path, "red/left/1.jpg", "blue/left/1.jpg", "blue/right/1.jpg")
    with pytest.warns(UserWarning, match=r"'blue/left' and 'red/left' .* the class 'left'.*level=-1.*level=1") as said:
        assert Samples.from_folder(root).counts() == {"left": 2, "right": 1}
    assert len(said) == 1
    assert Samples.from_folder(root, level=-1).counts() == {"left": 2, "right": 1}
    assert Samples.from_folder(root, level=1).counts() == {"blue": 2, "red": 1}
    assert Samples.from_folder(root, level=2) == Samples.from_folder(root, level=-1)
    assert Samples.from_folder(root, level=-2) == Samples.from_folder(root, level=1)


def test_a_class_within_a_class_is_said(tmp_path: Path) -> None:
    root = make(tmp_path, "cat/1.jpg", "cat/old/2.jpg", "dog/1.jpg")
    with pytest.warns(UserWarning, match=r"'cat/old' lies in 'cat'.*two classes.*level=1"):
        assert Samples.from_folder(root).classes == ["cat", "dog", "old"]
    assert Samples.from_folder(root, level=1).counts() == {"cat": 2, "dog": 1}


def test_what_does_not_reach_the_level_is_left_out_and_said(tmp_path: Path) -> None:
    root = make(tmp_path, "red/left/1.jpg", "red/2.jpg")
    with pytest.warns(UserWarning, match=r"1 outside the class folders \('red/2\.jpg'\)"):
        assert Samples.from_folder(root, level=2).classes == ["left"]
    with pytest.raises(ValueError, match="expected images in folders at level 3"):
        Samples.from_folder(root, level=3)
    with pytest.raises(ValueError, match="level"):
        Samples.from_folder(root, level=0)


# Splits


SPLIT = ("train/cat/1.jpg", "train/cat/2.jpg", "train/dog/1.jpg", "val/cat/1.jpg", "test/dog/1.jpg")


@pytest.mark.parametrize(
    "names",
    [
        SPLIT,
        ("Training/a/1.jpg", "Testing/a/1.jpg"),
        ("training_set/a/1.jpg", "test_set/a/1.jpg"),
        ("inner/train/a/1.jpg", "inner/valid/a/1.jpg"),
        ("cat/train/1.jpg", "cat/val/1.jpg"),
        ("train/1.jpg", "test/1.jpg"),
        ("validation/a/1.jpg", "test/a/1.jpg"),
    ],
)
def test_what_looks_like_a_split_is_not_mixed(tmp_path: Path, names: tuple[str, ...]) -> None:
    make(tmp_path, *names)
    with pytest.raises(ValueError, match=r"got what looks like a split into .* (Use|Give) .*from_.*say level=-1"):
        Samples.from_folder(tmp_path)
    assert len(Samples.from_folder(tmp_path, level=-1)) == len(names), "unless it is said that these are classes"


@pytest.mark.parametrize(
    "names", [("car/1.jpg", "train/1.jpg"), ("train/a/1.jpg", "train/b/1.jpg"), ("valid/1.jpg", "invalid/1.jpg")]
)
def test_a_class_may_be_called_train(tmp_path: Path, names: tuple[str, ...]) -> None:
    assert len(Samples.from_folder(make(tmp_path, *names)).classes) == 2


def test_a_split_within_each_class_can_be_had(tmp_path: Path) -> None:
    make(tmp_path, "cat/train/1.jpg", "cat/val/1.jpg", "dog/train/1.jpg", "dog/val/1.jpg")
    with pytest.raises(ValueError, match=r"level=1\)\.split\(by=lambda path: 'val' in path\)"):
        Samples.from_folder(tmp_path)
    _, valid = Samples.from_folder(tmp_path, level=1).split(by=lambda path: "val" in path)
    assert names_of(valid, tmp_path) == ["cat/val/1.jpg", "dog/val/1.jpg"]


def test_split_folders(tmp_path: Path) -> None:
    root = make(tmp_path, *SPLIT, "val/train/1.jpg", "train/train/1.jpg", "models/old/1.jpg")
    train, valid = Samples.from_split_folders(root)
    assert train == Samples.from_folder(root / "train")
    assert names_of(valid, root) == ["val/cat/1.jpg", "val/train/1.jpg"]
    assert train.classes == valid.classes == ["cat", "dog", "train"]
    assert valid.targets == [0, 2]
    _, test = Samples.from_split_folders(root, valid="test")
    assert (names_of(test, root), test.targets) == (["test/dog/1.jpg"], [1])


def test_split_folders_by_names_of_files(tmp_path: Path) -> None:
    make(tmp_path, "train/cat_1.jpg", "train/dog_1.jpg", "valid/dog_2.jpg")
    train, valid = Samples.from_split_folders(tmp_path, pattern=r"([a-z]+)_")
    assert (train.classes, valid.targets) == (["cat", "dog"], [1])
    with pytest.warns(UserWarning, match=r"a split into 'train', 'valid'.*mixed.*from_split_folders"):
        assert len(Samples.from_filenames(tmp_path, r"([a-z]+)_")) == 3


@pytest.mark.parametrize(
    ("names", "arguments", "message"),
    [
        (("a/1.jpg",), {}, r"expected a folder for training .*\(train, training\).* got a"),
        (("train/a/1.jpg", "test/a/1.jpg"), {}, r"expected a folder for validation .* got test, train"),
        (
            ("train/a/1.jpg", "val/a/1.jpg", "valid/a/1.jpg"),
            {},
            r"expected one folder for validation .*got val, valid",
        ),
        (("train/a/1.jpg", "val/b/1.jpg", "val/b/2.jpg"), {}, r"every class of 'val' in 'train'.* got b \(2 images\)"),
        (("train/a/1.jpg",), {"valid": "val"}, r"val.*does not exist"),
        (("train/1.jpg", "val/1.jpg"), {}, "expected class folders in .*train"),
    ],
)
def test_split_folders_errors(tmp_path: Path, names: tuple[str, ...], arguments: dict[str, str], message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        Samples.from_split_folders(make(tmp_path, *names), **arguments)


def test_a_plain_folder_gives_no_warning(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Samples.from_folder(make(tmp_path, "cat/1.jpg", "dog/1.png"))


def test_a_file_is_told_what_it_may_be(tmp_path: Path) -> None:
    make(tmp_path, "list.csv")
    with pytest.raises(NotADirectoryError, match=r"list\.csv.*from_csv.*from_tar"):
        Samples.from_folder(tmp_path / "list.csv")


def test_every_ending_that_is_taken_is_decoded() -> None:
    Image.init()
    writers = Image.registered_extensions()
    pixels = np.full((8, 8, 3), 99, np.uint8)
    photos = make_decoder("jpeg").decode([encode(pixels, writers[ending]) for ending in IMAGE_EXTENSIONS])
    assert [ending for ending, photo in zip(IMAGE_EXTENSIONS, photos, strict=True) if isinstance(photo, str)] == []


# Folders that cannot be read, and what is no file


class Listing:
    """os.scandir that fails for the folders that it is told, so many times (None: always)."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.faults: dict[str, tuple[OSError, int | None]] = {}
        self.scan = os.scandir
        patch.setattr("fastaug.samples.storage.WAITS_S", (0.001,) * 3)
        patch.setattr(os, "scandir", self)

    def __call__(self, path: Any) -> Any:
        error, left = self.faults.get(os.path.basename(path), (None, 0))
        if error is not None and left != 0:
            self.faults[os.path.basename(path)] = error, None if left is None else left - 1
            raise error
        return self.scan(path)

    def fail(self, name: str, code: str, times: int | None = None) -> None:
        number = getattr(errno, code)
        self.faults[name] = OSError(number, os.strerror(number), name), times


@pytest.fixture
def listing(monkeypatch: pytest.MonkeyPatch) -> Listing:
    return Listing(monkeypatch)


def test_a_listing_that_fails_is_tried_again(tmp_path: Path, listing: Listing) -> None:
    make(tmp_path, "cat/1.jpg", "dog/1.jpg")
    for name in ("cat", "dog", tmp_path.name):
        listing.fail(name, "EIO", 3)
    assert Samples.from_folder(tmp_path).classes == ["cat", "dog"]
    for name in ("dog", tmp_path.name):  # a data set without some of its images would be another one
        listing.fail(name, "ESTALE")
        with pytest.raises(OSError, match=rf"from_folder: could not list '.*{name}': Stale file handle\. .* again"):
            Samples.from_folder(tmp_path)


def test_a_folder_that_may_not_be_read_against_one_that_is_not_there(tmp_path: Path, listing: Listing) -> None:
    make(tmp_path, "cat/1.jpg")
    listing.fail(tmp_path.name, "EACCES")
    with pytest.raises(PermissionError, match=rf"a folder that may be read, got '{tmp_path}': Permission denied"):
        Samples.from_folder(tmp_path)
    with pytest.raises(FileNotFoundError, match="which does not exist"):
        Samples.from_folder(tmp_path / "elsewhere")


def test_a_folder_behind_one_that_may_not_be_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stat = os.stat

    def refusing(path: Any, *rest: Any, **options: Any) -> Any:
        if os.fspath(path) == str(tmp_path / "photos"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return stat(path, *rest, **options)

    monkeypatch.setattr(os, "stat", refusing)
    with pytest.raises(PermissionError, match=r"a folder that may be read, got .*photos': Permission denied"):
        Samples.from_folder(tmp_path / "photos")


def test_texts_in_a_folder_that_may_not_be_read_are_an_error(tmp_path: Path, listing: Listing) -> None:
    """Photos without their text would be photos without objects."""
    make(tmp_path, "images/a/1.jpg", "images/b/2.jpg", "labels/a/1.txt", "labels/b/2.txt")
    (tmp_path / "labels/a/1.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    labels, scan = str(tmp_path / "labels" / "b"), listing.scan

    def scandir(path: Any) -> Any:
        if path == labels:
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scan(path)

    listing.scan = scandir
    with pytest.raises(PermissionError, match=r"from_yolo: .* in '.*labels', got 1 that may not, .*labels/b'\. Let"):
        Samples.from_yolo(tmp_path / "images", tmp_path / "labels", ["cat"])


def test_what_is_no_file_is_counted_apart(tmp_path: Path) -> None:
    make(tmp_path, "cat/1.jpg", "cat/notes.txt")
    os.mkfifo(tmp_path / "cat" / "fifo.jpg")
    (tmp_path / "cat" / "zero.jpg").symlink_to("/dev/zero")
    (tmp_path / "cat" / "linked.jpg").symlink_to(tmp_path / "cat" / "1.jpg")
    (tmp_path / "cat" / "broken.jpg").symlink_to(tmp_path / "nowhere.jpg")
    with pytest.warns(UserWarning, match=r"2 not files \('cat/fifo\.jpg'\)"):
        samples = Samples.from_folder(tmp_path)
    assert names_of(samples, tmp_path) == ["cat/1.jpg", "cat/broken.jpg", "cat/linked.jpg"], (
        "a broken link is bad by name"
    )


def test_a_folder_behind_a_link_that_cannot_be_looked_at(tmp_path: Path, listing: Listing) -> None:
    """It is no file without an ending."""
    make(tmp_path, "cat/1.jpg")
    tried: list[int] = []

    class Entry:
        name, path = "dog", str(tmp_path / "dog")

        def is_dir(self) -> bool:
            tried.append(1)
            raise OSError(errno.EIO, "Input/output error")

    class Scanned:
        def __enter__(self) -> list[Any]:
            return [Entry()]

        def __exit__(self, *error: object) -> None: ...

    listing.scan = lambda path: Scanned()
    with pytest.raises(OSError, match=r"could not look at '.*dog': Input/output error"):
        Samples.from_folder(tmp_path)
    assert len(tried) > 3
