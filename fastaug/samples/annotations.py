"""What all lists of objects share: boxes without area, and pairs of keypoints."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from fastaug.samples.targets import Objects
from fastaug.text import printable

Pairs = Iterable[tuple[int | str, int | str]]


class Found(NamedTuple):
    """What a list of objects holds: the photos, their objects, the classes, and what is to be said."""

    paths: list[str]
    objects: Objects
    classes: list[str]
    said: list[str]


def class_names(classes: Iterable[str], caller: str) -> list[str]:
    """Those that are asked for.

    Raises:
        TypeError: a single string, or a mapping. ValueError: none, or one several times.
    """
    if isinstance(classes, Mapping):
        raise TypeError(
            f"{caller}: expected a list of classes, got a dict. Give its values, in the order of the numbers."
        )
    if isinstance(classes, str):
        raise TypeError(f"{caller}: expected a list of classes, got the string {classes!r}. Put it into a list.")
    names = list(map(str, classes))
    if not names or len(set(names)) < len(names):
        raise ValueError(f"{caller}: expected classes, each once, got {names}.")
    return names


def boxes_with_area(corners: np.ndarray, name: Callable[[int], str], caller: str) -> tuple[np.ndarray, list[str]]:
    """bool [M]: the boxes that have an area, as float32; and what is to be said about the others.

    Args:
        corners: [M, 4], x0, y0, x1, y1.
        name: row -> what the box is of.
    """
    boxes = corners.astype(np.float32)
    kept = np.all(boxes[:, 2:] > boxes[:, :2], axis=1)
    flat = np.flatnonzero(~kept)
    if not len(flat):
        return kept, []
    first = f"{corners[flat[0]].tolist()} of {name(int(flat[0]))}"
    return kept, [f"{caller}: left out {len(flat):,} of {len(kept):,} boxes, which have no area, the first {first}."]


def pair_numbers(pairs: Pairs, number: int, names: Sequence[str], caller: str) -> list[tuple[int, int]]:
    """Pairs of keypoints, by number or by name, by number.

    Raises:
        ValueError: what is no pair of two keypoints that there are.
    """
    made = []
    for pair in pairs:
        found = [names.index(one) if isinstance(one, str) and one in names else one for one in pair]
        if len(found) != 2 or not all(isinstance(one, int) and 0 <= one < number for one in found):
            there = f"they are {printable(', '.join(names))}" if names else f"there are {number}, counted from 0"
            raise ValueError(f"{caller}: expected pairs= of two keypoints, got {pair!r}; {there}.")
        made.append((int(found[0]), int(found[1])))
    return made


__all__ = ["Found", "Pairs", "boxes_with_area", "class_names", "pair_numbers"]
