"""fa.warp: what it refuses, and how."""

from typing import Any

import pytest
import torch
from PIL import Image

import fastaug as fa
from tests.compare import assert_images_close, random_image

PICTURE = Image.new("RGB", (9, 8))
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
        ({"images": [IMAGES[0], IMAGES]}, ValueError, r"expected \[H, W, 3\] or \[3, H, W\], got .* at position 1"),
        ({"images": IMAGES.to(torch.uint16)}, TypeError, r"got torch.uint16. .*images.float\(\) / 65535"),
        ({"images": IMAGES.to(torch.int16)}, TypeError, r"got torch.int16. .*\.to\(torch.uint8\) if they are 0 to 255"),
        ({"images": IMAGES.bool()}, TypeError, r"got torch.bool. .*\.float\(\)"),
        ({"images": [IMAGES[0].to(torch.uint16)] * 2}, TypeError, "got torch.uint16 at position 0"),
        ({"images": IMAGES[..., :1]}, ValueError, r"got torch.uint8 \[2, 8, 9, 1\].* Grey .*\.expand\(-1, -1, -1, 3\)"),
        (
            {"images": torch.zeros(2, 1, 8, 9)},
            ValueError,
            r"got torch.float32 \[2, 1, 8, 9\].*\.expand\(-1, 3, -1, -1\)",
        ),
        ({"images": torch.zeros(2, 8, 9)}, ValueError, r"got torch.float32 \[2, 8, 9\]"),
        ({"images": torch.zeros(2, 4, 8, 9)}, ValueError, r"got torch.float32 \[2, 4, 8, 9\]"),
        ({"images": [torch.zeros(1, 8, 9)] * 2}, ValueError, r"\[1, 8, 9\] at position 0.*\.expand\(3, -1, -1\)"),
        ({"images": PICTURE}, TypeError, r"got PIL.Image.Image. .*torch.from_numpy\(numpy.array\("),
        ({"images": [PICTURE]}, TypeError, r"got PIL.Image.Image at position 0. .*torch.from_numpy\("),
        ({"images": IMAGES.numpy()}, TypeError, r"got numpy.ndarray. .*torch.from_numpy\("),
        ({"images": [*IMAGES.numpy()]}, TypeError, r"got numpy.ndarray at position 0. .*torch.from_numpy\("),
        ({"images": None}, TypeError, "got NoneType"),
        ({"images": 3}, TypeError, "got int"),
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


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_a_list_may_have_channels_first(dtype: torch.dtype) -> None:
    """Each image by itself; where both axes are 3, as in a batch."""
    last = [random_image(7, 9, 1), random_image(5, 4, 2), random_image(8, 8, 3)]
    last = [image if dtype == torch.uint8 else image / 255 for image in last]
    matrix, first = torch.eye(3).repeat(3, 1, 1), [image.permute(2, 0, 1).contiguous() for image in last]
    expected = fa.warp(last, matrix, (6, 7))
    for images in (first, [first[0], last[1], first[2]]):
        assert torch.equal(fa.warp(images, matrix, (6, 7)), expected)
    square = random_image(3, 3)
    square = square if dtype == torch.uint8 else square / 255
    assert torch.equal(fa.warp([square], matrix[:1], 4), fa.warp(square[None], matrix[:1], 4))


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
