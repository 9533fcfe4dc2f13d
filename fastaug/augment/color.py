"""Colour matrices: brightness, contrast, saturation, hue and normalisation, as one [B, 3, 4].

A colour matrix maps (r, g, b, 1), each in [0, 1], to the output's three channels. Nothing is clamped in between, so any
number of operators and the normalisation compose to one matrix, which the warp applies to each output pixel.
Everything is float64 on the CPU.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


class Statistics(NamedTuple):
    """Mean and standard deviation of each channel, in [0, 1] units."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


IMAGENET = Statistics((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
INCEPTION = Statistics((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def model_statistics(model: nn.Module) -> Statistics:
    """(mean, std) per channel in [0, 1] units that the model's pretrained weights want their images normalised with.

    Those of timm's configuration or of torchvision's preset for its default weights; for any other model ImageNet's.
    """
    config = getattr(model, "pretrained_cfg", None) or {}
    mean, std = config.get("mean", IMAGENET.mean), config.get("std", IMAGENET.std)
    return Statistics(tuple(map(float, mean)), tuple(map(float, std)))  # type: ignore[arg-type]


def identity_color(batch: int) -> Tensor:
    matrix = torch.zeros(batch, 3, 4, dtype=torch.float64)
    matrix.diagonal(dim1=1, dim2=2).fill_(1.0)
    return matrix


def compose_color(last: Tensor, first: Tensor) -> Tensor:
    """The matrix that does `first`, then `last`. float64 [B, 3, 4] each."""
    matrix = last[:, :, :3] @ first
    matrix[:, :, 3] += last[:, :, 3]
    return matrix


def brightness_matrix(factor: Tensor) -> Tensor:
    """Multiply every channel by factor [B]. Source: torchvision's `adjust_brightness`, without its clamp."""
    return identity_color(len(factor)) * factor.double()[:, None, None]


def contrast_matrix(factor: Tensor) -> Tensor:
    """Blend with mid-grey, 0.5: x -> 0.5 + factor (x - 0.5). factor: [B].

    Differs from: torchvision's `adjust_contrast`, which blends with the mean luma of the image itself, a reduction
    over all its pixels first. Same as DALI's `contrast`.
    """
    matrix = brightness_matrix(factor)
    matrix[:, :, 3] = 0.5 * (1 - factor.double())[:, None]
    return matrix


def saturation_matrix(factor: Tensor) -> Tensor:
    """Blend with the pixel's own luma. factor: [B]. Source: torchvision's `adjust_saturation`, without its clamp."""
    grey = torch.tensor(LUMA, dtype=torch.float64).expand(3, 3)
    factor = factor.double()[:, None, None]
    matrix = identity_color(len(factor))
    matrix[:, :, :3] = factor * matrix[:, :, :3] + (1 - factor) * grey
    return matrix


def hue_matrix(turns: Tensor) -> Tensor:
    """Turn the chroma plane of YIQ. turns: [B], 1 = a full turn, positive from red over yellow to green; luma stays.

    Differs from: torchvision's `adjust_hue`, which shifts the hue angle of HSV, the same way round: not linear, and it
    keeps HSV's value instead of luma. Same as DALI's `hue`.
    """
    rgb_to_yiq = torch.tensor(
        [LUMA, [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]], dtype=torch.float64
    )
    angle = turns.double() * (2 * math.pi)
    turn = torch.eye(3, dtype=torch.float64).repeat(len(turns), 1, 1)
    turn[:, 1, 1] = turn[:, 2, 2] = torch.cos(angle)
    turn[:, 1, 2], turn[:, 2, 1] = torch.sin(angle), -torch.sin(angle)  # yellow lies clockwise of red in (I, Q)
    matrix = identity_color(len(turns))
    matrix[:, :, :3] = torch.linalg.inv(rgb_to_yiq) @ turn @ rgb_to_yiq
    return matrix


def normalize_matrix(statistics: Statistics, batch: int) -> Tensor:
    """(x - mean) / std for each channel: the one place where mean and std enter. float64 [B, 3, 4]."""
    mean, std = (torch.tensor(values, dtype=torch.float64) for values in statistics)
    matrix = torch.zeros(batch, 3, 4, dtype=torch.float64)
    matrix[:, :, :3] = torch.diag(1 / std)
    matrix[:, :, 3] = -mean / std
    return matrix
