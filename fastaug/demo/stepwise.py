"""The usual way, for comparison: the same drawn augmentations, one interpolation for each operator, with Kornia."""

from __future__ import annotations

import torch
from kornia.enhance import normalize
from kornia.geometry.transform import warp_perspective
from torch import Tensor

from fastaug.augment import geometry
from fastaug.augment.augment import Augment, Params
from fastaug.augment.operators import ColorJitter, RandomHorizontalFlip, RandomResizedCrop


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
            factor, offset = (part.to(x)[..., None, None] for part in per_channel(op.color(drawn, batch)))
            x = x * factor + offset
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


def per_channel(color: Tensor) -> tuple[Tensor, Tensor]:
    """Factor and offset of each channel, [B, 3], of [B, 3, 4]: brightness, contrast and normalisation mix none."""
    factor = torch.diagonal(color[:, :, :3], dim1=1, dim2=2)
    assert torch.allclose(torch.diag_embed(factor), color[:, :, :3]), "expected each channel by itself"
    return factor, color[:, :, 3]
