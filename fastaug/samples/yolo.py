"""Objects in YOLO's texts, a file for each image that has some: class, centre and size, keypoints."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable

import numpy as np

from fastaug.samples.annotations import Found, Pairs, boxes_with_area, class_names, pair_numbers
from fastaug.samples.pairs import photos_and_texts
from fastaug.samples.sources import content_of
from fastaug.samples.targets import Objects
from fastaug.text import cut

_BESIDE = "classes.txt"  # the names of the classes, which labelling programs leave there
_ROUNDING = 0.01  # by which a share may lie outside of the photo


def read_yolo(
    images: str | os.PathLike[str], labels: str | os.PathLike[str], classes: Iterable[str], pairs: Pairs
) -> Found:
    """See `Samples.from_yolo`."""
    names = class_names(classes, "from_yolo")
    photos, there, files, left_out = photos_and_texts(images, labels, ".txt", "from_yolo")
    files = {name: path for name, path in files.items() if os.path.basename(path) != _BESIDE}
    rows: list[int] = []
    values: list[list[float]] = []
    first = ""  # the line that says how many keypoints there are
    for row, name in enumerate(there):
        path = files.pop(name, None)
        for line, numbers in enumerate(_lines(path) if path is not None else [], 1):
            if not numbers:
                continue
            where = f"line {line} of {path!r}"
            _check(numbers, names, where)
            first = first or where
            if values and len(numbers) != len(values[0]):
                raise ValueError(
                    f"from_yolo: expected {len(values[0])} values in {where}, as in {first}, got {len(numbers)}. Give "
                    "every object the same keypoints."
                )
            rows.append(row)
            values.append(numbers)
    if not values:
        raise ValueError(
            f"from_yolo: expected a text in {os.fspath(labels)!r} by the name of a photo in {photos.root!r}, got none "
            "with an object. Check both paths."
        )
    table = np.array(values, np.float64)
    centre, half = table[:, 1:3], table[:, 3:5] / 2
    corners = np.concatenate([centre - half, centre + half], 1)
    kept, said = boxes_with_area(corners, lambda i: repr(photos.paths[rows[i]]), "from_yolo")
    points = table[:, 5:].reshape(len(table), -1, 3) if table.shape[1] > 5 else None
    if files:
        said.append(
            f"from_yolo: left out {len(files):,} texts in {os.fspath(labels)!r} without a photo of their name, the "
            f"first {min(files.values())!r}."
        )
    objects = Objects.gathered(
        len(photos.paths),
        np.array(rows, np.int64)[kept],
        corners[kept],
        table[kept, 0].astype(np.int64),
        keypoints=None if points is None else points[kept],
        pairs=pair_numbers(pairs, 0 if points is None else points.shape[1], [], "from_yolo"),
        relative=True,
    )
    return Found(photos.paths, objects, names, left_out + said)


def _lines(path: str) -> list[list[float]]:
    """The numbers in each line."""
    content, found = content_of(path, "from_yolo"), list[list[float]]()
    try:
        for line in io.StringIO(content.decode("utf-8-sig"), newline=None):
            found.append(list(map(float, line.split())))
    except ValueError:  # whose words would be the file's
        raise ValueError(
            f"from_yolo: expected lines of numbers in {path!r}, got something else in line {len(found) + 1}. Correct "
            "the line, or move the file away."
        ) from None
    return found


def _check(numbers: list[float], names: list[str], where: str) -> None:
    """That a line is an object's."""
    number, *shares = numbers
    if len(shares) < 4 or len(shares) % 3 != 1:
        raise ValueError(
            f"from_yolo: expected class, centre x and y, width and height, and x, y and visibility for each keypoint, "
            f"in {where}, got {len(numbers)} values. Outlines are not read."
        )
    if number not in range(len(names)):
        raise ValueError(
            f"from_yolo: expected a class 0..{len(names) - 1} in {where}, got {number:g}. Give the names of all "
            "classes, or correct the line."
        )
    coordinates = shares[:4] + [share for i, share in enumerate(shares[4:]) if i % 3 < 2]
    outside = [share for share in coordinates if not -_ROUNDING <= share <= 1 + _ROUNDING]
    if outside:
        raise ValueError(
            f"from_yolo: expected shares of the photo's width and height, from 0 to 1, in {where}, got {outside[0]:g}. "
            "Divide pixels by width and height."
        )
    if not all(share in (0, 1, 2) for share in shares[6::3]):
        raise ValueError(f"from_yolo: expected visibility 0, 1 or 2 in {where}, got {cut(shares[6::3])}.")


__all__ = ["read_yolo"]
