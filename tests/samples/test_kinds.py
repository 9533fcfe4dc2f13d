"""Kinds of targets: which one was given, how it is held, counted, taken and described."""

from __future__ import annotations

import pickle
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastaug.samples.kinds import Chosen
from fastaug.samples.samples import Samples
from fastaug.samples.targets import MaskFiles, Objects

PETS = ["cat", "dog", "fish"]


def paths(number: int) -> list[str]:
    return [f"{i}.jpg" for i in range(number)]


def objects(*counts: int, **more: Any) -> Objects:
    """This many boxes in each photo, no two alike, with crowds, keypoints and sizes."""
    total = sum(counts)
    x0 = np.arange(total, dtype=np.float32)
    columns: dict[str, Any] = {
        "boxes": np.stack([x0, x0 / 2, x0 + 1, x0 + 2], 1),
        "labels": np.arange(total) % len(PETS),
        "first": np.cumsum([0, *counts]),
        "crowd": np.arange(total) % 5 == 4,
        "keypoints": np.arange(total * 6, dtype=np.float32).reshape(total, 2, 3),
        "sizes": np.arange(2 * len(counts)).reshape(-1, 2),
        "pairs": [(0, 1)],
    }
    return Objects(**columns | more)


def every_kind() -> dict[str, Samples]:
    """Four photos of each kind."""
    return {
        "class": Samples(paths(4), [2, -1, 0, 2], PETS),
        "labels": Samples(paths(4), [["dog", "cat"], [], [2], ["cat"]], PETS),
        "numbers": Samples(paths(4), np.array([[0.5, 1], [2, 3], [4, 5], [-1, 0]], np.float64), ["age", "weight"]),
        "none": Samples(paths(4), None),
        "mask": Samples(paths(4), MaskFiles([f"{i}.png" for i in range(4)])),
        "objects": Samples(paths(4), objects(2, 0, 4, 0), PETS),
    }


KINDS = list(every_kind())


# Which kind it is


def test_none_of_the_classes() -> None:
    samples = Samples(paths(3), [0, -1, 1], ["a", "b"])
    assert (samples.kind, samples.targets) == ("class", [0, -1, 1])
    assert samples.counts() == {"a": 1, "b": 1}
    assert samples.describe().splitlines()[-1].split() == ["none", "of", "these", "1"]


@pytest.mark.parametrize(
    "targets",
    [
        [["dog", "cat"], [], ["fish"]],
        [[1, 0], [], [2]],
        [{"cat", "dog"}, (), ("fish", "fish")],
        [[1, "cat"], [], [np.int64(2)]],
        [[1, 1, 0], [0, 0, 0], [0, 0, 1]],
        [[True, True, False], [False] * 3, [False, False, True]],
        np.array([[1, 1, 0], [0, 0, 0], [0, 0, 1]]),
        np.array([[1, 1, 0], [0, 0, 0], [0, 0, 1]], bool),
        torch.tensor([[1, 1, 0], [0, 0, 0], [0, 0, 1]], dtype=torch.uint8),
        torch.tensor([[1.0, 1, 0], [0, 0, 0], [0, 0, 1]]),
        [torch.tensor([1, 1, 0]), torch.tensor([0, 0, 0]), torch.tensor([0, 0, 1])],
        pd.Series([["dog", "cat"], [], ["fish"]]),
        (row for row in [["dog", "cat"], [], ["fish"]]),
    ],
    ids=lambda given: type(given).__name__,
)
def test_several_labels_a_photo(targets: Any) -> None:
    samples = Samples(paths(3), targets, PETS)
    assert samples.kind == "labels"
    assert samples.targets == [(0, 1), (), (2,)]
    assert all(type(label) is int for row in samples.targets for label in row)
    assert samples.counts() == {"cat": 1, "dog": 1, "fish": 1}


def test_classes_of_names_are_found() -> None:
    samples = Samples(paths(3), [["dog", "cat"], [], ["dog"]])
    assert (samples.targets, samples.classes) == ([(0, 1), (), (1,)], ["cat", "dog"])


@pytest.mark.parametrize(
    "targets",
    [
        [0.5, 2.0],
        np.array([0.5, 2]),
        torch.tensor([0.5, 2]),
        [0.5, 2],
        pd.Series([0.5, 2]),
        [np.float32(0.5), np.int8(2)],
    ],
    ids=lambda given: type(given).__name__,
)
def test_a_number_a_photo(targets: Any) -> None:
    samples = Samples(paths(2), targets)
    assert (samples.kind, samples.classes) == ("numbers", [])
    assert samples.targets.dtype == np.float32
    assert samples.targets.tolist() == [0.5, 2]
    assert samples[0] == ("0.jpg", 0.5)


@pytest.mark.parametrize(
    "targets", [[[0.5, 2], [1, 1]], np.array([[0.5, 2], [1, 1]]), torch.tensor([[0.5, 2], [1, 1]])]
)
@pytest.mark.parametrize("names", [None, ["age", "weight"]])
def test_numbers_a_photo(targets: Any, names: list[str] | None) -> None:
    samples = Samples(paths(2), targets, names)
    assert (samples.kind, samples.classes) == ("numbers", names or [])
    assert samples.targets.tolist() == [[0.5, 2], [1, 1]]


def test_whole_floats_without_classes_are_numbers() -> None:
    assert Samples(paths(2), [1.0, 2.0]).kind == "numbers"
    assert Samples(paths(2), [[0.0, 1.0], [1.0, 1.0]]).kind == "numbers"
    assert Samples(paths(2), [[0.0, 1.0], [1.0, 1.0]], ["a", "b"]).kind == "labels"


def test_numbers_are_copied() -> None:
    given = np.zeros(2, np.float32)
    samples = Samples(paths(2), given)
    given[:] = 1
    assert samples.targets.tolist() == [0, 0]


def test_integers_of_any_library_are_classes() -> None:
    for targets in (np.array([0, 1], np.uint8), torch.tensor([0, 1]), pd.Series([0, 1]), range(2), iter([0, 1])):
        samples = Samples(paths(2), targets, PETS)
        assert (samples.kind, samples.targets) == ("class", [0, 1])
        assert all(type(target) is int for target in samples.targets)


def test_truths_of_numpy_are_classes() -> None:
    samples = Samples(paths(2), [np.True_, np.False_], ["no", "yes"])
    assert (samples.kind, samples.targets) == ("class", [1, 0])


@pytest.mark.parametrize(
    ("targets", "classes", "error", "message"),
    [
        ([np.True_, np.False_], None, ValueError, "expected classes"),
        ([0, 1], None, ValueError, "expected classes.*got none.*floats"),
        ([[0], [1]], None, ValueError, "expected classes"),
        ([["cat"], ["bird"]], PETS, ValueError, r"got 'bird' for '1\.jpg' \(row 1\)\. Add the class"),
        ([["cat"], [3]], PETS, ValueError, r"0\.\.2, got 3 for '1\.jpg'"),
        ([["cat"], [-1]], PETS, ValueError, "got -1 for"),
        ([["cat"], [None]], PETS, TypeError, r"got None for '1\.jpg' \(row 1\)"),
        ([["cat"], "dog"], PETS, TypeError, "expected integer targets"),
        ([["cat"], 1], PETS, TypeError, "expected integer targets"),
        (["cat", "dog"], PETS, TypeError, "lists of names where a photo has several"),
        ([["cat"]], PETS, ValueError, "2 paths and 1 targets"),
        (np.zeros((3, 3)), PETS, ValueError, "2 paths and 3 targets"),
        (np.zeros((2, 4), int), PETS, ValueError, r"a column for each of the 3 classes, got targets \[2, 4\]"),
        (np.array([[0, 1, 0], [0, 2, 0]]), PETS, ValueError, r"got 2 for '1\.jpg' \(row 1\) and 'dog'.*floats"),
        (np.array([[0, 1], [0, 2]]), None, ValueError, "expected classes.*floats"),
        (np.zeros((2, 3, 3)), None, ValueError, r"\[N\] or \[N, K\], got \[2, 3, 3\].*from_folders.*from_coco"),
        (np.zeros((2, 0)), None, ValueError, r"got \[2, 0\]"),
        ([[0.5, 1.0], [0.5]], None, ValueError, r"expected 2 numbers .* got 1 for '1\.jpg' \(row 1\)"),
        ([0.5, float("nan")], None, ValueError, r"expected finite numbers, got nan for '1\.jpg' \(row 1\)"),
        ([[0.5, 1], [1, 1e39]], None, ValueError, r"finite numbers, got 1e\+39 for '1\.jpg'"),
        ([0.5, 1.5], PETS, TypeError, "expected integer targets.*no classes"),
        ([[0.5, 1.5], [1, 2]], ["a"], ValueError, "a column for each of the 1 classes"),
        (np.array(0.5), None, ValueError, r"got \[\]"),
        (3, PETS, TypeError, "a target for each path, got 3"),
        (torch.tensor(3), PETS, ValueError, r"got \[\]"),
        (MaskFiles(["a.png"]), None, ValueError, "2 paths and 1 targets"),
        (objects(1, 1), ["a"], ValueError, r"labels 0\.\.0 for 1 classes, got 1 \(box 1\)"),
        (objects(1, 1), None, ValueError, "expected classes"),
    ],
)
def test_what_is_no_target_is_refused(targets: Any, classes: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Samples(paths(2), targets, classes)


# What is the same for every kind


@pytest.mark.parametrize("kind", KINDS)
def test_a_subset_keeps_the_kind(kind: str) -> None:
    samples = every_kind()[kind]
    taken = samples.subset([3, 0, 0])
    assert (samples.kind, taken.kind, taken.classes) == (kind, kind, samples.classes)
    assert taken.paths == ["3.jpg", "0.jpg", "0.jpg"]
    for row, of in enumerate((3, 0, 0)):
        assert str(taken[row][1]) == str(samples[of][1])
    assert type(taken.targets) is type(samples.targets)
    assert taken == samples.subset([3, 0, 0])
    assert len(samples.subset([])) == 0
    assert samples.subset([]).kind == kind


def test_a_subset_of_labels_is_not_looked_at_again() -> None:
    samples = Samples(paths(3), [["a", "b"], ["a", "b"], []], ["a", "b"])
    assert samples.subset([0, 1]).targets == [(0, 1), (0, 1)], "not rows of 0 and 1"


@pytest.mark.parametrize("kind", KINDS)
def test_split_keeps_the_kind(kind: str) -> None:
    samples = every_kind()[kind]
    train, valid = samples.split(0.25)
    assert (train.kind, valid.kind, len(train), len(valid)) == (kind, kind, 3, 1)
    assert samples.subset([int(path[0]) for path in train.paths]) == train


@pytest.mark.parametrize("kind", KINDS)
def test_equality_and_checksum_reject_what_differs(kind: str) -> None:
    samples = every_kind()[kind]
    assert samples == every_kind()[kind] == pickle.loads(pickle.dumps(samples))
    assert samples.targets_crc32() == every_kind()[kind].targets_crc32()
    for other in every_kind():
        assert (samples == every_kind()[other]) == (other == kind)
    if kind != "none":
        taken = samples.subset([3, 2, 1, 0])
        turned = Samples._of(samples.paths, Chosen(samples.kind, taken.targets, taken.classes))
        assert turned != samples
        assert turned.targets_crc32() != samples.targets_crc32()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([["cat"], ["dog"]], [["cat", "dog"], []]),
        ([["cat"], []], [[], ["cat"]]),
        (np.array([1.0, 2.0]), np.array([1.0, 2.0001])),
        (MaskFiles(["a.png", "b.png"]), MaskFiles(["a.png", "b.png"], upright=True)),
        (objects(1, 1), objects(1, 1, relative=True)),
        (objects(1, 1), objects(1, 1, pairs=[])),
        (objects(1, 1), objects(1, 1, sizes=None)),
        (objects(1, 1), objects(1, 1, crowd=None)),
        (objects(1, 1), objects(1, 1, keypoints=None, pairs=[])),
        (objects(1, 1), objects(2, 0)),
    ],
)
def test_checksum_and_equality_see_small_differences(one: Any, other: Any) -> None:
    samples = [
        Samples(paths(2), targets, None if isinstance(targets, np.ndarray) else PETS) for targets in (one, other)
    ]
    assert samples[0] != samples[1]
    assert samples[0].targets_crc32() != samples[1].targets_crc32()


def test_the_checksum_of_classes_is_that_of_their_64_bits() -> None:
    assert Samples(paths(3), [2, 0, 1], PETS).targets_crc32() == zlib.crc32(np.array([2, 0, 1], np.int64).tobytes())


def test_the_checksum_of_masks_is_of_their_names() -> None:
    here, there, other = (
        Samples(paths(2), MaskFiles([f"{folder}/{name}.png" for name in names]))
        for folder, names in (("/data/m", "ab"), ("/elsewhere", "ab"), ("/data/m", "ac"))
    )
    assert here.targets_crc32() == there.targets_crc32() != other.targets_crc32()


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("class", "Samples(4 images, 3 classes: cat, dog, fish)"),
        ("labels", "Samples(4 images, 3 labels, 1.0 per image: cat, dog, fish)"),
        ("numbers", "Samples(4 images, 2 numbers each: age, weight)"),
        ("none", "Samples(4 images, no targets)"),
        ("mask", "Samples(4 images, a mask each)"),
        ("objects", "Samples(4 images, 6 boxes with 2 keypoints of 3 classes: cat, dog, fish)"),
    ],
)
def test_every_kind_is_described(kind: str, text: str) -> None:
    samples = every_kind()[kind]
    assert repr(samples) == text
    assert samples.describe().splitlines()[0] == text
    table = samples._repr_html_()
    assert table.startswith("<table>")
    for line in samples.describe().splitlines()[1:]:
        assert line.split()[-1] in table


def test_what_is_described() -> None:
    described = {kind: samples.describe().splitlines()[1:] for kind, samples in every_kind().items()}
    assert described["labels"] == [
        "cat                  2", "dog                  1", "fish                 1", "none of these        1",
    ]  # fmt: skip
    assert [line.split() for line in described["numbers"]] == [
        ["age", "-1", "1.375", "4"],
        ["weight", "0", "2.25", "5"],
    ]
    assert [line.split()[-2:] for line in described["objects"]] == [["2", "2"], ["2", "2"], ["2", "1"], ["these", "2"]]
    assert described["none"] == described["mask"] == []


def test_counts_of_every_kind() -> None:
    counts = {kind: list(samples.counts().values()) for kind, samples in every_kind().items()}
    assert counts == {
        "class": [1, 0, 2], "labels": [2, 1, 1], "numbers": [], "none": [], "mask": [], "objects": [2, 2, 2],
    }  # fmt: skip


def test_an_empty_data_set_of_each_kind_is_described() -> None:
    for samples in every_kind().values():
        assert samples.subset([]).describe()
        assert samples.subset([])._repr_html_()
        assert isinstance(samples.subset([]).targets_crc32(), int)


# Objects


counts_of = st.lists(st.integers(0, 4), max_size=8)


@given(counts=counts_of, data=st.data())
def test_taking_photos_takes_their_objects(counts: list[int], data: st.DataObject) -> None:
    found = objects(*counts)
    rows = data.draw(st.lists(st.integers(-len(counts), len(counts) - 1), max_size=12)) if counts else []
    taken = found.take(rows)
    assert len(taken) == len(rows)
    assert taken.first[-1] == len(taken.boxes) == sum(counts[row] for row in rows)
    for row, of in zip(taken, rows, strict=True):
        for got, expected in zip(row, found[of], strict=True):
            np.testing.assert_array_equal(got, expected)
    again = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=6)) if rows else []
    assert taken.take(again) == found.take([rows[row] for row in again])


@given(counts=counts_of, seed=st.integers(0, 9))
def test_objects_are_gathered_from_any_order(counts: list[int], seed: int) -> None:
    expected = objects(*counts)
    order = np.random.default_rng(seed).permutation(len(expected.boxes))
    mixed = Objects.gathered(
        len(counts),
        expected.photo()[order],
        expected.boxes[order],
        expected.labels[order],
        crowd=expected.crowd[order],
        keypoints=expected.keypoints[order],
        sizes=expected.sizes,
        pairs=[(0, 1)],
    )
    for photo, of in enumerate(mixed):
        rows = [row for row in order if expected.photo()[row] == photo]
        np.testing.assert_array_equal(of.boxes, expected.boxes[rows])
        np.testing.assert_array_equal(of.keypoints, expected.keypoints[rows])
        np.testing.assert_array_equal(of.crowd, expected.crowd[rows])
        np.testing.assert_array_equal(of.labels, expected.labels[rows])


def test_one_photos_objects() -> None:
    of = objects(1, 2, sizes=np.array([[480, 640], [0, 0]]))
    assert of[0].size == (480, 640)
    assert of[-1].size is None
    assert of[1].boxes.shape == (2, 4)
    assert len(list(of)) == 2
    assert repr(of) == "Objects(3 boxes of 2 photos, 2 keypoints each)"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxes": np.zeros((2, 3))}, r"boxes \[2, 4\] for 2 boxes of 2 photos, got \[2, 3\]"),
        ({"labels": [0]}, r"labels \[2\] .*got \[1\]"),
        ({"crowd": [True]}, r"crowd \[2\]"),
        ({"keypoints": np.zeros((2, 3))}, "keypoints .*got"),
        ({"sizes": np.zeros((3, 2))}, r"sizes \[2, 2\]"),
        ({"first": [0, 2, 1]}, "first to rise from 0 to 2"),
        ({"first": [0, 2, 1, 2]}, "first to rise|sizes"),
        ({"boxes": [[0, 0, 1, 1], [0, 0, np.nan, 1]]}, r"finite boxes.*row 1"),
        ({"boxes": [[0, 0, 1, 1], [2, 0, 2, 1]]}, r"x0 < x1 .*got 1 others.*row 1"),
        ({"pairs": [(0, 2)]}, "pairs of the 2 keypoints"),
        ({"keypoints": None}, "pairs of the 0 keypoints"),
    ],
)
def test_objects_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        objects(1, 1, **change)


# Lists


def test_masks_and_objects_are_not_written_as_a_list(tmp_path: Path) -> None:
    for kind in ("mask", "objects"):
        with pytest.raises(ValueError, match="to_csv: expected targets that are values"):
            every_kind()[kind].to_csv(tmp_path / "t.csv")
    assert not (tmp_path / "t.csv").exists()
