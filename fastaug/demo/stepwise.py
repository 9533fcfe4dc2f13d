"""The usual way, for comparison: the same drawn augmentations, one interpolation for each operator, with Kornia."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from kornia.enhance import normalize
from kornia.geometry.transform import warp_perspective
from torch import Tensor

from fastaug.augment import geometry
from fastaug.augment.augment import Augment, Params
from fastaug.augment.operators import ColorJitter, RandomHorizontalFlip, RandomResizedCrop

# Means over 8 × 8 pixels blur away how sharply the two ways interpolate and leave what they show.
BLOCK_PX = 8
SAME_WITHIN_LEVELS = 1.0  # of 255; photos shifted by one pixel differ by 2


def step_by_step(images: Tensor, augment: Augment, params: Params) -> Tensor:
    """What `augment.apply(images, params)` shows, computed operator by operator.

    Flip by indexing; rotation, zoom and perspective each by a bilinear interpolation at the size of the input; the
    lighting by one pass each; crop and resize by a last bilinear interpolation; then normalise.

    Args:
        images: uint8 [B, H, W, 3].
        augment: with operators of `aug_transforms`; a crop last.
        params: drawn for the images.
    Returns:
        float32 [B, 3, height, width].
    """
    batch, height, width = images.shape[:3]
    frame = torch.full((batch,), float(width)).double(), torch.full((batch,), float(height)).double()
    x = images.permute(0, 3, 1, 2).float() / 255
    done = geometry.identity_matrix(batch)
    for name, op in augment.named_ops().items():
        drawn = params.drawn[name]
        if isinstance(op, RandomResizedCrop):
            continue  # together with the last resize, below
        if isinstance(op, ColorJitter):
            x = _light(x, op.color(drawn, batch))
            continue
        step, frame = op.matrix(drawn, frame, augment.size)
        if isinstance(op, RandomHorizontalFlip):
            flipped = drawn["flipped"].to(x.device)
            x = torch.where(flipped[:, None, None, None], x.flip(3), x)
        else:
            x = bilinear(x, step, (height, width))
        done = step @ done
    x = bilinear(x, params.matrix.double() @ torch.linalg.inv(done), augment.size)
    return x if augment.normalize is None else normalize(x, *(torch.tensor(each) for each in augment.normalize))


def bilinear(x: Tensor, matrix: Tensor, size: tuple[int, int]) -> Tensor:
    """One bilinear interpolation with Kornia. matrix: float64 [B, 3, 3], corner-origin, input -> output pixels."""
    centred = geometry.to_integer_centred(matrix).to(x)
    return warp_perspective(x, centred, size, mode="bilinear", padding_mode="reflection", align_corners=False)


def _light(x: Tensor, color: Tensor) -> Tensor:
    """Brightness or contrast: a factor and an offset per channel."""
    color = color.to(x)
    factor = torch.diagonal(color[:, :, :3], dim1=1, dim2=2)
    assert torch.allclose(torch.diag_embed(factor), color[:, :, :3], atol=1e-5), "expected each channel by itself"
    return x * factor[..., None, None] + color[:, :, 3, None, None]


def difference_levels(a: Tensor, b: Tensor, std: Tensor) -> float:
    """How far two normalised batches [B, 3, H, W] differ in what they show: mean over blocks, in levels of 255."""
    a, b = (F.avg_pool2d(x.float(), BLOCK_PX) for x in (a, b))
    return float(((a - b).abs() * std.to(a)[:, None, None]).mean() * 255)


def images_per_s(ways: Mapping[str, Callable[[], Tensor]], batch: int, repeats: int) -> dict[str, list[float]]:
    """Time several ways of the same work, in turns, after one warm-up each: `repeats` measurements for each way."""
    runs: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats + 1):
        for name, way in ways.items():
            _synchronize()
            start = time.perf_counter()
            way()
            _synchronize()
            if repeat:
                runs[name].append(batch / (time.perf_counter() - start))
    return runs


def quartiles(values: list[float]) -> dict[str, float]:
    q1, median, q3 = np.percentile(values, [25, 50, 75]).tolist()
    return {"median": median, "q1": q1, "q3": q3}


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
