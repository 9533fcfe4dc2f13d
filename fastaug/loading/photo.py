"""A photo is pixels with a matrix; and what a sample needs of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

Size = tuple[int, int]  # height, width

_IDENTITY = np.eye(3)


@dataclass(frozen=True, slots=True, eq=False)
class Photo:
    """An image, or what was made of one, and where it came from.

    Attributes:
        pixels: uint8 [h, w, 3], RGB, on the loader's device.
        matrix: float64 [3, 3], pixels of the upright original -> these pixels, corner-origin. An array: a tensor costs
            more for so few numbers.
        size: (height, width) of the upright original.
    """

    pixels: Tensor
    matrix: np.ndarray
    size: Size

    @classmethod
    def whole(cls, pixels: Tensor) -> Photo:
        """An original as it was decoded."""
        height, width, _ = pixels.shape
        return cls(pixels, _IDENTITY, (height, width))

    @classmethod
    def columns(cls, pixels: Tensor, first: int, size: Size) -> Photo:
        """Some columns of an original of that size, from the first one on."""
        return cls(pixels, np.array([[1.0, 0, -first], [0, 1, 0], [0, 0, 1]]), size)


@dataclass(frozen=True, slots=True)
class Need:
    """What a sample needs of its photo, known before that is decoded.

    Attributes:
        size: (height, width) of the upright original, from its header.
        part: x0, y0, x1, y1 of all that may be read, in whole pixels of the upright original.
        footprint: how fine it must be: input pixels per output pixel, at the finest place.
    """

    size: Size
    part: tuple[int, int, int, int]
    footprint: float


@dataclass(frozen=True, slots=True)
class Resizing:
    """Photo -> Photo for some photos of a list: a box of each is resized.

    Attributes:
        rows: of the list.
        boxes: float64 [N, 4], x, y, width and height in the photos' pixels, corner-origin.
        sizes: (height, width) of each result.
    """

    rows: list[int]
    boxes: Tensor
    sizes: list[Size]

    def __len__(self) -> int:
        return len(self.rows)

    def apply(self, photos: Sequence[Photo], pixels: Sequence[Tensor]) -> list[Photo]:
        """The photos, with those resized whose new pixels these are."""
        found = list(photos)
        changes = zip(self.rows, self.boxes.tolist(), self.sizes, pixels, strict=True)
        for row, (x, y, width, height), (out_height, out_width), new in changes:
            sx, sy = out_width / width, out_height / height
            step = np.array([[sx, 0, -x * sx], [0, sy, -y * sy], [0, 0, 1]])  # as geometry.box_matrix, sooner
            found[row] = Photo(new, step @ photos[row].matrix, photos[row].size)
        return found


__all__ = ["Need", "Photo", "Resizing", "Size"]
