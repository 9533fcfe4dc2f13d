"""The peers of warp_gpu.py: one interpolation of a batch with a matrix for each image, and the normalisation, on a GPU.

Each is `peer(dtype)` -> `run(images, matrix, color)`, which counts everything from uint8 [B, 460, 460, 3] to
[B, 3, 224, 224] of the type asked for: conversions, the copy of the matrices, normalisation. A peer is imported when it
is made: a missing one is an ImportError. Whatever a peer does less or differently is in its name in `PEERS`.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

FRAME, SIZE = 460, 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# uint8 [B, 460, 460, 3] on the GPU; matrix [B, 3, 3], input -> output pixels, and color [B, 3, 4] on the CPU
Candidate = Callable[[Tensor, Tensor, Tensor], Tensor]


def grid_sample(dtype: torch.dtype) -> Candidate:
    """torch's own operators."""
    to_unit = torch.tensor([[2 / SIZE, 0, -1], [0, 2 / SIZE, -1], [0, 0, 1]], dtype=torch.float64)
    from_unit = torch.tensor([[FRAME / 2, 0, FRAME / 2], [0, FRAME / 2, FRAME / 2], [0, 0, 1]], dtype=torch.float64)

    def run(images: Tensor, matrix: Tensor, color: Tensor) -> Tensor:
        theta = _sent(torch.linalg.inv(to_unit @ matrix @ from_unit)[:, :2].float(), images)
        grid = F.affine_grid(theta, [len(images), 3, SIZE, SIZE], align_corners=False)
        pixels = images.permute(0, 3, 1, 2).float()
        out = F.grid_sample(pixels, grid, "bilinear", "reflection", align_corners=False)
        return normalised(out, color, dtype)

    return run


def kornia(dtype: torch.dtype) -> Candidate:
    from kornia.geometry.transform import warp_perspective

    def run(images: Tensor, matrix: Tensor, color: Tensor) -> Tensor:
        pixels = images.permute(0, 3, 1, 2).float()
        centred = _sent(integer_centred(matrix).float(), images)
        out = warp_perspective(pixels, centred, (SIZE, SIZE), "bilinear", "reflection", align_corners=False)
        return normalised(out, color, dtype)

    return run


def triton_augment(dtype: torch.dtype) -> Candidate:
    """In float16 where half precision is asked for: it holds the levels 0..255 exactly, and bfloat16's output too."""
    from triton_augment.functional import fused_augment

    work = torch.float32 if dtype == torch.float32 else torch.float16
    corner = (FRAME - SIZE) // 2
    fixed: dict[str, Any] = {
        "top": corner, "left": corner, "height": SIZE, "width": SIZE, "interpolation": "bilinear", "fill": 0.0,
        "mean": tuple(255 * value for value in MEAN), "std": tuple(255 * value for value in STD),
    }  # fmt: skip

    def run(images: Tensor, matrix: Tensor, color: Tensor) -> Tensor:
        pixels = images.permute(0, 3, 1, 2).to(work, memory_format=torch.contiguous_format)
        out: Tensor = fused_augment(pixels, **fixed, **about_the_centre(matrix))
        return out.to(dtype)

    return run


def about_the_centre(matrix: Tensor) -> dict[str, Tensor]:
    """A similarity as torchvision's and triton-augment's `affine`, whose output's centred 224 pixels are then cropped.

    Args:
        matrix: float64 [B, 3, 3], a rotation, one scale and a shift: input pixels -> output pixels, corner-origin.
    Returns:
        float32 on the CPU, where it costs triton-augment fewer waits: angle [B], degrees, clockwise as seen; scale [B];
        translate [B, 2], pixels (x, y).
    """
    centre = torch.tensor([FRAME / 2, FRAME / 2, 1], dtype=matrix.dtype)
    return {
        "angle": torch.rad2deg(torch.atan2(matrix[:, 1, 0], matrix[:, 0, 0])).float(),
        "scale": torch.hypot(matrix[:, 0, 0], matrix[:, 1, 0]).float(),
        "translate": ((matrix @ centre)[:, :2] - SIZE / 2).float(),
    }


def cvcuda(dtype: torch.dtype) -> Candidate:
    """A batch "of different sizes", for its other one has a single matrix; on torch's stream, normalised by torch."""
    import cvcuda as cv

    flags = int(cv.Interp.LINEAR) | int(cv.Interp.WARP_INVERSE_MAP)

    def run(images: Tensor, matrix: Tensor, color: Tensor) -> Tensor:
        inverse = _sent(torch.linalg.inv(integer_centred(matrix)).reshape(-1, 9).float(), images)
        out = torch.empty(len(images), SIZE, SIZE, 3, dtype=torch.uint8, device=images.device)
        target, source = (cv.as_images(views(batch), cv.Format.RGB8) for batch in (out, images))
        (table,) = views(inverse[None])
        cv.warp_perspective_into(
            target, source, cv.as_tensor(table, "NW"), flags, border_mode=cv.Border.REPLICATE,
            border_value=(0, 0, 0, 0), stream=cv.as_stream(torch.cuda.current_stream().cuda_stream),
        )  # fmt: skip
        return normalised(out.permute(0, 3, 1, 2), color, dtype)

    return run


def views(batch: Tensor) -> list[Any]:
    """The items of a contiguous batch, uint8 or float32, as the CUDA array interface describes them.

    stream is -1: the memory was written on the stream that it is used on. Of torch's own tensors CV-CUDA cannot know,
    and waits for the whole GPU.
    """
    kind, start, step = {torch.uint8: "|u1", torch.float32: "<f4"}[batch.dtype], batch.data_ptr(), batch.stride(0)
    assert batch.is_contiguous()
    shared = {"shape": tuple(batch.shape[1:]), "typestr": kind, "strides": None, "version": 3, "stream": -1}
    return [
        SimpleNamespace(
            owner=batch, __cuda_array_interface__={**shared, "data": (start + i * step * batch.itemsize, False)}
        )
        for i in range(len(batch))
    ]


PEERS: dict[str, Callable[[torch.dtype], Candidate]] = {
    "torch grid_sample": grid_sample,
    "Kornia warp_perspective": kornia,
    "triton-augment fused_augment (black beyond the edge, no perspective)": triton_augment,
    "CV-CUDA warp_perspective (edge repeated, rounds to uint8)": cvcuda,
}


def integer_centred(matrix: Tensor) -> Tensor:
    """fastaug.augment.geometry.to_integer_centred, whose module imports Kornia."""
    half = torch.tensor([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]], dtype=matrix.dtype)
    return torch.linalg.inv(half) @ matrix @ half


def normalised(out: Tensor, color: Tensor, dtype: torch.dtype) -> Tensor:
    """[B, 3, 224, 224] in 0..255, normalised by the first image's colour matrix: they are all the same here."""
    scale, shift = (_sent(part, out) for part in (color[0, :, :3].diagonal() / 255, color[0, :, 3]))
    return (out * scale[:, None, None] + shift[:, None, None]).to(dtype)


def _sent(values: Tensor, like: Tensor) -> Tensor:
    """On the device of `like`; the host does not wait."""
    return values.contiguous().pin_memory().to(like.device, non_blocking=True) if like.is_cuda else values
