"""What is resized before the warp: pure functions of draws and photos."""

import numpy as np
import pytest
import torch

import fastaug as fa
from fastaug.augment.rng import SampleUniforms
from fastaug.loading.draws import Ahead, Draws, draw
from fastaug.loading.modes import Resize
from fastaug.loading.photo import Photo, Size, places_of


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


def test_draws_made_ahead_are_those_of_each_batch() -> None:
    augment = fa.Augment([fa.RandomRotation(10), fa.RandomResizedCrop((0.5, 1)), fa.RandomErasing()], 32)
    order = np.random.default_rng(0).permutation(1000)
    batches = [order[first : first + 60] for first in range(0, 1000, 60)]
    calls = []

    def one(rows: np.ndarray, copies: np.ndarray) -> list[Draws]:
        calls.append(len(rows))
        return [draw(SampleUniforms(3, 1, rows, copies, view), augment, 64, True, None) for view in (0, 1)]

    ahead = Ahead(one, [(rows, np.zeros_like(rows)) for rows in batches])
    for number in [1, 0, *range(2, len(batches))]:  # threads may come in another order
        rows = batches[number]
        (ours, other), alone = ahead(number), draw(SampleUniforms(3, 1, rows), augment, 64, True, None)
        assert not (ours.position == other.position).any()
        assert torch.equal(ours.position, alone.position)
        assert ours.params is not None
        assert alone.params is not None
        assert torch.equal(ours.params.matrix, alone.params.matrix)
        assert torch.equal(ours.params.erase, alone.params.erase)  # type: ignore[arg-type]
        assert ours.params.drawn.keys() == alone.params.drawn.keys()
        some = ours.part([3, 7])
        assert some.params is not None
        assert torch.equal(some.params.color, alone.params.color[[3, 7]])
    assert max(calls) == 240
    assert len(calls) <= 6
    empty = [(some, np.zeros_like(some)) for some in (order[:0], order[:5])]
    assert Ahead(one, empty)(0)[0].position.shape == (0, 2)


def test_where_the_pixels_of_a_photo_lie() -> None:
    photo = kept((301, 400), 64)
    turned = Photo(photo.pixels, np.array([[0.5, 0, 3], [0, 0.25, -2], [0, 0, 1]]), photo.size)
    for one in (photo, turned):
        inverse, extent = (part[0] for part in places_of([one]))
        assert np.allclose(inverse @ one.matrix, np.eye(3))
        corners = np.array([[extent[0], extent[1], 1], [extent[2], extent[3], 1]]) @ one.matrix.T
        pixels = np.clip([[0, 0], one.pixels.shape[1::-1]], *(one.matrix @ [[0, 400], [0, 301], [1, 1]])[:2].T)
        assert np.allclose(corners[:, :2], pixels), "as much as there is of the original"
    nothing = places_of([])
    assert [part.shape for part in nothing] == [(0, 3, 3), (0, 4)]


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
