"""How photos come into the presize's frame."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fastaug.loading.draws import Draws
from fastaug.loading.framing import FRAMINGS, crop, pad, squish, torchvision
from fastaug.loading.options import ResizeMethod

SIDES, SHARES = st.integers(1, 3000), st.floats(0, 1)
MIDDLE = torch.tensor([[0.5, 0.5]])


def sizes(*each: tuple[int, int]) -> Tensor:
    return torch.tensor(each)


@settings(max_examples=200, deadline=None)
@given(height=SIDES, width=SIDES, frame=st.tuples(SIDES, SIDES), x=SHARES, y=SHARES)
def test_what_is_shown_lies_in_the_photo_and_in_the_frame(
    height: int, width: int, frame: tuple[int, int], x: float, y: float
) -> None:
    for method, framing in (("crop", crop), ("squish", squish), ("pad", pad)):
        shown, placed = (box[0].tolist() for box in framing(sizes((height, width)), torch.tensor([[x, y]]), frame))
        for box, (most_height, most_width) in ((shown, (height, width)), (placed, frame)):
            assert box[0] == int(box[0]), method
            assert box[1] == int(box[1]), method
            assert min(box[:2]) >= 0, method
            assert min(box[2:]) > 0, method
            assert box[0] + box[2] <= most_width, method
            assert box[1] + box[3] <= most_height, method
        if method != "pad":
            assert placed == [0, 0, frame[1], frame[0]]
        if method != "crop":
            assert shown == [0, 0, width, height]
        scales = placed[2] / shown[2], placed[3] / shown[3]
        if method == "crop":
            assert scales[0] == pytest.approx(scales[1])
            assert shown[2] == width or shown[3] == height  # the largest
        if method == "pad":
            fit = min(frame[1] / width, frame[0] / height)
            for side, whole in ((placed[2], width), (placed[3], height)):
                assert abs(side - max(fit * whole, 1)) <= 0.5 + 1e-9  # whole pixels
            assert placed[2] == frame[1] or placed[3] == frame[0]


def test_a_square_is_the_largest_one_of_whole_pixels() -> None:
    shown, _ = crop(
        sizes((333, 500), (500, 333), (7, 7)), torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.5, 0.5]]), (460, 460)
    )
    assert shown.tolist() == [[0, 0, 333, 333], [0, 167, 333, 333], [0, 0, 7, 7]]


def test_both_ends_are_reached_equally_often() -> None:
    position = torch.rand(40_000, 2, generator=torch.Generator().manual_seed(0))
    for shown in (
        crop(sizes((10, 14)).expand(40_000, 2), position, (8, 8))[0],
        pad(sizes((10, 6)).expand(40_000, 2), position, (10, 10))[1],
    ):
        counts = torch.bincount(shown[:, 0].long())
        assert len(counts) == 5
        assert (counts / 8000 - 1).abs().max() < 0.06
    assert crop(sizes((10, 14)), MIDDLE, (8, 8))[0][0, 0] == 2


@pytest.mark.parametrize(
    ("method", "size", "frame", "shown", "placed"),
    [
        ("crop", (375, 500), (256, 128), (156, 0, 187.5, 375), (0, 0, 128, 256)),
        ("crop", (500, 375), (256, 128), (63, 0, 250, 500), (0, 0, 128, 256)),
        ("squish", (375, 500), (256, 128), (0, 0, 500, 375), (0, 0, 128, 256)),
        ("pad", (375, 500), (640, 640), (0, 0, 500, 375), (0, 80, 640, 480)),
        ("pad", (1000, 333), (100, 100), (0, 0, 333, 1000), (34, 0, 33, 100)),
        ("pad", (1, 3000), (10, 10), (0, 0, 3000, 1), (0, 5, 10, 1)),
    ],
)  # fmt: skip
def test_by_hand(
    method: ResizeMethod,
    size: tuple[int, int],
    frame: tuple[int, int],
    shown: tuple[float, ...],
    placed: tuple[int, ...],
) -> None:
    found = FRAMINGS[method](sizes(size), MIDDLE, frame)
    assert [tuple(box[0].tolist()) for box in found] == [shown, placed]


@settings(max_examples=200, deadline=None)
@given(height=st.integers(1, 900), width=st.integers(1, 900), side=st.integers(1, 900), inset=st.integers(0, 400))
def test_torchvisions_resize_and_centre_crop(height: int, width: int, side: int, inset: int) -> None:
    """Its own functions on an image without pixels, and on a crop of the middle, whatever has to be rounded."""
    from torchvision.transforms import v2

    kept = side - inset
    if kept < 1:
        return
    resized = v2.functional.resize(torch.empty(1, height, width, device="meta"), [side], antialias=True).shape[-2:]
    left, top = (round((resized[axis] - kept) / 2.0) for axis in (1, 0))  # as its center_crop
    shown, placed = (box[0] for box in torchvision(sizes((height, width)), MIDDLE, (side, side), (kept, kept)))
    assert placed.tolist() == [0, 0, side, side]
    scale = torch.tensor([resized[1] / width, resized[0] / height], dtype=torch.float64)
    found = shown[:2] * scale + round((side - kept) / 2)  # as CenterCrop
    assert found.tolist() == pytest.approx([left, top], abs=1e-6)
    torch.testing.assert_close(shown[2:] * scale, torch.full((2,), float(side), dtype=torch.float64))


def test_no_photos() -> None:
    none, nowhere = torch.empty(0, 2, dtype=torch.int64), torch.empty(0, 2)
    for framing in FRAMINGS.values():
        assert [box.shape for box in framing(none, nowhere, (3, 4))] == [(0, 4), (0, 4)]


def test_the_matrix_takes_what_is_shown_to_its_place() -> None:
    size = sizes((375, 500), (400, 123))
    position = torch.tensor([[0.2, 0.9], [0.7, 0.1]])
    for method in FRAMINGS:
        draws = Draws(position, (64, 64) if method == "torchvision" else (64, 96), None, method)
        shown, placed = draws.boxes(size)
        matrix = draws.presize_matrix(size)
        for corner in (torch.zeros(2, 2), shown[:, 2:] * 0 + 1):
            before = shown[:, :2] + corner * shown[:, 2:]
            after = placed[:, :2] + corner * placed[:, 2:]
            found = matrix @ torch.cat([before, torch.ones(2, 1)], 1)[..., None]
            torch.testing.assert_close(found[:, :2, 0], after)
