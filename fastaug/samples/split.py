"""Which samples are for validation: by chance, by class, by group; and which files are the same."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

from fastaug.samples.sources import MemberPaths

_HERE, _TWICE = f".{os.sep}", 2 * os.sep  # what paths hold that have shorter spellings: ./ and ../, //


def first_rows(paths: Sequence[str], spelling: bool = False) -> list[int] | None:
    """For each row the first one with the same path; None: every row is its own.

    Args:
        paths: one per row.
        spelling: "./a.jpg", "a.jpg" and its absolute path are the same. No file is looked at.
    """
    if isinstance(paths, MemberPaths):
        return paths.first_rows()
    if spelling and 0 < sum(map(os.path.isabs, paths)) < len(paths):
        paths = list(map(os.path.abspath, paths))
    elif spelling and any(_HERE in path or _TWICE in path for path in paths):
        paths = list(map(os.path.normpath, paths))
    first: dict[str, int] = {}
    rows = [first.setdefault(path, row) for row, path in enumerate(paths)]
    return rows if len(first) < len(rows) else None


def stratified(order: Sequence[int], targets: Sequence[int], fraction: float, total: int) -> list[int]:
    """The validation rows: each class's share rounded down (1..n-1 of n), then up where most was lost.

    Args:
        order: the rows, as they were drawn.
        targets: the class of every row.
        fraction, total: of validation; total in rows.
    """
    by_class: dict[int, list[int]] = {}
    for row in order:
        by_class.setdefault(targets[row], []).append(row)
    most = {k: max(len(rows) - 1, 0) for k, rows in by_class.items()}
    take = {k: min(max(math.floor(len(rows) * fraction), 1), most[k]) for k, rows in by_class.items()}
    lost = {k: len(rows) * fraction - take[k] for k, rows in by_class.items() if take[k] < most[k]}
    spare = max(total - sum(take.values()), 0)
    for k in sorted((k for k in lost if lost[k] > 0), key=lambda k: -lost[k])[:spare]:
        take[k] += 1
    return [row for k, rows in by_class.items() for row in rows[: take[k]]]


def whole_groups(order: Iterable[int], group: Sequence[int], total: int) -> list[int]:
    """The validation rows: of the groups, as they were drawn, each that brings their number nearer to `total`.

    At least one group, and not all of them.

    Args:
        order: the rows, as they were drawn. A group is drawn with its first row, whatever its size.
        group: the number of every row's group.
        total: of validation, in rows.
    """
    rows: dict[int, list[int]] = {}
    place = {row: i for i, row in enumerate(order)}
    for row in sorted(place):
        rows.setdefault(group[row], []).append(row)
    drawn = sorted(rows.values(), key=lambda own: place[own[0]])
    taken: list[list[int]] = []
    for own in drawn:
        left = total - sum(map(len, taken))
        if abs(left - len(own)) < left:
            taken.append(own)
    taken = taken or [min(drawn, key=len)]
    if len(taken) == len(drawn):
        taken.remove(min(taken, key=len))
    return [row for own in taken for row in own]


def numbered_groups(
    groups: Sequence[Hashable] | Callable[[str], Hashable], paths: Sequence[str], first: Sequence[int] | None
) -> list[int]:
    """The number of each row's group; see `Samples.split`.

    Args:
        groups: the group of every row, or a function of its path.
        paths: of every row.
        first: for each row the first one of the same file.
    Raises:
        ValueError: groups that are missing, one group alone, or a file in two groups.
        TypeError: a group that cannot be compared.
    """
    if isinstance(groups, Mapping):
        raise TypeError(
            "split: expected groups as a value for each sample or a function of the path, got a mapping, whose values "
            "have no order. Give its .get, if its keys are the paths."
        )
    given: Any = [groups(path) for path in paths] if callable(groups) else groups
    values = list(given.tolist() if hasattr(given, "tolist") else given)
    values = [value.item() if hasattr(value, "item") else value for value in values]  # of arrays without axes
    if isinstance(given, str) or len(values) != len(paths):
        raise ValueError(f"split: expected a group for each of the {len(paths)} samples, got {len(values)}.")
    number: dict[Hashable, int] = {}
    numbers = []
    for row, value in enumerate(values):
        if value is None or value != value:
            raise ValueError(
                f"split: expected a group for every sample, got {value} for {paths[row]!r} (row {row}). Give samples "
                "that belong to nobody a group of their own."
            )
        if getattr(type(value), "__eq__", None) is object.__eq__:  # each would be a group of its own
            raise TypeError(
                f"split: expected groups that are text or numbers, got a {type(value).__name__} for {paths[row]!r} "
                f"(row {row}), which equals nothing but itself."
            )
        try:
            numbers.append(number.setdefault(value, len(number)))
        except TypeError:
            raise TypeError(
                f"split: expected groups that are text or numbers, got {value!r} for {paths[row]!r} (row {row})."
            ) from None
    if len(number) == 1:
        raise ValueError(f"split: expected two groups or more, got {values[0]!r} alone. Name what tells them apart.")
    for row, before in enumerate(first or ()):
        if numbers[row] != numbers[before]:
            raise ValueError(
                f"split: expected each file in one group, got {paths[row]!r} in {values[before]!r} and in "
                f"{values[row]!r} (rows {before} and {row}). Correct one of them."
            )
    return numbers


def on_both_sides(train: Iterable[Hashable], valid: Mapping[Any, str], caller: str, why: str) -> list[str]:
    """What is to be said of files of validation that are in training too.

    Args:
        train: the files of training, each by the one thing that names it.
        valid: those of validation, likewise, -> the path to name.
        caller, why: who says it, and what to do.
    """
    both = valid.keys() & train
    if not both:
        return []
    path = next(path for file, path in valid.items() if file in both)
    return [
        f"{caller}: {len(both):,} of {len(valid):,} validation files are in training too, the first {path!r}. {why}"
    ]


__all__ = ["first_rows", "numbered_groups", "on_both_sides", "stratified", "whole_groups"]
