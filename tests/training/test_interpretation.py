"""What a model gets wrong, and what it says of images: on six photographs whose brightness tells the class."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from fastaug.augment.augment import Augment
from fastaug.augment.fastai_names import aug_transforms
from fastaug.augment.operators import RandomHorizontalFlip, RandomResizedCrop
from fastaug.loading.loader import ImageLoader
from fastaug.samples.samples import Samples
from fastaug.training.interpretation import Interpretation
from fastaug.training.learner import Learner
from fastaug.training.losses import BinaryCrossEntropy

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES = ["dark", "grey", "light"]


class Brightness(nn.Module):
    """Activations that fall with the distance of the mean brightness from each class's."""

    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.Parameter(torch.tensor([0.1, 0.5, 0.9]))

    def forward(self, x: Tensor) -> Tensor:
        return -30 * (x.mean((1, 2, 3))[:, None] - self.levels) ** 2


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    """Seven images; the fourth, of "grey", is as light as "light", and the last is no image."""
    root = tmp_path_factory.mktemp("photos")
    paths, targets = [], [0, 2, 1, 1, 0, 2, 1]
    for i, level in enumerate((25, 230, 120, 220, 30, 210)):
        pixels = np.full((40, 50, 3), level, np.uint8)
        pixels[:, :25] += 10
        paths.append(root / f"{i}.png")
        Image.fromarray(pixels).save(paths[-1])
    paths.append(root / "broken.jpg")
    paths[-1].write_bytes(b"no image")
    return Samples(paths, targets, CLASSES)


def learner(photos: Samples, augment: Any = None, **arguments: Any) -> Learner:
    augment = augment or aug_transforms(size=16, min_scale=0.75, normalize=None)
    good = photos.subset(range(6))
    settings: dict[str, Any] = {"batch_size": 4, "presize": 24, "augment": augment, "device": "cpu"}
    return Learner(
        ImageLoader(good, **settings), ImageLoader(photos, training=False, **settings), Brightness(),
        device="cpu", **arguments,
    )  # fmt: skip


def test_confusion_and_losses_are_those_of_the_right_images(photos: Samples) -> None:
    report = Interpretation.from_learner(learner(photos))
    assert report.rows.tolist() == [0, 1, 2, 3, 4, 5]  # the broken file is left out, the others keep their rows
    assert report.confusion_matrix().tolist() == [[2, 0, 0], [0, 1, 1], [0, 0, 2]]
    assert report.most_confused() == [("grey", "light", 1)]
    assert report.most_confused(min_val=2) == []
    worst, second = report.top_losses(2)
    assert (worst.row, worst.actual, worst.predicted) == (3, "grey", "light")
    assert worst.path == photos.paths[3]
    assert worst.loss == pytest.approx(-float(report.probabilities[3, 1].log()), rel=1e-4)
    assert worst.probability == pytest.approx(float(report.probabilities[3, 2]))
    assert worst.loss > second.loss
    assert len(report.top_losses(99)) == 6


def test_most_confused_comes_sorted() -> None:
    actual = torch.tensor([0, 0, 0, 1, 1, 2])
    predicted = torch.tensor([1, 1, 0, 2, 1, 0])
    report = Interpretation(torch.eye(3)[predicted], actual, torch.zeros(6), torch.arange(6), predicted, CLASSES, None)
    assert report.most_confused() == [("dark", "grey", 2), ("grey", "light", 1), ("light", "dark", 1)]
    rows = report.per_class()
    assert rows["dark"] == pytest.approx({"precision": 1 / 2, "recall": 1 / 3, "f1": 0.4, "images": 3})
    assert rows["grey"] == pytest.approx({"precision": 1 / 3, "recall": 1 / 2, "f1": 0.4, "images": 2})
    assert rows["light"] == {"precision": 0, "recall": 0, "f1": 0, "images": 1}


def test_pictures(photos: Samples) -> None:
    report = Interpretation.from_learner(learner(photos))
    axes = [one for one in report.plot_top_losses(2).get_axes() if one.get_title()]
    assert axes[0].get_title().startswith("light\ngrey\n")
    pixels = axes[0].get_images()[0].get_array()
    assert pixels.mean() == pytest.approx(225, abs=3)  # that of row 3
    assert "5 of 6 right" in report.plot_confusion_matrix().get_axes()[0].get_title()


def test_interpretation_of_any_loader() -> None:
    batches = [
        (torch.full((2, 3, 4, 4), 0.1), torch.tensor([0, 1])),
        (torch.full((1, 3, 4, 4), 0.9), torch.tensor([2])),
    ]
    for loss_func in (None, lambda a, y: nn.functional.cross_entropy(a, y), nn.CrossEntropyLoss(reduction="sum")):
        learn = Learner(batches, batches, Brightness(), loss_func=loss_func, device="cpu")
        report = Interpretation.from_learner(learn)
        assert report.top_losses(1)[0][1:3] == ("1", "0")
        assert report.losses.mean().item() == pytest.approx(learn.validate()["loss"], rel=1e-5)
        with pytest.raises(TypeError, match="expected an ImageLoader, whose files can be loaded again, got list"):
            report.plot_top_losses()
    assert isinstance(learn.loss_func, nn.CrossEntropyLoss)
    assert learn.loss_func.reduction == "sum"
    several = [(torch.rand(2, 3, 4, 4), torch.eye(3)[:2])]
    learn = Learner(several, several, Brightness(), loss_func=BinaryCrossEntropy(), device="cpu")
    with pytest.raises(ValueError, match=r"one class per image, targets int64 \[N\] .* got float32 \[2, 3\]"):
        Interpretation.from_learner(learn)


def test_an_output_without_a_class_has_its_number_for_a_name(photos: Samples) -> None:
    learn = learner(Samples(photos.paths, [min(target, 1) for target in photos.targets], ["dark", "bright"]))
    with pytest.warns(UserWarning, match="as many outputs as the samples have classes, 2, got 3"):
        report = Interpretation.from_learner(learn)
    assert report.classes == ["dark", "bright", "2"]
    assert report.confusion_matrix().shape == (3, 3)


def test_none_of_these_is_left_out_of_the_matrix(photos: Samples) -> None:
    learn = learner(photos, loss_func=BinaryCrossEntropy(threshold=torch.tensor([0.0, 0.999, 0.0])))
    learn.loss_func.threshold = torch.tensor([0.4, 0.999, 0.4])
    report = Interpretation.from_learner(learn)
    assert -1 in report.predicted.tolist()
    assert int(report.confusion_matrix().sum()) == int((report.predicted >= 0).sum())
    assert "none of these" in {one.predicted for one in report.top_losses(6)}


def test_get_preds_leaves_the_loader_as_it_is(photos: Samples) -> None:
    learn = learner(photos)
    before = {**learn.valid_loader.state_dict(), "quarantined": None}  # type: ignore[union-attr]
    probabilities, targets = learn.get_preds()
    assert targets.tolist() == photos.targets[:6]
    assert probabilities.argmax(1).tolist() == [0, 2, 1, 2, 0, 2]
    assert len(next(iter(learn.valid_loader))) == 2  # type: ignore[arg-type]
    fresh = learner(photos)
    assert {**fresh.valid_loader.state_dict(), "quarantined": None} == before  # type: ignore[union-attr]


def test_get_preds_in_the_order_of_the_samples_also_of_a_shuffled_loader(photos: Samples) -> None:
    learn = learner(photos)
    shuffled = ImageLoader(photos.subset(range(6)), 2, 24, aug_transforms(size=16), "cpu", training=True)
    assert learn.get_preds(shuffled)[1].tolist() == photos.targets[:6]


# Test-time augmentation and single files


def test_tta_is_three_quarters_augmented(photos: Samples) -> None:
    learn = learner(photos.subset(range(6)))
    plain, targets = learn.get_preds()
    mixed, same = learn.tta()
    assert targets.tolist() == same.tolist() == photos.targets[:6]
    only, _ = learn.tta(beta=0.0)
    assert torch.allclose(mixed, 0.75 * only + 0.25 * plain, atol=1e-6)
    assert not torch.allclose(only, plain, atol=1e-4)
    assert torch.equal(learn.tta(beta=1.0)[0], plain)
    first, two = learn.tta(n=1, beta=0.0)[0], learn.tta(n=2, beta=0.0)[0]
    assert not torch.allclose(first, two, atol=1e-5)
    assert torch.equal(mixed, learn.tta()[0])


def test_tta_of_what_does_nothing_is_plain(photos: Samples) -> None:
    augment = Augment(
        [RandomHorizontalFlip(0.0), RandomResizedCrop(scale=(1.0, 1.0), ratio=(1.0, 1.0))], size=16, normalize=None
    )
    flat = photos.subset([0, 1])
    learn = learner(photos, augment)
    loader = ImageLoader(flat, 2, 24, augment, "cpu", training=False)
    assert torch.allclose(learn.tta(loader)[0], learn.get_preds(loader)[0], atol=0.06)


def test_tta_needs_files_and_sensible_settings(photos: Samples) -> None:
    batches = [(torch.rand(2, 3, 4, 4), torch.tensor([0, 1]))]
    with pytest.raises(TypeError, match="expected an ImageLoader"):
        Learner(batches, batches, Brightness(), device="cpu").tta()
    with pytest.raises(ValueError, match=r"n of at least 1 and beta between 0 and 1, got 0 and 0\.25"):
        learner(photos).tta(n=0)


def test_predict(photos: Samples) -> None:
    learn = learner(photos)
    name, index, probabilities = learn.predict(photos.paths[1])
    assert (name, index) == ("light", 2)
    assert torch.allclose(probabilities, learn.get_preds()[0][1], atol=1e-6)
    with pytest.raises(ValueError, match=r"could not load missing\.jpg: No such file"):
        learn.predict("missing.jpg")
    learn.loss_func = BinaryCrossEntropy(threshold=0.9)
    assert learn.predict(photos.paths[1])[:2] == ("none of these", -1)
    before = copy.deepcopy(learn.valid_loader.state_dict())  # type: ignore[union-attr]
    learn.predict(Path(photos.paths[0]))
    assert learn.valid_loader.state_dict() == before  # type: ignore[union-attr]


def test_a_sweep_leaves_an_image_loader_where_it_was(photos: Samples) -> None:
    augment = aug_transforms(size=16, min_scale=0.75)
    loaders = [ImageLoader(photos, 2, 24, augment, "cpu", seed=1) for _ in range(2)]
    for loader, swept in zip(loaders, (False, True), strict=True):
        next(iter(loader))  # an epoch that is left early
        if swept:
            Learner(loader, None, Brightness(), device="cpu").lr_find(num_it=7)
            assert len(loader.quarantined) == 1
    first, second = ([x for x, _ in loader] for loader in loaders)
    assert len(first) == len(second)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_looks_and_sweeps_leave_the_sizes_of_a_schedule(photos: Samples) -> None:
    augment = aug_transforms(size=16)
    loader = ImageLoader(photos.subset(range(6)), 2, 24, augment, "cpu", schedule=lambda epoch: (8 + 8 * epoch, 40))
    learn = Learner(loader, None, Brightness(), device="cpu")
    learn.lr_find(num_it=7)  # three epochs, of three sizes
    learn.show_batch()
    learn.summary()
    assert (augment.size, loader.presize) == ((16, 16), 24)
    assert next(iter(loader))[0].shape == (2, 3, 8, 8)
