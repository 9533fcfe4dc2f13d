"""fa.warp: what it refuses, and how."""

from typing import Any

import pytest
import torch

import fastaug as fa
from tests.compare import assert_images_close, random_image

IMAGES = torch.zeros(2, 8, 9, 3, dtype=torch.uint8)
MATRIX = torch.eye(3).repeat(2, 1, 1)
SINGULAR = torch.stack([torch.eye(3), torch.ones(3, 3)])
NOT_FINITE = torch.stack([torch.full((3, 3), torch.nan), torch.eye(3)])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"images": IMAGES.long()}, TypeError, "warp: expected uint8 or float .* got torch.int64"),
        ({"images": IMAGES[..., :2]}, ValueError, r"warp: expected .* got torch.uint8 \[2, 8, 9, 2\]"),
        ({"images": IMAGES[0]}, ValueError, r"got torch.uint8 \[8, 9, 3\]"),
        ({"images": IMAGES[:, :0]}, ValueError, r"got torch.uint8 \[2, 0, 9, 3\]"),
        ({"images": [IMAGES[0], "x"]}, TypeError, "got str at position 1"),
        ({"images": [IMAGES[0], IMAGES[0].float()]}, ValueError, "got torch.float32 on cpu at position 1"),
        ({"images": [IMAGES[0], IMAGES]}, ValueError, r"expected \[H, W, 3\], got .* at position 1"),
        ({"matrix": MATRIX[:1]}, ValueError, r"expected a float matrix \[2, 3, 3\] for 2 images, got .*\[1, 3, 3\]"),
        ({"matrix": MATRIX.long()}, ValueError, "expected a float matrix"),
        ({"matrix": SINGULAR}, ValueError, "expected invertible matrices, got .* for image 1, which is singular"),
        ({"matrix": NOT_FINITE}, ValueError, "for image 0, which is singular or not finite"),
        ({"color": torch.zeros(2, 4, 4)}, ValueError, r"expected a float color \[2, 3, 4\]"),
        ({"size": 0}, ValueError, "expected a size above 0"),
        ({"size": (3, 4, 5)}, ValueError, "expected a size above 0"),
        ({"size": 22.4}, ValueError, "expected a size above 0"),
        ({"interpolation": "cubic"}, ValueError, "expected interpolation to be one of antialias, bilinear, nearest"),
        ({"padding": "mirror"}, ValueError, "expected padding to be one of reflection, border, zeros"),
        ({"dtype": torch.uint8}, ValueError, "expected dtype to be one of"),
        ({"backend": "cuda"}, ValueError, "expected backend to be one of"),
    ],
)
def test_refusals(change: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments = {"images": IMAGES, "matrix": MATRIX, "size": 4} | change
    with pytest.raises(error, match=message):
        fa.warp(**arguments)


def test_a_window_far_from_the_origin_is_not_called_singular() -> None:
    """As of a panorama that is not cut out of its file: it shows what the cut-out part shows."""
    panorama = random_image(3, 60_000)
    near = torch.tensor([[[10.0, 0.04, 1], [0.5, 10, 2], [0.05, -0.02, 1]]], dtype=torch.float64)
    shift = torch.tensor([[1.0, 0, -30_000], [0, 1, 0], [0, 0, 1]], dtype=torch.float64)
    got = fa.warp([panorama], near @ shift, 32)
    shift[0, 2] = -1_000
    assert_images_close(got, fa.warp([panorama[:, 29_000:31_000]], near @ shift, 32), 0.01)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_an_empty_batch_stays_on_its_device(device: str) -> None:
    out = fa.warp(torch.empty(0, 8, 9, 3, device=device), torch.zeros(0, 3, 3), (4, 5))
    assert out.shape == (0, 3, 4, 5)
    assert out.device.type == device
