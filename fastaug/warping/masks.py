"""Masks through a matrix: the specification, in torch on any device, and the choice of who computes it.

For an output pixel with centre (u + 0.5, v + 0.5), the inverse matrix gives a point (x, y) of the mask, in
corner-origin pixels. What the picture shows is a rectangle, the extent. A point in it takes the value of the pixel that
contains it. A point beyond it is first brought into it, or takes the fill:

    fill         the fill
    border       the nearest point of the extent
    reflection   mirrored about the extent's edges, as often as needed

A point that is not on the plane (beyond the horizon, not finite) takes the fill. A point on the edge of a pixel belongs
to the following one, and mirrored to the one before, so that with whole pixels the look-up is `reference.py`'s.

An extent may begin and end within a pixel. The picture is the same all over the outer half of its outermost pixels, so
no point is looked up farther out than their middle: of a class that reaches into the extent by less it shows nothing.
An extent may also reach beyond the mask, as a decoder rounds a photo's sides up: there the last pixel is repeated.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from fastaug.warping.footprint import sampling_matrix

MaskPadding = Literal["fill", "reflection", "border"]
MASK_PADDINGS = get_args(MaskPadding)
Masks = Tensor | Sequence[Tensor]


def warp_masks(
    masks: Masks,
    matrix: Tensor,
    size: tuple[int, int],
    fill: int,
    padding: MaskPadding,
    extent: Tensor | None,
    pixel: Tensor | None,
) -> Tensor:
    """See `fastaug.augment.targets.warp_masks`, which checks the arguments."""
    device = masks[0].device
    samplings = sampling_matrix(matrix.detach().to(device, non_blocking=True))
    if extent is None:
        sides = torch.tensor([mask.shape for mask in masks], dtype=torch.float64).flip(1)
        extent = torch.cat([torch.zeros_like(sides), sides], 1)
    extent = extent.to(device, torch.float64, non_blocking=True)
    pixel = torch.ones(1, 2) if pixel is None else pixel
    pixel = pixel.to(device, torch.float64, non_blocking=True).expand(len(masks), 2)
    if device.type == "cpu" and not torch.compiler.is_compiling():
        module = importlib.import_module("fastaug.warping.masks_cpu")  # Numba is imported when it is first needed
        out: Tensor = module.warp_masks(masks, samplings, size, fill, padding, extent, pixel)
        return out
    return reference(masks, samplings, size, fill, padding, extent, pixel)


def reference(
    masks: Masks,
    samplings: Tensor,
    size: tuple[int, int],
    fill: int,
    padding: MaskPadding,
    extent: Tensor,
    pixel: Tensor,
) -> Tensor:
    """The specification.

    Args:
        masks: bool or integers [B, H, W], or a list of [H, W] of different sizes.
        samplings: float64 [B, 3, 3], output pixels -> pixels of the masks, see `sampling_matrix`.
        size: (height, width) of the output.
        extent: float64 [B, 4], x0, y0, x1, y1 in pixels of the masks.
        pixel: float64 [B, 2], width and height of the picture's pixels, in pixels of the masks.
    Returns:
        [B, height, width] of the masks' dtype.
    """
    device = masks[0].device
    shapes = torch.tensor([mask.shape for mask in masks])
    firsts = shapes.prod(1).cumsum(0) - shapes.prod(1)  # where each mask begins in all of them
    flat = masks.flatten() if isinstance(masks, Tensor) else torch.cat([mask.flatten() for mask in masks])
    height, width, first = torch.cat([shapes, firsts[:, None]], 1).to(device, non_blocking=True).T[..., None, None]
    x0, y0, x1, y1 = extent.T[..., None, None]
    half_x, half_y = pixel.T[..., None, None] / 2
    v, u = (torch.arange(count, dtype=torch.float64, device=device) + 0.5 for count in size)
    x, y, w = (row[0] * u + row[1] * v[:, None] + row[2] for row in samplings.permute(1, 2, 0)[..., None, None])
    reciprocal = 1 / w
    x, y = x * reciprocal, y * reciprocal
    seen = (w > 0) & torch.isfinite(x) & torch.isfinite(y)
    if padding == "fill":
        seen &= (x >= x0) & (x < x1) & (y >= y0) & (y < y1)
    x, y = torch.where(seen, x, x0), torch.where(seen, y, y0)
    column = _cell(x, x0, x1, half_x, width, padding)
    row = _cell(y, y0, y1, half_y, height, padding)
    values = flat[first + row * width + column]
    return values.masked_fill_(~seen, fill)


def _cell(place: Tensor, low: Tensor, high: Tensor, half: Tensor, size: Tensor, padding: MaskPadding) -> Tensor:
    """The pixel of each place along an axis, whose extent is low to high; half: of one of the picture's pixels."""
    cell = torch.floor(place)
    if padding == "reflection":
        period = 2 * (high - low)
        beyond = place - low
        beyond = beyond - torch.floor(beyond / period) * period
        mirrored = torch.ceil(low + (period - beyond)) - 1
        moved = torch.where(beyond < high - low, torch.floor(low + beyond), mirrored)
        cell = torch.where((place >= low) & (place < high), cell, moved)
    half = torch.minimum(half, (high - low) / 2)
    cell = torch.minimum(torch.maximum(cell, torch.floor(low + half)), torch.ceil(high - half) - 1)
    return torch.minimum(cell.clamp(min=0), size.double() - 1).long()


__all__ = ["MASK_PADDINGS", "MaskPadding", "Masks", "reference", "warp_masks"]
