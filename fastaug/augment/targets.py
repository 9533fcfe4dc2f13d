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

from fastaug.warping.masks import MASK_PADDINGS, MaskPadding
from fastaug.warping.masks import warp_masks as _warp_masks
from fastaug.warping.warp import check_invertible, check_matrices, kind_of, output_size

_INTEGERS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_HORIZON = 1e-9  # the least w that is seen, as a share of the largest at a box's corners
_NOTHING = 1e-9  # of the output's area: as much is seen, by rounding, of a box that only touches the picture

Size = int | tuple[int, int] | Tensor


def warp_masks(
    masks: Tensor | Sequence[Tensor],
    matrix: Tensor,
    size: int | tuple[int, int],
    fill: int = 255,
    padding: MaskPadding = "fill",
    extent: Tensor | None = None,
    pixel: Tensor | None = None,
) -> Tensor:
    """Warp segmentation masks: each output pixel takes the value of the input pixel that it looks at.

    The look-up is that of `fastaug.warp` with interpolation="nearest".

    Args:
        masks: bool or integers [B, H, W], or a list of [H, W] of different sizes.
        matrix: float [B, 3, 3], input pixels -> output pixels, corner-origin.
        size: of the output, pixels or (height, width).
        fill: value of what the picture does not show; a value of the masks' dtype.
        padding: beyond the extent: "fill", or as the picture's own padding, "reflection" or "border". Beyond the
            horizon of a perspective it is the fill.
        extent: float [B, 4], (x0, y0, x1, y1) in pixels of the masks: what the picture shows, such as the part of the
            photo that a presize has left (`BatchInfo.extent`). It may begin and end within a pixel. None: all.
        pixel: float [B, 2], (width, height) in pixels of the masks of the pixels that the picture was warped from,
            such as the presized ones: nothing smaller is seen of what begins at the extent's edge. None: 1.
    Returns:
        [B, height, width], of the masks' dtype and on their device.
    Raises:
        TypeError, ValueError: arguments that do not fit; a singular matrix, as for `fastaug.warp`.
    """
    _check_masks(masks, fill)
    if padding not in MASK_PADDINGS:
        raise ValueError(
            f"warp_masks: expected padding to be one of {', '.join(MASK_PADDINGS)}, got {padding!r}. Black's is fill."
        )
    check_matrices("warp_masks", "matrix", matrix, (len(masks), 3, 3), "masks")
    _check_extent("warp_masks", extent, len(masks))
    if pixel is not None and (pixel.shape != (len(masks), 2) or not pixel.is_floating_point()):
        raise ValueError(
            f"warp_masks: expected a float pixel [{len(masks)}, 2], its width and height for each mask, got "
            f"{kind_of(pixel)}. Give that of the same batch."
        )
    height, width = output_size("warp_masks", size)
    if not len(masks):
        device, dtype = (masks.device, masks.dtype) if isinstance(masks, Tensor) else (None, torch.int64)
        return torch.empty(0, height, width, device=device, dtype=dtype)
    if matrix.device.type == "cpu":
        check_invertible("warp_masks", matrix)
    return _warp_masks(masks, matrix, (height, width), fill, padding, extent, pixel)


def transform_points(points: Tensor, matrix: Tensor, size: Size, extent: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Carry points, such as key points, through the matrix.

    Args:
        points: float [B, N, 2], (x, y) in input pixels, corner-origin: the centre of the first pixel is (0.5, 0.5).
        matrix: float [B, 3, 3], input pixels -> output pixels.
        size: of the output: pixels, (height, width), or integers [B, 2] where the outputs differ.
        extent: float [B, 4], (x0, y0, x1, y1) in input pixels: what the picture shows. None: all.
    Returns:
        points [B, N, 2] of the same dtype, in output pixels, also those outside the output; NaN where a point is
        behind the horizon or was NaN itself.
        visible: bool [B, N], whether a point is on the output, 0 <= x < width and 0 <= y < height, and in the extent,
        x0 <= x < x1 and y0 <= y < y1.
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
    _check_extent("transform_points", extent, points.shape[0])
    output = _output("transform_points", size, points.shape[0]).to(points.device, non_blocking=True)
    moved = _homogeneous(points, matrix)
    x_y, w = moved[..., :2], moved[..., 2:]
    x_y = x_y / torch.where(w > 0, w, torch.nan)
    visible = ((x_y >= 0) & (x_y < output[:, None])).all(-1)
    if extent is not None:
        low, high = extent.to(points.device, torch.float64, non_blocking=True)[:, None].split(2, -1)
        visible &= ((points >= low) & (points < high)).all(-1)
    return x_y.to(points.dtype), visible


def transform_boxes(
    boxes: Tensor | Sequence[Tensor],
    matrix: Tensor,
    size: Size,
    min_visible: float = 0.1,
    extent: Tensor | None = None,
) -> tuple[list[Tensor], list[Tensor]]:
    """Carry boxes through the matrix: the smallest upright box around what the picture shows of each.

    Through the matrix a box is a quadrangle. Shown is what of it lies in the extent and on the output. A box that
    reaches behind the horizon is cut there first; what is left of it reaches very far, so it is rarely kept.

    Args:
        boxes: per image float [N, 4], (x0, y0, x1, y1) in input pixels, corner-origin: a box around pixel (i, j) alone
            is (j, i, j + 1, i + 1). A list where N differs, or [B, N, 4].
        matrix: float [B, 3, 3], input pixels -> output pixels.
        size: of the output: pixels, (height, width), or integers [B, 2] where the outputs differ.
        min_visible: a box is dropped when less than this share of its transformed area is shown. With 0 every box is
            kept of which anything is.
        extent: float [B, 4], (x0, y0, x1, y1) in input pixels: what the picture shows, such as the part of the photo
            that a presize has left (`BatchInfo.extent`). None: all.
    Returns:
        boxes: per image [K, 4], of the same dtype, in output pixels; each has a width and a height.
        kept: per image int64 [K], their rows in the input; index labels with it.
    Raises:
        TypeError, ValueError: arguments that do not fit; on a CPU, a box with x1 < x0 or y1 < y0.
    How many boxes are kept decides the shapes, so boxes on a GPU make the host wait: keep them on the CPU.
    """
    _check_boxes(boxes, min_visible)
    check_matrices("transform_boxes", "matrix", matrix, (len(boxes), 3, 3))
    _check_extent("transform_boxes", extent, len(boxes))
    counts = [len(image_boxes) for image_boxes in boxes]
    if not counts:
        return [], []
    flat = torch.cat(list(boxes))
    rows = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    output = _output("transform_boxes", size, len(counts))[rows].to(flat.device, non_blocking=True)
    matrices, cut = matrix[rows.to(matrix.device)], flat.double()
    whole = _area(_seen(_homogeneous(_corners(cut), matrices)))
    if extent is not None:
        low, high = extent[rows.to(extent.device)].to(flat.device, torch.float64, non_blocking=True).split(2, 1)
        cut = torch.cat([cut[:, :2].clamp(low, high), cut[:, 2:].clamp(low, high)], 1)
    shown = _seen(_homogeneous(_corners(cut), matrices), output)
    area = _area(shown)
    found = torch.cat([shown.amin(1).clamp(min=0), shown.amax(1).minimum(output)], 1).to(flat.dtype)
    keep = (
        (area > _NOTHING * output.prod(1))
        & (area >= min_visible * (1 - _NOTHING) * whole)
        & (found[:, 2:] > found[:, :2]).all(1)
    )
    kept = [image_keep.nonzero()[:, 0] for image_keep in keep.split(counts)]
    return [image_boxes[rows] for image_boxes, rows in zip(found.split(counts), kept, strict=True)], kept


def swap_pairs(keypoints: Tensor, matrix: Tensor, pairs: Sequence[tuple[int, int]]) -> Tensor:
    """What was left is right after a mirror, and the other way round: exchange such key points if there was one.

    Args:
        keypoints: [K, P, C], P key points of each of K objects, such as (x, y, visibility).
        matrix: float [3, 3], input pixels -> output pixels, or [K, 3, 3]. It mirrors if its determinant is below 0, as
            that of one flip, horizontal or vertical.
        pairs: numbers of the key points that are exchanged.
    Returns:
        [K, P, C], the keypoints themselves without pairs.
    Raises:
        ValueError: a pair that names no two key points, or one that is in another pair.
    """
    if not pairs:
        return keypoints
    count = keypoints.shape[1]
    named = [number for pair in pairs for number in pair]
    if len(set(named)) < 2 * len(pairs) or min(named) < 0 or max(named) >= count:
        raise ValueError(
            f"swap_pairs: expected pairs of key points 0..{count - 1}, each in one pair, got {list(pairs)}."
        )
    order = list(range(count))
    for left, right in pairs:
        order[left], order[right] = right, left
    first, second, third = matrix.double().unbind(-1)  # as torch.linalg.det, which wakes up torch's threads
    mirrored = ((first * torch.linalg.cross(second, third)).sum(-1) < 0).to(keypoints.device)
    return torch.where(mirrored[..., None, None], keypoints[:, order], keypoints)


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


def _homogeneous(points: Tensor, matrix: Tensor) -> Tensor:
    """Points [B, N, 2] through matrix [B, 3, 3] as (x w, y w, w), float64 [B, N, 3]."""
    matrix = matrix.to(points.device, non_blocking=True).double()
    x, y = points.double().split(1, -1)
    x_u, y_u, one = matrix[:, None].unbind(-1)
    moved: Tensor = x * x_u + y * y_u + one
    return moved


def _corners(boxes: Tensor) -> Tensor:
    """[N, 4, 2], in a circle."""
    corners: Tensor = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].unflatten(1, (4, 2))
    return corners


def _seen(corners: Tensor, output: Tensor | None = None) -> Tensor:
    """What is seen of quadrangles: before the horizon, and on the output if it is given.

    Args:
        corners: [N, 4, 3], (x w, y w, w), in a circle.
        output: (width, height) of each, [N, 2].
    Returns:
        [N, V, 2], convex polygons, (x, y); NaN where nothing is seen.
    """
    w = corners[..., 2]
    polygon = _cut(corners, w - w.amax(1, keepdim=True).clamp(min=torch.finfo(w.dtype).tiny) * _HORIZON)
    if output is not None:
        for axis in range(2):
            polygon = _cut(polygon, polygon[..., axis])
            polygon = _cut(polygon, output[:, axis, None] * polygon[..., 2] - polygon[..., axis])
    return polygon[..., :2] / polygon[..., 2:]


def _cut(polygon: Tensor, distance: Tensor) -> Tensor:
    """What of convex polygons lies where a distance is not negative, which is linear on each edge.

    Args:
        polygon: [N, V, C], corners in a circle, some perhaps several times.
        distance: [N, V].
    Returns:
        [N, V or V + 1, C]; NaN where nothing is left.
    """
    inside = distance >= 0
    rows = (~inside.all(1)).nonzero()[:, 0]  # few: the others are left as they are
    if not len(rows):
        return polygon
    result = torch.cat([polygon, polygon[:, :1]], 1)
    polygon, distance, inside = polygon[rows], distance[rows], inside[rows]
    share = distance / (distance - distance.roll(-1, 1))  # of the edge to the next corner
    crossing = polygon + share[..., None] * (polygon.roll(-1, 1) - polygon)
    points = torch.stack([polygon, crossing], 2).flatten(1, 2)
    there = torch.stack([inside, inside != inside.roll(-1, 1)], 2).flatten(1)
    order = there.byte().argsort(stable=True, dim=1, descending=True)[:, : polygon.shape[1] + 1]
    points, there = points.gather(1, order[..., None].expand(-1, -1, 3)), there.gather(1, order)
    left = torch.where(there[..., None], points, torch.where(there[:, :1, None], points[:, :1], torch.nan))
    return result.index_copy_(0, rows, left)


def _area(polygon: Tensor) -> Tensor:
    """[N], of polygons [N, V, 2]."""
    x, y = (polygon - polygon[:, :1]).unbind(-1)  # from a corner of it: what lies on a line has exactly no area
    area: Tensor = (x * y.roll(-1, 1) - y * x.roll(-1, 1)).sum(1).abs() / 2
    return area


def _output(where: str, size: Size, batch: int) -> Tensor:
    """(width, height) of each output, float64 [B, 2]."""
    if isinstance(size, Tensor):
        if size.shape != (batch, 2) or size.is_floating_point():
            raise ValueError(
                f"{where}: expected sizes as integers [{batch}, 2], (height, width) of each image, got {kind_of(size)}."
            )
        return size.double().flip(1)
    height, width = output_size(where, size)
    return torch.tensor([[width, height]], dtype=torch.float64).expand(batch, 2)


def _check_extent(where: str, extent: Tensor | None, batch: int) -> None:
    if extent is None:
        return
    if not isinstance(extent, Tensor) or extent.shape != (batch, 4) or not extent.is_floating_point():
        raise ValueError(
            f"{where}: expected a float extent [{batch}, 4], (x0, y0, x1, y1) for each image, got {kind_of(extent)}. "
            "Give that of the same batch."
        )
    if extent.device.type != "cpu":
        return
    empty = ~(extent.isfinite().all(1) & (extent[:, 2:] > extent[:, :2]).all(1))
    if empty.any():
        row = int(empty.nonzero()[0])
        raise ValueError(
            f"{where}: expected an extent (x0, y0, x1, y1) with x0 < x1 and y0 < y1, got {extent[row].tolist()} for "
            f"image {row}. To (x, y, width, height), add x and y to the last two."
        )


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
