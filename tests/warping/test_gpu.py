"""The Triton kernel against the specification, in Triton's interpreter; and what the compiler makes of it.

Neither needs a GPU. tests/gpu/test_warp_gpu.py repeats the comparison on one.
"""

import importlib.util
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fastaug.warping import reference
from fastaug.warping.filter import MAX_FOOTPRINT
from fastaug.warping.footprint import sampling_matrix
from tests.compare import assert_images_close, photo, random_image
from tests.factories import draws

triton = pytest.importorskip("triton", reason="Triton comes with torch on Linux only")

SOURCE = Path(reference.__file__).with_name("gpu.py")
INTERPOLATIONS = ("nearest", "bilinear", "antialias")
PADDINGS = ("reflection", "border", "zeros")
GUARD = 64  # values before and after the output
LEVELS = 0.05  # float32 against float64, on noise: coordinates good to 1e-4 pixel


def load(interpret: bool) -> ModuleType:
    """A private copy of gpu.py: Triton decides at the decorator whether a kernel is interpreted or compiled."""
    spec = importlib.util.spec_from_file_location(f"gpu_{interpret}", SOURCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1" if interpret else "0")
        spec.loader.exec_module(module)
    return module


GPU = load(interpret=True)
LARGE_TILES = {name: GPU.Tile(32, 32, 3, 4) for name in INTERPOLATIONS}  # the interpreter's cost is per operation


def interpreted(
    images: Tensor | Sequence[Tensor],
    matrix: Tensor,
    size: tuple[int, int],
    interpolation: str,
    padding: str = "reflection",
    color: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    tiles: dict[str, Any] = LARGE_TILES,
) -> Tensor:
    """GPU.warp, into a buffer full of NaN that has guards on either side, which must survive."""
    buffers = []
    empty = torch.empty

    def poisoned(*shape: int, **options: Any) -> Tensor:
        if not options["dtype"].is_floating_point:
            return empty(*shape, **options)
        count = int(np.prod(shape))
        buffers.append(torch.full((count + 2 * GUARD,), torch.nan, dtype=options["dtype"]))
        return buffers[0][GUARD : GUARD + count].view(shape)

    with pytest.MonkeyPatch.context() as patch, np.errstate(all="ignore"):  # a GPU has no such warnings
        patch.setattr(torch, "empty", poisoned)
        patch.setattr(GPU, "TILES", tiles)
        out = GPU.warp(images, matrix, size, interpolation, padding, color, dtype)
    (buffer,) = buffers
    assert torch.isnan(buffer[:GUARD]).all(), "written before the output"
    assert torch.isnan(buffer[len(buffer) - GUARD :]).all(), "written past the output"
    assert out.shape == (len(images), 3, *size)
    assert out.dtype == dtype
    assert out.is_contiguous(memory_format=torch.channels_last)
    return out


def stable(images: Tensor | Sequence[Tensor], matrix: Tensor, size: tuple[int, int], interpolation: str) -> Tensor:
    """Pixels whose value does not hang on rounding, bool [B, height, width].

    Left out: "nearest" within 1e-3 of a pixel's edge, and footprints above the filter's limit, at a horizon, where one
    output pixel spans thousands of input pixels and float32 cannot tell which of them it means.
    """
    result = []
    for inverse in sampling_matrix(matrix):
        x, y, footprint_x, footprint_y = reference._sample_points(inverse, size)
        beyond = ~torch.isfinite(x)
        ok = (footprint_x < MAX_FOOTPRINT) & (footprint_y < MAX_FOOTPRINT)
        if interpolation == "nearest":
            ok &= ((x - x.round()).abs() > 1e-3) & ((y - y.round()).abs() > 1e-3)
        result.append(ok | beyond)
    return torch.stack(result)


def assert_matches(
    images: Tensor | Sequence[Tensor],
    matrix: Tensor,
    size: tuple[int, int],
    interpolation: str,
    padding: str = "reflection",
    color: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    least_stable: float = 0.9,
    **options: Any,
) -> None:
    got = interpreted(images, matrix, size, interpolation, padding, color, dtype, **options)
    assert torch.isfinite(got).all(), "unwritten, or computed from nothing"
    expected = reference.warp(images, matrix, size, interpolation, padding, color, torch.float64)
    ok = stable(images, matrix, size, interpolation)
    assert ok.double().mean() >= least_stable, "too few pixels compared"
    # One cast at the store; the interpreter truncates to bfloat16, a GPU rounds.
    cast = {torch.float32: 0.0, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-7}[dtype]
    levels = LEVELS + 255 * cast * expected.abs().max().item()
    assert_images_close(torch.where(ok[:, None], got.double(), expected), expected, levels)


def affine(*values: float) -> Tensor:
    return torch.tensor([[*values[:3]], [*values[3:]], [0, 0, 1]], dtype=torch.float64)[None]


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_strong_transforms(interpolation: str, padding: str) -> None:
    """Perspective, rotation, flips, crops; enlarging and shrinking; a window that leaves the photo."""
    images = torch.stack([random_image(45, 52), photo("astronaut", 45, 52), random_image(45, 52, 1)])
    matrix = draws(3, (45, 52), (40, 37))
    matrix[1, :2] *= 0.4  # the photo covers a corner of the output: many pixels outside
    color = torch.rand(3, 3, 4, generator=torch.Generator().manual_seed(0))
    assert_matches(images, matrix, (40, 37), interpolation, padding, color)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("frame", [(1, 1), (2, 3), (7, 13)])
def test_awkward_photos_shown_far_beyond_their_edges(frame: tuple[int, int], interpolation: str) -> None:
    """Mirrored many times; footprints from 0.3 to 3 input pixels."""
    for scale in (0.35, 3.1):
        matrix = affine(scale, 0.1, 9, -0.2, scale, 11)
        assert_matches(random_image(*frame)[None], matrix, (20, 33), interpolation)


@pytest.mark.parametrize(("interpolation", "size"), [("bilinear", (25, 239)), ("antialias", (17, 37))])
def test_223_by_225_with_the_tiles_of_a_gpu(interpolation: str, size: tuple[int, int]) -> None:
    """Several strips, more than one across for "bilinear"; an unfinished tile right and below."""
    matrix = torch.linalg.inv(affine(0.8, 0.6, -35, -0.6, 0.8, 81))
    assert_matches(random_image(223, 225)[None], matrix, size, interpolation, tiles=GPU.TILES)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("pixels", [torch.uint8, torch.float32, torch.float16, torch.bfloat16])
def test_dtypes(pixels: torch.dtype, dtype: torch.dtype) -> None:
    image = random_image(7, 13)[None]
    images = image if pixels == torch.uint8 else (image / 255).to(pixels)
    assert_matches(images, draws(1, (7, 13), (9, 8)).float(), (9, 8), "bilinear", dtype=dtype)


def test_layouts() -> None:
    """Ragged lists, batches with any stride, channels first: the same numbers, and the input untouched."""
    frames = [random_image(1, 1), random_image(7, 13), random_image(31, 20)]
    matrix = draws(3, torch.tensor([image.shape[:2] for image in frames]), (12, 10))
    assert_matches(frames, matrix, (12, 10), "antialias")
    wide = random_image(18, 26).view(2, 9, 26, 3)
    matrix = draws(2, (9, 13), (12, 10))
    for images in (
        wide[:, :, ::2],  # neither rows nor pixels contiguous
        wide[:, :, :13],
        wide[0, :, :13].contiguous().expand(2, -1, -1, -1),  # stride 0
        wide[:, :, :13].contiguous().repeat_interleave(2, 0)[::2],
        wide[:, :, :13].float().div(255).permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1),
        [wide[0, :, ::2], wide[1, :, :13]],
    ):
        before = [image.clone() for image in images]
        assert_matches(images, matrix, (12, 10), "bilinear")
        assert all(torch.equal(a, b) for a, b in zip(before, images, strict=True))


def test_nothing_beside_the_photo_is_read() -> None:
    """The photo lies in a sea of NaN, the output shows its surroundings."""
    for interpolation in INTERPOLATIONS:
        for padding in PADDINGS:
            sea = torch.full((30 * 13 * 3,), torch.nan)
            sea[300 : 300 + 7 * 13 * 3] = random_image(7, 13).flatten() / 255
            image = sea[300 : 300 + 7 * 13 * 3].view(1, 7, 13, 3)
            assert_matches(image, affine(0.41, 0.3, 12.3, -0.29, 0.4, 14.1), (30, 30), interpolation, padding)


def test_shrinking_40_times() -> None:
    """Across, that is, at 120 pixels per output pixel row; down, 3 times. And beyond the widest footprint, 64."""
    image = random_image(24, 400)[None]
    assert_matches(image, affine(1 / 40, 0, 0, 0, 1 / 3, 0), (8, 10), "antialias")
    got = interpreted(image, affine(1 / 100, 0, 0, 0, 1, 0), (2, 4), "antialias")
    expected = reference.warp(image, affine(1 / 100, 0, 0, 0, 1, 0), (2, 4), "antialias", "reflection", None, got.dtype)
    assert_images_close(got, expected, LEVELS)


def test_a_large_photo_keeps_its_precision() -> None:
    """Around pixel 40,000 of a row, float32 has steps of 1/256 pixel."""
    image = random_image(5, 40_000)[None]
    for interpolation in ("bilinear", "antialias"):
        assert_matches(image, affine(1.3, 0, -1.3 * 39_900 + 0.123, 0, 0.7, 0.2), (4, 60), interpolation)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_far_beyond_the_edges(interpolation: str) -> None:
    """Mirrored tens of thousands of times as exactly as once; beyond the counting range of float32 too."""
    image = random_image(7, 9)[None]
    assert_matches(image, affine(0.9, 0.1, 612_345.3, -0.1, 0.9, -801_234.4), (8, 9), interpolation)
    for padding in ("border", "zeros"):
        assert_matches(image, affine(0.9, 0.1, 6e6, -0.1, 0.9, -6e6), (8, 9), interpolation, padding)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_horizon(interpolation: str, sign: int) -> None:
    """Both sides of it in one tile, for a matrix and its negative; where w < 0 black, before the colour matrix."""
    inverse = torch.tensor([[[0.04, 0.01, 0], [0, 0.04, 0], [-0.111, 0, 1]]], dtype=torch.float64)
    matrix, image = sign * torch.linalg.inv(inverse), random_image(20, 20)[None]
    color = torch.tensor([[[1.0, 0, 0, 0.5], [0, 1, 0, 0.25], [0, 0, 1, 0.125]]])
    assert_matches(image, matrix, (3, 30), interpolation, "border", color)
    out = interpreted(image, matrix, (3, 30), interpolation, "border", color)[0]
    beyond = out[:, :, 9:] if sign > 0 else out[:, :, :9]
    assert (beyond == color[0, :, 3, None, None]).all()


def test_singular_and_not_finite_matrices_are_black() -> None:
    """On a GPU nobody looks at them before."""
    bad = torch.zeros(5, 3, 3, dtype=torch.float64)
    bad[1] = 1
    bad[2] = torch.nan
    bad[3] = torch.eye(3)
    bad[3, 0, 2] = torch.inf
    bad[4] = torch.tensor([[1, 2, 3], [2, 4, 6], [0, 0, 1]])
    images = torch.full((5, 4, 4, 3), 255, dtype=torch.uint8)
    for interpolation in INTERPOLATIONS:
        assert interpreted(images, bad, (5, 5), interpolation).abs().max() == 0


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize(("shift_x", "shift_y"), [(0.5, 0), (0, -0.5)])
def test_a_half_pixel_shift_would_be_seen(interpolation: str, shift_x: float, shift_y: float) -> None:
    image, matrix = random_image(20, 23)[None], draws(1, (20, 23), (16, 17))
    got = interpreted(image, matrix, (16, 17), interpolation)
    shifted = matrix @ affine(1, 0, shift_x, 0, 1, shift_y)
    expected = reference.warp(image, shifted, (16, 17), interpolation, "reflection", None, torch.float64)
    with pytest.raises(AssertionError, match="apart"):
        assert_images_close(got, expected, 5)


def test_empty_batches() -> None:
    for images in (torch.zeros(0, 5, 5, 3, dtype=torch.uint8), []):
        assert GPU.warp(images, torch.zeros(0, 3, 3), (4, 6), "bilinear", "zeros", None, torch.float16).shape == (
            0, 3, 4, 6,
        )  # fmt: skip


@pytest.mark.parametrize("pixels", [torch.uint8, torch.float64])
def test_float64_is_refused(pixels: torch.dtype) -> None:
    images = torch.zeros(1, 5, 5, 3, dtype=pixels)
    dtype = torch.float64 if pixels == torch.uint8 else torch.float32
    with pytest.raises(TypeError, match=r'float32, got float64\. Use backend="reference"'):
        GPU.warp(images, torch.eye(3)[None], (4, 4), "bilinear", "zeros", None, dtype)


VARIANTS = [("u8", "fp32"), ("u8", "fp16"), ("u8", "bf16"), ("fp32", "fp32"), ("fp16", "fp16"), ("bf16", "bf16")]


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_compiles_for_hopper_without_spills(interpolation: str, tmp_path: Path, record_property: Any) -> None:
    """Every pair of dtypes, with the padding rules by turns."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    module = load(interpret=False)
    kernel, tile = module._warp_kernel, module.TILES[interpolation]
    for i, (pixels, values) in enumerate(VARIANTS):
        small = f"*fp{64 if i % 2 else 32}"  # float64 from the CPU, float32 where it was on the GPU already
        signature = dict.fromkeys(kernel.arg_names, "constexpr") | {
            "out_ptr": f"*{values}", "pixel_ptr": f"*{pixels}", "table_ptr": "*i64", "matrix_ptr": small,
            "color_ptr": small, "table_stride": "i32", "matrix_stride": "i32", "color_stride": "i32",
            "out_height": "i32", "out_width": "i32", "strips": "i32",
        }  # fmt: skip
        constants = {
            "INTERPOLATION": interpolation, "PADDING": PADDINGS[i % 3], "HAS_COLOR": True,
            "TILE_H": tile.height, "TILE_W": tile.width, "STEPS": tile.steps,
        }  # fmt: skip
        compiled = triton.compile(
            ASTSource(kernel, signature, constants),
            target=GPUTarget("cuda", 90, 32),
            options={"num_warps": tile.warps, "num_stages": 1, "enable_fp_fusion": True},
        )
        cubin = tmp_path / f"{i}.cubin"
        cubin.write_bytes(compiled.asm["cubin"])
        report = subprocess.run(
            [triton.knobs.nvidia.cuobjdump.path, "-res-usage", cubin], capture_output=True, text=True, check=True
        ).stdout
        used = {name: int(count) for name, count in re.findall(r"(REG|STACK|LOCAL):(\d+)", report)}
        record_property(f"{interpolation} {pixels} {values} {PADDINGS[i % 3]}", used["REG"])
        assert used["STACK"] == used["LOCAL"] == 0, f"{pixels} -> {values}: spills, {used}"
        assert used["REG"] * 32 * tile.warps * 4 <= 65536, f"{pixels} -> {values}: fewer than 4 programs fit, {used}"
