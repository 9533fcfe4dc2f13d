"""Objects in COCO's JSON."""

from __future__ import annotations

import copy
import json
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.ops import box_convert

from fastaug.samples.samples import Samples

# Out of order, as such files are: images, categories and annotations.
CONTENT: dict[str, Any] = {
    "images": [
        {"id": 9, "file_name": "b/9.jpg", "height": 480, "width": 640},
        {"id": 2, "file_name": "2.jpg", "height": 100, "width": 50},
        {"id": 5, "file_name": "5.jpg"},
    ],
    "categories": [
        {"id": 18, "name": "dog"},
        {"id": 1, "name": "person", "keypoints": ["nose", "left_eye", "right_eye"]},
    ],
    "annotations": [
        {"id": 70, "image_id": 2, "category_id": 18, "bbox": [10.5, 20, 30, 40.25], "iscrowd": 0},
        {
            "id": 71,
            "image_id": 9,
            "category_id": 1,
            "bbox": [0, 0, 640, 480],
            "iscrowd": 0,
            "keypoints": [1, 2, 2, 3.5, 4, 1, 0, 0, 0],
        },
        {"id": 72, "image_id": 2, "category_id": 1, "bbox": [1, 2, 3, 4], "iscrowd": 1},
    ],
}


def written(folder: Path, content: Any) -> Path:
    path = folder / "instances.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def changed(**change: Any) -> dict[str, Any]:
    """With other values in the second annotation; None: without."""
    content = copy.deepcopy(CONTENT)
    content["annotations"][1].update(change)
    content["annotations"][1] = {name: value for name, value in content["annotations"][1].items() if value is not None}
    return content


def unnamed(**change: Any) -> dict[str, Any]:
    """The same, of a file that does not name the keypoints."""
    content = changed(**change)
    del content["categories"][1]["keypoints"]
    return content


def test_boxes_labels_crowds_and_keypoints(tmp_path: Path) -> None:
    samples = Samples.from_coco(written(tmp_path, CONTENT), "/photos", pairs=[("left_eye", "right_eye")])
    assert samples.paths == ["/photos/b/9.jpg", "/photos/2.jpg", "/photos/5.jpg"]
    assert (samples.kind, samples.classes) == ("objects", ["person", "dog"])
    objects = samples.targets
    assert (len(objects), objects.pairs, objects.relative) == (3, [(1, 2)], False)
    assert objects.keypoint_names == ["nose", "left_eye", "right_eye"]
    first, second, third = objects
    assert (first.boxes.tolist(), first.labels.tolist()) == ([[0, 0, 640, 480]], [0])
    assert first.keypoints.tolist() == [[[1, 2, 2], [3.5, 4, 1], [0, 0, 0]]]
    assert (first.size, second.size, third.size) == ((480, 640), (100, 50), None)
    assert second.boxes.tolist() == [[10.5, 20, 40.5, 60.25], [1, 2, 4, 6]]
    assert (second.labels.tolist(), second.crowd.tolist()) == ([1, 0], [False, True])
    assert not second.keypoints.any()
    assert third.boxes.shape == (0, 4)
    dtypes = [array.dtype for array in (objects.boxes, objects.labels, objects.crowd, objects.keypoints)]
    assert dtypes == [np.float32, np.int64, np.bool_, np.float32]


def test_boxes_are_torchvisions(tmp_path: Path) -> None:
    boxes = torch.rand(50, 4, generator=torch.Generator().manual_seed(0)).double() * 300 + 0.1
    content = CONTENT | {
        "annotations": [{"id": i, "image_id": 2, "category_id": 1, "bbox": box} for i, box in enumerate(boxes.tolist())]
    }
    found = Samples.from_coco(written(tmp_path, content), "").targets
    np.testing.assert_array_equal(found.boxes, box_convert(boxes, "xywh", "xyxy").numpy().astype(np.float32))
    assert found.crowd is None, "nobody has said"
    assert found.keypoints.shape == (50, 3, 3), "they have names: every half has the same targets"
    assert not found.keypoints.any()


def test_classes_may_be_chosen(tmp_path: Path) -> None:
    path = written(tmp_path, CONTENT)
    dogs = Samples.from_coco(path, "", classes=["dog"])
    assert (len(dogs), dogs.classes, dogs.counts()) == (3, ["dog"], {"dog": 1})
    assert dogs.targets.keypoints is None
    both = Samples.from_coco(path, "", classes=["dog", "person"])
    assert both.targets[1].labels.tolist() == [0, 1]
    with pytest.raises(ValueError, match=r"categories of .*got 'cat'\. They are person, dog"):
        Samples.from_coco(path, "", classes=["cat"])
    with pytest.raises(TypeError, match="the string 'dog'"):
        Samples.from_coco(path, "", classes="dog")
    with pytest.raises(ValueError, match="each once"):
        Samples.from_coco(path, "", classes=["dog", "dog"])


def test_classes_of_one_name_are_told_apart(tmp_path: Path) -> None:
    content = CONTENT | {"categories": [{"id": 18, "name": "x"}, {"id": 1, "name": "x"}, {"id": 3, "name": "y"}]}
    assert Samples.from_coco(written(tmp_path, content), "").classes == ["x (1)", "y", "x (18)"]


def test_boxes_without_area_are_left_out_and_counted(tmp_path: Path) -> None:
    content = changed(bbox=[5, 5, 0, 10])
    content["annotations"].append({"id": 73, "image_id": 9, "category_id": 1, "bbox": [500, 0, 1e-9, 1]})
    with pytest.warns(UserWarning, match=r"left out 2 of 4 boxes.*annotation 71 of 'b/9\.jpg'") as said:
        samples = Samples.from_coco(written(tmp_path, content), "")
    assert said[0].filename == __file__
    assert samples.counts() == {"person": 1, "dog": 1}
    assert samples.targets[0].boxes.shape == (0, 4)


def test_keypoints_without_names(tmp_path: Path) -> None:
    content = copy.deepcopy(CONTENT)
    del content["categories"][1]["keypoints"]
    objects = Samples.from_coco(written(tmp_path, content), "", pairs=[(1, 2)]).targets
    assert (objects.keypoints.shape, objects.keypoint_names, objects.pairs) == ((3, 3, 3), [], [(1, 2)])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", r"COCO's JSON in .*instances\.json', .*got something else"),
        ([1], "got none of images, annotations, categories"),
        ({"images": [], "annotations": []}, "got none of categories"),
        (CONTENT | {"images": []}, "expected images in"),
        (CONTENT | {"images": [{"id": 2, "file_name": "a"}, {"id": 2, "file_name": "b"}]}, "the id 2 twice"),
        (CONTENT | {"images": [{"id": 2}]}, r"expected 'file_name' in image 2 of"),
        (CONTENT | {"images": [{"file_name": "a"}]}, r"expected 'id' in an image"),
        (CONTENT | {"categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}, r"each category once .*\[1, 1\]"),
        (CONTENT | {"categories": [{"id": 1, "name": "a"}, {"id": "b", "name": "b"}]}, r"of one type .*\[1, 'b'\]"),
        (changed(image_id=3), r"an image of it as 'image_id' in annotation 71 of .*got 3"),
        (changed(category_id=3), r"a category of it as 'category_id' in annotation 71 of .*got 3"),
        (CONTENT | {"images": [{"id": 2, "file_name": "a", "height": "many"}]}, r"height and width.* image 2 of"),
        (CONTENT | {"images": [{"id": 2, "file_name": "a", "width": -5}]}, r"height and width.* image 2 of"),
        (changed(bbox=None), r"expected 'bbox' in annotation 71.*got .* out\."),
        (changed(image_id=None), r"expected 'image_id' in annotation 71"),
        (changed(bbox=[1, 2, 3]), r"four numbers.* in annotation 71 of .*got \[1, 2, 3\]"),
        (changed(bbox=[1, 2, 3, "x"]), r"four numbers"),
        (changed(bbox=[1, 2, 3, float("inf")]), r"four numbers"),
        (changed(bbox=[1, 2, 3, None]), r"four numbers"),
        (changed(bbox=[[1], 2, 3, 4]), r"four numbers"),
        (changed(bbox="four"), r"four numbers"),
        (changed(bbox=4), r"four numbers"),
        (changed(keypoints=[1, 2, 2]), r"expected 9 numbers.* in annotation 71 of .*got 3"),
        (changed(keypoints=[1, 2, 3] * 3), r"visibility 0, 1 or 2 in annotation 71"),
        (unnamed(keypoints=[[1, 2, 2], [3, 4, 1]]), r"keypoints.* in annotation 71 of .*got 2"),
        (unnamed(keypoints=[[1, 2, 2], [3, 4, 1], [5, 6, 1]]), r"keypoints of finite numbers .* in annotation 71"),
        (unnamed(keypoints=[1, 2]), r"keypoints.* in annotation 71 of .*got 2"),
        (changed(iscrowd="0"), r"iscrowd.* 0 or 1.* annotation 71 of .*got '0'"),
        (changed(keypoints=5.5), r"expected 9 numbers.* in annotation 71 of .*got 5\.5\."),
        (changed(bbox=[1, 2, 3, 10**400]), r"four numbers.* in annotation 71"),
        (changed(bbox=[1, 2, 1e308, 1e308]), r"four numbers.* in annotation 71"),
        (changed(image_id=[9]), r"expected a number as 'image_id' in annotation of"),
        (changed(category_id={}), r"expected a number as 'category_id' in annotation of"),
        (CONTENT | {"images": [{"id": [2], "file_name": "a"}]}, "expected a number as 'id' in an image of"),
        (CONTENT | {"images": [{"id": 2, "file_name": "a", "width": 10**30}]}, r"height and width.* image 2 of"),
        (CONTENT | {"images": [{"id": 2, "file_name": "a", "width": float("inf")}]}, r"height and width.* image 2 of"),
        (CONTENT | {"images": [{"id": 2, "file_name": ["a"]}]}, r"a path within root='' as 'file_name' in image 2 of"),
        (CONTENT | {"categories": [{"id": 1, "name": "a", "keypoints": [["b"]]}]}, "a list of names as 'keypoints'"),
        (json.dumps(CONTENT).replace("480", "9" * 5000), "got something else: Exceeds the limit"),
        ("[" * 100_000, "got something else: maximum recursion depth"),
        (changed(iscrowd=2), r"iscrowd.* 0 or 1.* annotation 71 of .*got 2"),
    ],
)
def test_errors_name_image_or_annotation(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Samples.from_coco(written(tmp_path, content), "")


def test_values_out_of_the_file_are_cut(tmp_path: Path) -> None:
    for content in (changed(bbox=["x" * 9999]), changed(image_id="x" * 9999), changed(keypoints=["y"] * 9999)):
        with pytest.raises(ValueError, match=r"^from_coco: expected .*") as error:
            Samples.from_coco(written(tmp_path, content), "")
        assert len(str(error.value)) < 600


@pytest.mark.parametrize("name", ["/etc/passwd", "../a.jpg", "b/../../a.jpg", "/photos/../a.jpg"])
def test_names_that_leave_the_root_are_refused_unless_asked_for(tmp_path: Path, name: str) -> None:
    images = [{"id": 9, "file_name": "b/..a.jpg"}, {"id": 2, "file_name": name}]
    path = written(tmp_path, CONTENT | {"images": images})
    message = rf"a path within root='/photos' as 'file_name' in image 2 of .*, got '{name}'\. .*outside=True"
    with pytest.raises(ValueError, match=message):
        Samples.from_coco(path, "/photos")
    assert Samples.from_coco(path, "/photos", outside=True).paths[1] == os.path.join("/photos", name)


def test_keypoints_of_several_kinds_are_refused(tmp_path: Path) -> None:
    content = copy.deepcopy(CONTENT)
    content["categories"][0]["keypoints"] = ["tail"]
    path = written(tmp_path, content)
    with pytest.raises(ValueError, match=r"the same keypoints of all classes .*classes="):
        Samples.from_coco(path, "")
    assert Samples.from_coco(path, "", classes=["person"]).targets.keypoints.shape == (2, 3, 3)


@pytest.mark.parametrize("pair", [("nose", "tail"), (0, 3), (0,), (-1, 0), ("nose", 1.5)])
def test_pairs_are_of_keypoints_that_there_are(tmp_path: Path, pair: Any) -> None:
    with pytest.raises(ValueError, match=r"two keypoints, got .*nose, left_eye, right_eye"):
        Samples.from_coco(written(tmp_path, CONTENT), "", pairs=[pair])


def test_a_mark_of_utf8_at_the_start(tmp_path: Path) -> None:
    path = written(tmp_path, CONTENT)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(Samples.from_coco(path, "")) == 3


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Samples.from_coco(tmp_path / "none.json", "")


def test_a_half_keeps_its_objects(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        samples = Samples.from_coco(written(tmp_path, CONTENT), "/photos")
    train, valid = samples.split(0.4, groups=lambda path: path == "/photos/2.jpg")
    assert train.paths == ["/photos/b/9.jpg", "/photos/5.jpg"]
    assert [len(of.boxes) for of in train.targets] == [1, 0]
    assert valid.targets[0].crowd.tolist() == [False, True]
