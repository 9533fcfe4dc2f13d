"""The GPU benchmark's peers and its check, as far as a CPU can run them."""

from __future__ import annotations

import sys
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import affine, crop, normalize

from benchmarks import gpu_peers, readme, warp_gpu
from benchmarks.warp_gpu import MEAN, OURS, SIZE, STD, Candidate, Way
from fastaug.augment import geometry
from fastaug.warping import reference


@pytest.fixture(scope="module")
def check() -> warp_gpu.Check:
    return warp_gpu.make_check("bilinear", "cpu")


def specified(images: Tensor, matrix: Tensor, color: Tensor) -> Tensor:
    return reference.warp(images, matrix, (SIZE, SIZE), "bilinear", "reflection", color, torch.float32)


def half_a_pixel_off(images: Tensor, matrix: Tensor, color: Tensor) -> Tensor:
    """As from a peer whose pixels are taken for integer-centred, which they are not."""
    return specified(images, geometry.from_integer_centred(matrix), color)


def module(name: str, **contents: Any) -> ModuleType:
    made = ModuleType(name)
    made.__dict__.update(contents)
    return made


def is_right(got: Tensor, check: warp_gpu.Check) -> bool:
    off = warp_gpu.levels_off(got, check, everywhere=False)
    return off["mean_levels"] <= warp_gpu.PEER_MEAN_LEVELS and off["worst_levels"] <= warp_gpu.PEER_WORST_LEVELS


def test_the_check_allows_rounding_and_another_border(check: warp_gpu.Check) -> None:
    right = specified(*check.batch)
    std, mean = (torch.tensor(values)[:, None, None] for values in (STD, MEAN))
    rounded = (((right * std + mean) * 255).round() / 255 - mean) / std
    black = torch.where(check.inside, rounded, 0)
    assert 0.9 < check.inside.double().mean() < 1
    assert is_right(right, check)
    assert is_right(black.bfloat16(), check)
    assert warp_gpu.levels_off(black, check, everywhere=True)["worst_levels"] > 30


def test_the_check_sees_half_a_pixel_a_channel_an_image_and_an_unwritten_row(check: warp_gpu.Check) -> None:
    right = specified(*check.batch)
    unwritten = right.clone()
    unwritten[:, :, 100] = torch.nan
    for wrong in (half_a_pixel_off(*check.batch), right.flip(1), right.roll(1, 0), unwritten, right[:, :, 1:]):
        assert not is_right(wrong, check)


def test_triton_augment_gets_torchvisions_affine_about_the_centre(
    check: warp_gpu.Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its `affine` follows torchvision's, which stands in for it here."""

    def fused_augment(
        image: Tensor, top: int, left: int, height: int, width: int, angle: Tensor, translate: Tensor, scale: Tensor,
        interpolation: str, fill: float, mean: tuple[float, ...], std: tuple[float, ...],
    ) -> Tensor:  # fmt: skip
        mode = InterpolationMode(interpolation)
        warped = [
            affine(one, angle[i].item(), translate[i].tolist(), scale[i].item(), [0.0, 0.0], mode, fill)
            for i, one in enumerate(image)
        ]
        return normalize(crop(torch.stack(warped), top, left, height, width), list(mean), list(std))

    package = {"triton_augment": {}, "triton_augment.functional": {"fused_augment": fused_augment}}
    for name, contents in package.items():
        monkeypatch.setitem(sys.modules, name, module(name, **contents))
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        got = gpu_peers.triton_augment(dtype)(*check.batch)
        assert got.dtype == dtype
        if dtype == torch.float32:  # in float16 torchvision's coordinates are not good enough, the kernel's are float32
            assert warp_gpu.levels_off(got, check, everywhere=False)["worst_levels"] < 0.2


def test_cv_cuda_gets_opencvs_matrices(check: warp_gpu.Check, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its conventions are OpenCV's, which stands in for it here, on the memory that the views point at."""
    cv2 = pytest.importorskip("cv2")

    def pixels(view: Any) -> np.ndarray:
        described = {name: value for name, value in view.__cuda_array_interface__.items() if name != "stream"}
        return np.asarray(SimpleNamespace(__array_interface__=described))

    def warp_perspective_into(
        dst: list[Any], src: list[Any], xform: Any, flags: int, *, border_mode: int, border_value: Any, stream: str
    ) -> None:
        assert stream == "stream 7"
        for target, source, inverse in zip(dst, src, pixels(xform).reshape(-1, 3, 3), strict=True):
            pixels(target)[:] = cv2.warpPerspective(
                pixels(source), inverse, (SIZE, SIZE), flags=flags, borderMode=border_mode, borderValue=border_value
            )

    stand_in = module(
        "cvcuda", Interp=SimpleNamespace(LINEAR=cv2.INTER_LINEAR, WARP_INVERSE_MAP=cv2.WARP_INVERSE_MAP),
        Border=SimpleNamespace(REPLICATE=cv2.BORDER_REPLICATE), Format=SimpleNamespace(RGB8="RGB8"),
        as_images=lambda views, _: views, as_tensor=lambda view, _: view, as_stream=lambda handle: f"stream {handle}",
        warp_perspective_into=warp_perspective_into,
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "cvcuda", stand_in)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(cuda_stream=7))
    assert torch.allclose(gpu_peers.integer_centred(check.batch[1]), geometry.to_integer_centred(check.batch[1]))
    assert is_right(gpu_peers.cvcuda(torch.bfloat16)(*check.batch), check)


@pytest.mark.parametrize("make", [gpu_peers.grid_sample, gpu_peers.kornia])
def test_the_peers_that_run_on_a_cpu_are_right_everywhere(check: warp_gpu.Check, make: Any) -> None:
    got = make(torch.float32)(*check.batch)
    assert warp_gpu.levels_off(got, check, everywhere=True)["worst_levels"] < 0.2


def test_views_point_at_the_images() -> None:
    batch = torch.arange(2 * 4 * 5 * 3, dtype=torch.uint8).reshape(2, 4, 5, 3)
    for view, image in zip(gpu_peers.views(batch), batch, strict=True):
        described = view.__cuda_array_interface__
        assert described["data"] == (image.data_ptr(), False)
        assert (described["shape"], described["typestr"]) == ((4, 5, 3), "|u1")


def test_wrong_missing_and_failing_peers_are_rows_and_only_right_ones_are_timed(check: warp_gpu.Check) -> None:
    def absent() -> Candidate:
        import a_package_that_is_not_there  # noqa: F401

        raise AssertionError

    def failing(*_: Tensor) -> Tensor:
        raise RuntimeError("no such layout")

    limits = (warp_gpu.PEER_MEAN_LEVELS, warp_gpu.PEER_WORST_LEVELS)
    found = [
        Way(f"{OURS} right", lambda: specified, *limits),
        Way(f"{OURS} wrong", lambda: half_a_pixel_off, *limits),
        Way("wrong", lambda: half_a_pixel_off, *limits),
        Way("absent", absent, *limits),
        Way("failing", lambda: failing, *limits),
    ]
    missing: set[str] = set()
    compared = partial(warp_gpu.compared, found, check, lambda _: {"median_ms": 1.0}, {"batch": 3}, missing)
    rows = {row["what"]: row for row in compared()}
    assert [name for name, row in rows.items() if "median_ms" in row] == [f"{OURS} right"]
    assert rows["absent"] == {"what": "absent", "error": "not installed"}
    assert rows["wrong"]["error"] == "wrong, not timed"
    assert rows["wrong"]["mean_levels"] > 10
    assert rows["failing"]["error"] == "failed: RuntimeError: no such layout"
    assert "absent" not in [row["what"] for row in compared()]
    assert warp_gpu.failed(list(rows.values()))
    assert not warp_gpu.failed([row for name, row in rows.items() if name != f"{OURS} wrong"])


def test_ours_that_fails_is_raised(check: warp_gpu.Check) -> None:
    def failing(*_: Tensor) -> Tensor:
        raise RuntimeError("a bug of ours")

    found = [Way(f"{OURS} broken", lambda: failing, 1.0, 1.0)]
    with pytest.raises(RuntimeError, match="a bug of ours"):
        list(warp_gpu.compared(found, check, lambda _: {}, {}, set()))


def test_rows_of_different_keys_become_one_table() -> None:
    rows = [{"what": "absent", "error": "not installed"}, {"what": "ours", "median_ms": 0.123456, "images_per_s": 2e6}]
    assert readme.as_markdown({"rows": rows}).splitlines()[2:] == [
        "| absent | not installed |  |  |",
        "| ours |  | 0.1235 | 2,000,000 |",
    ]
