"""A photo is pixels with a matrix; and what a sample needs of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastaug.augment import geometry

Size = tuple[int, int]  # height, width

_IDENTITY = torch.eye(3, dtype=torch.float64)


@dataclass(frozen=True, slots=True, eq=False)
class Photo:
    """An image, or what was made of one, and where it came from.

    Attributes:
        pixels: uint8 [h, w, 3], RGB, on the loader's device.
        matrix: float64 [3, 3], pixels of the upright original -> these pixels, corner-origin.
        size: (height, width) of the upright original.
    """

    pixels: Tensor
    matrix: Tensor
    size: Size

    @classmethod
    def whole(cls, pixels: Tensor) -> Photo:
        """An original as it was decoded."""
        height, width, _ = pixels.shape
        return cls(pixels, _IDENTITY, (height, width))

    @classmethod
    def columns(cls, pixels: Tensor, first: int, size: Size) -> Photo:
        """Some columns of an original of that size, from the first one on."""
        matrix = _IDENTITY.clone()
        matrix[0, 2] = -first
        return cls(pixels, matrix, size)


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
        if not self.rows:
            return list(photos)
        x, y, width, height = self.boxes.unbind(1)
        out_height, out_width = torch.tensor(self.sizes, dtype=torch.float64).unbind(1)
        steps = geometry.box_matrix(x, y, width, height, out_width, out_height)
        matrices = steps @ torch.stack([photos[row].matrix for row in self.rows])
        found = list(photos)
        for row, new, matrix in zip(self.rows, pixels, matrices.unbind(), strict=True):
            found[row] = Photo(new, matrix, photos[row].size)
        return found


__all__ = ["Need", "Photo", "Resizing", "Size"]
