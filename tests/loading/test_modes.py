"""What is resized before the warp: pure functions of draws and photos."""

import numpy as np
import pytest
import torch

import fastaug as fa
from fastaug.augment.rng import SampleUniforms
from fastaug.loading.draws import Draws, draw
from fastaug.loading.modes import Resize
from fastaug.loading.photo import Photo, Size


def drawn(presize: int, augment: fa.Augment | None, rows: int = 8) -> Draws:
    return draw(SampleUniforms(0, 0, range(rows)), augment, presize, True, None)


def kept(size: Size, short_side: int) -> Photo:
    """As a cache has it."""
    height, width = (round(side * short_side / min(size)) for side in size)
    matrix = np.diag([width / size[1], height / size[0], 1])
    return Photo(torch.zeros(height, width, 3, dtype=torch.uint8), matrix, size)


AUGMENT = fa.aug_transforms(size=32)


@pytest.mark.parametrize("size", [(301, 400), (400, 301), (1111, 999), (97, 3000), (64, 64)])
def test_a_square_of_a_photo_from_a_cache_is_cut_out(size: Size) -> None:
    draws, photos = drawn(64, AUGMENT), [kept(size, 64)] * 8
    needs = Resize().needs(draws, [size] * 8)
    resizing = Resize().resizing(photos, needs, draws)
    for (x, y, width, height), photo, need in zip(resizing.boxes, photos, needs, strict=True):
        assert (width, height) == (64, 64)
        assert x.is_integer()
        assert y.is_integer()
        assert 0 <= x <= photo.pixels.shape[1] - 64
        assert 0 <= y <= photo.pixels.shape[0] - 64
        assert np.allclose((x, y), photo.part(need.box)[:2], atol=1)
    made = resizing.apply(photos, [torch.zeros(64, 64, 3, dtype=torch.uint8)] * 8)
    for photo, (x, y, _, _) in zip(made, resizing.boxes, strict=True):
        assert np.allclose(photo.matrix, [[1, 0, -x], [0, 1, -y], [0, 0, 1]] @ photos[0].matrix)


def test_other_squares_are_not(subtests: pytest.Subtests) -> None:
    cases = {
        "another size is kept": (kept((301, 400), 65), AUGMENT),
        "the square itself is wanted": (kept((301, 400), 64), None),
        "not shrunk": (Photo.whole(torch.zeros(301, 400, 3, dtype=torch.uint8)), AUGMENT),
    }
    for name, (photo, augment) in cases.items():
        with subtests.test(name):
            draws = drawn(64, augment)
            needs = Resize().needs(draws, [photo.size] * 8)
            resizing = Resize().resizing([photo] * 8, needs, draws)
            assert resizing.boxes == [photo.part(need.box) for need in needs]
