"""What output pixels see of the input, against the specification that reads it."""

import pytest
import torch
from torch import Tensor

import fastaug as fa
from fastaug.augment import geometry
from fastaug.warping import reference
from fastaug.warping.filter import (
    FOOTPRINT_OF_RADIUS_2,
    FOOTPRINT_OF_RADIUS_3,
    MAX_FOOTPRINT,
    antialias_radius,
)
from fastaug.warping.footprint import part_read, sampling_matrix, smallest_footprint
from tests.compare import random_image

SIZE = (24, 32)


def box(x0: float, y0: float, width: float, height: float) -> Tensor:
    return geometry.box_matrix(*(torch.tensor([v]).double() for v in (x0, y0, width, height, SIZE[1], SIZE[0])))


def moved(matrix: Tensor, x0: int, y0: int) -> Tensor:
    shift = torch.eye(3, dtype=torch.float64)
    shift[:2, 2] = torch.tensor([x0, y0])
    return matrix.double() @ shift


@pytest.mark.parametrize("padding", ["reflection", "border", "zeros"])
@pytest.mark.parametrize("interpolation", ["antialias", "bilinear", "nearest"])
def test_the_warp_reads_no_other_rows_and_columns(interpolation: str, padding: str) -> None:
    augment = fa.aug_transforms(size=SIZE, min_scale=0.3, max_warp=0.4, max_rotate=30, min_zoom=0.7)
    generator = torch.Generator().manual_seed(0)
    rows_cut = columns_cut = 0
    for height, width in ((90, 20), (64, 61), (30, 150)):
        params = augment.draw(12, (50, 50), generator=generator)
        position = torch.rand(12, 2, generator=generator)
        x0, y0, side = geometry.presize_box(torch.tensor([[height, width]] * 12), position)
        fifty = torch.full_like(side, 50)
        matrix = params.matrix.double() @ geometry.box_matrix(x0, y0, side, side, fifty, fifty)
        image = random_image(height, width)
        parts = part_read(matrix, [(height, width)] * 12, SIZE)
        for one, (left, top, right, bottom) in zip(matrix, parts.tolist(), strict=True):
            assert 0 <= left < right <= width
            assert 0 <= top < bottom <= height
            columns_cut += left > 0 or right < width
            rows_cut += top > 0 or bottom < height
            arguments = (SIZE, interpolation, padding, None, torch.float64)
            whole = reference.warp([image], one[None], *arguments)
            part = reference.warp([image[top:bottom, left:right]], moved(one, left, top)[None], *arguments)
            apart = (part - whole).abs().amax(1)
            # a point on the very edge between two pixels may fall to either
            assert (apart > 1e-9).float().mean() <= (0.01 if interpolation == "nearest" else 0)
    assert min(rows_cut, columns_cut) > 12, "too few parts to prove anything"


@pytest.mark.parametrize("axis", [0, 1])
def test_a_few_less_would_be_seen(axis: int) -> None:
    matrix = box(30, 25, 40, 30)
    (part,) = part_read(matrix, [(80, 100)], SIZE).tolist()
    assert all(0 < start - end < 7 for start, end in zip((30, 25), part[:2], strict=True))
    assert all(0 < end - start < 7 for start, end in zip((70, 55), part[2:], strict=True))
    part[axis] += 5
    left, top, right, bottom = part
    image = random_image(80, 100)
    arguments = (SIZE, "antialias", "reflection", None, torch.float64)
    less = reference.warp([image[top:bottom, left:right]], moved(matrix[0], left, top)[None], *arguments)
    assert (less - reference.warp([image], matrix, *arguments)).abs().max() > 1e-3


def test_all_of_an_axis_where_it_cannot_be_told() -> None:
    tilted = torch.tensor([[[1.0, 0, 0], [0, 1, 0], [0.08, 0, 1]]])
    assert part_read(tilted, [(20, 90)], (20, 40)).tolist() == [[0, 0, 90, 20]]
    assert part_read(torch.zeros(1, 3, 3), [(20, 90)], (20, 40)).tolist() == [[0, 0, 90, 20]]
    left, _, right, _ = part_read(box(-900, 5, 40, 10), [(30, 100)], SIZE)[0].tolist()
    assert (left, right) == (0, 100), "far outside"
    assert part_read(torch.zeros(0, 3, 3), [], SIZE).shape == (0, 4)


def test_smallest_footprint_is_the_least_that_the_specification_sees() -> None:
    matrix = fa.aug_transforms(size=SIZE, max_warp=0.3, p_affine=1).draw(8, (90, 70)).matrix
    least = smallest_footprint(matrix, SIZE[1], SIZE[0])
    for one, sampling in zip(least.tolist(), sampling_matrix(matrix), strict=True):
        seen = min(float(footprint.min()) for footprint in reference._sample_points(sampling, SIZE)[2:])
        assert one <= seen < one * 1.05
    assert smallest_footprint(box(3, 4, 320, 120), SIZE[1], SIZE[0]).tolist() == pytest.approx([5.0])
    assert smallest_footprint(torch.zeros(1, 3, 3), SIZE[1], SIZE[0]).isnan().all()


def test_footprints_up_to_which_the_radius_is_2_and_3() -> None:
    """Where the CPU's kernel counts its taps."""
    for footprint, radius in ((FOOTPRINT_OF_RADIUS_2, 2), (FOOTPRINT_OF_RADIUS_3, 3)):
        several = torch.linspace(1, footprint, 1000)
        assert antialias_radius(several).max() <= radius
        assert antialias_radius(torch.tensor(footprint * 1.003)) > radius
    assert antialias_radius(torch.tensor(MAX_FOOTPRINT)) == pytest.approx(47.2)
