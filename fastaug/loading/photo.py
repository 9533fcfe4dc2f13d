"""A photo is pixels with a matrix; and what a sample needs of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import add

import numpy as np
from torch import Tensor

from fastaug.loading.options import FilterName
from fastaug.loading.orientation import IDENTITY

Size = tuple[int, int]  # height, width
Box = tuple[float, float, float, float]  # x, y, width, height, corner-origin


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
        return cls(pixels, IDENTITY, (height, width))

    def part(self, box: Box) -> Box:
        """The pixels that show a box of the original; never turned, so it is a box here too."""
        (sx, _, tx), (_, sy, ty) = self.matrix[:2].tolist()
        x, y, width, height = box
        return x * sx + tx, y * sy + ty, width * sx, height * sy


def places_of(photos: Sequence[Photo]) -> tuple[np.ndarray, np.ndarray]:
    """Where the pixels of photos lie in their originals.

    Returns:
        These pixels -> pixels of the upright original, float64 [N, 3, 3]. (torch.linalg.inv would wake up all of
        torch's threads.)
        x0, y0, x1, y1 of what is shown of the original, float64 [N, 4]. (A side that was rounded up shows no more than
        there is.)
    """
    matrices = np.array([photo.matrix for photo in photos]).reshape(-1, 3, 3)
    extents = np.array([photo.pixels.shape[1::-1] for photo in photos], np.float64).reshape(-1, 2)  # width, height
    limits = np.array([photo.size[::-1] for photo in photos], np.float64).reshape(-1, 2)
    scales = 1 / matrices[:, [0, 1], [0, 1]]
    start = -matrices[:, :2, 2] * scales
    inverses = np.zeros_like(matrices)
    inverses[:, [0, 1], [0, 1]], inverses[:, :2, 2], inverses[:, 2, 2] = scales, start, 1
    shown = np.concatenate([start.clip(0), np.minimum(start + extents * scales, limits)], 1)
    return inverses, shown


@dataclass(frozen=True, slots=True)
class Need:
    """What a sample needs of its photo; known before that is decoded, if its header tells its size.

    Attributes:
        size: (height, width) of the upright original. Of a photo of another size it says nothing.
        footprint: how fine it must be: pixels of the original per pixel of what is made of it, at the finest place.
        output_footprint: the same per pixel of the output: what is made of it may be larger.
        box: the part of the original that is resized, if it is.
    """

    size: Size
    footprint: float
    output_footprint: float
    box: Box

    @staticmethod
    def of_all(needs: Sequence[Need | None]) -> Need | None:
        """What several images of one photo need of it; None where one does not know."""
        known = [need for need in needs if need is not None]
        if len(known) < len(needs) or not known:
            return None
        if len(known) == 1:
            return known[0]
        lefts, tops, widths, heights = zip(*(need.box for need in known), strict=True)
        x, y = min(lefts), min(tops)
        right, bottom = max(map(add, lefts, widths)), max(map(add, tops, heights))
        finest = min(need.footprint for need in known), min(need.output_footprint for need in known)
        return Need(known[0].size, *finest, (x, y, right - x, bottom - y))


@dataclass(frozen=True, slots=True)
class Resizing:
    """Photo -> Photo for some photos of a list: a box of each is resized.

    Attributes:
        rows: of the list.
        boxes: in the photos' pixels.
        sizes: (height, width) of each result.
        kind: of filter.
    """

    rows: list[int]
    boxes: list[Box]
    sizes: list[Size]
    kind: FilterName = "lanczos"

    def __len__(self) -> int:
        return len(self.rows)

    def apply(self, photos: Sequence[Photo], pixels: Sequence[Tensor]) -> list[Photo]:
        """The photos, with those resized whose new pixels these are."""
        found = list(photos)
        changes = zip(self.rows, self.boxes, self.sizes, pixels, strict=True)
        for row, (x, y, width, height), (out_height, out_width), new in changes:
            sx, sy = out_width / width, out_height / height
            step = np.array([[sx, 0, -x * sx], [0, sy, -y * sy], [0, 0, 1]])  # as geometry.box_matrix, sooner
            found[row] = Photo(new, step @ photos[row].matrix, photos[row].size)
        return found


__all__ = ["Box", "Need", "Photo", "Resizing", "Size", "places_of"]
