"""Objects in Pascal VOC's XML, a file for each image."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np

from fastaug.samples.annotations import Found, boxes_with_area, class_names
from fastaug.samples.pairs import check_pairs, photos_and_texts
from fastaug.samples.sources import content_of
from fastaug.samples.targets import Objects
from fastaug.text import cut, printable

_SIDE = re.compile(r"\d{1,9}")
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


class _File(NamedTuple):
    """Of one image: (height, width), 0 where it is not said; names of the classes; corners as they are written."""

    size: tuple[int, int]
    names: list[str]
    corners: list[list[float]]


def read_voc(
    images: str | os.PathLike[str], annotations: str | os.PathLike[str], classes: Iterable[str] | None
) -> Found:
    """See `Samples.from_voc`."""
    photos, there, files, left_out = photos_and_texts(images, annotations, ".xml", "from_voc")
    check_pairs(there, files, photos.root, os.fspath(annotations), "annotation", "from_voc")
    read = [_read(files[name]) for name in there]
    number = Counter(name for file in read for name in file.names)
    chosen = sorted(number) if classes is None else class_names(classes, "from_voc")
    place = {name: i for i, name in enumerate(chosen)}
    photo = np.repeat(np.arange(len(read)), [len(file.names) for file in read])
    labels = np.array([place.get(name, -1) for file in read for name in file.names], np.int64)
    corners = np.array([box for file in read for box in file.corners], np.float64).reshape(-1, 4)
    corners[:, :2] = np.maximum(corners[:, :2] - 1, 0)  # pixels count from 1 there, and the last one is in the box
    kept, said = boxes_with_area(corners, lambda i: repr(photos.paths[photo[i]]), "from_voc")
    kept &= labels >= 0
    other = {name: count for name, count in number.items() if name not in place}
    if other:
        said.append(
            f"from_voc: left out {sum(other.values()):,} objects of {len(other):,} classes that are not in classes=: "
            f"{printable(', '.join(sorted(other)[:5]))}."
        )
    sizes = np.array([file.size for file in read], np.int64)
    objects = Objects.gathered(len(read), photo[kept], corners[kept], labels[kept], sizes=sizes)
    return Found(photos.paths, objects, chosen, left_out + said)


def _read(path: str) -> _File:
    try:
        root = ElementTree.fromstring(content_of(path, "from_voc"))
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # also of encodings
        raise ValueError(f"from_voc: expected XML in {path!r}, got something else: {error!s:.100}.") from None
    if root.tag != "annotation":
        raise ValueError(
            f"from_voc: expected <annotation> in {path!r}, got <{printable(root.tag[:60])}>. Give the folder of Pascal "
            "VOC's files."
        )
    height, width = (root.findtext(f"size/{side}", "0").strip() for side in ("height", "width"))
    if not (_SIDE.fullmatch(height) and _SIDE.fullmatch(width)):
        raise ValueError(
            f"from_voc: expected whole numbers as width and height in {path!r}, got {cut(width)} and {cut(height)}."
        )
    names, corners = [], []
    for i, one in enumerate(root.findall("object")):
        name = one.findtext("name", "").strip()
        written = [one.findtext(f"bndbox/{corner}", "") for corner in _CORNERS]
        try:
            corners.append([float(text) for text in written])
        except ValueError:
            corners.append([])
        if not name or not corners[-1] or not np.isfinite(corners[-1]).all():
            raise ValueError(
                f"from_voc: expected a name and a bndbox of four numbers ({', '.join(_CORNERS)}) in object {i + 1} of "
                f"{path!r}, got {cut(name)} and {cut(written)}. Correct it or take the object out."
            )
        names.append(name)
    return _File((int(height), int(width)), names, corners)


__all__ = ["read_voc"]
