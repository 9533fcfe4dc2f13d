"""The Triton kernel on a real GPU: against the specification, without waiting, in one launch.

tests/warping/test_gpu.py covers the same kernel, corner by corner, in Triton's interpreter.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import fastaug as fa
from fastaug.warping import reference
from tests.compare import assert_images_close, photo, random_image
from tests.factories import draws

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU; torch sees none here")

INTERPOLATIONS = ("nearest", "bilinear", "antialias")
PADDINGS = ("reflection", "border", "zeros")
LEVELS = 0.05
CAST = {torch.float32: 0.0, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}  # relative, of the one rounding


@pytest.fixture(autouse=True)
def _poisoned_memory() -> Iterator[None]:
    """Fresh tensors hold NaN: an unwritten output pixel cannot pass."""
    before = torch.utils.deterministic.fill_uninitialized_memory, torch.are_deterministic_algorithms_enabled()
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(True)
    yield
    torch.utils.deterministic.fill_uninitialized_memory = before[0]
    torch.use_deterministic_algorithms(before[1])


def to_gpu(images: Tensor | Sequence[Tensor]) -> Tensor | list[Tensor]:
    return images.cuda() if isinstance(images, Tensor) else [image.cuda() for image in images]


def assert_matches(
    images: Tensor | Sequence[Tensor],
    matrix: Tensor,
    size: tuple[int, int],
    interpolation: str,
    padding: str = "reflection",
    color: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    small_on_gpu: bool = False,
) -> None:
    expected = reference.warp(images, matrix, size, interpolation, padding, color, torch.float64)
    if small_on_gpu:
        matrix, color = matrix.cuda(), None if color is None else color.cuda()
    got = fa.warp(to_gpu(images), matrix, size, interpolation, padding, color, dtype, backend="triton")
    assert got.is_contiguous(memory_format=torch.channels_last)
    assert got.dtype == dtype
    levels = LEVELS + 255 * CAST[dtype] * expected.abs().max().item()
    got = got.cpu().double()
    if interpolation == "nearest":  # a point within rounding of a pixel's edge may fall on either side
        same = (got - expected).abs().amax(1, keepdim=True) * 255 <= levels
        assert same.double().mean() > 0.998
        got = torch.where(same, got, expected)
    assert_images_close(got, expected, levels)


@pytest.mark.parametrize("small_on_gpu", [False, True])
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_strong_transforms(interpolation: str, padding: str, small_on_gpu: bool) -> None:
    images = torch.stack([random_image(223, 225), photo("astronaut", 223, 225), random_image(223, 225, 1)])
    matrix = draws(3, (223, 225), (97, 240))
    matrix[1, :2] *= 0.4
    color = torch.rand(3, 3, 4, generator=torch.Generator().manual_seed(0))
    assert_matches(images, matrix, (97, 240), interpolation, padding, color, small_on_gpu=small_on_gpu)


@pytest.mark.parametrize("dtype", CAST)
@pytest.mark.parametrize("pixels", [torch.uint8, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_dtypes(interpolation: str, pixels: torch.dtype, dtype: torch.dtype) -> None:
    image = random_image(37, 53)[None]
    images = image if pixels == torch.uint8 else (image / 255).to(pixels)
    assert_matches(images, draws(1, (37, 53), (29, 28)).float(), (29, 28), interpolation, dtype=dtype)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_layouts_and_awkward_sizes(interpolation: str) -> None:
    frames = [random_image(1, 1), random_image(7, 13), random_image(223, 225), photo("coffee")]
    sizes = torch.tensor([image.shape[:2] for image in frames])
    assert_matches(frames, draws(4, sizes, (50, 61)), (50, 61), interpolation)
    wide = random_image(18, 26).view(2, 9, 26, 3)
    matrix = draws(2, (9, 13), (12, 10))
    for images in (wide[:, :, ::2], wide[0, :, :13].expand(2, -1, -1, -1), [wide[0, :, ::2], wide[1, :, :13]]):
        assert_matches(images, matrix, (12, 10), interpolation)
    empty = fa.warp(torch.zeros(0, 5, 5, 3, dtype=torch.uint8).cuda(), torch.zeros(0, 3, 3), 4, backend="triton")
    assert empty.shape == (0, 3, 4, 4)


def test_large_batches_and_photos() -> None:
    """Addresses beyond 2^31 bytes, 40 x shrinking, a photo far wider than float32 can count in fractions."""
    images = random_image(460, 460)[None].cuda().repeat(4_000, 1, 1, 1)  # 2.5 GB
    images[-1] = photo("astronaut", 460, 460).cuda()
    matrix = draws(1, (460, 460), (64, 64))
    got = fa.warp(images, matrix.expand(4_000, 3, 3), 64, backend="triton")[-1:].cpu()
    expected = fa.warp(photo("astronaut", 460, 460)[None], matrix, 64, dtype=torch.float64, backend="reference")
    assert_images_close(got, expected, LEVELS)
    for scale, shift, frame in ((1 / 40, 0.0, (800, 1200)), (1.3, -1.3 * 39_900, (5, 40_000))):
        matrix = torch.tensor([[[scale, 0, shift], [0, scale, 0], [0, 0, 1]]], dtype=torch.float64)
        assert_matches(random_image(*frame)[None], matrix, (20, 30), "antialias")


def test_singular_matrices_on_the_gpu_are_black() -> None:
    bad = torch.zeros(3, 3, 3)
    bad[1], bad[2] = 1, torch.nan
    images = torch.full((3, 4, 4, 3), 255, dtype=torch.uint8).cuda()
    for interpolation in INTERPOLATIONS:
        assert fa.warp(images, bad.cuda(), 5, interpolation, backend="triton").abs().max().item() == 0


def test_a_half_pixel_shift_would_be_seen() -> None:
    image, matrix = random_image(20, 23)[None], draws(1, (20, 23), (16, 17))
    got = fa.warp(image.cuda(), matrix, (16, 17), backend="triton").cpu()
    matrix[:, :, 2] += matrix[:, :, 0] / 2
    with pytest.raises(AssertionError, match="apart"):
        assert_images_close(got, reference.warp(image, matrix, (16, 17), "antialias", "reflection", None, got.dtype), 5)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_one_launch_and_no_waiting(device: str) -> None:
    """At most one small copy to the GPU, one kernel, and the host never waits, wherever matrix and color are."""
    images = torch.randint(0, 256, (8, 60, 70, 3), dtype=torch.uint8, device="cuda")
    arguments: dict[str, Any] = {
        "matrix": draws(8, (60, 70), (32, 32)).to(device), "size": 32, "color": torch.rand(8, 3, 4, device=device),
        "dtype": torch.bfloat16, "backend": "triton",
    }  # fmt: skip
    torch.use_deterministic_algorithms(False)  # its NaN filling would count as kernels
    fa.warp(images, **arguments)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        with profile(activities=[ProfilerActivity.CUDA]) as recorded:
            fa.warp(images, **arguments)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    names = [event.name for event in recorded.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    copies = [name for name in names if "Memcpy" in name]
    kernels = [name for name in names if name not in copies]
    assert len(kernels) == 1, kernels
    assert "_warp_kernel" in kernels[0]
    assert len(copies) == 1, copies
    assert "HtoD" in copies[0]
