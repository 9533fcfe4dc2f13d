"""The comparison helper must reject wrong answers."""

import pytest
import torch

from tests.compare import assert_images_close, photo

IMAGE = photo("chelsea", 40, 50).double() / 255


def test_accepts_the_same() -> None:
    assert_images_close(IMAGE, IMAGE.clone(), 0)


@pytest.mark.parametrize(
    "wrong",
    [
        torch.roll(IMAGE, 1, 1),
        IMAGE.flip(2),
        IMAGE + 2 / 255,
        IMAGE.index_fill(0, torch.tensor([7]), torch.nan),
        IMAGE.index_fill(0, torch.tensor([7]), 0),
        IMAGE[:-1],
        IMAGE[None],
    ],
    ids=[
        "one pixel off",
        "channels swapped",
        "two levels brighter",
        "NaN row",
        "unwritten row",
        "row less",
        "axis more",
    ],
)
def test_rejects_a_wrong_answer(wrong: torch.Tensor) -> None:
    with pytest.raises(AssertionError):
        assert_images_close(wrong, IMAGE, 1)
