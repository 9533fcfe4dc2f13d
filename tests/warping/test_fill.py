"""Rectangles of one colour: what is written eagerly on a CPU and what a traced graph, or a GPU, computes."""

import copy

import pytest
import torch
from torch import Tensor

from fastaug.warping.fill import fill_rectangles

IMAGES = torch.randn(3, 5, 7, 3, generator=torch.Generator().manual_seed(0)).permute(0, 3, 1, 2)
RECTANGLES = torch.tensor([[[0, 0, 7, 5], [1, 2, 3, 4]], [[2, 1, 2, 1], [6, 4, 7, 5]], [[0, 0, 0, 0], [4, 3, 4, 3]]])
COLORS = torch.arange(18.0).view(3, 2, 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("traced", [False, True])
def test_every_pixel(dtype: torch.dtype, traced: bool) -> None:
    fill = torch.compile(fill_rectangles, backend="eager", fullgraph=True) if traced else fill_rectangles
    images = IMAGES.to(dtype)
    expected = images.clone()
    for i, k in ((0, 0), (0, 1), (1, 1)):
        x0, y0, x1, y1 = RECTANGLES[i, k].tolist()
        for y in range(y0, y1):
            for x in range(x0, x1):
                expected[i, :, y, x] = COLORS[i, k].to(dtype)
    before = copy.deepcopy(images)
    got = fill(before, RECTANGLES, COLORS)
    assert (got is before) != traced, "eagerly, on a CPU, no pixel outside the rectangles is moved"
    assert got.dtype == dtype
    assert got.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(got, expected)


@pytest.mark.parametrize("batch", [0, 1])
def test_empty_batches_and_no_rectangles(batch: int) -> None:
    def same(rectangles: int) -> Tensor:
        images = IMAGES[:batch].clone()
        return fill_rectangles(images, torch.zeros(batch, rectangles, 4).long(), torch.ones(batch, rectangles, 3))

    assert torch.equal(same(0), IMAGES[:batch])
    assert torch.equal(same(2), IMAGES[:batch])
