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
from fastaug.warping.footprint import sampling_matrix, smallest_footprint

SIZE = (24, 32)


def box(x0: float, y0: float, width: float, height: float) -> Tensor:
    return geometry.box_matrix(*(torch.tensor([v]).double() for v in (x0, y0, width, height, SIZE[1], SIZE[0])))


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
