"""The two ways from a decoded photo to what the warp reads: two interpolations, or one. Pure functions, no pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal, Protocol

import numpy as np
import torch

from fastaug.loading.draws import Draws
from fastaug.loading.lanczos import reach
from fastaug.loading.photo import Need, Photo, Resizing, Size
from fastaug.warping.footprint import part_read, smallest_footprint

SHRINK_BEYOND = 4.0  # a photo of which an output pixel covers more pixels than this along an axis …
SHRINK_TO = 2.0  # … is first shrunk until it covers this many, so that the cost of the warp and the memory are bounded


class Mode(Protocol):
    """What the loader asks of a mode."""

    presize_is: ClassVar[str]  # for `summary`

    def needs(self, draws: Draws, sizes: Sequence[Size]) -> list[Need]:
        """What each sample needs of its original, whose size this is."""
        ...

    def resizing(self, photos: Sequence[Photo], needs: Sequence[Need | None], draws: Draws) -> Resizing:
        """Which photos are resized before the warp; where a need was not known before, the photo is whole."""
        ...

    def buffer(self, draws: Draws) -> np.ndarray | None:
        """Memory for what is resized, uint8 [B, height, width, 3], if every photo is, and to one size."""
        ...


class Resize:
    """Photos are presized, then warped: two interpolations."""

    presize_is: ClassVar[str] = "resized with the Lanczos filter"

    def needs(self, draws: Draws, sizes: Sequence[Size]) -> list[Need]:
        """The presize's square, and what its filter reads around it."""
        if not sizes:
            return []
        extent = torch.tensor(sizes)
        x0, y0, side = draws.square(extent)
        around = reach(side / draws.presize)
        low = torch.stack([x0 - around, y0 - around], 1).clamp(min=0)
        high = torch.stack([x0 + side + around, y0 + side + around], 1).minimum(extent.flip(1))
        parts = torch.cat([low, high], 1).long().tolist()
        footprints = (side / draws.presize).tolist()
        return [Need(*need) for need in zip(sizes, map(tuple, parts), footprints, strict=True)]

    def resizing(self, photos: Sequence[Photo], needs: Sequence[Need | None], draws: Draws) -> Resizing:
        x0, y0, side = draws.square(torch.tensor([photo.size for photo in photos]).reshape(-1, 2))
        shift = torch.tensor([photo.matrix[0, 2] for photo in photos], dtype=torch.float64)  # of cut-out columns
        boxes = torch.stack([x0 + shift, y0, side, side], 1)
        return Resizing([*range(len(photos))], boxes, [(draws.presize, draws.presize)] * len(photos))

    def buffer(self, draws: Draws) -> np.ndarray | None:
        # NumPy asks for huge pages, torch does not, and fresh memory is paid for page by page.
        return np.empty((len(draws), draws.presize, draws.presize, 3), np.uint8)


class Direct:
    """The presize is multiplied into the matrix and the warp reads the decoded photo: one interpolation.

    Photos that are far too large are shrunk first.
    """

    presize_is: ClassVar[str] = "part of the one warp"

    def needs(self, draws: Draws, sizes: Sequence[Size]) -> list[Need]:
        """What the warp may read; of a photo that is shrunk first all of it, since there the neighbourhood counts."""
        if not sizes:
            return []
        matrix, (height, width) = draws.matrix(torch.tensor(sizes)), draws.output
        footprints = smallest_footprint(matrix, width, height).tolist()
        parts = part_read(matrix, sizes, draws.output).tolist()
        return [
            Need(size, (0, 0, size[1], size[0]) if footprint > SHRINK_BEYOND else tuple(part), footprint)
            for size, part, footprint in zip(sizes, parts, footprints, strict=True)
        ]

    def resizing(self, photos: Sequence[Photo], needs: Sequence[Need | None], draws: Draws) -> Resizing:
        unknown = [row for row, need in enumerate(needs) if need is None]
        found = dict(zip(unknown, self.needs(draws[unknown], [photos[row].size for row in unknown]), strict=True))
        footprints = {row: (need or found[row]).footprint for row, need in enumerate(needs)}
        rows = [row for row, footprint in footprints.items() if footprint > SHRINK_BEYOND]
        sizes = [photos[row].size for row in rows]
        boxes = torch.tensor([(0, 0, width, height) for height, width in sizes], dtype=torch.float64).reshape(-1, 4)
        shrunk = [
            (math.ceil(height * SHRINK_TO / footprints[row]), math.ceil(width * SHRINK_TO / footprints[row]))
            for row, (height, width) in zip(rows, sizes, strict=True)
        ]
        return Resizing(rows, boxes, shrunk)

    def buffer(self, draws: Draws) -> np.ndarray | None:
        return None


ModeName = Literal["resize", "direct"]
MODES: dict[ModeName, type[Resize | Direct]] = {"resize": Resize, "direct": Direct}
