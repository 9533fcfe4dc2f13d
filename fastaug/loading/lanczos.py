"""The presize's filter, whoever computes it: Lanczos, antialiased where it shrinks."""

from __future__ import annotations

from torch import Tensor

LOBES = 3  # to each side


def reach(scale: Tensor) -> Tensor:
    """Pixels that it reads beyond a box, at most. scale: input pixels per output pixel, along the same axis."""
    return (LOBES * scale.clamp(min=1)).ceil() + 1
