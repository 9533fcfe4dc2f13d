"""A look before training: pictures of a batch, and a sample's way to the loss."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fastaug as fa
from fastaug.training.checkpoint import random_state
from fastaug.training.preview import target_name
from tests.compare import differences, snapshot
from tests.factories import Batches, learner, tiny, write_photos

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> fa.Samples:
    """Twelve images of three colours, which tell their class."""
    pixels = 20 + 180 * np.eye(3, dtype=np.uint8)[:, None, None].repeat(40, 1).repeat(40, 2)
    root = write_photos(tmp_path_factory.mktemp("photos"), {f"{i}.png": pixels[i % 3] for i in range(12)})
    return fa.Samples([root / f"{i}.png" for i in range(12)], [i % 3 for i in range(12)], ["red", "green", "blue"])


def image_loader(photos: fa.Samples, **settings: Any) -> fa.ImageLoader:
    augment = fa.Augment([fa.RandomRotation(5)], 16, normalize=((0.3, 0.4, 0.5), (0.1, 0.2, 0.3)))
    return fa.ImageLoader(photos, 4, 24, augment, "cpu", **settings)


def test_show_batch_is_denormalised_and_named(photos: fa.Samples) -> None:
    learn = learner(image_loader(photos))
    before, state = snapshot(learn), random_state()
    axes = [one for one in learn.show_batch().get_axes() if one.get_images()]
    assert len(axes) == 9  # of batches of 4
    for one in axes:
        mean = one.get_images()[0].get_array().mean((0, 1))
        assert mean[photos.classes.index(one.get_title())] == pytest.approx(200 / 255, abs=0.01)
        assert sorted(mean)[:2] == pytest.approx([20 / 255] * 2, abs=0.01)
    assert differences(before, snapshot(learn)) == []
    assert differences(state, random_state()) == []
    assert len(learn.show_batch(2).get_axes()) == 2


def test_show_batch_is_the_next_epochs(photos: fa.Samples) -> None:
    learn = learner(image_loader(photos))
    shown = [one.get_images()[0].get_array() for one in learn.show_batch(4).get_axes()]
    x, _ = next(iter(learn.train_loader))
    wanted = x * torch.tensor([0.1, 0.2, 0.3])[:, None, None] + torch.tensor([0.3, 0.4, 0.5])[:, None, None]
    assert np.allclose(np.stack(shown), wanted.permute(0, 2, 3, 1), atol=1e-5)


def test_a_schedule_stays_the_loaders(photos: fa.Samples) -> None:
    """What is looked at has the sizes of the next epoch; augment and presize keep theirs."""
    learn = learner(image_loader(photos, schedule=lambda epoch: (8 + 4 * epoch, 16)))
    loader = learn.train_loader
    assert [one.get_images()[0].get_array().shape for one in learn.show_batch(2).get_axes()] == [(8, 8, 3)] * 2
    learn.lr_find(num_it=4)  # three batches an epoch
    assert (loader.augment.size, loader.presize, loader.state_dict()["epoch"]) == ((16, 16), 24, 0)


def test_show_batch_of_any_loader() -> None:
    learn = learner(Batches(2))
    before = snapshot(learn)
    (first, *_) = learn.show_batch(3).get_axes()
    assert first.get_title() in "012"
    assert differences(before, snapshot(learn)) == []
    several = [(torch.rand(3, 3, 8, 8), torch.tensor([[1, 0, 1], [0, 1, 0], [0, 0, 0]]))]
    titles = [one.get_title() for one in learner(several).show_batch(3).get_axes() if one.get_images()]
    assert titles == ["0, 2", "1", "none of these"]
    numbers = [target_name(target, []) for target in torch.tensor([[0.25, 3.0], [1234.5, 0.0]])]
    assert numbers == ["0.25, 3", "1234, 0"]
    assert [target_name(target, []) for target in torch.tensor([0.5, 17.0])] == ["0.5", "17"]


def test_summary_goes_on_to_the_loss(photos: fa.Samples) -> None:
    learn = learner(image_loader(photos))
    before, state = snapshot(learn), random_state()
    walk = learn.summary(5)
    assert walk.failed is None
    assert [name for name, _ in walk.steps][:5] == ["sample", "read", "decode", "presize", "RandomRotation"]
    assert [name for name, _ in walk.steps][-3:] == ["target", "model", "loss"]
    steps = dict(walk.steps)
    assert steps["model"].startswith("Sequential: float32 [1, 3], ")
    assert re.fullmatch(r"CrossEntropyLoss, the mean over a batch: \d\.\d{4}", steps["loss"])
    assert str(walk).endswith("171 parameters, 171 train")
    learn.model.train()
    assert differences(before, snapshot(learn)) == []
    assert differences(state, random_state()) == []
    learn.loss_func = nn.CrossEntropyLoss(reduction="sum")
    assert "the sum over a batch" in str(learn.summary())


def test_summary_of_any_loader() -> None:
    walk = learner().summary()
    assert [name for name, _ in walk.steps] == ["batch", "model", "loss"]
    assert walk.steps[0][1].startswith("float32 [1, 3, 8, 8], ")
    assert dict(learner([(torch.rand(2, 3, 8, 8), "ab")]).summary().steps) == {}


class Tuple(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = tiny()

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        return self.inner(x), None


def spoilt() -> nn.Sequential:
    model = tiny()
    nn.init.constant_(model[-1].bias, float("nan"))
    return model


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Tuple(), "TypeError: Learner: expected a model that returns a tensor, got tuple"),
        (nn.Sequential(*list(tiny())[:-1], nn.Linear(16, 2)), "ValueError: .* Build the model with num_classes=3"),
        (nn.Sequential(nn.Conv2d(3, 3, 3)), r"ValueError: expected activations \[1, classes\], got \[1, 3, 14, 14\]"),
        (nn.Sequential(nn.Flatten(), nn.Linear(7, 3)), "RuntimeError: .*shapes cannot be multiplied"),
        (spoilt(), r"ValueError: expected finite numbers, got float32 \[1, 3\], nan"),
    ],
    ids=["tuple", "outputs", "feature map", "input", "nan"],
)  # fmt: skip
def test_a_model_that_fails(model: nn.Module, reason: str, photos: fa.Samples) -> None:
    walk = learner(image_loader(photos), model).summary()
    assert walk.failed == "model"
    assert re.match(reason, walk.reason)
    assert walk.steps[-1][0] == "target"
    assert "parameters, " in walk.table


@pytest.mark.parametrize(
    ("loss_func", "reason"),
    [
        (nn.CrossEntropyLoss(reduction="none"), r"ValueError: expected one finite number for the batch, got \["),
        (lambda a, y: a.sum() / 0, r"ValueError: expected one finite number for the batch, got -?inf"),
        (nn.CrossEntropyLoss(weight=torch.ones(4)), "RuntimeError: .*weight"),
    ],
)
def test_a_loss_that_fails(loss_func: Any, reason: str, photos: fa.Samples) -> None:
    walk = learner(image_loader(photos), loss_func=loss_func).summary()
    assert walk.failed == "loss"
    assert re.match(reason, walk.reason)
    assert walk.steps[-1][0] == "model"


def test_a_file_that_fails_leaves_the_model_alone(photos: fa.Samples, tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"no photo")
    samples = fa.Samples([tmp_path / "x.jpg", *photos.paths], [0, *photos.targets], photos.classes)
    walk = learner(image_loader(samples)).summary(0)
    assert walk.failed == "decode"
    assert "model" not in dict(walk.steps)
