"""The comparisons of `scenes` must reject wrong answers, and its scenes must be what they say."""

import io
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor

import fastaug as fa
from tests.loading.scenes import (
    FILL,
    PALETTE,
    UNSURE,
    assert_boxes_right,
    assert_keeps_guarantees,
    assert_looked_up,
    assert_masks_agree,
    by_row,
    extents,
    looks_at,
    mosaic,
    sampled,
    seen,
    shown,
    stored,
    sure,
    visible_part,
    write_photo,
)  # fmt: skip

MASKS = torch.from_numpy(np.stack([mosaic(40, 50, seed) for seed in (0, 1)])).long()
PICTURES = torch.from_numpy(PALETTE)[MASKS]  # uint8 [2, 40, 50, 3]


def as_floats(pictures: Tensor) -> Tensor:
    return pictures.movedim(-1, -3).float() / 255


def test_a_mosaic_is_read_back() -> None:
    assert torch.equal(shown(PICTURES), MASKS)
    assert torch.equal(shown(as_floats(PICTURES)), MASKS)
    mixed = (PICTURES[:, :, :-1].int() + PICTURES[:, :, 1:].int()).div(2, rounding_mode="floor").to(torch.uint8)
    border = MASKS[:, :, :-1] != MASKS[:, :, 1:]
    assert (shown(mixed)[border] == UNSURE).all()
    assert (shown(torch.zeros(4, 4, 3, dtype=torch.uint8)) == FILL).all()
    assert not sure(shown(mixed))[border].any()
    assert all(len(np.unique(mosaic(90, 120, seed))) >= 5 for seed in range(8))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_stored_pictures_are_turned_upright(tmp_path: Path, orientation: int) -> None:
    pixels = PALETTE[mosaic(30, 41)]
    path = write_photo(tmp_path / "photo.png", pixels, orientation)
    with Image.open(path) as image:
        assert np.array_equal(np.asarray(ImageOps.exif_transpose(image)), pixels)
        assert (np.asarray(image).shape[:2] == (30, 41)) == (orientation < 5)
    assert stored(Image.open(io.BytesIO(path.read_bytes())), 1).size == image.size


def one_pixel(masks: Tensor) -> Tensor:
    wrong = masks.clone()
    place = sure(masks)[0].nonzero()[7]
    wrong[0, place[0], place[1]] = (wrong[0, place[0], place[1]] + 1) % len(PALETTE)
    return wrong


@pytest.mark.parametrize("filled", [False, True])
def test_masks_reject_a_wrong_answer(filled: bool) -> None:
    beyond = torch.zeros_like(MASKS, dtype=torch.bool)
    beyond[:, :, 40:] = filled
    masks, edge = MASKS.masked_fill(beyond, FILL), (~beyond, beyond) if filled else None
    for pictures in (PICTURES, as_floats(PICTURES)):
        assert_masks_agree(pictures, masks, edge)
        wrong = [one_pixel(masks), masks.roll(3, 2), masks.flip(0), masks.transpose(0, 1).reshape(masks.shape)]
        wrong += [masks[:1]] + ([MASKS, masks.masked_fill(MASKS[0, 20, 20] == MASKS, FILL)] if filled else [])
        for mask in wrong:
            with pytest.raises(AssertionError):
                assert_masks_agree(pictures, mask, edge)
    with pytest.raises(AssertionError, match="too little"):
        assert_masks_agree(torch.full((2, 40, 50, 3), 100, dtype=torch.uint8), MASKS, edge)


def info(matrix: Tensor, height: int = 40, width: int = 50) -> Any:
    batch = matrix.expand(1, 3, 3)
    return SimpleNamespace(matrix=batch, presize=batch, sizes=torch.tensor([[height, width]]))


def test_who_looks_where() -> None:
    shifted = torch.tensor([[2.0, 0, -20], [0, 2, 0], [0, 0, 1]])  # twice as large, from x = 10
    place = looks_at(info(shifted), (4, 6))
    assert place[0, 0, 0].tolist() == [10.25, 0.25]
    assert place[0, 3, 5].tolist() == [12.75, 1.75]
    assert extents(info(shifted), "direct", 10).tolist() == [[0, 0, 50, 40]]
    assert extents(info(shifted), "resize", 10).tolist() == [[10, 0, 15, 5]]
    assert extents(info(shifted), "resize", (200, 200)).tolist() == [[10, 0, 50, 40]]
    inside, outside = seen(info(shifted), torch.tensor([[11.0, 0, 50, 1]]), (4, 6))
    assert inside[0].int().tolist() == [[0, 0, 1, 1, 1, 1]] * 2 + [[0] * 6] * 2
    assert torch.equal(outside, ~inside)


def test_looking_up_rejects_a_wrong_answer() -> None:
    turned = fa.Augment([fa.RandomRotation((20, 20)), fa.RandomZoom((0.8, 0.8))], (30, 36)).draw(1, (40, 50)).matrix
    what = info(turned)
    place, extent = looks_at(what, (30, 36))[0].floor().long(), torch.tensor([[5.0, 0, 50, 40]])
    x, y = place.unbind(-1)
    read = MASKS[0][y.clamp(0, 39), x.clamp(0, 49)]
    right = read.where((x >= 5) & (x < 50) & (y >= 0) & (y < 40), FILL)[None]
    assert_looked_up(right, [MASKS[0].numpy()], what, extent)
    beside = MASKS[0][y.clamp(0, 39), (x + 1).clamp(0, 49)].where(right[0] != FILL, FILL)[None]
    for wrong in (beside, read[None], right.roll(1, 1), right.masked_fill(right == right[0, 15, 18], FILL)):
        with pytest.raises(AssertionError):
            assert_looked_up(wrong, [MASKS[0].numpy()], what, extent)


BOXES = torch.tensor([[10.0, 5, 30, 25], [40.0, 30, 48, 38], [0, 0, 4, 4]])
MOVED = torch.tensor([[1.0, 0, -20], [0, 1, 0], [0, 0, 1]])
EXTENT = torch.tensor([0.0, 0, 50, 40])


def target(**change: Tensor) -> dict[str, Tensor]:
    boxes = torch.tensor([[0.0, 5, 10, 25], [20, 30, 28, 38]])
    return {"boxes": boxes, "kept": torch.tensor([0, 1]), "labels": torch.tensor([3, 4])} | change


def test_boxes_reject_a_wrong_answer() -> None:
    place = sampled(MOVED, (40, 40))
    assert visible_part(BOXES[0], MOVED, EXTENT, place)[0] == pytest.approx(0.5, abs=0.01)
    assert visible_part(BOXES[2], MOVED, EXTENT, place) == (0.0, None)
    assert_boxes_right(BOXES, target(), MOVED, EXTENT, (40, 40))
    boxes = target()["boxes"]
    behind = {"kept": torch.tensor([0, 1, 2]), "labels": torch.arange(3), "boxes": torch.cat([boxes, boxes[:1]])}
    less = {"kept": torch.tensor([0]), "labels": torch.tensor([3]), "boxes": boxes[:1]}
    wrong = [{"boxes": boxes + 1}, behind, less, {"labels": torch.tensor([3])}, {"kept": torch.tensor([1, 0])}]
    wrong += [{"boxes": boxes - torch.tensor([10.0, 0, 0, 0])}]  # not clipped
    for change in wrong:
        with pytest.raises(AssertionError):
            assert_boxes_right(BOXES, target(**change), MOVED, EXTENT, (40, 40))
    with pytest.raises(AssertionError, match="only 50%"):
        assert_boxes_right(BOXES, target(), MOVED, EXTENT, (40, 40), least=0.6)
    with pytest.raises(AssertionError, match="nothing of it"):
        assert_boxes_right(BOXES, target(), MOVED, torch.tensor([0.0, 0, 39, 40]), (40, 40))


class Liar:
    """A loader that keeps what it promises, or breaks one promise."""

    def __init__(self, lie: str, batch_size: int = 4, shard: tuple[int, int] = (0, 1), **arguments: Any) -> None:
        self.lie, self.batch_size, self.shard, self.arguments = lie, batch_size, shard, arguments
        self.epoch, self.first = 0, 0

    def __len__(self) -> int:
        return 12 // self.batch_size

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "first": self.first}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self.first = state["epoch"], 0 if self.lie == "forgets its place" else state["first"]

    def __iter__(self) -> Iterator[Any]:
        rows = torch.randperm(12, generator=torch.Generator().manual_seed(self.epoch))
        if not (self.lie == "ranks overlap" and self.shard[0]):
            rows = rows[self.shard[0] :: self.shard[1]]
        if self.lie == "ranks leave out" and self.shard[1] > 1:
            rows = rows[:-1]
        batches = rows.split(self.batch_size)
        while self.first < len(batches):
            batch = batches[self.first]
            self.first += 1
            x = batch * 100 + (0 if self.lie == "every epoch alike" else self.epoch)
            if self.lie == "every epoch alike":
                x, batch = torch.arange(len(batch)), torch.arange(len(batch))
            if self.lie == "draws by batch":
                x = x + self.batch_size
            if self.lie == "draws by thread":
                x = x + self.arguments.get("num_threads", 2)
            matrix = x[:, None, None].expand(-1, 3, 3)
            yield x, batch, SimpleNamespace(indices=batch, sizes=matrix[:, :2, 0], matrix=matrix, presize=matrix)
        self.epoch, self.first = self.epoch + 1, 0


LIES = [
    "draws by batch",
    "draws by thread",
    "ranks overlap",
    "ranks leave out",
    "every epoch alike",
    "forgets its place",
]


def test_guarantees_accept_who_keeps_them() -> None:
    assert_keeps_guarantees(lambda **arguments: Liar("", **arguments))
    assert by_row(Liar(""))[3].x == 300


@pytest.mark.parametrize("lie", LIES)
def test_guarantees_reject_who_breaks_one(lie: str) -> None:
    with pytest.raises(AssertionError):
        assert_keeps_guarantees(lambda **arguments: Liar(lie, **arguments))
