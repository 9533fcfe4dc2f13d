"""Masks, points and boxes through the same matrix as the image: they stay in step by construction.

`Params.matrix` and `BatchInfo.matrix` map input pixels to output pixels, corner-origin, and so do all functions here.
The way back, from predictions to the photo, is the same functions with `inverse_matrix`.

A matrix that tilts has a horizon, where its third coordinate w is 0. What lies on the photo has w > 0, as in every
matrix that fastaug draws, and is seen; what has w <= 0 is not.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastaug.warping.warp import check_matrices, kind_of, output_size, warp

_INTEGERS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_HORIZON = 1e-9  # the least w that is seen, as a share of the largest at a box's corners

Size = int | tuple[int, int] | Tensor


def warp_masks(
    masks: Tensor | Sequence[Tensor], matrix: Tensor, size: int | tuple[int, int], fill: int = 255
) -> Tensor:
    """Warp segmentation masks: each output pixel takes the value of the input pixel that it looks at.

    The look-up is that of `fastaug.warp` with interpolation="nearest": the warp is asked where it reads, on whichever
    backend, and the mask is read there.

    Args:
        masks: bool or integers [B, H, W], or a list of [H, W] of different sizes.
        matrix: float [B, 3, 3], input pixels -> output pixels, corner-origin.
        size: of the output, pixels or (height, width).
        fill: value outside the photo, whatever the image's padding is; a value of the masks' dtype.
    Returns:
        [B, height, width], of the masks' dtype and on their device.
    Raises:
        TypeError, ValueError: arguments that do not fit; a singular matrix, as for `fastaug.warp`.
    """
    _check_masks(masks, fill)
    check_matrices("warp_masks", "matrix", matrix, (len(masks), 3, 3), "masks")
    height, width = output_size("warp_masks", size)
    if not len(masks):
        device, dtype = (masks.device, masks.dtype) if isinstance(masks, Tensor) else (None, torch.int64)
        return torch.empty(0, height, width, device=device, dtype=dtype)
    if isinstance(masks, Tensor):
        places: Tensor | list[Tensor] = _places(masks[0]).expand(len(masks), -1, -1, -1)
    else:
        places = [_places(mask) for mask in masks]
    read = warp(places, matrix.detach(), (height, width), "nearest", padding="zeros")
    column, row, inside = read.unbind(1)
    if isinstance(masks, Tensor):
        index = row.long().mul_(masks.shape[2]).add_(column.long())
        values = masks.flatten(1).gather(1, index.flatten(1)).view(len(masks), height, width)
    else:
        values = torch.stack([mask[i, j] for mask, i, j in zip(masks, row.long(), column.long(), strict=True)])
    return values.masked_fill_(inside == 0, fill)


def transform_points(points: Tensor, matrix: Tensor, size: Size) -> tuple[Tensor, Tensor]:
    """Carry points, such as key points, through the matrix.

    Args:
        points: float [B, N, 2], (x, y) in input pixels, corner-origin: the centre of the first pixel is (0.5, 0.5).
        matrix: float [B, 3, 3], input pixels -> output pixels.
        size: of the output: pixels, (height, width), or integers [B, 2] where the outputs differ.
    Returns:
        points [B, N, 2] of the same dtype, in output pixels, also those outside the output; NaN where a point is
        behind the horizon or was NaN itself.
        visible: bool [B, N], whether a point is on the output: 0 <= x < width and 0 <= y < height.
    Raises:
        TypeError, ValueError: arguments that do not fit.
    """
    if not isinstance(points, Tensor) or not points.is_floating_point():
        raise TypeError(
            f"transform_points: expected a float tensor [B, N, 2], got {kind_of(points)}. Convert with .float()."
        )
    if points.dim() != 3 or points.shape[2] != 2:
        raise ValueError(f"transform_points: expected points [B, N, 2], (x, y) in pixels, got {list(points.shape)}.")
    check_matrices("transform_points", "matrix", matrix, (points.shape[0], 3, 3))
    extent = _extent("transform_points", size, points.shape[0]).to(points.device, non_blocking=True)
    moved = _homogeneous(points, matrix)
    x_y, w = moved[..., :2], moved[..., 2:]
    x_y = x_y / torch.where(w > 0, w, torch.nan)
    visible = ((x_y >= 0) & (x_y < extent[:, None])).all(-1)
    return x_y.to(points.dtype), visible


def transform_boxes(
    boxes: Tensor | Sequence[Tensor], matrix: Tensor, size: Size, min_visible: float = 0.1
) -> tuple[list[Tensor], list[Tensor]]:
    """Carry boxes through the matrix: the smallest upright box around the four corners, clipped to the output.

    A box that reaches behind the horizon is cut there first; what is left of it reaches very far, so it is rarely kept.

    Args:
        boxes: per image float [N, 4], (x0, y0, x1, y1) in input pixels, corner-origin: a box around pixel (i, j) alone
            is (j, i, j + 1, i + 1). A list where N differs, or [B, N, 4].
        matrix: float [B, 3, 3], input pixels -> output pixels.
        size: of the output: pixels, (height, width), or integers [B, 2] where the outputs differ.
        min_visible: a box is dropped when less than this share of its transformed area is on the output. With 0 every
            box is kept of which anything is.
    Returns:
        boxes: per image [K, 4], of the same dtype, in output pixels.
        kept: per image int64 [K], their rows in the input; index labels with it.
    Raises:
        TypeError, ValueError: arguments that do not fit; on a CPU, a box with x1 < x0 or y1 < y0.
    How many boxes are kept decides the shapes, so boxes on a GPU make the host wait: keep them on the CPU.
    """
    _check_boxes(boxes, min_visible)
    check_matrices("transform_boxes", "matrix", matrix, (len(boxes), 3, 3))
    counts = [len(image_boxes) for image_boxes in boxes]
    if not counts:
        return [], []
    flat = torch.cat(list(boxes))
    rows = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    extent = _extent("transform_boxes", size, len(counts))[rows].to(flat.device, non_blocking=True)
    corners = flat[:, [0, 1, 2, 1, 2, 3, 0, 3]].unflatten(1, (4, 2))  # in a circle
    low, high = _bounds(_homogeneous(corners, matrix[rows.to(matrix.device)]))
    clipped = torch.cat([low.clamp(min=0), high.minimum(extent)], 1)
    whole, left = ((box[:, 2:] - box[:, :2]).clamp(min=0).prod(1) for box in (torch.cat([low, high], 1), clipped))
    seen = (left > 0) & (left >= min_visible * whole)
    kept = [image_seen.nonzero()[:, 0] for image_seen in seen.split(counts)]
    split = clipped.to(flat.dtype).split(counts)
    return [image_boxes[rows] for image_boxes, rows in zip(split, kept, strict=True)], kept


def inverse_matrix(matrix: Tensor) -> Tensor:
    """The way back: output pixels -> input pixels, for predictions that are to be shown on the photo.

    `transform_points(points, inverse_matrix(info.matrix), info.sizes)` carries points from the model's input back to
    the photos as decoded, `transform_boxes` likewise, and `warp_masks` image by image, since photos differ in size.

    Args:
        matrix: float [..., 3, 3], input pixels -> output pixels.
    Returns:
        [..., 3, 3] of the same dtype and device, inverted in float64.
    Raises:
        TypeError: integers. torch.linalg.LinAlgError: a singular matrix.
    """
    if not isinstance(matrix, Tensor) or matrix.shape[-2:] != (3, 3) or not matrix.is_floating_point():
        raise TypeError(f"inverse_matrix: expected a float matrix [..., 3, 3], got {kind_of(matrix)}.")
    inverse: Tensor = torch.linalg.inv(matrix.double())
    return inverse.to(matrix.dtype)


def _places(mask: Tensor) -> Tensor:
    """An image [3, H, W] that holds in each pixel its column, its row and 1: exact in float32 up to 2^24."""
    height, width = mask.shape
    places = torch.ones(height, width, 3, device=mask.device)
    places[..., 0] = torch.arange(width, device=mask.device)
    places[..., 1] = torch.arange(height, device=mask.device)[:, None]
    return places.permute(2, 0, 1)


def _homogeneous(points: Tensor, matrix: Tensor) -> Tensor:
    """Points [B, N, 2] through matrix [B, 3, 3] as (x w, y w, w), float64 [B, N, 3]."""
    matrix = matrix.to(points.device, non_blocking=True).double()
    return points.double() @ matrix[:, :, :2].mT + matrix[:, None, :, 2]


def _bounds(corners: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the largest (x, y) of each quadrangle's visible part, [N, 2] each.

    corners: [N, 4, 3], (x w, y w, w), in a circle. Where an edge crosses the horizon, its end behind it is replaced by
    the point shortly before it. With no visible corner, low > high.
    """
    w = corners[..., 2:]
    least = w.amax(1, keepdim=True) * _HORIZON
    seen = (w >= least) & (w > 0)
    following, w_following = corners.roll(-1, 1), w.roll(-1, 1)
    share = (least - w) / (w_following - w)  # of the edge to the next corner
    crossing = corners + share * (following - corners)
    points = torch.cat([corners, crossing], 1)
    there = torch.cat([seen, seen != seen.roll(-1, 1)], 1)
    x_y = points[..., :2] / points[..., 2:]
    return torch.where(there, x_y, torch.inf).amin(1), torch.where(there, x_y, -torch.inf).amax(1)


def _extent(where: str, size: Size, batch: int) -> Tensor:
    """(width, height) of each output, float64 [B, 2]."""
    if isinstance(size, Tensor):
        if size.shape != (batch, 2) or size.is_floating_point():
            raise ValueError(
                f"{where}: expected sizes as integers [{batch}, 2], (height, width) of each image, got {kind_of(size)}."
            )
        return size.double().flip(1)
    height, width = output_size(where, size)
    return torch.tensor([[width, height]], dtype=torch.float64).expand(batch, 2)


def _check_masks(masks: Tensor | Sequence[Tensor], fill: int) -> None:
    dims = 3 if isinstance(masks, Tensor) else 2
    parts = list(masks) if isinstance(masks, Sequence) else [masks]
    for part in parts:
        if not isinstance(part, Tensor) or part.dtype not in _INTEGERS:
            raise TypeError(
                f"warp_masks: expected bool or integer masks, got {kind_of(part)}. For floats, use fa.warp."
            )
        if part.dim() != dims or 0 in part.shape[-2:] or part.dtype != parts[0].dtype:
            raise ValueError(
                f"warp_masks: expected masks [B, H, W], or a list of [H, W] of one dtype, got {kind_of(part)}. Remove "
                "a channel axis with .squeeze(1)."
            )
    if not parts:
        return
    dtype = parts[0].dtype
    low, high = (0, 1) if dtype == torch.bool else (torch.iinfo(dtype).min, torch.iinfo(dtype).max)
    if not low <= fill <= high:
        raise ValueError(f"warp_masks: expected a fill between {low} and {high} for {dtype}, got {fill}. Pass another.")


def _check_boxes(boxes: Tensor | Sequence[Tensor], min_visible: float) -> None:
    if not 0 <= min_visible <= 1:
        raise ValueError(f"transform_boxes: expected min_visible in [0, 1], a share of the area, got {min_visible}.")
    for i, part in enumerate(boxes):
        if not isinstance(part, Tensor) or not part.is_floating_point():
            raise TypeError(f"transform_boxes: expected float boxes, got {kind_of(part)} for image {i}. Use .float().")
        if part.dim() != 2 or part.shape[1] != 4:
            raise ValueError(
                f"transform_boxes: expected boxes [N, 4], got {list(part.shape)} for image {i}. For none: "
                "torch.zeros(0, 4)."
            )
        if part.device.type == "cpu" and (part[:, 2:] < part[:, :2]).any():
            row = int((part[:, 2:] < part[:, :2]).any(1).nonzero()[0])
            raise ValueError(
                "transform_boxes: expected boxes (x0, y0, x1, y1) with x0 <= x1 and y0 <= y1, got "
                f"{part[row].tolist()} in row {row} of image {i}. To boxes (x, y, width, height), add x and y to the "
                "last two."
            )
