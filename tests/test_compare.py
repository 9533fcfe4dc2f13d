"""The comparison helper must reject wrong answers."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.compare import assert_images_close, assert_levels, assert_same_batches, differences, photo, snapshot
from tests.factories import learner, tiny

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


@pytest.mark.parametrize("wrong", ["shifted by a pixel", "channels swapped", "a row unwritten", "another shape"])
def test_levels_reject_a_wrong_answer(wrong: str) -> None:
    right = photo("chelsea").numpy()
    got = {
        "shifted by a pixel": np.roll(right, 1, axis=1),
        "channels swapped": right[..., ::-1].copy(),
        "a row unwritten": np.concatenate([right[:-1], np.zeros_like(right[-1:])]),
        "another shape": right[:-1],
    }[wrong]
    assert_levels(torch.from_numpy(right), right, 0, 0)
    with pytest.raises(AssertionError):
        assert_levels(torch.from_numpy(got), right, worst=3, mean=0.3)


def batch(seed: int, **change: torch.Tensor) -> tuple[Any, ...]:
    values = torch.arange(6.0).view(2, 3) + seed
    info = dict.fromkeys(("indices", "sizes", "matrix", "presize"), values) | change
    return values, values[:, 0], SimpleNamespace(**info)


def test_batches_reject_a_wrong_answer() -> None:
    batches = [batch(0), batch(1)]
    assert_same_batches(batches, batches)
    assert_same_batches([one[:2] for one in batches], batches)
    x, y, info = batch(1)
    wrong = [(x + 1e-6, y, info), (x, y.flip(0), info)]
    wrong += [batch(1, **{name: x + 1}) for name in ("indices", "sizes", "matrix", "presize")]
    for got in (batches[1:], batches[::-1], *([batches[0], one] for one in wrong)):
        with pytest.raises(AssertionError):
            assert_same_batches(got, batches)


def test_differences_sees_one_bit_and_one_setting() -> None:
    learn = learner(model=tiny(0.3))
    before = snapshot(learn)
    assert differences(before, snapshot(learn)) == []
    with torch.no_grad():
        learn.model[6].bias[1] = torch.nextafter(learn.model[6].bias[1], torch.tensor(9.0))
    learn.opt.param_groups[0]["lr"] *= 1.0001
    learn.train_loader.delivered = 1
    assert differences(before, snapshot(learn)) == [
        "/model 6.bias", "/optimizer/param_groups/0/lr", "/place/delivered",
    ]  # fmt: skip
    assert differences(torch.zeros(1), torch.zeros(1).double()) == [""]
    assert differences([1], [1, 2]) == [""]
