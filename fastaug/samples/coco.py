"""Objects in COCO's JSON: boxes, labels, crowds and keypoints of each image."""

from __future__ import annotations

import json as json_module
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from fastaug.samples.annotations import Found, Pairs, boxes_with_area, class_names, pair_numbers
from fastaug.samples.sources import first_outside
from fastaug.samples.targets import Objects
from fastaug.text import cut, printable

_MOST_PIXELS = 2**31  # of a side; of a larger number float32 makes infinity, or nearly


class _Categories(NamedTuple):
    """names: of the classes. label: id of a category -> its class; None: it is left out. keypoints: their names."""

    names: list[str]
    label: dict[Any, int | None]
    keypoints: list[str]


def read_coco(
    json: str | os.PathLike[str],
    root: str | os.PathLike[str],
    classes: Iterable[str] | None,
    pairs: Pairs,
    outside: bool = False,
) -> Found:
    """See `Samples.from_coco`."""
    file = os.fspath(json)
    content = _content(file)
    categories = _categories(content["categories"], classes, file)
    row_of: dict[Any, int] = {}
    paths, sizes = [], []
    row: int | None
    for row, image in enumerate(content["images"]):
        if row_of.setdefault(_id(image, "id", "an image", file), row) != row:
            raise ValueError(f"from_coco: expected each image once in {file!r}, got the id {cut(image['id'])} twice.")
        paths.append(_path(root, image, file))
        sizes.append(_size(image, file))
    row = None if outside else first_outside(root, paths)
    if row is not None:
        raise _no_path(root, content["images"][row], file)
    rows, ids, labels, boxes, crowd, points = [], [], [], [], [], []
    for one in content["annotations"]:
        row = row_of.get(_id(one, "image_id", "annotation", file))
        if row is None:
            raise _unknown(one, "image_id", "an image of it", file)
        label = categories.label.get(_id(one, "category_id", "annotation", file), -1)
        if label == -1:
            raise _unknown(one, "category_id", "a category of it", file)
        if label is None:
            continue
        rows.append(row)
        ids.append(one.get("id"))
        labels.append(label)
        boxes.append(_field(one, "bbox", "annotation", file))
        crowd.append(one.get("iscrowd"))
        if crowd[-1] not in (None, 0, 1):
            raise ValueError(
                f"from_coco: expected iscrowd to be 0 or 1 in annotation {cut(ids[-1])} of {file!r}, got "
                f"{cut(crowd[-1])}. Correct it or take the annotation out."
            )
        points.append(one.get("keypoints"))
    corners = _numbers(boxes, ids, file)
    corners[:, 2:] += corners[:, :2]
    kept, said = boxes_with_area(corners, lambda i: f"annotation {cut(ids[i])} of {paths[rows[i]]!r}", "from_coco")
    keypoints = _keypoints(points, ids, len(categories.keypoints), file)
    objects = Objects.gathered(
        len(paths),
        np.array(rows, np.int64)[kept],
        corners[kept],
        np.array(labels, np.int64)[kept],
        crowd=None if not any(flag is not None for flag in crowd) else np.array(crowd, np.bool_)[kept],
        keypoints=None if keypoints is None else keypoints[kept],
        sizes=np.array(sizes, np.int64).reshape(-1, 2),
        pairs=pair_numbers(pairs, 0 if keypoints is None else keypoints.shape[1], categories.keypoints, "from_coco"),
        keypoint_names=[] if keypoints is None else categories.keypoints,
    )
    return Found(paths, objects, categories.names, said)


def _content(file: str) -> dict[str, list[dict[str, Any]]]:
    expected = f"from_coco: expected COCO's JSON in {file!r}, with lists of images, annotations and categories, got"
    try:
        with open(file, encoding="utf-8-sig") as opened:
            content = json_module.load(opened)
    except FileNotFoundError:
        raise FileNotFoundError(f"{expected} no such file. Check the path.") from None
    except (ValueError, RecursionError) as error:
        why = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else error
        raise ValueError(f"{expected} something else: {why}. Give the file of instances or of keypoints.") from None
    lists = ("images", "annotations", "categories")
    missing = [name for name in lists if not isinstance(content, dict) or not isinstance(content.get(name), list)]
    if missing:
        raise ValueError(f"{expected} none of {', '.join(missing)}. Give the file of instances or of keypoints.")
    if not content["images"]:
        raise ValueError(f"from_coco: expected images in {file!r}, got an empty list.")
    return content  # type: ignore[no-any-return]


def _categories(listed: list[dict[str, Any]], classes: Iterable[str] | None, file: str) -> _Categories:
    """All of them by their id, or those that are asked for, in that order."""
    ids = [_id(one, "id", "a category", file) for one in listed]
    if len(set(ids)) < len(ids):
        raise ValueError(f"from_coco: expected each category once in {file!r}, got the ids {cut(ids)}.")
    given = [str(_field(one, "name", "category", file)) for one in listed]
    several = Counter(given)
    names = [name if several[name] == 1 else f"{name} ({number})" for name, number in zip(given, ids, strict=True)]
    try:
        order = sorted(range(len(ids)), key=ids.__getitem__)
    except TypeError:
        raise ValueError(f"from_coco: expected ids of categories of one type in {file!r}, got {cut(ids)}.") from None
    chosen = [names[i] for i in order]
    if classes is not None:
        asked = class_names(classes, "from_coco")
        unknown = next((name for name in asked if name not in names), None)
        if unknown is not None:
            raise ValueError(
                f"from_coco: expected classes= to be categories of {file!r}, got {unknown!r}. They are "
                f"{printable(', '.join(chosen)[:300])}."
            )
        chosen = asked
    place = {name: i for i, name in enumerate(chosen)}
    keypoints = {_names(one, file) for one, name in zip(listed, names, strict=True) if name in place} - {()}
    if len(keypoints) > 1:
        raise ValueError(
            f"from_coco: expected the same keypoints of all classes in {file!r}, got {cut(sorted(keypoints))}. Name "
            "those to take, classes=."
        )
    label = {number: place.get(name) for number, name in zip(ids, names, strict=True)}
    return _Categories(chosen, label, list(*keypoints))


def _numbers(boxes: list[Any], ids: list[Any], file: str) -> np.ndarray:
    """float64 [M, 4], all at once: to look at one box after the other takes longer than everything else here."""
    try:
        numbers = np.array(boxes, np.float64).reshape(len(boxes), 4)
        if (np.abs(numbers) < _MOST_PIXELS).all():
            return numbers
    except (TypeError, ValueError, OverflowError):
        pass
    number, box = next((number, box) for number, box in zip(ids, boxes, strict=True) if not _are_four(box))
    raise ValueError(
        f"from_coco: expected a bbox of four numbers, x, y, width and height, in annotation {cut(number)} of {file!r}, "
        f"got {cut(box)}. Correct it or take the annotation out."
    )


def _are_four(box: Any) -> bool:
    try:
        return np.shape(box) == (4,) and bool((np.abs(np.array(box, np.float64)) < _MOST_PIXELS).all())
    except (TypeError, ValueError, OverflowError):
        return False


def _keypoints(points: list[list[float] | None], ids: list[Any], named: int, file: str) -> np.ndarray | None:
    """float32 [M, P, 3]; None: there are none. named: how many have a name; 0: what the first annotation has."""
    number = named or next((max(len(own) // 3, 1) if isinstance(own, list) else 1 for own in points if own), 0)
    if not number:
        return None
    made = np.zeros((len(points), number, 3), np.float32)
    for row, own in enumerate(points):
        if not own:
            continue
        got = len(own) if isinstance(own, list) else cut(own)
        if got != 3 * number:
            raise ValueError(
                f"from_coco: expected {3 * number} numbers, x, y and visibility of {number} keypoints, in annotation "
                f"{cut(ids[row])} of {file!r}, got {got}. Correct them or take the annotation out."
            )
        try:
            made[row].reshape(-1)[:] = own
        except (TypeError, ValueError, OverflowError):  # no numbers, huge ones, or lists of them
            made[row] = np.nan
    wrong = np.flatnonzero(~(np.isin(made[:, :, 2], (0, 1, 2)) & np.isfinite(made).all(2)).all(1))
    if len(wrong):
        raise ValueError(
            f"from_coco: expected keypoints of finite numbers and visibility 0, 1 or 2 in annotation "
            f"{cut(ids[wrong[0]])} of {file!r}, got {cut(points[wrong[0]])}. Correct them or take the annotation out."
        )
    return made


def _size(image: Mapping[str, Any], file: str) -> tuple[int, int]:
    """Height and width; 0 where it is not said."""
    given = image.get("height") or 0, image.get("width") or 0
    try:
        height, width = map(int, given)
    except (TypeError, ValueError, OverflowError):
        height = width = -1
    if not (0 <= height < _MOST_PIXELS and 0 <= width < _MOST_PIXELS):
        raise ValueError(
            f"from_coco: expected numbers of pixels as height and width in image {cut(image['id'])} of {file!r}, got "
            f"{cut(given)}. Correct them or leave them out."
        )
    return height, width


def _field(item: Mapping[str, Any], name: str, what: str, file: str) -> Any:
    if not isinstance(item, dict) or item.get(name) is None:
        which = f"{what} {cut(item['id'])}" if isinstance(item, dict) and "id" in item else what
        advice = f"Add it, or take {'the annotation' if what == 'annotation' else 'that'} out."
        raise ValueError(f"from_coco: expected {name!r} in {which} of {file!r}, got {cut(item, 200)}. {advice}")
    return item[name]


def _id(item: Mapping[str, Any], name: str, what: str, file: str) -> float | str:
    found = _field(item, name, what, file)
    if not isinstance(found, float | int | str):
        raise ValueError(
            f"from_coco: expected a number as {name!r} in {what} of {file!r}, got {cut(item, 200)}. Correct it."
        )
    return found


def _path(root: str | os.PathLike[str], image: Mapping[str, Any], file: str) -> str:
    name = _field(image, "file_name", "image", file)
    if not isinstance(name, str):
        raise _no_path(root, image, file)
    return os.path.join(root, name)


def _no_path(root: str | os.PathLike[str], image: Mapping[str, Any], file: str) -> ValueError:
    return ValueError(
        f"from_coco: expected a path within root={os.fspath(root)!r} as 'file_name' in image {cut(image['id'])} of "
        f"{file!r}, got {cut(image['file_name'], 300)}. Correct it, or say outside=True."
    )


def _names(category: Mapping[str, Any], file: str) -> tuple[str, ...]:
    """Of its keypoints."""
    names = category.get("keypoints") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(
            f"from_coco: expected a list of names as 'keypoints' of category {cut(category['id'])} in {file!r}, got "
            f"{cut(names)}. Correct it, or take it out."
        )
    return tuple(names)


def _unknown(one: Mapping[str, Any], name: str, expected: str, file: str) -> ValueError:
    return ValueError(
        f"from_coco: expected {expected} as {name!r} in annotation {cut(one.get('id'))} of {file!r}, got "
        f"{cut(one[name])}. Take the annotation out, or add what is missing."
    )


__all__ = ["read_coco"]
