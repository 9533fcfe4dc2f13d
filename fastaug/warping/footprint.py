"""What output pixels see of the input: where they look, and how much of it each covers.

An output pixel covers a parallelogram of the input. Its footprint along an axis is the extent of the axis-parallel box
with the same second moment, sqrt(dx/du² + dx/dv²) along x.
"""

from __future__ import annotations

import torch
from torch import Tensor


def sampling_matrix(matrix: Tensor) -> Tensor:
    """Output pixels -> input pixels. float64 [B, 3, 3]; not finite where the matrix is singular.

    The third coordinate w keeps its sign: w > 0 is the visible side of the horizon, as in every matrix drawn here. (The
    photo's centre would be no guide: a crop far from it may look at what lies beyond the centre's horizon.)
    The values are not looked at: no synchronisation.
    """
    a, b, c = matrix.double().unbind(-2)
    adjugate = torch.stack([torch.linalg.cross(b, c), torch.linalg.cross(c, a), torch.linalg.cross(a, b)], -1)
    determinant = (a * adjugate[..., 0]).sum(-1)
    return adjugate / determinant[:, None, None]


def footprints(sampling: Tensor, places: Tensor, w: Tensor) -> Tensor:
    """How far output pixels reach along the input's axes.

    Args:
        sampling: [..., 3, 3], see `sampling_matrix`.
        places: [..., 2], where on the input they look, (x, y) in pixels.
        w: [...], the third coordinate there.
    Returns:
        [..., 2], along x and y, input pixels per output pixel.
    """
    slopes = (sampling[..., :2, :2] - places[..., None] * sampling[..., 2:, :2]) / w[..., None, None]
    return torch.hypot(slopes[..., 0], slopes[..., 1])


def smallest_footprint(matrix: Tensor, out_width: int, out_height: int) -> Tensor:
    """The least that an output pixel covers along an axis of the input, over the output's corners and its centre.

    Args:
        matrix: [B, 3, 3], input pixels -> output pixels.
        out_width, out_height: the output.
    Returns:
        float64 [B], input pixels per output pixel; not finite where the matrix is singular.
    """
    sampling = sampling_matrix(matrix)
    places, w = _places(sampling, out_width, out_height)
    return footprints(sampling[:, None], places, w).amin((1, 2))


def _places(sampling: Tensor, out_width: int, out_height: int) -> tuple[Tensor, Tensor]:
    """Where the output's corners and its centre look: (x, y), [B, 5, 2], and the third coordinate there, [B, 5]."""
    unit = torch.tensor([[0, 0, 1], [0, 1, 1], [1, 0, 1], [1, 1, 1], [0.5, 0.5, 1]], dtype=torch.float64)
    points = unit * torch.tensor([out_width, out_height, 1], dtype=torch.float64)
    seen = points @ sampling.mT
    return seen[..., :2] / seen[..., 2:], seen[..., 2]
