"""Objects in a file for each photo: Pascal VOC's XML, YOLO's texts."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from torchvision.datasets import VOCDetection
from torchvision.ops import box_convert

from fastaug.samples.samples import Samples


def write(root: Path, **files: str) -> None:
    """folder_name="text": a photo's name without ending, by its folder."""
    for name, text in files.items():
        folder, _, stem = name.partition("_")
        path = root / folder / (stem + {"images": ".jpg", "xml": ".xml", "txt": ".txt"}[folder])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


# Pascal VOC


def thing(name: str, *corners: Any) -> str:
    box = "".join(
        f"<{tag}>{value}</{tag}>" for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    )
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
    return f"<object><name>{name}</name><difficult>1</difficult><bndbox>{box}</bndbox>{part}</object>"


def page(*things: str, size: str = "<size><width>500</width><height>375</height><depth>3</depth></size>") -> str:
    return f"<annotation><filename>else.jpg</filename>{size}{''.join(things)}</annotation>"


def test_voc(tmp_path: Path) -> None:
    write(tmp_path, images_b="", images_a="", images_c="")
    a = page(thing("dog", 1, 1, 500, 375), thing("cat", 48, 240.5, 195, 371))
    write(tmp_path, xml_a=a, xml_b=page(size=""), xml_c=page(thing("cat", 0, 7, 7, 7)))
    samples = Samples.from_voc(tmp_path / "images", tmp_path / "xml")
    assert [Path(path).name for path in samples.paths] == ["a.jpg", "b.jpg", "c.jpg"]
    assert (samples.kind, samples.classes, samples.counts()) == ("objects", ["cat", "dog"], {"cat": 2, "dog": 1})
    objects = samples.targets
    assert objects[0].boxes.tolist() == [[0, 0, 500, 375], [47, 239.5, 195, 371]], "the whole photo is 1 … 500 there"
    assert objects[0].labels.tolist() == [1, 0]
    assert ([of.size for of in objects], objects.crowd, objects.keypoints) == (
        [(375, 500), None, (375, 500)],
        None,
        None,
    )
    assert objects[2].boxes.tolist() == [[0, 6, 7, 7]], "some count from 0"
    read = VOCDetection.parse_voc_xml(ElementTree.fromstring(a))["annotation"]["object"]
    outsider = torch.tensor([[float(one["bndbox"][tag]) for tag in ("xmin", "ymin", "xmax", "ymax")] for one in read])
    assert torch.equal(torch.from_numpy(objects[0].boxes) + torch.tensor([1, 1, 0, 0]), outsider)


def test_voc_of_some_classes(tmp_path: Path) -> None:
    write(
        tmp_path, images_a="", xml_a=page(thing("dog", 1, 1, 5, 5), thing("cat", 1, 1, 9, 9), thing("cow", 2, 2, 3, 3))
    )
    with pytest.warns(UserWarning, match=r"left out 2 objects of 2 classes that are not in classes=: cat, cow"):
        samples = Samples.from_voc(tmp_path / "images", tmp_path / "xml", classes=["bird", "dog"])
    assert (samples.targets[0].labels.tolist(), samples.targets[0].boxes.tolist()) == ([1], [[0, 0, 5, 5]])


def test_voc_without_area(tmp_path: Path) -> None:
    write(tmp_path, images_a="", xml_a=page(thing("dog", 9, 1, 5, 5), thing("dog", 1, 1, 5, 5)))
    with pytest.warns(UserWarning, match=r"left out 1 of 2 boxes.*\[8\.0, 0\.0, 5\.0, 5\.0\] of '.*a\.jpg'"):
        assert len(Samples.from_voc(tmp_path / "images", tmp_path / "xml").targets.boxes) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotation>", r"expected XML in '.*a\.xml', got something else"),
        ("<html></html>", r"expected <annotation> in '.*a\.xml', got <html>"),
        (page(thing("dog", 1, 1, 5, "x")), r"in object 1 of '.*a\.xml', got 'dog' and \['1', '1', '5', 'x'\]"),
        (page(thing("dog", 1, 1, 5, 5), thing("", 1, 1, 5, 5)), "in object 2 of"),
        (page(thing("dog", 1, 1, 5, "nan")), "in object 1 of"),
        (page("<object><name>dog</name></object>"), r"in object 1 of .*got 'dog' and \['', '', '', ''\]"),
        (
            page(size=f"<size><width>{'9' * 5000}</width><height>1</height></size>"),
            r"width and height in .*got '9{50,}…",
        ),
        (page(thing("x" * 5000, 1, 1, 5, "y" * 5000)), r"in object 1 of .*got 'x{50,}…"),
        ('<?xml version="1.0" encoding="klingon"?><a/>', "expected XML in .*: unknown encoding"),
        (f"<{'x' * 5000}/>", r"expected <annotation> in .*, got <x{60}>"),
        ("<annotation>" + "<a>" * 100_000, "expected XML in"),
        (page(size="<size><width>5.5</width><height>1</height></size>"), r"width and height in .*got '5\.5' and '1'"),
    ],
)
def test_voc_errors(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path, images_a="", xml_a=text)
    with pytest.raises(ValueError, match=message) as error:
        Samples.from_voc(tmp_path / "images", tmp_path / "xml")
    assert len(str(error.value)) < 600


def test_voc_has_a_file_for_each_photo(tmp_path: Path) -> None:
    write(tmp_path, images_a="", images_b="", xml_a=page())
    with pytest.raises(ValueError, match=r"annotations in .*got 1 photos of 2 without the other \('.*b\.jpg'\)"):
        Samples.from_voc(tmp_path / "images", tmp_path / "xml")
    with pytest.raises(ValueError, match=r"expected \.xml files under '.*images', got"):
        Samples.from_voc(tmp_path / "images", tmp_path / "images")


# YOLO


def yolo(tmp_path: Path, classes: Any = ("cat", "dog"), **arguments: Any) -> Samples:
    return Samples.from_yolo(tmp_path / "images", tmp_path / "txt", classes, **arguments)


def test_yolo(tmp_path: Path) -> None:
    write(tmp_path, images_b="", images_a="", images_c="", txt_classes="cat\ndog\n", txt_c="")
    write(tmp_path, txt_b="1 0.5 0.5 1 1\n\n0 0.25 0.75 0.1 0.2\n")
    samples = yolo(tmp_path)
    assert [Path(path).name for path in samples.paths] == ["a.jpg", "b.jpg", "c.jpg"]
    assert (samples.kind, samples.classes) == ("objects", ["cat", "dog"])
    objects = samples.targets
    assert (objects.relative, objects.sizes, objects.crowd, objects.keypoints) == (True, None, None, None)
    assert [len(of.boxes) for of in objects] == [0, 2, 0]
    expected = box_convert(torch.tensor([[0.5, 0.5, 1, 1], [0.25, 0.75, 0.1, 0.2]]), "cxcywh", "xyxy").numpy()
    np.testing.assert_allclose(objects[1].boxes, expected, atol=1e-6)
    assert objects[1].labels.tolist() == [1, 0]


def test_yolo_keypoints(tmp_path: Path) -> None:
    write(tmp_path, images_a="", txt_a="0 0.5 0.5 1 1 0.25 0.5 2 0 0 0\n1 0.5 0.5 1 1 0.1 0.2 1 0.3 0.4 2\n")
    objects = yolo(tmp_path, pairs=[(0, 1)]).targets
    np.testing.assert_allclose(
        objects.keypoints, [[[0.25, 0.5, 2], [0, 0, 0]], [[0.1, 0.2, 1], [0.3, 0.4, 2]]], atol=1e-7
    )
    assert objects.pairs == [(0, 1)]
    with pytest.raises(ValueError, match=r"two keypoints, got \(0, 2\); there are 2"):
        yolo(tmp_path, pairs=[(0, 2)])


def test_yolo_in_one_folder(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    (tmp_path / "a.txt").write_text("0 0.5 0.5 1 1")
    assert len(Samples.from_yolo(tmp_path, tmp_path, ["cat"]).targets.boxes) == 1


def test_yolo_says_what_is_left_out(tmp_path: Path) -> None:
    write(tmp_path, images_a="", txt_a="0 0.5 0.5 0 1\n0 .5 .5 .5 .5", txt_z="0 .5 .5 .5 .5", txt_y="")
    with pytest.warns(UserWarning, match="left out") as said:
        assert len(yolo(tmp_path).targets.boxes) == 1
    area, texts = (str(one.message) for one in said)
    assert "left out 1 of 2 boxes, which have no area" in area
    assert "left out 2 texts" in texts
    assert "y.txt" in texts


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 .5 .5 .5 .5\n0 .5 .5 .5\n", r"in line 2 of '.*a\.txt', got 4 values"),
        ("0 .1 .1 .9 .1 .9 .9\n", "got 7 values. Outlines are not read"),
        ("2 .5 .5 .5 .5\n", r"a class 0\.\.1 in line 1 of '.*a\.txt', got 2"),
        ("0.5 .5 .5 .5 .5\n", r"a class 0\.\.1 .*got 0\.5"),
        ("-1 .5 .5 .5 .5\n", r"got -1"),
        ("0 .5 .5 .5 120\n", r"shares .* from 0 to 1, in line 1 .*got 120\. Divide"),
        ("0 .5 nan .5 .5\n", r"got nan"),
        ("0 -.5 .5 .5 .5\n", r"got -0\.5"),
        ("0 .5 .5 .5 .5 .1 7 2\n", r"shares .*got 7"),
        ("0 .5 .5 .5 .5 .1 .2 .5\n", r"visibility 0, 1 or 2 in line 1 of .*got \[0\.5\]"),
        ("0 .5 .5 .5 .5 .1 .2 1\n\n0 .5 .5 .5 .5\n", r"8 values in line 3 of .*, as in line 1 of .*got 5"),
        ("cat .5 .5 .5 .5\n", r"lines of numbers in '.*a\.txt', got something else in line 1\. "),
        ("0 .5 .5 .5 .5\nthe secret key\n", r"in '.*a\.txt', got something else in line 2\. Correct .* away\.$"),
        ("", "none with an object"),
    ],
)
def test_yolo_errors(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path, images_a="", txt_a=text)
    with pytest.raises(ValueError, match=message):
        yolo(tmp_path)


def test_yolo_paths_that_do_not_belong_together(tmp_path: Path) -> None:
    write(tmp_path, images_a="", txt_b="0 .5 .5 .5 .5")
    with pytest.raises(ValueError, match=r"a text in '.*txt' by the name of a photo in '.*images', got none"):
        yolo(tmp_path)
    with pytest.raises(TypeError, match="the string 'cat'"):
        yolo(tmp_path, classes="cat")
    with pytest.raises(TypeError, match=r"list of classes, got a dict.*values"):
        yolo(tmp_path, classes={0: "cat", 1: "dog"})


def test_annotations_that_the_storage_does_not_give_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And are tried again before; a text without a line is none."""
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    for name, text in (("1", "0 0.5 0.5 0.2 0.2\n"), ("2", "")):
        (tmp_path / "images" / f"{name}.jpg").write_bytes(b"not looked at")
        (tmp_path / "labels" / f"{name}.txt").write_text(text)
    opened, left = os.open, [3]

    def refusing(path: Any, *rest: Any, **options: Any) -> Any:
        if os.fspath(path).endswith("2.txt") and left[0]:
            left[0] -= 1
            raise OSError(errno.EIO, "Input/output error", path)
        return opened(path, *rest, **options)

    monkeypatch.setattr("fastaug.samples.storage.WAITS_S", (0.001,) * 3)
    monkeypatch.setattr(os, "open", refusing)
    samples = Samples.from_yolo(tmp_path / "images", tmp_path / "labels", ["cat"])
    assert [len(objects.labels) for _, objects in samples] == [1, 0]
    left[0] = 4
    with pytest.raises(OSError, match=r"from_yolo: could not read '.*2\.txt': Input/output error\."):
        Samples.from_yolo(tmp_path / "images", tmp_path / "labels", ["cat"])
