"""Boxes, labels, keypoints and crowds from the loader, as COCO, Pascal VOC and YOLO write them down."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import fastaug as fa
from fastaug.loading.loader import BadFileError
from tests.factories import make_loader
from tests.loading.scenes import (
    NAMES,
    PALETTE,
    assert_boxes_right,
    assert_keeps_guarantees,
    assert_same,
    by_row,
    items,
    make_targets,
    mosaic,
    shown,
    write_coco,
    write_photo,
    write_things,
)  # fmt: skip

EMPTY = np.zeros((60, 80, 3), np.uint8)
LEFT, RIGHT, NOSE = 0, 1, 2


def whole(samples: fa.Samples, **arguments: Any) -> fa.ImageLoader:
    """In file order, all of each photo of 60 × 80, each pixel as it is."""
    augment = fa.Augment([], (60, 80), normalize=None)
    return make_loader(samples, **{"presize": (60, 80), "augment": augment, "training": False, **arguments})


def targets_of(loader: Any) -> list[dict[str, Tensor]]:
    return [item.y for item in sorted(items(loader), key=lambda item: item.row)]


def test_boxes_and_labels_as_coco_has_them(tmp_path: Path) -> None:
    photos = {"b.png": EMPTY, "a.png": EMPTY, "none.png": EMPTY}
    objects = [
        {"file": "a.png", "bbox": [10, 20, 30, 15], "category_id": 90, "iscrowd": 1},
        {"file": "b.png", "bbox": [0.5, 1.25, 20, 30.5], "category_id": 3},
        {"file": "a.png", "bbox": [0, 0, 80, 60], "category_id": 17},
    ]
    categories = [{"id": 90, "name": "zebra"}, {"id": 3, "name": "mouse"}, {"id": 17, "name": "cat"}]
    samples = fa.Samples.from_coco(*write_coco(tmp_path, photos, objects, categories))
    assert samples.kind == "objects"
    assert samples.classes == ["mouse", "cat", "zebra"], "by the categories' numbers"
    assert [Path(path).name for path in samples.paths] == ["b.png", "a.png", "none.png"]
    ((_, y, _),) = whole(samples)
    assert isinstance(y, list)
    assert [target["boxes"].tolist() for target in y] == [
        [[0.5, 1.25, 20.5, 31.75]], [[10, 20, 40, 35], [0, 0, 80, 60]], [],
    ]  # fmt: skip
    assert [target["labels"].tolist() for target in y] == [[0], [2, 1], []]
    assert [target["kept"].tolist() for target in y] == [[0], [0, 1], []]
    assert [target["crowd"].tolist() for target in y] == [[False], [True, False], []]
    for target in y:
        assert target["boxes"].dtype == torch.float32
        assert target["boxes"].dim() == 2
        assert target["boxes"].shape[1] == 4
        assert target["labels"].dtype == target["kept"].dtype == torch.int64
        assert target["crowd"].dtype == torch.bool
        assert "keypoints" not in target


@pytest.mark.parametrize("mode", ["resize", "direct"])
def test_boxes_move_with_their_pictures(tmp_path: Path, mode: Any) -> None:
    samples = write_things(tmp_path)
    for training in (True, False):
        for x, y, info in make_targets(samples, mode=mode, training=training):
            for i, row in enumerate(info.indices.tolist()):
                boxes = torch.as_tensor(samples.targets[row].boxes)
                assert_boxes_right(boxes, y[i], info.matrix[i], info.extent[i], tuple(x.shape[2:]))
                labels = torch.as_tensor(samples.targets[row].labels)
                assert_same(y[i]["labels"], labels[y[i]["kept"]], "labels of the kept rows")


def test_a_photo_is_not_left_out_when_none_of_its_boxes_is_in_the_picture(tmp_path: Path) -> None:
    objects = [{"file": "a.png", "bbox": [0, 0, 5, 5], "category_id": 1}]
    samples = fa.Samples.from_coco(*write_coco(tmp_path, {"a.png": np.zeros((60, 200, 3), np.uint8)}, objects))
    ((x, y, _),) = make_loader(samples, presize=30, training=False)
    assert len(x) == 1
    assert {key: tuple(value.shape) for key, value in y[0].items() if key in ("boxes", "labels", "kept")} == {
        "boxes": (0, 4), "labels": (0,), "kept": (0,),
    }  # fmt: skip


def test_boxes_of_photos_that_lie_on_their_side(tmp_path: Path) -> None:
    """Boxes are of the upright photo, whose size the annotation has too."""
    pixels = np.zeros((60, 80, 3), np.uint8)
    pixels[10:30, 50:70] = PALETTE[3]
    objects = [{"file": f"{i}.png", "bbox": [50, 10, 20, 20], "category_id": 4} for i in range(1, 9)]
    path, root = write_coco(tmp_path, {f"{i}.png": pixels for i in range(1, 9)}, objects)
    for i in range(1, 9):
        write_photo(root / f"{i}.png", pixels, orientation=i)
    ((x, y, _),) = whole(fa.Samples.from_coco(path, root), batch_size=8)
    expected = torch.zeros(8, 60, 80, dtype=torch.bool)
    expected[:, 10:30, 50:70] = True
    assert torch.equal(shown(x) == 3, expected)
    assert [target["boxes"].tolist() for target in y] == [[[50, 10, 70, 30]]] * 8


def test_a_photo_of_another_size_than_its_annotation_is_bad_by_name(tmp_path: Path) -> None:
    objects = [{"file": name, "bbox": [1, 2, 30, 40], "category_id": 1} for name in ("a.png", "b.png", "c.png")]
    path, root = write_coco(tmp_path, {"a.png": EMPTY, "b.png": EMPTY, "c.png": EMPTY}, objects)
    write_photo(root / "b.png", np.zeros((80, 60, 3), np.uint8))
    samples = fa.Samples.from_coco(path, root)
    loader = whole(samples)
    assert sorted(by_row(loader)) == [0, 2]
    ((bad, reason),) = loader.quarantined
    assert Path(bad).name == "b.png"
    assert "80" in reason
    assert "60" in reason
    with pytest.raises(BadFileError, match=r"b\.png"):
        list(whole(samples, on_error="raise"))


def test_degenerate_boxes_are_counted_and_left_out(tmp_path: Path) -> None:
    objects = [
        {"file": "a.png", "bbox": [1, 2, 30, 40], "category_id": 1},
        {"file": "a.png", "bbox": [5, 5, 0, 10], "category_id": 2},
        {"file": "a.png", "bbox": [5, 5, 10, -1], "category_id": 3},
    ]
    path, root = write_coco(tmp_path, {"a.png": EMPTY}, objects)
    with pytest.warns(UserWarning, match="2"):
        samples = fa.Samples.from_coco(path, root)
    ((_, y, _),) = whole(samples)
    assert y[0]["labels"].tolist() == [0]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"category_id": 99}, "100"),
        ({"image_id": 77}, "100"),
        ({"bbox": [1, 2, 3]}, "100"),
        ({"bbox": [1, 2, float("nan"), 4]}, "100"),
    ],
)
def test_broken_annotations_are_named(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    path, root = write_coco(tmp_path, {"a.png": EMPTY}, [{"file": "a.png", "bbox": [1, 2, 3, 4], "category_id": 1}])
    content = json.loads(path.read_text())
    content["annotations"][0] |= change
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=named):
        fa.Samples.from_coco(path, root)


def write_faces(folder: Path, count: int = 6, pairs: Any = ((LEFT, RIGHT),), **arguments: Any) -> fa.Samples:
    """Photos with two persons each, whose left eye is red, right eye green and nose blue; one eye is not labelled."""
    photos, objects = {}, []
    for i in range(count):
        random = np.random.default_rng(i)
        pixels, name = np.zeros((96, 120, 3), np.uint8), f"{i:02}.png"
        for person in (0, 1):
            points = []
            for point in (LEFT, RIGHT, NOSE):
                x, y = person * 60 + 12 + 18 * (point % 2) + random.integers(6), 20 + 26 * (point // 2)
                x, y = (x + 8, y) if point == NOSE else (x, y + int(random.integers(6)))
                pixels[y - 6 : y + 6, x - 6 : x + 6] = PALETTE[point + 3 * person]
                labelled = 0 if (person, point) == (1, RIGHT) else 1 + (point == NOSE)
                points += [int(x) * (labelled > 0), int(y) * (labelled > 0), labelled]
            box = [person * 60, 5, 60, 85]
            objects.append({"file": name, "bbox": box, "category_id": 1, "keypoints": points, "num_keypoints": 3})
        photos[name] = pixels
    categories = [{"id": 1, "name": "person", "keypoints": ["left_eye", "right_eye", "nose"], "skeleton": [[1, 2]]}]
    return fa.Samples.from_coco(*write_coco(folder, photos, objects, categories), pairs=pairs, **arguments)


def color_at(classes: Tensor, point: Tensor) -> int:
    x, y = point[:2].floor().long().tolist()
    return int(classes[y, x])


FACE = {"presize": (96, 120), "size": (96, 120)}


def keypoints(samples: fa.Samples, ops: list[Any], **arguments: Any) -> Any:
    """x and y of one epoch, in the order of the rows."""
    loader = make_targets(samples, ops=ops, **{**FACE, "batch_size": len(samples), **arguments})
    found = sorted(items(loader), key=lambda item: item.row)
    return [item.x for item in found], [item.y for item in found]


def test_keypoints_with_their_visibility(tmp_path: Path) -> None:
    samples = write_faces(tmp_path)
    assert list(samples.targets.keypoint_names) == ["left_eye", "right_eye", "nose"]
    xs, ys = keypoints(samples, [])
    for x, y in zip(xs, ys, strict=True):
        points, classes = y["keypoints"], shown(x)
        assert points.shape == (2, 3, 3)
        assert points.dtype == torch.float32
        assert points[..., 2].tolist() == [[1, 1, 2], [1, 0, 2]]
        assert points[1, RIGHT].tolist() == [0, 0, 0], "what is not labelled is nowhere"
        at = [[color_at(classes, points[k, p]) for p in (LEFT, RIGHT, NOSE)] for k in (0, 1)]
        assert at[0] == [0, 1, 2]
        assert (at[1][LEFT], at[1][NOSE]) == (3, 5)


@pytest.mark.parametrize("pairs", [((LEFT, RIGHT),), (("left_eye", "right_eye"),)])
@pytest.mark.parametrize(
    ("ops", "mirrored"),
    [
        ([fa.RandomHorizontalFlip(1.0)], True),
        ([fa.RandomVerticalFlip(1.0)], True),
        ([fa.RandomHorizontalFlip(1.0), fa.RandomVerticalFlip(1.0)], False),
        ([fa.RandomRotation((170, 190))], False),
        ([fa.RandomHorizontalFlip(1.0), fa.RandomRotation(10)], True),
    ],
)
def test_left_and_right_are_swapped_after_a_mirror(tmp_path: Path, ops: list[Any], mirrored: bool, pairs: Any) -> None:
    """Who looks out of the mirror has the left eye where the right one was."""
    xs, ys = keypoints(write_faces(tmp_path, 3, pairs), ops)
    for x, y in zip(xs, ys, strict=True):
        points, classes = y["keypoints"], shown(x)
        first = [color_at(classes, points[0, p]) for p in (LEFT, RIGHT, NOSE)]
        assert first == ([1, 0, 2] if mirrored else [0, 1, 2])
        assert points[0, :, 2].tolist() == [1, 1, 2]
        there, absent = (RIGHT, LEFT) if mirrored else (LEFT, RIGHT)
        assert points[1, absent].tolist() == [0, 0, 0], "the visibility goes with its point"
        assert color_at(classes, points[1, there]) == 3


def test_nothing_is_swapped_without_pairs(tmp_path: Path) -> None:
    xs, ys = keypoints(write_faces(tmp_path, 3, ()), [fa.RandomHorizontalFlip(1.0)])
    for x, y in zip(xs, ys, strict=True):
        assert [color_at(shown(x), y["keypoints"][0, p]) for p in (LEFT, RIGHT, NOSE)] == [0, 1, 2]


def test_each_sample_is_swapped_by_its_own_draw(tmp_path: Path) -> None:
    loader = make_targets(write_faces(tmp_path, 12), ops=[fa.RandomHorizontalFlip(0.5)], **FACE)
    found = items(loader)
    mirrored = [bool(torch.linalg.det(item.matrix) < 0) for item in found]
    assert 2 < sum(mirrored) < 10
    for item, flipped in zip(found, mirrored, strict=True):
        assert color_at(shown(item.x), item.y["keypoints"][0, LEFT]) == (RIGHT if flipped else LEFT)


@pytest.mark.parametrize("mode", ["resize", "direct"])
def test_keypoints_out_of_the_picture_are_not_visible(tmp_path: Path, mode: Any) -> None:
    """In resize mode also those that lie beyond the presize's square, which the picture does not show."""
    samples = write_faces(tmp_path)
    ops = [fa.RandomRotation(30), fa.RandomZoom((0.7, 2.0))]
    arguments = {"presize": 96, "size": 96, "padding": "zeros", "mode": mode}
    out = 0
    for _ in range(2):
        for x, y in zip(*keypoints(samples, ops, **arguments), strict=True):
            classes = shown(x)
            for row, points in zip(y["kept"].tolist(), y["keypoints"], strict=True):
                for number, point in enumerate(points):
                    if point[2] == 0:
                        assert point.tolist() == [0, 0, 0]
                        there = int((classes == number + 3 * row).sum())
                        assert (row, number) == (1, RIGHT) or there < 90, "its patch is in the picture"
                        out += (row, number) != (1, RIGHT)
                    else:
                        assert 0 <= point[:2].min() <= point[:2].max() < 96
                        assert point[2] == 1 + (number == NOSE)
                        x0, y0 = (point[:2].floor().long() - 1).clamp(min=0).tolist()
                        assert (classes[y0 : y0 + 3, x0 : x0 + 3] == number + 3 * row).any()
    assert out > 3


def test_bad_pairs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="left_ear"):
        write_faces(tmp_path, 1, (("left_ear", "right_eye"),))


def test_pascal_voc(tmp_path: Path) -> None:
    write_photo(tmp_path / "images" / "one.png", EMPTY)
    write_photo(tmp_path / "images" / "two.png", EMPTY)
    (tmp_path / "xml").mkdir()
    thing = (
        "<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"
    )
    size = "<size><width>80</width><height>60</height><depth>3</depth></size>"
    page = "<annotation><filename>{}.png</filename>" + size + "{}</annotation>"
    first = thing.format("dog", 11, 6, 50, 40) + thing.format("cat", 1, 1, 80, 60)
    (tmp_path / "xml" / "one.xml").write_text(page.format("one", first))
    (tmp_path / "xml" / "two.xml").write_text(page.format("two", ""))
    samples = fa.Samples.from_voc(tmp_path / "images", tmp_path / "xml")
    assert (samples.kind, samples.classes) == ("objects", ["cat", "dog"])
    ((_, y, _),) = whole(samples)
    assert [target["labels"].tolist() for target in y] == [[1, 0], []]
    expected = torch.tensor([[10.5, 5.5, 50, 40], [0.5, 0.5, 80, 60]])  # VOC counts pixels from 1, others from 0
    assert (y[0]["boxes"] - expected).abs().max() <= 0.5


def test_yolo(tmp_path: Path) -> None:
    write_photo(tmp_path / "images" / "one.png", EMPTY)
    write_photo(tmp_path / "images" / "none.png", EMPTY)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "one.txt").write_text("1 0.5 0.5 0.25 0.5\n0 0.125 0.25 0.25 0.5\n")
    samples = fa.Samples.from_yolo(tmp_path / "images", tmp_path / "labels", ["cat", "dog"])
    found = by_row(whole(samples))
    one, none = (next(r for r, path in enumerate(samples.paths) if Path(path).stem == stem) for stem in ("one", "none"))
    assert_same(found[one].y["boxes"], torch.tensor([[30.0, 15, 50, 45], [0, 0, 20, 30]]))
    assert found[one].y["labels"].tolist() == [1, 0]
    assert found[none].y["boxes"].shape == (0, 4)


def test_bad_photos_of_objects(tmp_path: Path) -> None:
    samples = write_things(tmp_path)
    expected = by_row(make_targets(samples))
    Path(samples.paths[3]).write_bytes(b"text")
    loader = make_targets(samples)
    got = by_row(loader)
    del expected[3]
    assert_same(got, expected)
    assert [Path(path).name for path, _ in loader.quarantined] == ["03.png"]


@pytest.mark.parametrize("mode", ["resize", "direct"])
def test_guarantees(tmp_path: Path, mode: Any) -> None:
    samples = write_faces(tmp_path, 12)
    assert_keeps_guarantees(lambda **arguments: make_targets(samples, 24, presize=32, mode=mode, **arguments))


def test_pictures_are_those_of_a_loader_of_classes(tmp_path: Path) -> None:
    samples = write_things(tmp_path)
    classes = fa.Samples(list(samples.paths), [0] * len(samples), ["all"])
    with_boxes, without = (items(make_targets(one, seed=5)) for one in (samples, classes))
    assert_same([(item.row, item.x, item.matrix) for item in with_boxes], [(i.row, i.x, i.matrix) for i in without])


@pytest.mark.parametrize("cache", ["memory", "folder"])
def test_a_cache_changes_no_box_in_direct_mode(tmp_path: Path, cache: str) -> None:
    samples = write_things(tmp_path)
    where = str(tmp_path / "cache") if cache == "folder" else cache
    cached, usual = (make_targets(samples, mode="direct", cache=kept) for kept in (where, None))
    for _ in range(2):
        assert_same([item.y for item in items(cached)], [item.y for item in items(usual)])


@pytest.mark.parametrize("make", ["labels", "names", "numbers", "columns", "none", "nothing of these"])
def test_other_targets_of_a_photo(tmp_path: Path, make: str) -> None:
    """Several labels, numbers, none: what y is, and all that a loader promises."""
    paths = [str(write_photo(tmp_path / f"{i:02}.png", PALETTE[mosaic(20, 24, i)])) for i in range(12)]
    rows = np.arange(36).reshape(12, 3) % 5 % 2
    labels = [[k for k in range(3) if rows[i, k]] for i in range(12)]
    random = np.random.default_rng(0).normal(size=(12, 2)).astype(np.float32)
    samples, expected = {
        "labels": lambda: (fa.Samples(paths, labels, NAMES[:3]), torch.from_numpy(rows).float()),
        "names": lambda: (
            fa.Samples(paths, [[NAMES[k] for k in its] for its in labels], NAMES[:3]), torch.from_numpy(rows).float(),
        ),
        "numbers": lambda: (fa.Samples(paths, random[:, 0].tolist(), None), torch.from_numpy(random[:, 0])),
        "columns": lambda: (fa.Samples(paths, random, None), torch.from_numpy(random)),
        "none": lambda: (fa.Samples(paths, None), None),
        "nothing of these": lambda: (
            fa.Samples(paths, [i % 3 - 1 for i in range(12)], NAMES[:2]), (torch.arange(12) % 3) - 1,
        ),
    }[make]()  # fmt: skip
    for batch in make_targets(samples, 16, presize=20):
        _, y, info = batch
        assert_same(y, None if expected is None else expected[info.indices])
    assert_keeps_guarantees(lambda **arguments: make_targets(samples, 16, presize=20, **arguments))
