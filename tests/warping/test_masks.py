"""Masks through a matrix: the specification against outsiders and the warp, the kernel against the specification."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch import Tensor

import fastaug as fa
from fastaug.warping import masks, masks_cpu
from fastaug.warping.footprint import sampling_matrix
from fastaug.warping.masks import MASK_PADDINGS, MaskPadding

PADDINGS: tuple[MaskPadding, ...] = MASK_PADDINGS


def draws(n: int, frame: tuple[int, int], size: tuple[int, int], seed: int = 0) -> Tensor:
    ops = [
        fa.RandomHorizontalFlip(),
        fa.RandomRotation(60),
        fa.RandomZoom((0.3, 1.2)),
        fa.RandomPerspective(0.4, p=1.0),
    ]
    return fa.Augment(ops, size).draw(n, frame, generator=torch.Generator().manual_seed(seed)).matrix


def numbered(n: int, height: int, width: int, dtype: torch.dtype = torch.int32) -> Tensor:
    """Masks in which no number is there twice, and none is -1."""
    return torch.arange(n * height * width, dtype=dtype).view(n, height, width)


def extents(n: int, height: int, width: int, seed: int = 0) -> Tensor:
    corners = torch.rand(n, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).sort(1).values
    return (corners * torch.tensor([width, height])).flatten(1)


def whole(n: int, height: int, width: int) -> Tensor:
    return torch.tensor([[0, 0, width, height]], dtype=torch.float64).expand(n, 4)


def assert_kernel_is_the_specification(
    given: Tensor | list[Tensor], samplings: Tensor, size: tuple[int, int], extent: Tensor, pixel: Tensor
) -> None:
    for padding in PADDINGS:
        expected = masks.reference(given, samplings, size, 99, padding, extent, pixel)
        got = masks_cpu.warp_masks(given, samplings, size, 99, padding, extent, pixel)
        assert got.dtype == expected.dtype
        assert torch.equal(got, expected), f"{padding}: {(got != expected).sum()} pixels differ"


@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 13), (61, 83)])
@pytest.mark.parametrize("size", [(1, 1), (33, 17), (5, 200)])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_kernel_is_the_specification_bit_for_bit(height: int, width: int, size: tuple[int, int], seed: int) -> None:
    given, samplings = numbered(6, height, width), sampling_matrix(draws(6, (height, width), size, seed))
    part = extents(6, height, width, seed)
    for extent in (whole(6, height, width), part, part - 3, part * 1.5):
        for pixel in (1.0, 0.3, 4.7):
            assert_kernel_is_the_specification(given, samplings, size, extent, torch.full((6, 2), pixel).double())


@pytest.mark.parametrize("wrong", ["a row less", "a pixel to the right", "another fill", "another type"])
def test_the_comparison_rejects_a_wrong_answer(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = (
        numbered(2, 7, 13),
        sampling_matrix(draws(2, (7, 13), (9, 9))),
        (9, 9),
        whole(2, 7, 13),
        torch.ones(2, 2),
    )
    right = masks_cpu.warp_masks
    change = {
        "a row less": lambda y: torch.cat([y[:, :-1], y[:, :1]], 1),
        "a pixel to the right": lambda y: y.roll(1, 2),
        "another fill": lambda y: torch.where(y == 99, 98, y),
        "another type": lambda y: y.long(),
    }[wrong]
    assert_kernel_is_the_specification(*arguments)
    monkeypatch.setattr(masks_cpu, "warp_masks", lambda *given: change(right(*given)))
    with pytest.raises(AssertionError):
        assert_kernel_is_the_specification(*arguments)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
def test_all_types_and_layouts(dtype: torch.dtype) -> None:
    given = torch.randint(0, 2, (9, 5, 11, 2)).to(dtype)[..., 0].permute(1, 0, 2)
    samplings = sampling_matrix(draws(5, (9, 11), (20, 20)))
    fill = 1 if dtype == torch.bool else torch.iinfo(dtype).min
    for padding in PADDINGS:
        arguments = samplings, (20, 20), fill, padding, whole(5, 9, 11), torch.ones(5, 2).double()
        got = masks_cpu.warp_masks(given, *arguments)
        assert got.dtype == dtype
        assert torch.equal(got, masks.reference(given, *arguments))


def test_sizes_that_differ() -> None:
    given = [numbered(1, 7, 13)[0], numbered(1, 20, 3)[0] + 1000, numbered(1, 1, 1)[0] + 5000]
    samplings = sampling_matrix(draws(3, (10, 10), (12, 14)))
    extent = torch.cat([whole(1, *mask.shape) for mask in given])
    assert_kernel_is_the_specification(given, samplings, (12, 14), extent, torch.ones(3, 2).double())


def test_matrices_without_a_way_back_see_nothing() -> None:
    samplings = torch.full((3, 3, 3), torch.nan, dtype=torch.float64)
    samplings[1] = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, -1]])  # behind the horizon
    samplings[2] = torch.tensor([[1e300, 0, 0], [0, 1, 0], [1e-300, 0, 0]])  # farther than any number
    assert_kernel_is_the_specification(
        numbered(3, 7, 13), samplings, (4, 4), whole(3, 7, 13), torch.ones(3, 2).double()
    )
    got = masks.reference(numbered(3, 7, 13), samplings, (4, 4), 99, "reflection", whole(3, 7, 13), torch.ones(3, 2))
    assert (got == 99).all()


@pytest.mark.parametrize(("padding", "images"), [("fill", "zeros"), ("reflection", "reflection"), ("border", "border")])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 13), (61, 83)])
def test_the_look_up_is_the_warps_nearest(padding: MaskPadding, images: str, height: int, width: int) -> None:
    """With padding, and also where a pixel is reflected several times."""
    picture = torch.randint(1, 256, (4, height, width, 3), dtype=torch.uint8)
    matrix = draws(4, (height, width), (40, 50))
    got = fa.warp_masks(picture[..., 0], matrix, (40, 50), 0, padding)
    expected = fa.warp(picture, matrix, (40, 50), "nearest", images, dtype=torch.float64, backend="reference")  # type: ignore[arg-type]
    assert torch.equal(got, (expected[:, 0] * 255).round().to(torch.uint8))


def test_whole_pixels_look_up_as_the_warp_also_on_the_edges_between_two() -> None:
    """Places on the edges of pixels, of an extent that is cut out of the mask."""
    picture = torch.randint(1, 256, (1, 9, 12, 3), dtype=torch.uint8)
    cut, extent = picture[:, 2:7, 3:9], torch.tensor([[3.0, 2, 9, 7]])
    moved = torch.tensor([[[1.0, 0, 20.5], [0, 1, 10.5], [0, 0, 1]]])
    back = moved @ torch.tensor([[1.0, 0, 3], [0, 1, 2], [0, 0, 1]])
    for padding, images in (("fill", "zeros"), ("reflection", "reflection"), ("border", "border")):
        got = fa.warp_masks(picture[..., 0], moved, (30, 50), 0, padding, extent)  # type: ignore[arg-type]
        expected = fa.warp(cut, back, (30, 50), "nearest", images, dtype=torch.float64, backend="reference")  # type: ignore[arg-type]
        assert torch.equal(got, (expected[:, 0] * 255).round().to(torch.uint8)), padding
    extent, pixel = extent.double(), torch.ones(1, 2).double()
    assert_kernel_is_the_specification(picture[..., 0], sampling_matrix(moved), (30, 50), extent, pixel)


@pytest.mark.parametrize(("padding", "mode"), [("fill", "constant"), ("reflection", "reflect"), ("border", "nearest")])
def test_the_specification_is_scipys(padding: MaskPadding, mode: str) -> None:
    """SciPy counts from pixels' centres and rounds, and calls the mirror about the edge "reflect"."""
    height, width, size = 14, 19, (40, 30)
    mask, samplings = numbered(1, height, width), sampling_matrix(draws(1, (height, width), size, 5))
    got = masks.reference(mask, samplings, size, -1, padding, whole(1, height, width), torch.ones(1, 2))
    v, u = np.mgrid[: size[0], : size[1]] + 0.5
    x, y, w = np.tensordot(samplings[0].numpy(), np.stack([u, v, np.ones_like(u)]), 1)
    places = np.stack([y / w, x / w]) - 0.5
    if mode == "constant":  # SciPy's own ends at the outermost centres
        padded = np.pad(mask[0].numpy(), 1, constant_values=-1)
        expected = ndimage.map_coordinates(padded, places + 1, order=0, mode="constant", cval=-1)
    else:
        expected = ndimage.map_coordinates(mask[0].numpy(), places, order=0, mode=mode)
    assert np.array_equal(got[0].numpy(), expected)


def test_an_extent_that_begins_within_a_pixel() -> None:
    """One row, columns 0 to 9, of which 2.25 to 6.75 are seen; outputs of an eighth of a pixel, from column -2 on."""
    mask, extent = torch.arange(10, dtype=torch.uint8).view(1, 1, 10), torch.tensor([[2.25, 0, 6.75, 1]])
    eighths = torch.tensor([[[8.0, 0, 16], [0, 1, 0], [0, 0, 1]]])
    x = (torch.arange(96) + 0.5) / 8 - 2
    seen = (x >= 2.25) & (x < 6.75)

    def looked_up(padding: MaskPadding, pixel: float | None = None) -> list[int]:
        given = None if pixel is None else torch.tensor([[pixel, 1.0]])
        out: list[int] = fa.warp_masks(mask, eighths, (1, 96), 255, padding, extent, given)[0, 0].tolist()
        return out

    def expected(place: Tensor, first: int, last: int) -> list[int]:
        inner = place.floor().clamp(first, last).int()
        found: list[int] = inner.tolist()
        return found

    assert looked_up("fill", 0.01) == torch.where(seen, x.floor().int(), 255).tolist()
    assert looked_up("border", 0.01) == expected(x, 2, 6)
    period = (x - 2.25) % 9
    mirrored = 2.25 + torch.where(period < 4.5, period, 9 - period)
    assert looked_up("reflection", 0.01) == expected(mirrored, 2, 6)
    # A picture of pixels of 2 columns shows nothing of column 2, of which it has three quarters, nor of column 6.
    assert looked_up("fill", 2.0) == torch.where(seen, x.floor().clamp(3, 5).int(), 255).tolist()
    assert looked_up("border", 2.0) == expected(x, 3, 5)
    assert looked_up("reflection", 2.0) == expected(mirrored, 3, 5)
    assert looked_up("border") == looked_up("border", 1.0) == expected(x, 2, 6)


def test_an_extent_beyond_the_mask_repeats_its_last_pixel() -> None:
    mask, extent = torch.arange(4).view(1, 1, 4), torch.tensor([[-1.0, 0, 6, 1]])
    moved = torch.tensor([[[1.0, 0, 5], [0, 1, 0], [0, 0, 1]]])  # from column -5 on
    got = {padding: fa.warp_masks(mask, moved, (1, 15), 9, padding, extent)[0, 0].tolist() for padding in PADDINGS}
    assert got["fill"] == [9, 9, 9, 9, 0, 0, 1, 2, 3, 3, 3, 9, 9, 9, 9]
    assert got["border"] == [0, 0, 0, 0, 0, 0, 1, 2, 3, 3, 3, 3, 3, 3, 3]
    assert got["reflection"] == [2, 1, 0, 0, 0, 0, 1, 2, 3, 3, 3, 3, 3, 3, 2]


@settings(max_examples=60, deadline=None)
@given(
    st.floats(-50, 50), st.floats(0.05, 60), st.floats(0.01, 8), st.sampled_from(PADDINGS), st.integers(0, 1000),
)  # fmt: skip
def test_only_what_the_picture_shows_is_looked_up(
    low: float, span: float, pixel: float, padding: MaskPadding, seed: int
) -> None:
    """Of columns 0 to 19, nothing outside the extent but for the pixels that it touches; and the kernel agrees."""
    mask, extent = numbered(1, 6, 20), torch.tensor([[low, 0, low + span, 6]], dtype=torch.float64)
    samplings = sampling_matrix(draws(1, (6, 20), (9, 70), seed))
    arguments = samplings, (9, 70), -1, padding, extent, torch.tensor([[pixel, 1]], dtype=torch.float64)
    got = masks_cpu.warp_masks(mask, *arguments)
    assert torch.equal(got, masks.reference(mask, *arguments))
    columns = got[got >= 0] % 20
    if len(columns):
        assert columns.min() >= min(max(np.floor(low), 0), 19)
        assert columns.max() <= max(min(np.ceil(low + span) - 1, 19), 0)


def test_bands_are_the_whole() -> None:
    """One mask for several threads, with rows that cannot be shared evenly."""
    given, samplings = numbered(1, 30, 40), sampling_matrix(draws(1, (30, 40), (37, 70)))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(5)
        assert_kernel_is_the_specification(given, samplings, (37, 70), whole(1, 30, 40), torch.ones(1, 2).double())
        assert_kernel_is_the_specification(given, samplings, (3, 70), whole(1, 30, 40), torch.ones(1, 2).double())
    finally:
        torch.set_num_threads(threads)
