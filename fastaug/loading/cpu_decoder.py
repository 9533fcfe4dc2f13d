"""Decode and resize on CPU cores: JPEG through libjpeg-turbo, everything else through Pillow."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from fastaug.loading import jpeg, pillow
from fastaug.loading.header import JPEG, as_bytes, likely_size
from fastaug.loading.options import MAX_PIXELS, ScaleName
from fastaug.loading.photo import Need, Photo, Resizing
from fastaug.loading.reading import NO_MEMORY
from fastaug.loading.resize import resize
from fastaug.machine import thread_count
from fastaug.memory import Memory, can_be_had

# How far a box may reach over the edge of its photo: rounding, not geometry.
EDGE_TOLERANCE_PX = 0.01
_BYTES_PER_PIXEL = 8  # that decoding takes at most: of RGBA, and of RGB


class CpuDecoder:
    """A Decoder without threads of its own: each call works in its caller's.

    Args:
        num_threads: how many are going to call it; None: a rank's part of the cores, at most 64.
        scale: "auto": JPEGs are decoded at 1/2, 1/4 or 1/8 where that is fine enough for what is needed; "exact": they
            never are.
        max_pixels: larger images are refused.
    """

    device = torch.device("cpu")
    stream: torch.cuda.Stream | None = None
    chunk_size = 4  # at most: files have nothing to do with each other, but what surrounds a call costs as much for one

    def __init__(self, num_threads: int | None = None, scale: ScaleName = "auto", max_pixels: int = MAX_PIXELS) -> None:
        if num_threads is not None and num_threads < 1:
            raise ValueError(f"CpuDecoder: expected num_threads of at least 1 or None, got {num_threads}.")
        self.threads = num_threads or thread_count()
        self.memory = Memory()
        self._scaled, self.max_pixels = scale == "auto", max_pixels

    def decode(
        self, encoded: Sequence[bytes | np.ndarray], needs: Sequence[Need | None] | None = None
    ) -> list[Photo | str]:
        """See Decoder."""
        wanted = needs if needs is not None and self._scaled else [None] * len(encoded)
        contents = [as_bytes(content, position) for position, content in enumerate(encoded)]
        return [self._decode(content, need) for content, need in zip(contents, wanted, strict=True)]

    def _decode(self, content: bytes, need: Need | None) -> Photo | str:
        try:
            try:
                return self._photo(content, need)
            except MemoryError:  # a damaged header asks for an absurd size, or the machine is short of it
                size = likely_size(content) or pillow.size_of(content)
                if not can_be_had(_BYTES_PER_PIXEL * math.prod(size)):
                    return NO_MEMORY
                return self._photo(content, need)
        except pillow.Unreadable as error:
            return str(error)
        except MemoryError:
            return "the header asks for more memory than there is"

    def _photo(self, content: bytes, need: Need | None) -> Photo:
        if content.startswith(JPEG):
            return jpeg.decode(content, need, self.memory, self.max_pixels)
        return Photo.whole(torch.from_numpy(pillow.decode(content, self.memory, self.max_pixels)))

    def resize(
        self, photos: Sequence[Photo], resizing: Resizing, out: Sequence[np.ndarray] | None = None
    ) -> list[Photo]:
        """See Decoder."""
        check_boxes(photos, resizing)
        if out is None:
            out = [self.memory.take((height, width, 3)) for height, width in resizing.sizes]
        for row, box, pixels in zip(resizing.rows, resizing.boxes, out, strict=True):
            resize(np.ascontiguousarray(photos[row].pixels.numpy()), box, pixels, resizing.kind)
        return resizing.apply(photos, [torch.from_numpy(pixels) for pixels in out])

    def close(self) -> None:
        """Nothing to do."""


def check_boxes(photos: Sequence[Photo], resizing: Resizing) -> None:
    """Raises ValueError."""
    rows, boxes, sizes = resizing.rows, resizing.boxes, resizing.sizes
    if not len(rows) == len(boxes) == len(sizes):
        raise ValueError(
            f"resize: expected a box and a size for each of {len(rows)} photos, got {len(boxes)} and {len(sizes)}."
        )
    for i, (row, box, size) in enumerate(zip(rows, boxes, sizes, strict=True)):
        height, width, _ = photos[row].pixels.shape
        if min(size) < 1:
            raise ValueError(f"resize: expected sizes of at least 1 pixel, got {size}.")
        if not (_inside(box[0], box[2], width) and _inside(box[1], box[3], height)):
            raise ValueError(
                f"resize: expected box {i} inside its photo of {width} × {height} pixels (width × height), got x, y, "
                f"width, height = {list(box)}. Clip it to the photo."
            )


def _inside(start: float, extent: float, limit: int) -> bool:
    return start >= -EDGE_TOLERANCE_PX and extent > 0 and start + extent <= limit + EDGE_TOLERANCE_PX


__all__ = ["CpuDecoder", "check_boxes"]
