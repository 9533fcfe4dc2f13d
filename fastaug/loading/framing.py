"""How a photo comes into the presize's frame: cropped to its shape, squished into it, or padded. Pure functions.

Each takes the sizes of originals, integer [B, 2], (height, width); positions, float [B, 2] in [0, 1], (x, y): 0 = left
or top, 0.5 = centred, 1 = right or bottom; the frame, (height, width); and of the frame what a `CenterCrop` keeps,
(height, width), None without one. It returns two boxes x, y, width, height, float64 [B, 4]: what of the original is
shown, and where in the frame, in whole pixels.
Source: fastai's `ResizeMethod`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fastaug.loading.options import FilterName, ResizeMethod
from fastaug.loading.photo import Size

Framing = Callable[[Tensor, Tensor, Size, Size | None], tuple[Tensor, Tensor]]


def crop(sizes: Tensor, position: Tensor, frame: Size, kept: Size | None = None) -> tuple[Tensor, Tensor]:
    """The largest box of the frame's shape fills the frame. It begins at a whole pixel, so that cutting it out
    interpolates nothing."""
    extents, wanted = sizes.double().flip(1), torch.tensor(frame[::-1], dtype=torch.float64)  # width, height
    # Not divided by the frame's sides: the box of a square frame has whole sides then.
    shown = torch.minimum(extents, extents.flip(1) * wanted / wanted.flip(0))
    return torch.cat([_start(extents - shown, position), shown], 1), _whole_frame(len(sizes), frame)


def squish(sizes: Tensor, position: Tensor, frame: Size, kept: Size | None = None) -> tuple[Tensor, Tensor]:
    """The whole photo fills the frame, whatever its shape."""
    return _all_of(sizes), _whole_frame(len(sizes), frame)


def pad(sizes: Tensor, position: Tensor, frame: Size, kept: Size | None = None) -> tuple[Tensor, Tensor]:
    """The whole photo lies in the frame as large as it fits, its shape kept: a letterbox."""
    extents, wanted = sizes.double().flip(1), torch.tensor(frame[::-1], dtype=torch.float64)
    placed = (extents * (wanted / extents).amin(1, keepdim=True)).round().clamp(min=1)
    return _all_of(sizes), torch.cat([_start(wanted - placed, position), placed], 1)


def torchvision(sizes: Tensor, position: Tensor, frame: Size, kept: Size | None = None) -> tuple[Tensor, Tensor]:
    """As its Resize(side) and a crop of that: the short side becomes the frame's, the other one is rounded down, and
    what is shown begins at a whole pixel of the result.

    kept: (height, width) of a CenterCrop of the frame: what that shows is its CenterCrop of the resized photo.
    """
    extents, side = sizes.double().flip(1), float(max(frame))
    resized = torch.floor(side * extents / extents.amin(1, keepdim=True))
    slack = resized - side
    # Python's round(), to even numbers, as torchvision's, where the middle is asked for
    inner = torch.tensor((kept or frame)[::-1], dtype=torch.float64)
    middle = ((resized - inner) / 2).round() - ((side - inner) / 2).round()
    start = torch.where(position == 0.5, middle, _start(slack, position))
    scale = extents / resized
    return torch.cat([start * scale, side * scale], 1), _whole_frame(len(sizes), frame)


FRAMINGS: dict[ResizeMethod, Framing] = {"crop": crop, "squish": squish, "pad": pad, "torchvision": torchvision}


def _start(slack: Tensor, position: Tensor) -> Tensor:
    """Where a box begins, in whole pixels, that has so much room to be moved."""
    return torch.floor(position.double() * (slack.floor() + 1)).minimum(slack.floor())


def _all_of(sizes: Tensor) -> Tensor:
    return torch.cat([torch.zeros(len(sizes), 2, dtype=torch.float64), sizes.double().flip(1)], 1)


def _whole_frame(batch: int, frame: Size) -> Tensor:
    return torch.tensor([0, 0, frame[1], frame[0]], dtype=torch.float64).expand(batch, 4)


# With which filter photos are resized to the presize, if not Lanczos
FILTERS: dict[ResizeMethod, FilterName] = {"torchvision": "bilinear"}

__all__ = ["FILTERS", "FRAMINGS", "Framing"]
