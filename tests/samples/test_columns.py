"""Lists with targets of every kind: one class, several labels, numbers, none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastaug.samples.samples import Samples


def table(folder: Path, text: str) -> Path:
    path = folder / "t.csv"
    path.write_text(text, encoding="utf-8")
    return path


# Several labels in one column


def test_several_labels_in_one_column(tmp_path: Path) -> None:
    path = table(tmp_path, "file,label\na.jpg,haze primary\nb.jpg,\nc.jpg,primary  clear primary\n")
    samples = Samples.from_csv(path, label_sep=" ")
    assert (samples.kind, samples.classes) == ("labels", ["clear", "haze", "primary"])
    assert samples.targets == [(1, 2), (), (0, 2)]


def test_labels_in_one_column_hold_spaces(tmp_path: Path) -> None:
    path = table(tmp_path, 'file,label\na.jpg,"big cat, dog"\nb.jpg,"dog,"\n')
    samples = Samples.from_csv(path, label_sep=",")
    assert (samples.targets, samples.classes) == ([(0, 1), (1,)], ["big cat", "dog"])


def test_labels_that_are_numbers_are_sorted_as_numbers(tmp_path: Path) -> None:
    samples = Samples.from_csv(table(tmp_path, "file,label\na.jpg,10|9\nb.jpg,\n"), label_sep="|")
    assert (samples.targets, samples.classes) == ([(0, 1), ()], ["9", "10"])


def test_one_label_or_none(tmp_path: Path) -> None:
    path = table(tmp_path, "file,label\na.jpg,big cat\nb.jpg,\n")
    assert Samples.from_csv(path, kind="labels") == Samples(["a.jpg", "b.jpg"], [["big cat"], []], ["big cat"])
    assert Samples.from_csv(path, kind="class") == Samples(["a.jpg", "b.jpg"], [0, -1], ["big cat"])
    with pytest.raises(ValueError, match=r"expected a 'label' in line 3 .*Fill in"):
        Samples.from_csv(path)


# Several columns


@pytest.mark.parametrize("values", ["0101", "0.0,1.0,0.0,1.0", "False,True,False,True", "false,TRUE,0,1"])
def test_columns_of_0_and_1_are_labels(tmp_path: Path, values: str) -> None:
    a, b, c, d = values.split(",") if "," in values else values
    path = table(tmp_path, f"dog,file,id,cat\n{a},a.jpg,7,{b}\n{c},b.jpg,8,{d}\n0,c.jpg,9,0\n")
    samples = Samples.from_csv(path, target=["cat", "dog"])
    assert (samples.kind, samples.classes) == ("labels", ["cat", "dog"])
    assert samples.targets == [(0,), (0,), ()]


def test_columns_of_other_numbers_are_numbers(tmp_path: Path) -> None:
    path = table(tmp_path, "file,x,y\na.jpg,0,1\nb.jpg, -2.5 ,1e2\n")
    samples = Samples.from_csv(path, target=["y", "x"])
    assert (samples.kind, samples.classes) == ("numbers", ["y", "x"])
    assert samples.targets.dtype == np.float32
    assert samples.targets.tolist() == [[1, 0], [100, -2.5]]


def test_columns_of_0_and_1_may_be_numbers(tmp_path: Path) -> None:
    path = table(tmp_path, "file,x,y\na.jpg,0,1\nb.jpg,1,1\n")
    samples = Samples.from_csv(path, target=["x", "y"], kind="numbers")
    assert (samples.kind, samples.targets.tolist()) == ("numbers", [[0, 1], [1, 1]])


# Numbers in one column


def test_a_column_of_fractions_is_numbers(tmp_path: Path) -> None:
    samples = Samples.from_csv(table(tmp_path, "file,label\na.jpg,0.5\nb.jpg,2\nc.jpg,-1e-3\n"))
    assert (samples.kind, samples.classes) == ("numbers", [])
    assert samples.targets.tolist() == [0.5, 2, np.float32(-1e-3)]


@pytest.mark.parametrize("values", [("3", "12"), ("1.0", "0.0"), ("1e2", "5")])
def test_a_column_of_whole_numbers_is_classes_unless_it_is_said(tmp_path: Path, values: tuple[str, str]) -> None:
    path = table(tmp_path, "file,label\na.jpg,{}\nb.jpg,{}\n".format(*values))
    assert Samples.from_csv(path).kind == "class"
    samples = Samples.from_csv(path, kind="numbers")
    assert (samples.kind, samples.targets.tolist()) == ("numbers", list(map(float, values)))


def test_no_targets(tmp_path: Path) -> None:
    samples = Samples.from_csv(table(tmp_path, "id;file\n1;a.jpg\n2;b.jpg\n1;a.jpg\n"), target=None)
    assert samples == Samples(["a.jpg", "b.jpg", "a.jpg"], None)


# Errors say where, what was expected, what came, what to do


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        (
            "file,label\na.jpg,0.5\nb.jpg,n/a\n",
            {},
            r"numbers or names .*'label' .*both, '0\.5' in line 2 and 'n/a' in line 3.*kind=",
        ),
        ("file,label\na.jpg,0.5\nb.jpg,nan\n", {}, r"'nan' in line 3"),
        (
            "file,label\na.jpg,0.5\nb.jpg,1e39\n",
            {},
            r"expected a number in line 3 of .*t\.csv', column 'label', got '1e39'",
        ),
        ("file,label\na.jpg,1\nb.jpg,x\n", {"kind": "numbers"}, r"a number in line 3 .*column 'label', got 'x'"),
        ("file,label\na.jpg,1\n\nb.jpg,\n", {"kind": "numbers"}, r"expected a 'label' in line 4 .*Fill in"),
        ("file,label\na.jpg,x\nb.jpg,\n", {}, r"expected a 'label' in line 3 .*or say kind=.class. if .* none of the"),
        ("file,label\na.jpg,\nb.jpg, \n", {"kind": "class"}, "expected classes in column 'label' .*got none"),
        ("file,x,y\na.jpg,0,1\nb.jpg,1,cat\n", {"target": ["x", "y"]}, r"a number in line 3 .*column 'y', got 'cat'"),
        ("file,x,y\na.jpg,0,1\nb.jpg,,1\n", {"target": ["x", "y"]}, r"expected a 'x' in line 3"),
        ("file,x,y\na.jpg,0,1\nb.jpg,,1\n", {"target": ["x", "y"], "kind": "labels"}, r"expected a 'x' in line 3"),
        (
            "file,x,y\na.jpg,0,1\nb.jpg,1,-1\n",
            {"target": ["x", "y"], "kind": "labels"},
            r"expected 0 or 1 in line 3 .*column 'y', got '-1'",
        ),
        ("file,x\na.jpg,0\n", {"target": ["x", "y"]}, r"column 'y' in .*got \['file', 'x'\]"),
        ("file,x\na.jpg,0\n", {"target": ["x", "x"]}, "'x' several times"),
        ("file,x\na.jpg,0\n", {"target": []}, "an empty list"),
        ("file,x\na.jpg,0\n", {"target": ["x"], "kind": "class"}, "one column of classes"),
        ("file,x\na.jpg,0\n", {"target": ["x"], "label_sep": " "}, "label_sep"),
        ("file,x\na.jpg,0\n", {"target": "x", "label_sep": ""}, "label_sep"),
        ("file,x\na.jpg,0\n", {"target": "x", "label_sep": " ", "kind": "numbers"}, "label_sep"),
        ("file,x\na.jpg,0\n", {"target": None, "kind": "numbers"}, "target=None"),
        ("file,x\na.jpg,0\n", {"target": "x", "kind": "number"}, "'class', 'labels', 'numbers' or None, got 'number'"),
        ("file,label\na.jpg,\nb.jpg, \n", {"label_sep": " "}, "expected labels in column 'label'"),
        (
            "file,label\na.jpg,0.5\na.jpg,1.5\n",
            {},
            r"one target for each file .*'0\.5' and as '1\.5' \(lines 2 and 3\)",
        ),
        ("file,label\na.jpg,x y\na.jpg,x\n", {"label_sep": " "}, "one target for each file .*'x y' and as 'x'"),
        ("file,x,y\na.jpg,0,1\na.jpg,1,1\n", {"target": ["x", "y"]}, "'0, 1' and as '1, 1'"),
    ],
)
def test_errors(tmp_path: Path, text: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Samples.from_csv(table(tmp_path, text), **arguments)


def test_the_same_labels_in_another_order_are_the_same(tmp_path: Path) -> None:
    assert len(Samples.from_csv(table(tmp_path, "file,label\na.jpg,x y\na.jpg,y x\n"), label_sep=" ")) == 2


# There and back


there_and_back = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
numbers = st.floats(width=32, allow_nan=False, allow_infinity=False)
words = st.text("ab cé,|\"'", min_size=1, max_size=4).filter(lambda word: word == word.strip())


@there_and_back
@given(rows=st.lists(st.lists(numbers, min_size=2, max_size=2), min_size=1, max_size=5), one=st.booleans())
def test_numbers_there_and_back(tmp_path: Path, rows: list[list[float]], one: bool) -> None:
    targets = np.array(rows)[:, 0] if one else np.array(rows)
    samples = Samples(map(str, range(len(rows))), targets, None if one else ["x", "y"])
    if samples.kind == "labels":
        return
    samples.to_csv(tmp_path / "n.csv", path="photo", target="t")
    back = Samples.from_csv(tmp_path / "n.csv", path="photo", target="t" if one else ["x", "y"], kind="numbers")
    assert back == samples


@there_and_back
@given(rows=st.lists(st.sets(words, max_size=3), min_size=1, max_size=5).filter(any), data=st.data())
def test_labels_there_and_back(tmp_path: Path, rows: list[set[str]], data: st.DataObject) -> None:
    samples = Samples(map(str, range(len(rows))), [sorted(row) for row in rows])
    samples.to_csv(tmp_path / "l.csv", label_sep=";")
    assert Samples.from_csv(tmp_path / "l.csv", label_sep=";", sep=",") == samples
    order = data.draw(st.permutations(samples.classes))
    other = Samples(samples.paths, [sorted(row) for row in rows], [*order, "not there"])
    other.to_csv(tmp_path / "c.csv", path="the photo")
    assert Samples.from_csv(tmp_path / "c.csv", path="the photo", target=other.classes, sep=",") == other


def test_none_of_the_classes_and_no_targets_there_and_back(tmp_path: Path) -> None:
    for samples, arguments in (
        (Samples(["a.jpg", "b.jpg"], [-1, 0], ["cat"]), {"kind": "class"}),
        (Samples(["a.jpg", "b.jpg"], None), {"target": None}),
    ):
        samples.to_csv(tmp_path / "t.csv")
        assert Samples.from_csv(tmp_path / "t.csv", **arguments) == samples


def test_numbers_without_names_of_columns_are_written(tmp_path: Path) -> None:
    Samples(["a.jpg"], [[0.1, 2.0]]).to_csv(tmp_path / "t.csv", target="point")
    assert (tmp_path / "t.csv").read_text() == "file,point0,point1\na.jpg,0.1,2.0\n"


def test_labels_that_hold_the_separator_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="label_sep= that no class holds, got ' ', which is in 'big cat'"):
        Samples(["a.jpg"], [["big cat"]]).to_csv(tmp_path / "t.csv", label_sep=" ")


def test_a_class_by_the_name_of_the_column_of_paths_is_not_written(tmp_path: Path) -> None:
    samples = Samples(["a.jpg", "b.jpg"], [["file"], []])
    with pytest.raises(ValueError, match=r"to_csv: expected columns of different names, got 'file' twice.* path="):
        samples.to_csv(tmp_path / "t.csv")
    assert not (tmp_path / "t.csv").exists()
    samples.to_csv(tmp_path / "t.csv", path="image")
    assert Samples.from_csv(tmp_path / "t.csv", path="image", target=["file"]) == samples


def test_minus_one_is_none_of_the_classes_where_these_are_said(tmp_path: Path) -> None:
    table = tmp_path / "list.csv"
    table.write_text("file,label\na.jpg,2\nb.jpg,-1\nc.jpg,0\nd.jpg,\n")
    samples = Samples.from_csv(table, kind="class")
    assert samples.classes == ["0", "2"]
    assert samples.targets == [1, -1, 0, -1]
    table.write_text("file,label\na.jpg,2\nb.jpg,-1\n")
    assert Samples.from_csv(table).classes == ["-1", "2"], "a name like others"


def test_a_list_that_is_not_there_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"from_csv: expected a list, got 'nope\.csv', which is not there"):
        Samples.from_csv("nope.csv")
    with pytest.raises(FileNotFoundError, match=r"from_coco: expected .* in 'nope\.json', .* no such file"):
        Samples.from_coco("nope.json", "photos")
