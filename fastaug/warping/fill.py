"""Rectangles of one colour, after the warp.

On a CPU only the pixels of the rectangles are written. On a GPU, where a rectangle would cost a kernel launch, in a
traced graph, where the rectangles are not known yet, and where gradients flow, which writing would break, the whole
batch is read and written once more.
"""

from __future__ import annotations

import torch
from torch import Tensor


def fill_rectangles(images: Tensor, rectangles: Tensor, colors: Tensor) -> Tensor:
    """Fill rectangles with a colour each, later ones over earlier ones.

    Args:
        images: float [B, 3, H, W]; on a CPU it is written to, unless it needs gradients.
        rectangles: int64 [B, K, 4], x0, y0, x1, y1 in pixels, x1 and y1 not included; empty where x0 = x1.
        colors: float [B, K, 3], as stored in images.
    Returns:
        [B, 3, H, W] of the images' dtype, device and memory layout.
    """
    learning = images.requires_grad or colors.requires_grad
    if images.device.type == "cpu" and not (learning or torch.compiler.is_compiling()):
        for image, boxes, fills in zip(images, rectangles.tolist(), colors.to(images.dtype), strict=True):
            for (x0, y0, x1, y1), fill in zip(boxes, fills, strict=True):
                if x0 < x1:
                    image[:, y0:y1, x0:x1] = fill[:, None, None]
        return images
    height, width = images.shape[2:]
    packed = torch.cat([rectangles.to(torch.float32), colors.to(torch.float32)], 2)  # one copy, exact: pixels < 2^24
    if images.is_cuda and not packed.is_cuda and not torch.compiler.is_compiling():
        packed = packed.pin_memory()
    packed = packed.to(images.device, non_blocking=True)
    x = torch.arange(width, device=images.device)
    y = torch.arange(height, device=images.device)[:, None]
    for rectangle, fill in zip(packed[..., :4].unbind(1), packed[..., 4:].unbind(1), strict=True):
        x0, y0, x1, y1 = rectangle[..., None, None, None].unbind(1)
        inside = (x >= x0) & (x < x1) & (y >= y0) & (y < y1)
        images = torch.where(inside, fill[..., None, None].to(images.dtype), images)
    return images.contiguous(memory_format=torch.channels_last)
