"""Which kind of targets was given, in any of the forms that libraries have for them."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence, Sized
from numbers import Real
from typing import Any

import numpy as np

from fastaug.samples.kinds import NONE, Chosen
from fastaug.samples.targets import MaskFiles, Objects


def choose(given: Any, classes: list[str] | None, paths: Sequence[str]) -> Chosen:
    """The kind of what was given as targets, and these as they are held; see `Samples`.

    Raises:
        ValueError, TypeError: what is no kind of targets, or does not go with the classes or the paths.
    """
    if given is None:
        return Chosen("none", None, classes or [])
    if isinstance(given, MaskFiles | Objects):
        _one_each(given, paths)
        if isinstance(given, MaskFiles):
            return Chosen("mask", given, classes or [])
        return Chosen("objects", given, _of_objects(given, classes))
    if hasattr(given, "detach"):  # torch's, which this room does not know
        given = given.detach().cpu()
    if not hasattr(given, "__iter__"):
        raise TypeError(f"Samples: expected a target for each path, got {given!r}. Give a list of them, or None.")
    if hasattr(given, "__array__"):
        array = np.asarray(given)
        if array.dtype.kind == "f" or (array.dtype.kind in "biu" and array.ndim != 1):
            return _of_array(array, classes, paths)
        given = array.tolist()
    rows = given if isinstance(given, Sequence) and not isinstance(given, str) else list(given)
    _one_each(rows, paths)
    try:
        return Chosen("class", *_of_indices(list(map(operator.index, rows)), classes, paths))
    except TypeError as error:
        return _of_rows([_plain(row) for row in rows], classes, paths, error)


def _one_each(rows: Sized, paths: Sequence[str]) -> None:
    if len(rows) != len(paths):
        raise ValueError(
            f"Samples: expected one target per path, got {len(paths)} paths and {len(rows)} targets. "
            "Make both lists from the same rows."
        )


def _of_indices(rows: list[int], classes: list[str] | None, paths: Sequence[str]) -> tuple[list[int], list[str]]:
    names = _named(classes, bool(rows), "targets")
    if rows and (min(rows) < NONE or max(rows) >= len(names)):
        row = next(i for i, target in enumerate(rows) if not NONE <= target < len(names))
        raise ValueError(
            f"Samples: expected targets 0..{len(names) - 1} for {len(names)} classes, got {rows[row]} "
            f"for {paths[row]!r} (row {row}). Add the class or correct the target; {NONE} is none of them."
        )
    return rows, names


def _named(classes: list[str] | None, needed: bool, what: str) -> list[str]:
    if classes is None and needed:
        raise ValueError(
            f"Samples: expected classes, the names that integer {what} are indices of, got none. Give them; numbers to "
            "regress on are floats."
        )
    return classes or []


def _of_objects(objects: Objects, classes: list[str] | None) -> list[str]:
    names = _named(classes, bool(len(objects.labels)), "labels")
    wrong = np.nonzero((objects.labels < 0) | (objects.labels >= len(names)))[0]
    if len(wrong):
        raise ValueError(
            f"Samples: expected labels 0..{len(names) - 1} for {len(names)} classes, got {objects.labels[wrong[0]]} "
            f"(box {wrong[0]}). Add the class or correct the label."
        )
    return names


def _of_array(array: np.ndarray, classes: list[str] | None, paths: Sequence[str]) -> Chosen:
    """Numbers to regress on, or rows of 0 and 1."""
    if array.ndim not in (1, 2) or 0 in array.shape[1:]:
        raise ValueError(
            f"Samples: expected targets [N] or [N, K], got {list(array.shape)}. Masks are files, see from_folders; "
            "boxes and points are Objects, see from_coco."
        )
    _one_each(array, paths)
    of_floats = array.dtype.kind == "f"
    if array.ndim == 1 and classes is not None:
        raise TypeError(
            f"Samples: expected integer targets, got something else ({array.dtype}). Give indices into classes; for "
            "numbers to regress on, no classes."
        )
    if classes is not None and array.shape[1] != len(classes):
        raise ValueError(
            f"Samples: expected a column for each of the {len(classes)} classes, got targets {list(array.shape)}. "
            "Give the name of each column."
        )
    binary = np.isin(array, (0, 1)) if array.ndim == 2 and classes is not None else None
    if binary is not None and binary.all():
        return Chosen("labels", [tuple(np.flatnonzero(row).tolist()) for row in array], classes or [])
    if not of_floats:
        names = _named(classes, True, "rows")
        row, column = np.argwhere(np.zeros(array.shape, bool) if binary is None else ~binary)[0]
        raise ValueError(
            f"Samples: expected rows of 0 and 1, got {array[row, column]} for {paths[row]!r} (row {row}) and "
            f"{names[column]!r}. Correct it, or make the targets floats if they are numbers to regress on."
        )
    with np.errstate(over="ignore"):
        numbers = np.array(array, np.float32)  # a copy
    wrong = np.argwhere(~np.isfinite(numbers))
    if len(wrong):
        at = tuple(wrong[0])
        raise ValueError(
            f"Samples: expected finite numbers, got {array[at]} for {paths[at[0]]!r} (row {at[0]}), and "
            f"{len(wrong) - 1} others. Correct them or leave the rows out."
        )
    return Chosen("numbers", numbers, classes or [])


def _plain(row: Any) -> Any:
    """A row as a number, a string, or a list."""
    if hasattr(row, "detach"):
        row = row.detach().cpu()
    if hasattr(row, "__array__"):
        return np.asarray(row).tolist()
    return list(row) if isinstance(row, Iterable) and not isinstance(row, str | bytes) else row


def _of_rows(rows: list[Any], classes: list[str] | None, paths: Sequence[str], error: TypeError) -> Chosen:
    """Of plain rows that are not all integers. error: the one that says so."""
    if rows and all(isinstance(row, bool) for row in rows):  # numpy's, which are no indices
        return Chosen("class", *_of_indices(list(map(int, rows)), classes, paths))
    if all(isinstance(row, Real) for row in rows):
        return _of_array(np.array(rows, np.float64), classes, paths)
    if not all(isinstance(row, list) for row in rows):
        raise TypeError(
            f"Samples: expected integer targets, got something else ({error}). "
            "Give indices into classes, not names; lists of names where a photo has several; floats to regress on."
        ) from None
    values = [value for row in rows for value in row]
    if any(isinstance(value, float) for value in values):
        ragged = next((i for i, row in enumerate(rows) if len(row) != len(rows[0])), None)
        if ragged is not None:
            raise ValueError(
                f"Samples: expected {len(rows[0])} numbers for each photo, got {len(rows[ragged])} for "
                f"{paths[ragged]!r} (row {ragged}). Give as many for each."
            )
        return _of_array(np.array(rows, np.float64), classes, paths)
    if classes is None and values and all(isinstance(value, str) for value in values):
        classes = sorted(set(values))
    names = _named(classes, True, "labels")
    if names and all(len(row) == len(names) for row in rows) and all(value in (0, 1) for value in values):
        return _of_array(np.array(rows, np.int64), names, paths)
    number = {name: i for i, name in enumerate(names)}
    labels = []
    for i, row in enumerate(rows):
        found = {number.get(label, len(names)) if isinstance(label, str) else _index(label, i, paths) for label in row}
        if found and not 0 <= min(found) <= max(found) < len(names):
            wrong = next(one for one in row if number.get(one, one) not in range(len(names)))
            raise ValueError(
                f"Samples: expected names of the {len(names)} classes or indices 0..{len(names) - 1}, got {wrong!r} "
                f"for {paths[i]!r} (row {i}). Add the class or correct the label."
            )
        labels.append(tuple(sorted(found)))
    return Chosen("labels", labels, names)


def _index(label: Any, row: int, paths: Sequence[str]) -> int:
    try:
        return operator.index(label)
    except TypeError:
        raise TypeError(
            f"Samples: expected labels that are names of classes or indices of them, got {label!r} for {paths[row]!r} "
            f"(row {row})."
        ) from None


__all__ = ["choose"]
