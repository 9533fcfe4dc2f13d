"""The two ways from a decoded photo to what the warp reads: two interpolations, or one. Pure functions, no pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import sub
from typing import ClassVar, Protocol

import torch

from fastaug.loading.draws import Draws
from fastaug.loading.framing import FILTERS, FRAMINGS
from fastaug.loading.options import ModeName
from fastaug.loading.photo import Box, Need, Photo, Resizing, Size
from fastaug.warping.footprint import smallest_footprint

SHRINK_BEYOND = 4.0  # a photo of which an output pixel covers more pixels than this along an axis …
SHRINK_TO = 2.0  # … is first shrunk until it covers this many, so that the cost of the warp and the memory are bounded
_MOST_FRAMES = 4  # in the whole of a presized photo: of a longer one each image's frame is made by itself
_ROUNDING_PX = 0.5  # of a photo's longer side, when it was made smaller for a cache


class Mode(Protocol):
    """What the loader asks of a mode."""

    presize_is: ClassVar[str]  # for `summary`; {}: the name of the filter
    resizes_all: ClassVar[bool]  # and not only photos that are far too large

    def needs(self, draws: Draws, sizes: Sequence[Size]) -> list[Need]:
        """What each sample needs of its original, whose size this is."""
        ...

    def resizing(self, photos: Sequence[Photo], needs: Sequence[Need], draws: Draws, shared: bool = False) -> Resizing:
        """Which photos are resized before the warp, and to what; shared: after what `shared` said was done."""
        ...

    def shared(self, photos: Sequence[Photo], needs: Sequence[Need], draws: Draws) -> Resizing:
        """Which photos are resized once if several images are made of each, and to what, before `resizing`.

        needs: of all of a photo's images together.
        """
        ...

    def buffer_shape(self, draws: Draws) -> tuple[int, int, int, int] | None:
        """[B, height, width, 3] of what the warp reads, if every photo is resized, and to one size."""
        ...


class Resize:
    """Photos are presized, then warped: two interpolations."""

    presize_is: ClassVar[str] = "resized with the {} filter"
    resizes_all: ClassVar[bool] = True

    def needs(self, draws: Draws, sizes: Sequence[Size]) -> list[Need]:
        """What the presize shows."""
        if not sizes:
            return []
        shown, placed = draws.boxes(torch.tensor(sizes))
        boxes = map(tuple, shown.tolist())
        footprints = (shown[:, 2:] / placed[:, 2:]).amin(1).tolist(), _output_footprints(draws, sizes)
        return [Need(*need) for need in zip(sizes, *footprints, boxes, strict=True)]

    def resizing(self, photos: Sequence[Photo], needs: Sequence[Need], draws: Draws, shared: bool = False) -> Resizing:
        boxes = [photo.part(need.box) for photo, need in zip(photos, needs, strict=True)]
        sizes = [draws.presize] * len(photos)
        if draws.method == "pad":
            sizes = _whole_sizes(photos, draws)
        if draws.params is not None:
            boxes = [_whole_pixels(*part) for part in zip(boxes, photos, sizes, strict=True)]
        return Resizing([*range(len(photos))], boxes, sizes, FILTERS.get(draws.method, "lanczos"))

    def shared(self, photos: Sequence[Photo], needs: Sequence[Need], draws: Draws) -> Resizing:
        """The whole photo, as large as the presize makes it: its boxes are then cut out. Not of strips."""
        sizes, most = _whole_sizes(photos, draws), _MOST_FRAMES * math.prod(draws.presize)
        rows = [row for row, size in enumerate(sizes) if math.prod(size) <= most]
        boxes = [photos[row].part((0.0, 0.0, float(photos[row].size[1]), float(photos[row].size[0]))) for row in rows]
        return Resizing(rows, boxes, [sizes[row] for row in rows], FILTERS.get(draws.method, "lanczos"))

    def buffer_shape(self, draws: Draws) -> tuple[int, int, int, int] | None:
        return None if draws.method == "pad" else (len(draws), *draws.presize, 3)


class Direct:
    """The presize is multiplied into the matrix and the warp reads the decoded photo: one interpolation.

    Photos that are far too large are shrunk first.
    """

    presize_is: ClassVar[str] = "part of the one warp"
    resizes_all: ClassVar[bool] = False

    def needs(self, draws: Draws, sizes: Sequence[Size]) -> list[Need]:
        """All of the original: the draws may look anywhere, and where it is shrunk the neighbourhood counts."""
        if not sizes:
            return []
        footprints = _output_footprints(draws, sizes)
        boxes = [(0.0, 0.0, float(width), float(height)) for height, width in sizes]
        return [Need(*need) for need in zip(sizes, footprints, footprints, boxes, strict=True)]

    def resizing(self, photos: Sequence[Photo], needs: Sequence[Need], draws: Draws, shared: bool = False) -> Resizing:
        rows, boxes, sizes = list[int](), list[Box](), list[Size]()
        if shared:  # the warp of a view for which the photo is too large costs less than making it smaller for that
            return Resizing(rows, boxes, sizes)
        for row, (photo, need) in enumerate(zip(photos, needs, strict=True)):
            footprint = need.footprint * photo.matrix[0, 0]  # the photo may have been decoded at a smaller scale
            if footprint > SHRINK_BEYOND:
                box = photo.part(need.box)
                rows.append(row)
                boxes.append(box)
                sizes.append((math.ceil(box[3] * SHRINK_TO / footprint), math.ceil(box[2] * SHRINK_TO / footprint)))
        return Resizing(rows, boxes, sizes)

    def shared(self, photos: Sequence[Photo], needs: Sequence[Need], draws: Draws) -> Resizing:
        """Those that are far too large for the finest of the images."""
        return self.resizing(photos, needs, draws)

    def buffer_shape(self, draws: Draws) -> tuple[int, int, int, int] | None:
        return None


def _whole_sizes(photos: Sequence[Photo], draws: Draws) -> list[Size]:
    """(height, width) of whole photos as the presize shows them, wherever its frame lies."""
    sizes = torch.tensor([photo.size for photo in photos], dtype=torch.int64).reshape(-1, 2)
    shown, placed = FRAMINGS[draws.method](sizes, torch.zeros(len(sizes), 2), draws.presize, draws.kept)
    whole = (sizes.double() * (placed / shown)[:, 2:].flip(1)).round().int().clamp(min=1)
    return [(height, width) for height, width in whole.tolist()]


def _whole_pixels(box: Box, photo: Photo, size: Size) -> Box:
    """The nearest box of so many whole pixels, if the box is one but for a rounding, as of a photo from a cache.

    It is cut out, not interpolated. Where it lies then is in the photo's matrix, and the warp makes up for it.
    """
    (x, y, width, height), limits, wanted = box, photo.pixels.shape[:2][::-1], size[::-1]
    if max(abs(width - wanted[0]), abs(height - wanted[1])) > _ROUNDING_PX or min(map(sub, limits, wanted)) < 0:
        return box
    left, top = (min(max(round(at), 0), most - new) for at, most, new in zip((x, y), limits, wanted, strict=True))
    return float(left), float(top), float(wanted[0]), float(wanted[1])


def _output_footprints(draws: Draws, sizes: Sequence[Size]) -> list[float]:
    found: list[float] = smallest_footprint(draws.matrix(torch.tensor(sizes)), *reversed(draws.output)).tolist()
    return found


MODES: dict[ModeName, type[Resize | Direct]] = {"resize": Resize, "direct": Direct}
