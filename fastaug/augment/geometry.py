"""3×3 matrices: flip, rotation, zoom, perspective, crop and resize.

Coordinates are continuous and corner-origin: pixel (row i, column j) covers [j, j+1) × [i, i+1), its centre is
(j + 0.5, i + 0.5). Points are (x, y, 1) columns; matrices map input pixels to output pixels and compose as
`last @ … @ first`. Everything is float64 on the CPU, [B, 3, 3] for a batch; sizes are [B] tensors, because the photos
of one batch may differ. A frame is the rectangle [0, width) × [0, height) that an operator works in, in pixels.
"""

from __future__ import annotations

import torch
from kornia.geometry.conversions import convert_affinematrix_to_homography
from kornia.geometry.transform import get_perspective_transform, get_rotation_matrix2d
from torch import Tensor


def identity_matrix(batch: int) -> Tensor:
    matrix = torch.zeros(batch, 3, 3, dtype=torch.float64)
    matrix.diagonal(dim1=1, dim2=2).fill_(1.0)
    return matrix


def box_matrix(x0: Tensor, y0: Tensor, width: Tensor, height: Tensor, out_width: Tensor, out_height: Tensor) -> Tensor:
    """Map the box [x0, x0+width) × [y0, y0+height) onto the frame out_width × out_height: a crop and its resize."""
    scale_x, scale_y = out_width / width, out_height / height
    matrix = identity_matrix(x0.shape[0])
    matrix[:, 0, 0], matrix[:, 0, 2] = scale_x, -x0 * scale_x
    matrix[:, 1, 1], matrix[:, 1, 2] = scale_y, -y0 * scale_y
    return matrix


def resize_matrix(width: Tensor, height: Tensor, out_width: Tensor, out_height: Tensor) -> Tensor:
    """Map the frame width × height onto out_width × out_height."""
    zero = torch.zeros_like(width)
    return box_matrix(zero, zero, width, height, out_width, out_height)


def flip_matrix(horizontal: Tensor, vertical: Tensor, width: Tensor, height: Tensor) -> Tensor:
    """Mirror left-right and top-bottom where asked. horizontal, vertical: bool [B]."""
    matrix = identity_matrix(len(width))
    matrix[:, 0, 0] = torch.where(horizontal, -1.0, 1.0)
    matrix[:, 0, 2] = torch.where(horizontal, width, 0.0)
    matrix[:, 1, 1] = torch.where(vertical, -1.0, 1.0)
    matrix[:, 1, 2] = torch.where(vertical, height, 0.0)
    return matrix


def transpose_matrix(transposed: Tensor, width: Tensor, height: Tensor) -> Tensor:
    """Mirror about the main diagonal where asked, bool [B]; any other frame than a square is stretched back."""
    matrix = identity_matrix(len(width))
    matrix[:, 0, 0] = matrix[:, 1, 1] = torch.where(transposed, 0.0, 1.0)
    matrix[:, 0, 1] = torch.where(transposed, width / height, 0.0)
    matrix[:, 1, 0] = torch.where(transposed, height / width, 0.0)
    return matrix


def rotation_matrix(degrees: Tensor, width: Tensor, height: Tensor) -> Tensor:
    """Turn counter-clockwise, as seen, about the centre of the frame.

    Source: kornia.geometry.transform.get_rotation_matrix2d, whose angles are counter-clockwise too.
    """
    centre = torch.stack([width, height], 1) / 2
    return convert_affinematrix_to_homography(get_rotation_matrix2d(centre, degrees.double(), torch.ones_like(centre)))


def zoom_matrix(zoom: Tensor, position: Tensor, width: Tensor, height: Tensor) -> Tensor:
    """Enlarge a window of 1/zoom of the frame to the whole frame (below 1: shrink the frame into a window).

    Args:
        zoom: [B], above 0.
        position: [B, 2] in [0, 1], (x, y): where the window lies between the frame's edges.
    Source: fastai 2.8.12, `zoom_mat`: the window lies at a random place, not in the middle.
    """
    window_width, window_height = width / zoom, height / zoom
    x, y = position.double().unbind(1)
    return box_matrix(
        (width - window_width) * x, (height - window_height) * y, window_width, window_height, width, height
    )


def perspective_matrix(tilt_x: Tensor, tilt_y: Tensor, width: Tensor, height: Tensor) -> Tensor:
    """Tilt the frame about its vertical and its horizontal axis.

    With tilt_x = t > 0 the left edge grows by t half-heights at either end and the right edge shrinks by as much;
    tilt_y does the same to the top and the bottom edge.

    Args:
        tilt_x, tilt_y: [B] in (-1, 1), in half frames.
    Source: fastai 2.8.12, `Warp`; solved by kornia.geometry.transform.get_perspective_transform.
    """
    corners = torch.tensor([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]], dtype=torch.float64)
    tilt = torch.stack([tilt_y, tilt_x], 1)[:, None]
    moved = corners - corners.prod(1, keepdim=True) * tilt  # (x, y) goes to (x - x y tilt_y, y - x y tilt_x)
    half = (torch.stack([width, height], 1) / 2)[:, None]
    return get_perspective_transform((corners + 1) * half, (moved + 1) * half)


def shrink_inside(matrix: Tensor, width: Tensor, height: Tensor, out_width: int, out_height: int) -> Tensor:
    """Shrink the output's window on the photo, towards the photo's centre, until it lies inside the photo.

    Each corner c of the output becomes q + s (c - q), where q is the photo's centre seen in the output. Its place on
    the photo is N(s) / D(s) with N and D linear in s, so "inside" is a set of linear inequalities in s, and the
    largest s in [0, 1] that satisfies all of them is found in closed form. s = 0 is the photo's centre: there is
    always an answer. A projective map takes the convex output to a convex figure, so four corners are enough.

    Args:
        matrix: float64 [B, 3, 3], photo -> output.
        width, height: [B], the photo.
        out_width, out_height: the output.
    Returns:
        float64 [B, 3, 3]; unchanged where the window was inside already.
    """
    inverse = torch.linalg.inv(matrix)
    centre = torch.stack([width / 2, height / 2, torch.ones_like(width)], 1)
    pivot = (matrix @ centre[:, :, None]).squeeze(2)
    pivot = pivot / pivot[:, 2:]
    corners = [[0, 0, 1], [out_width, 0, 1], [0, out_height, 1], [out_width, out_height, 1]]
    at_pivot = (inverse @ pivot[:, :, None]).transpose(1, 2)  # [B, 1, 3], homogeneous place of s = 0
    slope = (torch.tensor(corners).double() - pivot[:, None]) @ inverse.transpose(1, 2)  # [B, 4, 3], its change with s
    sign = torch.sign(at_pivot[..., 2:])
    at_pivot, slope = at_pivot * sign, slope * sign
    extent = torch.stack([width, height], 1)[:, None]
    # a + b s >= 0 for: x, y >= 0; x <= width, y <= height; D clearly positive
    a, b = (torch.cat([x[..., :2], extent * x[..., 2:] - x[..., :2], x[..., 2:]], -1) for x in (at_pivot, slope))
    a[..., 4] *= 1 - 1e-3
    limit = torch.where(b < 0, a / -b.clamp(max=-1e-300), torch.inf).amin((1, 2)).clamp(max=1.0)
    x, y = pivot[:, 0], pivot[:, 1]
    window = box_matrix(
        x - limit * x, y - limit * y, limit * out_width, limit * out_height,
        torch.full_like(x, out_width), torch.full_like(y, out_height),
    )  # fmt: skip
    return window @ matrix


def to_integer_centred(matrix: Tensor) -> Tensor:
    """Our corner-origin matrix as OpenCV's and Kornia's, which put (0, 0) at the first pixel's centre. [..., 3, 3]."""
    return _half_pixel(matrix, -0.5) @ matrix @ _half_pixel(matrix, 0.5)


def from_integer_centred(matrix: Tensor) -> Tensor:
    """OpenCV's or Kornia's matrix as ours: the inverse of `to_integer_centred`. [..., 3, 3]."""
    return _half_pixel(matrix, 0.5) @ matrix @ _half_pixel(matrix, -0.5)


def _half_pixel(like: Tensor, shift: float) -> Tensor:
    matrix = torch.eye(3, dtype=like.dtype, device=like.device)
    matrix[:2, 2] = shift
    return matrix
