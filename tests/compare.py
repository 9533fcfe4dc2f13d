"""Comparison helpers, and where test images come from."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import skimage.data
import torch
from torch import Tensor


def assert_images_close(got: Tensor | np.ndarray, expected: Tensor | np.ndarray, levels: float) -> None:
    """Same shape, all finite, and nowhere further apart than `levels` of 255. Both in [0, 1] units."""
    got, expected = (torch.as_tensor(np.asarray(image)).double() for image in (got, expected))
    assert got.shape == expected.shape, f"shape: expected {list(expected.shape)}, got {list(got.shape)}"
    assert torch.isfinite(got).all(), "some values are not finite: unwritten, or computed from nothing"
    worst = (got - expected).abs().amax().item() * 255 if got.numel() else 0.0
    assert worst <= levels, f"expected at most {levels} of 255 apart, got {worst:.4f}"


def assert_levels(got: Tensor, expected: np.ndarray, worst: float, mean: float) -> None:
    """uint8 images of the same shape, at most `worst` of 255 apart anywhere and `mean` on average."""
    assert got.dtype == torch.uint8
    assert tuple(got.shape) == expected.shape
    apart = np.abs(got.cpu().numpy().astype(int) - expected.astype(int))
    assert apart.max() <= worst, f"expected at most {worst} levels apart, got {apart.max()}"
    assert apart.mean() <= mean, f"expected at most {mean} levels apart on average, got {apart.mean():.3f}"


def assert_same_batches(got: list[Any], expected: list[Any]) -> None:
    """Bit for bit, of batches (x, y) or (x, y, info); what the infos say where both have one."""
    assert len(got) == len(expected)
    for one, other in zip(got, expected, strict=True):
        assert torch.equal(one[0], other[0]), "other pixels"
        assert torch.equal(one[1], other[1]), "other targets"
        for info, expected_info in zip(one[2:], other[2:], strict=False):
            for name in ("indices", "sizes", "matrix", "presize"):
                assert torch.equal(getattr(info, name), getattr(expected_info, name)), f"other {name}"


def snapshot(learn: Any) -> dict[str, Any]:
    """Everything that `differences` compares."""
    return copy.deepcopy(
        {
            **{f"model {name}": value for name, value in learn.model.state_dict().items()},
            **{f"buffer {name}": value for name, value in learn.model.named_buffers()},
            **{f"trains {name}": value.requires_grad for name, value in learn.model.named_parameters()},
            **{f"mode {name}": module.training for name, module in learn.model.named_modules()},
            "optimizer": learn.opt.state_dict(),
            "history": (learn.history.losses, learn.history.lrs, learn.history.moms, learn.epoch),
            "place": learn.train_loader.state_dict() if hasattr(learn.train_loader, "state_dict") else None,
        }
    )


def differences(a: Any, b: Any, where: str = "") -> list[str]:
    """Where two nested structures differ, by a bit or more."""
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return [found for key in a for found in differences(a[key], b[key], f"{where}/{key}")]
    if isinstance(a, list | tuple) and type(a) is type(b) and len(a) == len(b):
        return [found for i in range(len(a)) for found in differences(a[i], b[i], f"{where}/{i}")]
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return [] if a.dtype == b.dtype and torch.equal(a, b) else [where]
    return [] if type(a) is type(b) and a == b else [where]


def photo(name: str = "astronaut", height: int | None = None, width: int | None = None) -> Tensor:
    """A photograph that scikit-image ships, uint8 [H, W, 3], cut to the given size."""
    image = torch.from_numpy(np.array(getattr(skimage.data, name)()))
    top, left = (0, 0) if height is None or width is None else (image.shape[0] // 3, image.shape[1] // 4)
    return image[top : None if height is None else top + height, left : None if width is None else left + width]


def random_image(height: int, width: int, seed: int = 0) -> Tensor:
    """Noise, the hardest image for a resampler, uint8 [H, W, 3]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, generator=generator)
