"""The kinds of targets: how those of each are taken, counted, described and written."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import repeat
from typing import Any, Literal, NamedTuple

import numpy as np

from fastaug.samples.targets import Objects

Kind = Literal["class", "labels", "numbers", "none", "mask", "objects"]
NONE = -1  # of a class target: none of the classes
OF_NONE = "none of these"


class Chosen(NamedTuple):
    """What `Samples` holds, beside the paths."""

    kind: Kind
    targets: Any
    classes: list[str]


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


__all__ = ["KINDS", "NONE", "Cells", "Chosen", "Kind", "Table"]
