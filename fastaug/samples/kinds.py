"""The kinds of targets: which one was given, and what is different about each."""

from __future__ import annotations

import operator
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from itertools import repeat
from numbers import Real
from typing import Any, Literal, NamedTuple

import numpy as np

from fastaug.samples.targets import MaskFiles, Objects

Kind = Literal["class", "labels", "numbers", "none", "mask", "objects"]
NONE = -1  # of a class target: none of the classes
OF_NONE = "none of these"


class Table(NamedTuple):
    """What there is of each class or column, to be read."""

    header: tuple[str, ...]
    rows: list[tuple[str, ...]]


class Cells(NamedTuple):
    """The targets as columns of a list, a row for each sample."""

    header: list[str]
    rows: Iterator[tuple[str, ...]]


class Behaviour:
    """What is different about the targets of one kind; this is the kind without targets.

    `targets` is what `Samples.targets` holds.
    """

    def take(self, targets: Any, rows: Sequence[int]) -> Any:
        """Those of some samples, in this order."""
        return None

    def of(self, targets: Any, row: int) -> Any:
        """That of one sample."""
        return None

    def equal(self, targets: Any, others: Any) -> bool:
        return bool(targets == others)

    def crc32(self, targets: Any) -> int:
        """A checksum of their values, the same on every machine."""
        return 0

    def counts(self, targets: Any, classes: list[str]) -> dict[str, int]:
        """How many there are of each class, 0 included; empty where targets are no classes."""
        return {}

    def summary(self, targets: Any, classes: list[str]) -> str:
        """In a few words."""
        return "no targets"

    def table(self, targets: Any, classes: list[str]) -> Table:
        return Table((), [])

    def cells(self, targets: Any, classes: list[str], target: str, label_sep: str | None) -> Cells:
        """As the columns of a list; see `Samples.to_csv`."""
        return Cells([], repeat(()))


class _Class(Behaviour):
    """list[int]"""

    def take(self, targets: list[int], rows: Sequence[int]) -> list[int]:
        return [targets[row] for row in rows]

    def of(self, targets: list[int], row: int) -> int:
        return targets[row]

    def crc32(self, targets: list[int]) -> int:
        return zlib.crc32(np.array(targets, "<i8").data)

    def counts(self, targets: list[int], classes: list[str]) -> dict[str, int]:
        number = Counter(targets)
        return {name: number[i] for i, name in enumerate(classes)}

    def summary(self, targets: list[int], classes: list[str]) -> str:
        return f"{len(classes):,} classes"

    def table(self, targets: list[int], classes: list[str]) -> Table:
        return _images(self.counts(targets, classes), targets.count(NONE))

    def cells(self, targets: list[int], classes: list[str], target: str, label_sep: str | None) -> Cells:
        names = [*classes, ""]  # NONE is -1
        return Cells([target], ((names[row],) for row in targets))


class _Labels(Behaviour):
    """list[tuple[int, ...]]"""

    def take(self, targets: list[tuple[int, ...]], rows: Sequence[int]) -> list[tuple[int, ...]]:
        return [targets[row] for row in rows]

    def of(self, targets: list[tuple[int, ...]], row: int) -> tuple[int, ...]:
        return targets[row]

    def crc32(self, targets: list[tuple[int, ...]]) -> int:
        lengths = np.array(list(map(len, targets)), "<i8")
        labels = np.array([label for row in targets for label in row], "<i8")
        return zlib.crc32(labels.data, zlib.crc32(lengths.data))

    def counts(self, targets: list[tuple[int, ...]], classes: list[str]) -> dict[str, int]:
        number = Counter(label for row in targets for label in row)
        return {name: number[i] for i, name in enumerate(classes)}

    def summary(self, targets: list[tuple[int, ...]], classes: list[str]) -> str:
        each = sum(map(len, targets)) / max(len(targets), 1)
        return f"{len(classes):,} labels, {each:.1f} per image"

    def table(self, targets: list[tuple[int, ...]], classes: list[str]) -> Table:
        return _images(self.counts(targets, classes), targets.count(()))

    def cells(self, targets: list[tuple[int, ...]], classes: list[str], target: str, label_sep: str | None) -> Cells:
        if label_sep is None:
            numbers = range(len(classes))
            return Cells(list(classes), (tuple(str(int(i in row)) for i in numbers) for row in targets))
        inside = next((name for name in classes if label_sep in name), None)
        if inside is not None:
            raise ValueError(
                f"to_csv: expected label_sep= that no class holds, got {label_sep!r}, which is in {inside!r}. Choose "
                "another, or None for a column of each class."
            )
        return Cells([target], ((label_sep.join(classes[label] for label in row),) for row in targets))


class _Numbers(Behaviour):
    """float32 [N] or [N, K]"""

    def take(self, targets: np.ndarray, rows: Sequence[int]) -> np.ndarray:
        return targets[np.asarray(rows, np.int64)]

    def of(self, targets: np.ndarray, row: int) -> Any:
        return float(targets[row]) if targets.ndim == 1 else targets[row]

    def equal(self, targets: np.ndarray, others: np.ndarray) -> bool:
        return np.array_equal(targets, others)

    def crc32(self, targets: np.ndarray) -> int:
        return zlib.crc32(np.ascontiguousarray(targets, "<f4").data, zlib.crc32(repr(targets.shape).encode()))

    def summary(self, targets: np.ndarray, classes: list[str]) -> str:
        return "a number each" if targets.ndim == 1 else f"{targets.shape[1]:,} numbers each"

    def table(self, targets: np.ndarray, classes: list[str]) -> Table:
        if not len(targets):
            return Table((), [])
        columns = targets.reshape(len(targets), -1).astype(np.float64)
        names = classes or list(map(str, range(columns.shape[1])))
        figures = zip(columns.min(0), columns.mean(0), columns.max(0), strict=True)
        rows = [(name, *(f"{value:.4g}" for value in of)) for name, of in zip(names, figures, strict=True)]
        return Table(("column", "least", "mean", "most"), rows)

    def cells(self, targets: np.ndarray, classes: list[str], target: str, label_sep: str | None) -> Cells:
        columns = targets.reshape(len(targets), -1)
        several = [f"{target}{i}" for i in range(columns.shape[1])]
        header = [target] if targets.ndim == 1 else classes or several
        return Cells(header, (tuple(map(str, row)) for row in columns))  # str: the shortest that is the same float32


class _Mask(Behaviour):
    """MaskFiles"""

    def take(self, targets: Any, rows: Sequence[int]) -> Any:
        return targets.take(rows)

    def of(self, targets: Any, row: int) -> Any:
        return targets[row]

    def crc32(self, targets: Any) -> int:
        return int(targets.crc32())

    def summary(self, targets: Any, classes: list[str]) -> str:
        return "a mask each" + (f", {len(classes):,} classes" if classes else "")

    def cells(self, targets: Any, classes: list[str], target: str, label_sep: str | None) -> Cells:
        raise ValueError(
            f"to_csv: expected targets that are values in a table, got {self.summary(targets, classes)}. Keep the "
            "folders or files that they come from."
        )


class _Objects(_Mask):
    """Objects"""

    def counts(self, targets: Objects, classes: list[str]) -> dict[str, int]:
        number = np.bincount(targets.labels, minlength=len(classes)).tolist()
        return dict(zip(classes, number, strict=True))

    def summary(self, targets: Objects, classes: list[str]) -> str:
        points = "" if targets.keypoints is None else f" with {targets.keypoints.shape[1]:,} keypoints"
        return f"{len(targets.boxes):,} boxes{points} of {len(classes):,} classes"

    def table(self, targets: Objects, classes: list[str]) -> Table:
        once = np.unique(np.stack([targets.labels, targets.photo()]), axis=1)[0]
        images = np.bincount(once, minlength=len(classes)).tolist()
        boxes = self.counts(targets, classes).items()
        rows = [(name, f"{number:,}", f"{of:,}") for (name, number), of in zip(boxes, images, strict=True)]
        without = int((np.diff(targets.first) == 0).sum())
        return Table(("class", "boxes", "images"), [*rows, *([(OF_NONE, "", f"{without:,}")] if without else [])])


def _images(counts: Mapping[str, int], without: int) -> Table:
    rows = [*counts.items(), *([(OF_NONE, without)] if without else [])]
    return Table(("class", "images"), [(name, f"{count:,}") for name, count in rows])


KINDS: dict[str, Behaviour] = {
    "class": _Class(), "labels": _Labels(), "numbers": _Numbers(), "none": Behaviour(), "mask": _Mask(),
    "objects": _Objects(),
}  # fmt: skip


class Chosen(NamedTuple):
    """What `Samples` holds, beside the paths."""

    kind: Kind
    targets: Any
    classes: list[str]


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
    if hasattr(given, "__array__"):
        array = np.asarray(given)
        if array.dtype.kind == "f" or (array.dtype.kind in "biu" and array.ndim > 1):
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
    if array.ndim > 2 or 0 in array.shape[1:]:
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


__all__ = ["KINDS", "NONE", "Cells", "Chosen", "Kind", "Table", "choose"]
