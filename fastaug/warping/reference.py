"""The specification of the warp: plain torch, float64, any device, slow and obvious. Every backend must match it.

For an output pixel with centre (u + 0.5, v + 0.5), the inverse matrix gives a point (x, y) of the input, in
corner-origin pixels. Its value is a weighted mean of the pixels around it,

    sum_ij  wy_i wx_j pixel[i, j]  /  (sum_i wy_i  ·  sum_j wx_j),

with one weight function along the rows and one along the columns:

    nearest     1 for the pixel that contains the point, 0 for the others
    bilinear    max(0, 1 - |d|), d the distance from the point to the pixel's centre
    antialias   see `filter.py`: the same idea, as wide as the output pixel's footprint on the input

Pixels outside the photo are found by the padding rule. The result goes through the colour matrix and is cast once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastaug.warping.filter import MAX_FOOTPRINT, Weight, antialias_weight
from fastaug.warping.footprint import footprints, sampling_matrix
from fastaug.warping.warp import How, Images


def warp(images: Images, matrix: Tensor, size: tuple[int, int], *how: *How) -> Tensor:
    """See `fastaug.warping.warp`, which checks the arguments. Differentiable in float images, matrix and color."""
    interpolation, padding, color, dtype = how
    samplings = sampling_matrix(matrix.to(images[0].device))
    out = [
        _warp_one(image, sampling, size, interpolation, padding)
        for image, sampling in zip(images, samplings, strict=True)
    ]
    result = torch.stack(out)
    if color is not None:
        color = color.to(result.device).double()
        result = torch.einsum("bhwc,bdc->bhwd", result, color[:, :, :3]) + color[:, None, None, :, 3]
    return result.to(dtype).permute(0, 3, 1, 2)


def _warp_one(image: Tensor, sampling: Tensor, size: tuple[int, int], interpolation: str, padding: str) -> Tensor:
    """One image [H, W, 3] to float64 [height, width, 3]."""
    pixels = image.double() / 255 if image.dtype == torch.uint8 else image.double()
    x, y, footprint_x, footprint_y = _sample_points(sampling, size)
    visible = torch.isfinite(x) & torch.isfinite(y)
    x, y = torch.where(visible, x, 0.0), torch.where(visible, y, 0.0)
    if interpolation == "nearest":
        columns, rows = ([(torch.floor(place).long(), torch.ones_like(place))] for place in (x, y))
    elif interpolation == "bilinear":
        columns, rows = (_taps(place, 1.0, lambda d: (1 - d.abs()).clamp(min=0)) for place in (x, y))
    else:
        columns, rows = (
            _taps(place, *antialias_weight(torch.where(visible, footprint, 1.0).clamp(1.0, MAX_FOOTPRINT)))
            for place, footprint in ((x, footprint_x), (y, footprint_y))
        )
    total = sum(weight for _, weight in columns) * sum(weight for _, weight in rows)
    result = torch.zeros(*size, 3, dtype=torch.float64, device=image.device)
    for i, weight_y in rows:
        for j, weight_x in columns:
            result = result + _read(pixels, i, j, padding) * (weight_y * weight_x / total)[..., None]
    return torch.where(visible[..., None], result, 0.0)


def _sample_points(sampling: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Where each output pixel looks, and how far its footprint reaches along the input's axes.

    Returns:
        x, y, footprint_x, footprint_y: float64 [height, width] each, input pixels; x and y are not finite beyond the
        horizon.
    """
    v, u = (torch.arange(count, dtype=torch.float64, device=sampling.device) + 0.5 for count in size)
    x, y, w = (row[0] * u + row[1] * v[:, None] + row[2] for row in sampling)
    w = torch.where(w > 0, w, torch.nan)
    x, y = x / w, y / w
    return x, y, *footprints(sampling, torch.stack([x, y], -1), w).unbind(-1)


def _taps(place: Tensor, radius: float, weight: Weight) -> list[tuple[Tensor, Tensor]]:
    """(index, weight) of every pixel whose centre lies within radius of place, along one axis."""
    first = torch.floor(place - 0.5 - radius).long() + 1
    count = int(2 * radius) + 2
    return [(first + k, weight((first + k).double() + 0.5 - place)) for k in range(count)]


def _read(pixels: Tensor, i: Tensor, j: Tensor, padding: str) -> Tensor:
    """pixels[i, j], indices beyond the edges by the padding rule. [H, W, 3] -> [height, width, 3]."""
    height, width, _ = pixels.shape
    inside = (i >= 0) & (i < height) & (j >= 0) & (j < width)
    if padding == "reflection":
        i, j = _reflect(i, height), _reflect(j, width)
    else:
        i, j = i.clamp(0, height - 1), j.clamp(0, width - 1)
    values = pixels[i, j]
    return torch.where(inside[..., None], values, 0.0) if padding == "zeros" else values


def _reflect(index: Tensor, size: int) -> Tensor:
    """Mirror about the photo's edge as often as needed: … 1 0 | 0 1 … n-1 | n-1 n-2 …"""
    index = index % (2 * size)
    return torch.where(index < size, index, 2 * size - 1 - index)
