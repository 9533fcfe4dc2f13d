"""Targets that are more than a number a photo: files of masks, and objects, which are boxes with labels and keypoints.

Objects of all photos lie one after the other in a few arrays (CSR), so a million of them cost 24 bytes each.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, overload

import numpy as np

from fastaug.samples.sources import names_crc32


class MaskFiles(Sequence[str]):
    """A file with a mask for each photo.

    Args:
        paths: of the files.
        upright: the masks are upright already; otherwise each is turned as its photo's EXIF says.
    """

    def __init__(self, paths: Sequence[str], upright: bool = False) -> None:
        self.paths, self.upright = list(paths), upright

    def take(self, rows: Sequence[int]) -> MaskFiles:
        """Those of some photos, in this order."""
        return MaskFiles([self.paths[row] for row in rows], self.upright)

    def crc32(self) -> int:
        return zlib.crc32(bytes([self.upright]), names_crc32(self.paths))

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> MaskFiles: ...
    def __getitem__(self, index: int | slice) -> str | MaskFiles:
        return MaskFiles(self.paths[index], self.upright) if isinstance(index, slice) else self.paths[index]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, MaskFiles):
            return NotImplemented
        return (self.paths, self.upright) == (other.paths, other.upright)

    __hash__ = None  # type: ignore[assignment]  # as a list

    def __repr__(self) -> str:
        return f"MaskFiles({len(self):,} files{', upright' if self.upright else ''})"


class ObjectsOf(NamedTuple):
    """The objects of one photo; see `Objects`. size: (height, width) that the annotation says; None: it does not."""

    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray | None
    keypoints: np.ndarray | None
    size: tuple[int, int] | None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Objects:
    """The objects of N photos, M in all, one photo's after the other's.

    Args:
        boxes: float32 [M, 4], (x0, y0, x1, y1) in pixels of the upright photo, corner-origin.
        labels: int64 [M], indices into the classes.
        first: int64 [N + 1], where each photo's objects begin; the last is M.
        crowd: bool [M], boxes round many objects that are not told apart. None: nobody has said.
        keypoints: float32 [M, P, 3], x, y and visibility: 0 not labelled, 1 hidden, 2 visible. None: there are none.
        sizes: int64 [N, 2], height and width that the annotations say; 0: unknown. None: all are.
        pairs: keypoints that a mirror exchanges, such as the left eye and the right one.
        keypoint_names: P names, or none.
        relative: x and y are shares of the photo's width and height instead of pixels.
    Raises:
        ValueError: shapes that do not fit, boxes that are not finite or have no area, keypoints that there are not.
    """

    boxes: np.ndarray
    labels: np.ndarray
    first: np.ndarray
    crowd: np.ndarray | None = None
    keypoints: np.ndarray | None = None
    sizes: np.ndarray | None = None
    pairs: list[tuple[int, int]] = ()  # type: ignore[assignment]
    keypoint_names: list[str] = ()  # type: ignore[assignment]
    relative: bool = False

    def __post_init__(self) -> None:
        first = np.asarray(self.first, np.int64)
        count, photos = len(self.boxes), len(first) - 1
        keypoints = None if self.keypoints is None else np.asarray(self.keypoints)
        points = None if keypoints is None or keypoints.ndim != 3 else keypoints.shape[1]
        shapes: dict[str, tuple[type, tuple[int | None, ...]]] = {
            "boxes": (np.float32, (count, 4)),
            "labels": (np.int64, (count,)),
            "first": (np.int64, (photos + 1,)),
            "crowd": (np.bool_, (count,)),
            "keypoints": (np.float32, (count, points, 3)),
            "sizes": (np.int64, (photos, 2)),
        }
        for name, (dtype, shape) in shapes.items():
            given = getattr(self, name)
            if given is None:
                continue
            array: np.ndarray = np.asarray(given, dtype)
            if array.shape != shape:
                raise ValueError(
                    f"Objects: expected {name} {list(shape)} for {count} boxes of {photos} photos, got "
                    f"{list(array.shape)}. Make all arrays from the same objects."
                )
            object.__setattr__(self, name, array)
        object.__setattr__(self, "pairs", [(int(one), int(other)) for one, other in self.pairs])
        object.__setattr__(self, "keypoint_names", [str(name) for name in self.keypoint_names])
        if first[0] != 0 or first[-1] != count or (np.diff(first) < 0).any():
            raise ValueError(
                f"Objects: expected first to rise from 0 to {count}, the number of boxes, got {first.tolist()[:3]} … "
                f"{first[-1]}. It says where each photo's boxes begin."
            )
        for name, floats in (("boxes", self.boxes), ("keypoints", self.keypoints)):
            if floats is not None and not np.isfinite(floats).all():
                row = np.nonzero(~np.isfinite(floats.reshape(count, -1)).all(1))[0][0]
                raise ValueError(
                    f"Objects: expected finite {name}, got {floats[row].tolist()} (row {row}). Correct or leave it out."
                )
        flat = np.nonzero((self.boxes[:, 2:] <= self.boxes[:, :2]).any(1))[0]
        if len(flat):
            raise ValueError(
                f"Objects: expected boxes x0 < x1 and y0 < y1, got {len(flat)} others, the first "
                f"{self.boxes[flat[0]].tolist()} (row {flat[0]}). Leave them out."
            )
        if any(not 0 <= point < (points or 0) for pair in self.pairs for point in pair):
            raise ValueError(
                f"Objects: expected pairs of the {points or 0} keypoints, got {self.pairs}. They count from 0."
            )

    @classmethod
    def gathered(
        cls, photos: int, photo: Sequence[int] | np.ndarray, boxes: object, labels: object, **more: Any
    ) -> Objects:
        """Objects in any order; photo: integers [M], the photo that each is in. A photo's objects keep their order.

        Args:
            photos: how many there are.
            more: as `Objects`.
        """
        of = np.asarray(photo, np.int64).reshape(-1)
        order = np.argsort(of, kind="stable")
        columns: dict[str, Any] = {
            "boxes": np.asarray(boxes, np.float32).reshape(-1, 4),
            "labels": np.asarray(labels, np.int64).reshape(-1),
        }
        for name in ("crowd", "keypoints"):
            given = more.pop(name, None)
            if given is not None:
                columns[name] = np.asarray(given, np.bool_ if name == "crowd" else np.float32)
        first = np.concatenate([[0], np.cumsum(np.bincount(of, minlength=photos))])
        return cls(first=first, **{name: column[order] for name, column in columns.items()}, **more)

    def take(self, rows: Sequence[int]) -> Objects:
        """Those of some photos, in this order."""
        photos = np.arange(len(self))[np.asarray(rows, np.int64)]
        counts = np.diff(self.first)[photos]
        first = np.concatenate([[0], np.cumsum(counts)])
        # Row k of the result, in photo i of it, is row k - first[i] of that photo's own.
        chosen = np.arange(first[-1]) + np.repeat(self.first[photos] - first[:-1], counts)
        return replace(
            self,
            boxes=self.boxes[chosen],
            labels=self.labels[chosen],
            first=first,
            crowd=None if self.crowd is None else self.crowd[chosen],
            keypoints=None if self.keypoints is None else self.keypoints[chosen],
            sizes=None if self.sizes is None else self.sizes[photos],
        )

    def photo(self) -> np.ndarray:
        """int64 [M]: the photo that each object is in."""
        return np.repeat(np.arange(len(self)), np.diff(self.first))

    def crc32(self) -> int:
        crc = zlib.crc32(repr((self.pairs, self.relative)).encode())
        for array, dtype in self._arrays():
            crc = crc if array is None else zlib.crc32(np.ascontiguousarray(array, dtype).data, crc)
        return crc

    def _arrays(self) -> list[tuple[np.ndarray | None, str]]:
        """Each with its type in a file, the same on every machine."""
        integers = [(array, "<i8") for array in (self.labels, self.first, self.sizes)]
        return [*integers, (self.boxes, "<f4"), (self.keypoints, "<f4"), (self.crowd, "?")]

    def __len__(self) -> int:
        """How many photos."""
        return len(self.first) - 1

    def __getitem__(self, index: int) -> ObjectsOf:
        row = range(len(self))[index]
        own = slice(self.first[row], self.first[row + 1])
        crowd = None if self.crowd is None else self.crowd[own]
        keypoints = None if self.keypoints is None else self.keypoints[own]
        height, width = (0, 0) if self.sizes is None else map(int, self.sizes[row])
        return ObjectsOf(
            self.boxes[own], self.labels[own], crowd, keypoints, (height, width) if height and width else None
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Objects):
            return NotImplemented
        mine, others = ((one.pairs, one.keypoint_names, one.relative) for one in (self, other))
        return mine == others and all(
            a is b if a is None or b is None else np.array_equal(a, b)
            for (a, _), (b, _) in zip(self._arrays(), other._arrays(), strict=True)
        )

    __hash__ = None  # type: ignore[assignment]  # as a list

    def __repr__(self) -> str:
        points = "" if self.keypoints is None else f", {self.keypoints.shape[1]} keypoints each"
        return f"Objects({len(self.boxes):,} boxes of {len(self):,} photos{points})"


__all__ = ["MaskFiles", "Objects", "ObjectsOf"]
