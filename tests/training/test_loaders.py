"""What loaders are asked: one that knows everything, and one that knows nothing."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchmetrics.classification import MulticlassRecall

import fastaug as fa
from fastaug.training import ranks
from fastaug.training.checkpoint import random_state, set_random_state
from fastaug.training.loaders import LoaderAdapter
from tests import factories
from tests.factories import Batches, tiny, write_photos

pytestmark = pytest.mark.usefixtures("one_thread")


def test_an_image_loader_knows_its_samples_and_augment() -> None:
    samples = fa.Samples(["a.jpg", "b.jpg", "c.jpg"], [1, 0, 1], ["x", "y"])
    augment = fa.Augment([], 8, normalize=fa.IMAGENET)
    own = fa.ImageLoader(samples, 2, 8, augment, "cpu")
    loader = LoaderAdapter(own)
    assert (loader.classes, loader.paths, loader.counts) == (["x", "y"], samples.paths, {"x": 1, "y": 2})
    assert (loader.augment, loader.normalize, loader.generator) == (augment, fa.IMAGENET, None)
    assert not own.return_info
    assert loader.in_order(rows=True).return_info  # type: ignore[attr-defined]
    assert not own.return_info


def test_a_loader_knows_its_place() -> None:
    own = Batches()
    loader = LoaderAdapter(own)
    loader.set_epoch(3)
    assert loader.position() == {"epoch": 3, "delivered": 0}
    loader.go_to({"epoch": 2, "delivered": 1})
    loader.go_to(None)
    assert (own.epoch, own.delivered) == (2, 1)
    assert own.state_dict() == loader.position()


def test_a_list_knows_nothing() -> None:
    own = [(torch.rand(2, 3, 8, 8), torch.tensor([0, 1]))]
    loader = LoaderAdapter(own)
    loader.set_epoch(3)
    loader.go_to({"epoch": 2})
    assert (loader.classes, list(loader.paths), loader.counts) == ([], [], {})
    assert loader.position() is loader.generator is loader.augment is loader.normalize is None
    assert loader.in_order() is loader.in_order(rows=True) is own


def test_generators_are_kept_and_missed() -> None:
    generator = torch.Generator().manual_seed(3)
    images = torch.utils.data.TensorDataset(torch.arange(12))
    assert LoaderAdapter(torch.utils.data.DataLoader(images, generator=generator)).generator is generator
    state = random_state(generator)
    drawn = torch.rand(2, generator=generator)
    set_random_state(state, generator)
    assert torch.equal(drawn, torch.rand(2, generator=generator))
    with pytest.raises(ValueError, match="expected a loader with a generator"):
        set_random_state(state)


IMAGES = torch.utils.data.TensorDataset(torch.zeros(4, 3, 8, 8), torch.zeros(4).long())


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        ("photos", "got the string 'photos'.*fa.Samples.from_folder.*fa.ImageLoader"),
        (Path("photos"), r"got the path .*fa.ImageLoader"),
        (fa.Samples(["a.jpg"] * 4, [0, 0, 1, 1], ["x", "y"]), r"got Samples. .*fa.ImageLoader\(samples, …\)"),
        (IMAGES, r"got TensorDataset. .*DataLoader\(dataset, batch_size=64\)"),
        (torch.utils.data.Subset(IMAGES, [0]), r"got Subset. .*DataLoader\(dataset, batch_size=64\)"),
        (tiny(), r"got Sequential, a model. .*Learner\(train_loader, valid_loader, model\)"),
        (3, "got int"),
    ],
)
def test_what_is_no_loader_is_refused_where_it_is_given(loader: Any, message: str) -> None:
    for loaders, name in (((loader, None), "train_loader"), ((Batches(), loader), "valid_loader")):
        with pytest.raises(TypeError, match=f"Learner: expected {name} to be a loader of batches, {message}"):
            fa.Learner(*loaders, tiny(), device="cpu")


def test_what_is_no_model_is_refused_where_it_is_given() -> None:
    for model in ("resnet18", nn.Linear, None):
        with pytest.raises(TypeError, match=r"Learner: expected a model, .*fa.classifier\("):
            fa.Learner(Batches(), None, model, device="cpu")


class Unreadable:
    """Batches for validation, of which so many come before the files are bad; with none, all are empty."""

    def __init__(self, readable: int = 0, error: bool = True) -> None:
        self.readable, self.error, self.asked = readable, error, 0

    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.asked += 1
        images = torch.rand(2, 3, 8, 8), torch.tensor([0, 1])
        yield from [images] * self.readable
        if self.error:
            raise fa.BadFileError("ImageLoader: expected at most 50% bad files, got 4 of 6.")
        yield images[0][:0], images[1][:0]


@pytest.mark.parametrize(("readable", "error"), [(0, True), (1, True), (0, False)])
def test_a_training_does_not_end_in_its_validation(readable: int, error: bool) -> None:
    """Its figures are nan then, in every column that there is else; a warning says why. `validate` itself raises."""
    valid = Unreadable(readable, error)
    learn = fa.Learner(Batches(), valid, tiny(), device="cpu", after_epoch=[fa.KeepBest(monitor="accuracy")])
    reason = "at most 50% bad files" if error else "expected images from the loader, got none"
    with pytest.warns(UserWarning, match=f"Learner: no validation in epoch [01]: .*{reason}"):
        learn.fit(2, 1e-3)
    assert valid.asked == 2
    assert [row["train_loss"] > 0 for row in learn.history.epochs] == [True, True]
    whole = factories.learner(valid=Batches())
    whole.fit(1, 1e-3)
    for row in learn.history.epochs:
        assert list(row) == list(whole.history.epochs[0])
        assert all(math.isnan(row[name]) for name in ("valid_loss", "error_rate", "accuracy"))
    with pytest.raises(ValueError, match=reason):
        learn.validate()
    learn.valid_loader = Batches()
    learn.fit(1, 1e-3)
    assert learn.history.epochs[-1]["valid_loss"] > 0


def test_a_failed_validation_has_the_columns_of_those_before() -> None:
    metrics = {"recall": MulticlassRecall(num_classes=3, average=None)}
    learn = factories.learner(valid=Batches(), metrics=metrics)
    learn.fit(1, 1e-3)
    learn.valid_loader = Unreadable()
    with pytest.warns(UserWarning, match="no validation in epoch 1"):
        learn.fit(1, 1e-3)
    before, failed = learn.history.epochs
    assert list(failed) == list(before)
    assert math.isnan(failed["recall_2"])


@pytest.mark.parametrize(("failed", "message"), [(0.0, None), (1.0, "another rank found too many bad files")])
def test_a_rank_without_images_keeps_step(failed: float, message: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a stand-in for the sums over the ranks: another one has ten images, or too many bad files."""
    learn = factories.learner(valid=Unreadable(0, False), metrics={})
    monkeypatch.setattr(ranks, "total", lambda sums: sums + torch.tensor([5.0, 10.0, 10.0, failed]))
    if message is None:
        assert learn.validate() == {"loss": 0.5}
    else:
        learn.valid_loader = Batches()
        with pytest.raises(fa.BadFileError, match=message):
            learn.validate()


# Every sample once, in its order


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> fa.Samples:
    pixels = np.random.default_rng(0).integers(0, 256, (10, 20, 30, 3), np.uint8)
    named = {f"{'abc'[i % 3]}/{i}.png": pixels[i] for i in range(10)}
    return fa.Samples.from_folder(write_photos(tmp_path_factory.mktemp("photos"), named))


def image_loader(samples: fa.Samples, **settings: Any) -> fa.ImageLoader:
    augment = settings.pop("augment", None) or fa.aug_transforms(size=8, min_scale=0.5)
    return fa.ImageLoader(samples, 4, 16, augment, "cpu", **settings)


def model(outputs: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(192, outputs))


def test_predictions_on_a_training_loader_are_those_of_every_photo_as_it_is(photos: fa.Samples) -> None:
    train, valid = image_loader(photos), image_loader(photos, training=False)
    learn = factories.learner(train, model(), valid)
    wanted, targets = learn.get_preds()
    next(iter(train))  # an epoch that is left early, and one that is to be gone on with
    resumed = image_loader(photos)
    resumed.load_state_dict(train.state_dict())
    for loader in (train, resumed, torch.utils.data.DataLoader(train, batch_size=None)):
        found, same = learn.get_preds(loader)
        assert torch.equal(found, wanted)
        assert same.tolist() == targets.tolist() == list(photos.targets)
        report = fa.Interpretation.from_learner(learn, loader)
        assert report.rows.tolist() == list(range(10))
        assert torch.equal(report.probabilities, wanted)
        assert learn.validate(loader) == pytest.approx(learn.validate())
    assert learn.tta(train)[1].tolist() == targets.tolist()
    assert torch.equal(learn.tta(train)[0], learn.tta(valid)[0])
    assert train.training
    assert train.drop_last
    assert train.state_dict()["delivered"] == 1


def test_a_loader_of_torchs_that_shuffles_or_leaves_images_out_is_named(photos: fa.Samples) -> None:
    images = torch.utils.data.TensorDataset(torch.rand(10, 3, 8, 8), torch.arange(10) % 3)
    learn = factories.learner(model=model())
    shuffled = torch.utils.data.DataLoader(images, 4, shuffle=True)
    with pytest.warns(UserWarning, match=r"got one that has an order of its own \(RandomSampler\): so will"):
        learn.get_preds(shuffled)
    learn.validate(shuffled)  # the order does not matter
    with pytest.warns(UserWarning, match=r"leaves out an incomplete last batch .*shuffle=False and drop_last=False"):
        learn.validate(torch.utils.data.DataLoader(images, 4, drop_last=True))
    learn.get_preds(torch.utils.data.DataLoader(images, 4))


def test_a_validation_loader_that_trains_validates_all_the_same(photos: fa.Samples) -> None:
    with pytest.warns(UserWarning, match="valid_loader with training=False, got one that shuffles") as seen:
        learn = factories.learner(image_loader(photos), model(), image_loader(photos))
    assert seen[0].filename == factories.__file__  # who made the learner
    right = factories.learner(image_loader(photos), model(), image_loader(photos, training=False))
    assert learn.validate() == learn.validate() == right.validate()
    learn.fit(1, 1e-9)
    assert learn.history.epochs[-1]["valid_loss"] == pytest.approx(right.validate()["loss"])


# Statistics


def pretrained(**config: Any) -> nn.Sequential:
    """A model that says which statistics its weights want, and has learned."""
    made = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(192, 3))
    nn.init.normal_(made[0].bias)
    made.pretrained_cfg = config  # type: ignore[assignment]
    return made


HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


def test_statistics_other_than_the_models_are_named(photos: fa.Samples) -> None:
    valid = image_loader(photos, training=False, augment=fa.Augment([], 8, normalize=fa.INCEPTION))
    text = r"train_loader to normalise .* mean \(0\.5, 0\.5, 0\.5\) .* got mean \(0\.485, .*normalize=model"
    with pytest.warns(UserWarning, match=text):
        factories.learner(image_loader(photos), pretrained(**HALF), valid)
    plain = image_loader(photos, augment=fa.Augment([], 8, normalize=None))
    with pytest.warns(UserWarning, match=r"got mean \(0\.0, 0\.0, 0\.0\) and std \(1\.0, 1\.0, 1\.0\)"):
        factories.learner(plain, pretrained(**HALF))


def test_no_alarm_where_nothing_is_known(photos: fa.Samples) -> None:
    half = image_loader(photos, augment=fa.Augment([], 8, normalize=fa.INCEPTION))
    untrained, own = pretrained(**HALF), pretrained()
    nn.init.zeros_(untrained[0].bias)  # type: ignore[arg-type]
    del own.pretrained_cfg
    random = pretrained(**HALF)
    random.built_as = {"pretrained": False}  # type: ignore[assignment]
    for one in (untrained, own, random):
        factories.learner(image_loader(photos), one)
    nearly = pretrained(mean=(0.48145466, 0.4578275, 0.40821073), std=(0.229, 0.224, 0.225))
    factories.learner(image_loader(photos), nearly)
    factories.learner(half, pretrained(**HALF))
    factories.learner(Batches(), pretrained(**HALF))


def test_an_augment_takes_the_statistics_from_the_model() -> None:
    assert fa.aug_transforms(normalize=pretrained(**HALF)).normalize == fa.INCEPTION
    assert fa.Augment([], 8, normalize=pretrained()).normalize == fa.IMAGENET


@pytest.mark.parametrize("where", ["memory", "device", "folder"])
def test_copies_of_a_loader_share_its_cache(tmp_path: Path, where: str) -> None:
    """Those of the features' pass and of validation: nothing is kept twice, or decoded again."""
    rng = np.random.default_rng(0)
    root = write_photos(tmp_path, {f"a/{i}.jpg": rng.integers(0, 255, (30, 40 + i, 3), np.uint8) for i in range(9)})
    cache = str(tmp_path / "cache") if where == "folder" else where
    loader = factories.make_loader(fa.Samples.from_folder(root), presize=24, cache=cache, drop_last=False)
    copies = [LoaderAdapter(loader).copied().loader, LoaderAdapter(loader).in_order(rows=True), copy.copy(loader)]
    assert sum(len(batch[1]) for batch in loader) == 9
    for other in copies:
        assert isinstance(other, fa.ImageLoader)
        assert sum(len(batch[1]) for batch in other) == 9
        assert (other.stats().cached, other.stats().decoded) == (9, 0)
        theirs, own = other._opened_cache, loader._opened_cache
        assert theirs is own if where == "device" else theirs.store is own.store  # type: ignore[union-attr]
