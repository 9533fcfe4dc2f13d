"""Splitting by group, and the same file on both sides."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastaug.samples.samples import Samples
from fastaug.samples.sources import Member, MemberPaths


def many(number: int, classes: int = 2) -> Samples:
    return Samples([f"{i}.jpg" for i in range(number)], [i % classes for i in range(number)], list("abc"[:classes]))


# Groups


@given(
    groups=st.lists(st.integers(0, 7), min_size=2, max_size=60).filter(lambda groups: len(set(groups)) > 1),
    fraction=st.floats(0.02, 0.98),
    seed=st.integers(0, 99),
)
def test_a_group_is_on_one_side(groups: list[int], fraction: float, seed: int) -> None:
    samples = many(len(groups))
    train, valid = samples.split(fraction, seed, groups=groups)
    assert sorted(train.paths + valid.paths) == sorted(samples.paths)
    of_path = dict(zip(samples.paths, groups, strict=True))
    in_train, in_valid = ({of_path[path] for path in half.paths} for half in (train, valid))
    assert not in_train & in_valid
    assert in_train
    assert in_valid
    total = int(len(groups) * fraction + 0.5)
    if len(in_valid) > 1:
        assert len(valid) - total < max(map(groups.count, in_valid)) / 2, "each brought it nearer"
    if len(in_train) > 1 and len(valid) < total:
        nearer = [group for group in in_train if groups.count(group) < 2 * (total - len(valid))]
        assert not nearer, "no other group would bring it nearer"
    assert (train, valid) == samples.split(fraction, seed, groups=lambda path: of_path[path])


@given(number=st.integers(4, 50), fraction=st.floats(0.2, 0.8), seed=st.integers(0, 99))
def test_groups_of_one_are_divided_as_samples_are(number: int, fraction: float, seed: int) -> None:
    samples = many(number)
    assert samples.split(fraction, seed, groups=range(number)) == samples.split(fraction, seed)


def test_a_large_group_does_not_fill_validation() -> None:
    samples, groups = many(100), ["large"] * 70 + [str(i // 3) for i in range(30)]
    for seed in range(10):
        valid = samples.split(0.2, seed, groups=groups)[1]
        assert len(valid) in (19, 20, 21)
    assert len({tuple(samples.split(0.2, seed, groups=groups)[1].paths) for seed in range(10)}) > 5


def test_every_small_group_is_drawn_alike() -> None:
    samples, groups = many(40), [i // 4 for i in range(40)]
    drawn = np.zeros(10)
    for seed in range(300):
        drawn[[int(path[:-4]) // 4 for path in samples.split(0.2, seed, groups=groups)[1].paths[::4]]] += 1
    assert drawn.sum() == 600
    assert abs(drawn - 60).max() < 4 * (300 * 0.2 * 0.8) ** 0.5


@pytest.mark.parametrize(
    "groups",
    [
        ["x", "x", "y", "y"],
        np.array([3, 3, 4, 4]),
        torch.tensor([3, 3, 4, 4]),
        [(0, 1), (0, 1), (0, 2), (0, 2)],
        lambda path: int(path[0]) // 2,
    ],
)
def test_groups_may_be_anything_that_can_be_compared(groups: Any) -> None:
    train, valid = many(4).split(0.5, groups=groups)
    assert {tuple(train.paths), tuple(valid.paths)} == {("0.jpg", "1.jpg"), ("2.jpg", "3.jpg")}


def test_two_groups_are_one_on_each_side_whatever_the_fraction() -> None:
    for fraction, expected in ((0.01, 3), (0.99, 7)):
        for seed in range(4):
            assert len(many(10).split(fraction, seed, groups=[0] * 3 + [1] * 7)[1]) == expected


@pytest.mark.parametrize(
    ("groups", "error", "message"),
    [
        ([1, 2, 3], ValueError, "a group for each of the 4 samples, got 3"),
        ("abcd", ValueError, "a group for each"),
        ([1, 2, None, 3], ValueError, r"got None for '2\.jpg' \(row 2\)"),
        ([1, 2, float("nan"), 3], ValueError, r"got nan for '2\.jpg'"),
        ([1, 1, 1, 1], ValueError, "two groups or more, got 1 alone"),
        ([1, 2, [3], 4], TypeError, r"got \[3\] for '2\.jpg'"),
    ],
)
def test_groups_that_are_none(groups: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        many(4).split(groups=groups)


def test_groups_by_and_stratify_decide_alone() -> None:
    with pytest.raises(ValueError, match=r"either groups= or stratify=True, got both"):
        many(4).split(groups=[0, 0, 1, 1], stratify=True)
    with pytest.raises(ValueError, match=r"either by= or groups= or stratify=True, got all"):
        many(4).split(groups=[0, 0, 1, 1], stratify=True, by=bool)


def test_a_file_is_in_one_group() -> None:
    samples = Samples(["a.jpg", "b.jpg", "a.jpg"], [0, 0, 0], ["x"])
    with pytest.raises(ValueError, match=r"each file in one group, got 'a\.jpg' in 1 and in 2 \(rows 0 and 2\)"):
        samples.split(groups=[1, 1, 2])
    train, valid = samples.split(0.5, groups=[1, 2, 1])
    assert {tuple(train.paths), tuple(valid.paths)} == {("a.jpg", "a.jpg"), ("b.jpg",)}


def test_groups_of_members_of_archives() -> None:
    paths = MemberPaths.of([Member("a.tar", f"{i % 3}/{i}.jpg", 512 * i, 9) for i in range(9)])
    train, valid = Samples(paths, [0] * 9, ["x"]).split(0.3, groups=lambda path: path.split("/")[2])
    assert (len(train), len(valid)) == (6, 3)
    assert len({path.split("/")[2] for path in valid.paths}) == 1


def test_only_classes_are_stratified() -> None:
    for targets in ([[0], [1], [], [0]], [0.5, 1.5, 2.5, 3.5]):
        with pytest.raises(ValueError, match=r"one class a photo for stratify=True, got targets of kind"):
            Samples(list("abcd"), targets, None if isinstance(targets[0], float) else ["x", "y"]).split(stratify=True)
    valid = Samples(map(str, range(8)), [-1, 0] * 4, ["x"]).split(0.25, stratify=True)[1]
    assert sorted(valid.targets) == [-1, 0], "none of the classes is one more"


# The same file on both sides


@pytest.mark.parametrize("arguments", [{}, {"stratify": True}, {"groups": [i % 5 for i in range(10)] * 2}])
@pytest.mark.parametrize("spelled", ["{}.jpg", "./{}.jpg", "x/../{}.jpg", ".//{}.jpg"])
def test_a_file_is_on_one_side_however_it_is_spelled(spelled: str, arguments: dict[str, Any]) -> None:
    paths = [f"{i}.jpg" for i in range(10)] + [spelled.format(i) for i in range(10)]
    train, valid = Samples(paths, [i % 2 for i in range(10)] * 2, ["a", "b"]).split(0.2, **arguments)
    assert len(valid) == 4
    assert not {path[-5:] for path in train.paths} & {path[-5:] for path in valid.paths}


def test_by_that_divides_a_file_says_so() -> None:
    samples = Samples([f"{i % 4}.jpg" for i in range(8)], [0] * 8, ["a"])
    row = iter(range(8))
    with pytest.warns(
        UserWarning, match=r"split: 2 of 3 validation files are in training too, the first '1\.jpg'.*by="
    ):
        valid = samples.split(by=lambda path: next(row) in (0, 1, 2, 4))[1]
    assert valid.paths == ["0.jpg", "1.jpg", "2.jpg", "0.jpg"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        samples.split(by=lambda path: path == "1.jpg")


def files(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_folders_that_share_files_by_links_are_named(tmp_path: Path) -> None:
    files(tmp_path, "train/cat/1.jpg", "train/cat/2.jpg", "train/dog/1.jpg", "val/cat/1.jpg", "val/dog/9.jpg")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Samples.from_split_folders(tmp_path)
    (tmp_path / "val/cat/3.jpg").symlink_to(tmp_path / "train/cat/2.jpg")
    with pytest.warns(UserWarning, match=r"1 of 3 validation files are in training too, the first '.*val/cat/3\.jpg'"):
        Samples.from_split_folders(tmp_path)


def test_a_linked_folder_on_both_sides_is_named(tmp_path: Path) -> None:
    files(tmp_path, "train/cat/1.jpg", "train/cat/2.jpg", "val/dog/9.jpg", "train/dog/8.jpg")
    (tmp_path / "val/cat").symlink_to(tmp_path / "train/cat", target_is_directory=True)
    with pytest.warns(UserWarning, match=r"from_split_folders: 2 of 3 validation files .*Take them out of 'train' or"):
        Samples.from_split_folders(tmp_path)
    with pytest.warns(UserWarning, match=r"3 of 3 validation files"):
        Samples.from_split_folders(tmp_path, valid="train")


def test_an_absolute_path_and_a_relative_one_are_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = [f"{i}.jpg" for i in range(10)]
    for seed in range(5):
        paths = [*names, *(str(tmp_path / name) for name in names)]
        train, valid = Samples(paths, [0] * 20, ["a"]).split(0.3, seed=seed)
        sides = [{Path(path).name for path in half.paths} for half in (train, valid)]
        assert not sides[0] & sides[1]
        assert len(valid) == 6
