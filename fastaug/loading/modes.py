"""The two ways from a decoded photo to what the warp reads: two interpolations, or one. Pure functions, no pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Protocol

import torch

from fastaug.loading.draws import Draws
from fastaug.loading.options import ModeName
from fastaug.loading.photo import Box, Need, Photo, Resizing, Size
from fastaug.warping.footprint import smallest_footprint

SHRINK_BEYOND = 4.0  # a photo of which an output pixel covers more pixels than this along an axis …
SHRINK_TO = 2.0  # … is first shrunk until it covers this many, so that the cost of the warp and the memory are bounded
_ROUNDING_PX = 0.5  # of a photo's longer side, when it was made smaller for a cache


class Mode(Protocol):
    """What the loader asks of a mode."""

    presize_is: ClassVar[str]  # for `summary`

    def needs(self, draws: Draws, sizes: Sequence[Size]) -> list[Need]:
        """What each sample needs of its original, whose size this is."""
        ...

    def resizing(self, photos: Sequence[Photo], needs: Sequence[Need], draws: Draws) -> Resizing:
        """Which photos are resized before the warp, and to what."""
        ...

    def buffer_shape(self, draws: Draws) -> tuple[int, int, int, int] | None:
        """[B, height, width, 3] of what the warp reads, if every photo is resized, and to one size."""
        ...


class Resize:
    """Photos are presized, then warped: two interpolations."""

    presize_is: ClassVar[str] = "resized with the Lanczos filter"

    def needs(self, draws: Draws, sizes: Sequence[Size]) -> list[Need]:
        """The presize's square."""
        if not sizes:
            return []
        x0, y0, side = draws.square(torch.tensor(sizes))
        boxes = map(tuple, torch.stack([x0, y0, side, side], 1).tolist())
        footprints = (side / draws.presize).tolist(), _output_footprints(draws, sizes)
        return [Need(*need) for need in zip(sizes, *footprints, boxes, strict=True)]

    def resizing(self, photos: Sequence[Photo], needs: Sequence[Need], draws: Draws) -> Resizing:
        presize, boxes = draws.presize, [photo.part(need.box) for photo, need in zip(photos, needs, strict=True)]
        if draws.params is not None:
            boxes = [_whole_pixels(box, photo, presize) for box, photo in zip(boxes, photos, strict=True)]
        return Resizing([*range(len(photos))], boxes, [(presize, presize)] * len(photos))

    def buffer_shape(self, draws: Draws) -> tuple[int, int, int, int] | None:
        return len(draws), draws.presize, draws.presize, 3


class Direct:
    """The presize is multiplied into the matrix and the warp reads the decoded photo: one interpolation.

    Photos that are far too large are shrunk first.
    """

    presize_is: ClassVar[str] = "part of the one warp"

    def needs(self, draws: Draws, sizes: Sequence[Size]) -> list[Need]:
        """All of the original: the draws may look anywhere, and where it is shrunk the neighbourhood counts."""
        if not sizes:
            return []
        footprints = _output_footprints(draws, sizes)
        boxes = [(0.0, 0.0, float(width), float(height)) for height, width in sizes]
        return [Need(*need) for need in zip(sizes, footprints, footprints, boxes, strict=True)]

    def resizing(self, photos: Sequence[Photo], needs: Sequence[Need], draws: Draws) -> Resizing:
        rows, boxes, sizes = [], [], []
        for row, (photo, need) in enumerate(zip(photos, needs, strict=True)):
            footprint = need.footprint * photo.matrix[0, 0]  # the photo may have been decoded at a smaller scale
            if footprint > SHRINK_BEYOND:
                box = photo.part(need.box)
                rows.append(row)
                boxes.append(box)
                sizes.append((math.ceil(box[3] * SHRINK_TO / footprint), math.ceil(box[2] * SHRINK_TO / footprint)))
        return Resizing(rows, boxes, sizes)

    def buffer_shape(self, draws: Draws) -> tuple[int, int, int, int] | None:
        return None


def _whole_pixels(box: Box, photo: Photo, presize: int) -> Box:
    """The nearest square of so many whole pixels, if the box is one but for a rounding, as of a photo from a cache.

    It is cut out, not interpolated. Where it lies then is in the photo's matrix, and the warp makes up for it.
    """
    (x, y, *extents), (height, width, _) = box, photo.pixels.shape
    if max(abs(extent - presize) for extent in extents) > _ROUNDING_PX or min(height, width) < presize:
        return box
    left, top = (min(max(round(place), 0), side - presize) for place, side in ((x, width), (y, height)))
    return float(left), float(top), float(presize), float(presize)


def _output_footprints(draws: Draws, sizes: Sequence[Size]) -> list[float]:
    found: list[float] = smallest_footprint(draws.matrix(torch.tensor(sizes)), *reversed(draws.output)).tolist()
    return found


MODES: dict[ModeName, type[Resize | Direct]] = {"resize": Resize, "direct": Direct}
