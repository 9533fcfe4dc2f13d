"""Samples: found, checked, split."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastaug.samples.samples import Samples


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes, one of them in two places, and files that are not images."""
    for name in (
        "cat/b.jpg",
        "cat/a.PNG",
        "dog/c.jpeg",
        "more/dog/d.webp",
        "cat/.hidden.jpg",
        ".git/e.jpg",
        "cat/notes.txt",
    ):
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "root"


def many(*sizes: int) -> Samples:
    """Samples with this many images per class."""
    targets = [k for k, size in enumerate(sizes) for _ in range(size)]
    return Samples([f"{i}.jpg" for i in range(len(targets))], targets, [f"class {k}" for k in range(len(sizes))])


# Finding


def test_from_folder(folder: Path) -> None:
    with pytest.warns(UserWarning, match=r"'dog' and 'more/dog' together are the class 'dog'"):
        found = Samples.from_folder(folder)
    assert found.paths == [str(folder / name) for name in ("cat/a.PNG", "cat/b.jpg", "dog/c.jpeg", "more/dog/d.webp")]
    assert (found.targets, found.classes) == ([0, 0, 1, 1], ["cat", "dog"])


def test_from_folder_of_images_alone_names_the_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Samples.from_folder(f"{folder}/cat/").classes == ["cat"]
    monkeypatch.chdir(folder / "cat")
    assert Samples.from_folder(".") == Samples(["./a.PNG", "./b.jpg"], [0, 0], ["cat"])


def test_from_folder_follows_links_once(folder: Path) -> None:
    (folder / "cat" / "again").symlink_to(folder, target_is_directory=True)
    assert len(Samples.from_folder(folder, level=-1)) == 4


def test_from_folder_errors(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere.*does not exist"):
        Samples.from_folder(folder / "nowhere")
    with pytest.raises(NotADirectoryError, match=r"a\.PNG"):
        Samples.from_folder(folder / "cat" / "a.PNG")
    (folder / "empty").mkdir()
    with pytest.raises(ValueError, match=r"expected images under .*empty.*\.jpg"):
        Samples.from_folder(folder / "empty")


def test_from_filenames(tmp_path: Path) -> None:
    for name in ("great_pyrenees_12.jpg", "Abyssinian_1.jpg", "Abyssinian_3.jpg"):
        (tmp_path / name).touch()
    found = Samples.from_filenames(tmp_path, r"(.+)_\d+\.jpg$")
    assert found.classes == ["Abyssinian", "great_pyrenees"]
    assert found.targets == [0, 0, 1]
    (tmp_path / "Abyssinian_4.JPG").touch()
    with pytest.raises(ValueError, match=r"1 of 4 that do not, the first .*Abyssinian_4\.JPG"):
        Samples.from_filenames(tmp_path, r"(.+)_\d+\.jpg$")
    assert Samples.from_filenames(tmp_path, r"(.+)_\d+\.jpg$", ignore_case=True).targets == [0, 0, 0, 1]


@pytest.mark.parametrize(("pattern", "message"), [(r".+_\d+", "with a group"), (r"(.+", "a regular expression")])
def test_from_filenames_bad_pattern(folder: Path, pattern: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Samples.from_filenames(folder, pattern)


def test_from_csv(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text('\ufeffid,image,breed\n1,b.jpg,pug\n\n2,"a,1.jpg",beagle\n3,/c.jpg,pug\n', encoding="utf-8")
    found = Samples.from_csv(table, root="/photos", path="image", target="breed", outside=True)
    assert found == Samples(["/photos/b.jpg", "/photos/a,1.jpg", "/c.jpg"], [1, 0, 1], ["beagle", "pug"])
    assert Samples.from_csv(table, path="image", target="breed").paths[0] == "b.jpg"


def test_from_csv_sorts_numbers_as_numbers(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("file,label\n" + "".join(f"{k}.jpg,{k}\n" for k in (10, 9, 0)))
    assert Samples.from_csv(tmp_path / "t.csv").classes == ["0", "9", "10"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\na.jpg,x\n", r"column 'file' .*got \['path', 'label'\]"),
        ("", r"column 'file' .*got \[\]"),
        ("file,label\n", "at least one row"),
        ("file,label\na.jpg,x\nb.jpg,\n", "line 3 "),
        ("file,label\n,x\n", "line 2 "),
        ("file,label\na.jpg,x\n\nb.jpg\n", "expected 2 values in line 4 "),
        ("file,label\na.jpg,x,y\n", "got 3"),
    ],
)
def test_from_csv_errors(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        Samples.from_csv(tmp_path / "t.csv")


def test_from_dataset() -> None:
    dataset = SimpleNamespace(samples=[("a.jpg", 1), ("b.jpg", 0)], classes=["x", "y"])
    assert Samples.from_dataset(dataset) == Samples(["a.jpg", "b.jpg"], [1, 0], ["x", "y"])
    with pytest.raises(TypeError, match=r"without \.samples and \.classes"):
        Samples.from_dataset(object())


# Holding


def test_equality_rejects_what_differs() -> None:
    same = Samples(["a", "b"], [0, 1], ["x", "y"])
    assert same == Samples([Path("a"), "b"], (0, 1), ("x", "y"))
    assert same != Samples(["b", "a"], [0, 1], ["x", "y"])
    assert same != Samples(["a", "b"], [1, 0], ["x", "y"])
    assert same != Samples(["a", "b"], [0, 1], ["y", "x"])


def test_access_and_description() -> None:
    samples = many(2, 1, 0)
    assert len(samples) == 3
    assert samples[2] == ("2.jpg", 1)
    assert samples.subset([2, 0]) == Samples(["2.jpg", "0.jpg"], [1, 0], samples.classes)
    assert samples.counts() == {"class 0": 2, "class 1": 1, "class 2": 0}
    assert repr(samples) == "Samples(3 images, 3 classes: class 0, class 1, class 2)"
    assert samples.describe().splitlines()[1].split() == ["class", "0", "2"]
    with pytest.raises(AttributeError):
        samples.paths = []  # type: ignore[misc]


def test_lists_given_are_copied() -> None:
    paths = ["a"]
    samples = Samples(paths, [0], ["x"])
    paths.append("b")
    assert samples.paths == ["a"]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((["a", "b"], [0], ["x"]), ValueError, "2 paths and 1 targets"),
        ((["a", "b"], [0, 1], ["x"]), ValueError, r"0\.\.0 for 1 classes, got 1 for 'b' \(row 1\)"),
        ((["a"], [-2], ["x"]), ValueError, "got -2"),
        ((["a"], [0], ["x", "y", "x"]), ValueError, "'x' 2 times"),
        ((["a"], ["x"], ["x"]), TypeError, "integer targets"),
        ((["a"], [0.0], ["x"]), TypeError, "integer targets"),
        (("a", [0], ["x"]), TypeError, "a list of paths"),
        ((["a"], [0], "x"), TypeError, "a list of classes"),
    ],
)
def test_construction_errors(arguments: tuple, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Samples(*arguments)


# Splitting


@given(
    sizes=st.lists(st.integers(0, 30), min_size=1, max_size=6).filter(lambda sizes: sum(sizes) >= 4),
    fraction=st.floats(0.2, 0.8),
    seed=st.integers(0, 99),
)
def test_split_is_a_partition(sizes: list[int], fraction: float, seed: int) -> None:
    samples = many(*sizes)
    train, valid = samples.split(fraction, seed)
    assert sorted(train.paths + valid.paths) == sorted(samples.paths)
    assert abs(len(valid) - fraction * len(samples)) <= 0.5
    assert train.classes == valid.classes == samples.classes
    for half in (train, valid):
        rows = [int(path.removesuffix(".jpg")) for path in half.paths]
        assert rows == sorted(rows)
        assert half == samples.subset(rows)


def test_split_depends_on_the_seed_alone() -> None:
    samples = many(50, 50)
    literal = [1, 7, 9, 12, 19]  # r = random.Random(42); u = [r.random() for _ in range(25)]: rows of the five lowest
    assert [int(path[:-4]) for path in many(25).split()[1].paths] == literal
    assert samples.split(seed=1) == samples.split(seed=1) != samples.split(seed=2)


def test_split_is_the_same_in_every_process() -> None:
    made = "Samples(map(str, range(40)), [0, 1] * 20, ['a', 'b']).split(stratify=True)[1]"
    program = f"from fastaug import Samples; print({made}.paths)"
    environment = {"PYTHONHASHSEED": "1", "OMP_NUM_THREADS": "1"}
    run = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    here = Samples(map(str, range(40)), [0, 1] * 20, ["a", "b"]).split(stratify=True)[1]
    assert run.stdout.strip() == str(here.paths)


def test_split_by_path() -> None:
    train, valid = many(3, 3).split(by=lambda path: path in ("1.jpg", "5.jpg"))
    assert valid.paths == ["1.jpg", "5.jpg"]
    assert train.targets == [0, 0, 1, 1]


@given(sizes=st.lists(st.integers(1, 40), min_size=2, max_size=12), fraction=st.floats(0.05, 0.95))
def test_split_stratified(sizes: list[int], fraction: float) -> None:
    samples = many(*sizes)
    if all(size == 1 for size in sizes):
        return
    train, valid = samples.split(fraction, stratify=True)
    in_train, in_valid = Counter(train.targets), Counter(valid.targets)
    for k, size in enumerate(sizes):
        assert in_train[k] + in_valid[k] == size
        assert in_train[k] >= 1
        assert in_valid[k] >= (size >= 2)
        assert abs(in_valid[k] - size * fraction) < 1 or 1 in (in_train[k], in_valid[k])


def test_split_stratified_reaches_the_fraction_and_is_seeded() -> None:
    samples = many(*[7] * 37)  # 1.4 of each class wanted: some give one, some two, 52 in all
    train, valid = samples.split(stratify=True)
    assert len(valid) == 52
    assert set(Counter(valid.targets).values()) == {1, 2}
    assert (train, valid) == samples.split(stratify=True)
    assert valid != samples.split(stratify=True, seed=1)[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"valid_fraction": 0}, "between 0 and 1"),
        ({"valid_fraction": 1.0}, "between 0 and 1"),
        ({"valid_fraction": 0.01}, "got 10 for training and 0 for validation"),
        ({"by": lambda path: True}, "got 0 for training.*Change by="),
        ({"by": lambda path: True, "stratify": True}, "got both"),
    ],
)
def test_split_errors(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        many(10).split(**arguments)
