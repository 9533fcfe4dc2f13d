"""What a learner makes of targets of each kind: the loss and the metrics that it takes, and what it then says."""

from __future__ import annotations

import copy
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.functional.classification import multilabel_f1_score

import fastaug as fa
from fastaug.cli.train import _figures_of
from fastaug.training.loaders import outputs_for
from fastaug.training.preview import number_text, overlaid, target_name
from fastaug.training.transfer import start_loss
from tests.factories import write_photos

pytestmark = pytest.mark.usefixtures("one_thread")

G = torch.Generator().manual_seed(0)
X = torch.rand(12, 3, 8, 8, generator=G)
LABELS = (X.mean((2, 3)) > X.mean((2, 3)).median(0).values).float()  # of each colour: whether there is much of it
NUMBERS = 50 + 40 * X.mean((2, 3))[:, :2]
CLASSES = LABELS.argmax(1)


class Batches(list[tuple[Tensor, Tensor]]):
    """A list of batches that knows its samples, as an ImageLoader does."""

    def __init__(self, kind: str | None, y: Any, classes: Any = (), size: int = 5, **known: Any) -> None:
        super().__init__(zip(X.split(size), y.split(size), strict=True) if isinstance(y, Tensor) else [(X, y)])
        targets = y.tolist() if isinstance(y, Tensor) and kind == "class" else y
        paths = [f"{i}.jpg" for i in range(len(X))]
        self.samples = SimpleNamespace(kind=kind, targets=targets, classes=list(classes), paths=paths)
        self.__dict__.update(known)


def model(outputs: int) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, outputs))


def learner(kind: str | None, y: Any, outputs: int, classes: Any = (), **arguments: Any) -> fa.Learner:
    loader = Batches(kind, y, classes)
    return fa.Learner(loader, loader, arguments.pop("model", None) or model(outputs), device="cpu", **arguments)


def labels_learner(**arguments: Any) -> fa.Learner:
    return learner("labels", LABELS, 3, ("red", "green", "blue"), **arguments)


@pytest.mark.parametrize(
    ("kind", "y", "outputs", "classes", "loss", "metrics", "why"),
    [
        ("class", CLASSES, 3, "rgb", nn.CrossEntropyLoss, "error_rate, accuracy", "each sample is of one class"),
        ("class", CLASSES - 1, 2, "gb", fa.BinaryCrossEntropy, "accuracy_multi", "of one class, or of none of them"),
        ("labels", LABELS, 3, "rgb", fa.BinaryCrossEntropy, "accuracy_multi, f1", "several labels, or none"),
        ("labels", LABELS[:, :1], 1, "r", fa.BinaryCrossEntropy, "accuracy_multi, f1", "several labels, or none"),
        ("numbers", NUMBERS, 2, (), nn.MSELoss, "mae", "the targets are numbers"),
        ("numbers", NUMBERS[:, 0], 1, (), nn.MSELoss, "mae", "the targets are numbers"),
    ],
    ids=["class", "none of these", "labels", "one label", "numbers", "one number"],
)
def test_loss_and_metrics_go_by_the_kind_and_it_is_said(
    kind: str, y: Tensor, outputs: int, classes: Any, loss: Any, metrics: str, why: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    learn = learner(kind, y, outputs, classes)
    said = capsys.readouterr().out
    assert type(learn.loss_func) is loss
    assert said.startswith(f"loss {loss.__name__}, metrics {metrics}: ")
    assert said.endswith(f"{why}\n")
    assert f"targets={kind!r}, loss={loss.__name__!r}" in repr(learn)
    learn.fit(2, 1e-2)
    assert why not in capsys.readouterr().out  # it is said once
    row = learn.history.epochs[-1]
    assert ", ".join(name for name in row if name in metrics) == metrics
    assert all(math.isfinite(row[name]) for name in row)
    found, targets = learn.get_preds()
    assert found.shape == (12, outputs)
    assert torch.equal(targets, y)
    given = learner(kind, y, outputs, classes, loss_func=loss())
    assert capsys.readouterr().out == ""
    assert given.validate().keys() == learn.validate().keys()
    assert learner(kind, y, outputs, classes, progress=False).kind == kind
    assert learner(None, CLASSES, 3).kind is None
    assert capsys.readouterr().out == ""


def test_f1_is_the_mean_over_labels_by_the_thresholds() -> None:
    for loss_func, limit in ((None, 0.5), (fa.BinaryCrossEntropy(threshold=0.47), 0.47), (nn.BCEWithLogitsLoss(), 0.5)):
        learn = labels_learner(loss_func=loss_func)
        with torch.no_grad():
            seen = (learn.model(X).sigmoid() >= limit).long()
        found = learn.validate()
        assert found["f1"] == pytest.approx(float(multilabel_f1_score(seen, LABELS.long(), 3)))
        assert found["accuracy_multi"] == pytest.approx(float((seen == LABELS).float().mean()))


def test_masks_are_classes_of_pixels_of_which_255_counts_for_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    masks = (X[:, 0] > 0.5).long()
    masks[:, 0] = 255
    learn = learner("mask", masks, 2, ("ground", "thing"), model=nn.Conv2d(3, 2, 1))
    assert "CrossEntropyLoss, metrics error_rate, accuracy: the targets are masks; 255 is" in capsys.readouterr().out
    with torch.no_grad():
        said = learn.model(X)
    found, known = learn.validate(), masks != 255
    assert found["loss"] == pytest.approx(float(F.cross_entropy(said, masks, ignore_index=255)))
    assert found["accuracy"] == pytest.approx(float((said.argmax(1) == masks)[known].float().mean()))
    learn.fit(1, 1e-2)
    assert learn.get_preds()[0].shape == (12, 2, 8, 8)
    assert len([one for one in learn.show_batch(4).get_axes() if one.get_images()]) == 4
    titles = [one.get_title() for one in learn.show_results(4).get_axes() if one.get_images()]
    assert all(re.fullmatch(r"\d+% right", title) for title in titles)
    assert "loss" in str(learn.summary())
    with pytest.raises(ValueError, match="Interpretation: expected one class per image"):
        fa.Interpretation.from_learner(learn)


@pytest.mark.parametrize(
    ("fill", "classes", "ignored"),
    [(255, ("a", "b"), 255), (-1, ("a", "b"), -1), (9, ("a", "b"), 9), (0, ("a", "b"), 255), (1, ("a", "b"), 255),
     (0, (), 255), (7, (), 7)],
)  # fmt: skip
def test_the_fill_of_masks_counts_for_nothing_unless_it_is_a_class(
    fill: int, classes: tuple[str, ...], ignored: int
) -> None:
    masks = (X[:, 0] > 0.5).long()
    masks[:, 0] = fill
    batches = Batches("mask", masks, classes, targets=fa.TargetOptions(fill=fill))
    learn = fa.Learner(batches, batches, nn.Conv2d(3, 2, 1), device="cpu", progress=False)
    assert learn.loss_func.ignore_index == ignored
    if fill not in (0, 1):
        found, known = learn.validate(), masks != fill
        with torch.no_grad():
            said = learn.model(X)
        assert found["accuracy"] == pytest.approx(float((said.argmax(1) == masks)[known].float().mean()))
    with pytest.raises(ValueError, match="tta: expected one target for each image, got masks"):
        learn.tta()


def test_a_class_255_of_pixels_is_not_ignored_in_silence() -> None:
    masks, names = torch.full((12, 8, 8), 255), [f"{i}" for i in range(256)]
    pixels = nn.Conv2d(3, 256, 1)
    with pytest.raises(ValueError, match=r"at most 255 classes of masks, .* got 256\. Give the loaders .*fill="):
        learner("mask", masks, 256, names, model=pixels)
    loss_func = nn.CrossEntropyLoss(ignore_index=65535)
    assert learner("mask", masks, 256, names, model=pixels, loss_func=loss_func).validate()["loss"] > 0


def test_what_no_learner_can_train_on_is_said_at_once() -> None:
    good = Batches("class", CLASSES, "rgb")
    for loader, message in (
        (Batches("none", None), r"train_loader to have a target for each image, got samples without targets. Give"),
        (Batches("objects", None), r"train_loader to have a target for each image, got boxes. Train a model for"),
        (Batches("class", CLASSES, "rgb", views=2), r"train_loader to give one view of each image, got views=2. Train"),
        (Batches("class", CLASSES, "rgb", views=["a"]), r"one view of each image, got views=\['a'\]"),
        (
            Batches("numbers", NUMBERS[:, 0]),
            "the same kind of targets in both loaders, got 'numbers' to .* and 'class'",
        ),
    ):
        with pytest.raises(ValueError, match=message) as error:
            fa.Learner(loader, good, model(3), device="cpu")
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="valid_loader to have a target"):
        fa.Learner(good, Batches("none", None), model(3), device="cpu")
    for batch in ((X, None), ((X, X), CLASSES)):
        with pytest.raises(TypeError, match=r"expected batches \(images, targets, \.\.\.\) of tensors .* one view"):
            fa.Learner([batch], None, model(3), device="cpu").fit(1)


def test_a_dataloader_around_a_loader_has_its_kind() -> None:
    class Whole(torch.utils.data.IterableDataset):
        samples = Batches("labels", LABELS, "rgb").samples

        def __iter__(self) -> Any:
            return iter(Batches("labels", LABELS))

        def __len__(self) -> int:
            return 3

    loader = torch.utils.data.DataLoader(Whole(), batch_size=None)
    assert isinstance(fa.Learner(loader, None, model(3), device="cpu").loss_func, fa.BinaryCrossEntropy)


def test_the_number_of_outputs() -> None:
    for kind, y, classes, outputs in (("class", CLASSES, "rgb", 3), ("labels", LABELS, "rgb", 3),
                                      ("numbers", NUMBERS.numpy(), (), 2), ("numbers", NUMBERS[:, 0].numpy(), (), 1),
                                      ("numbers", NUMBERS.numpy(), "ab", 2)):  # fmt: skip
        assert outputs_for(SimpleNamespace(kind=kind, targets=y, classes=list(classes))) == outputs
    with pytest.raises(ValueError, match=r"expected targets 0\.\.1 for 2 outputs, got 2. Build the model with num_"):
        learner("labels", LABELS, 2, "rgb").fit(1)
    with (
        pytest.warns(UserWarning, match="as many outputs as the samples have classes, 1, got 2"),
        pytest.raises(ValueError, match="zeros and ones"),
    ):
        learner("labels", LABELS[:, :1], 2, "r").fit(1)
    with pytest.raises(
        ValueError, match=r"expected numbers, float \[5, 3\] as targets of MSELoss, got float32 \[5, 2\]"
    ):
        learner("numbers", NUMBERS, 3).fit(1)


def test_one_class_or_none_of_it_is_a_label() -> None:
    """One output is a yes or no to the second of two classes: every target would be no."""
    for outputs in (1, 2):
        with pytest.raises(
            ValueError, match=r"two classes or more .*-1.* got 'red' alone. Give labels: .*kind="
        ) as error:
            learner("class", -LABELS[:, 0].long(), outputs, ["red"])
        assert "\n" not in str(error.value)


def test_none_of_the_classes_needs_a_loss_that_knows_it() -> None:
    with pytest.raises(ValueError, match=r"-1, none of the classes, .*CrossEntropyLoss.*ignore_index=-1"):
        learner("class", CLASSES - 1, 2, "gb", loss_func=nn.CrossEntropyLoss()).fit(1)
    learner("class", CLASSES - 1, 2, "gb", loss_func=nn.CrossEntropyLoss(ignore_index=-1)).fit(1)


# What it got wrong


def test_what_is_said_of_none_of_the_classes_counts() -> None:
    """That of an image of none of them a class was said is a mistake of that class; and none is right where it is."""
    sure = torch.tensor([[9.0, -9], [9, -9], [-9, -9], [-9, 9], [-9, -9]])
    targets = torch.tensor([0, -1, 0, 1, -1])
    report = fa.Interpretation(
        sure.sigmoid(), targets, torch.zeros(5), torch.arange(5), torch.tensor([0, 0, -1, 1, -1]), ["a", "b"], []
    )
    assert report.per_class()["a"] == pytest.approx({"precision": 0.5, "recall": 0.5, "f1": 0.5, "images": 2})
    assert report.per_class()["b"] == pytest.approx({"precision": 1, "recall": 1, "f1": 1, "images": 1})
    assert _figures_of(report) == ({"accuracy": 0.6, "right": 3, "validated": 5}, "accuracy 0.6000 (3 of 5)")
    report.predicted = torch.full((5,), -1)
    assert _figures_of(report)[1] == "accuracy 0.4000 (2 of 5)"


def test_of_labels_there_are_figures_for_each() -> None:
    learn = labels_learner()
    learn.fit(5, 3e-2)
    report = fa.Interpretation.from_learner(learn)
    found, _ = learn.get_preds()
    assert torch.equal(report.predicted, (found >= 0.5).long())
    assert torch.equal(report.targets, LABELS.long())
    each = multilabel_f1_score(report.predicted, report.targets, 3, average="none")
    rows = report.per_class()
    assert [rows[name]["f1"] for name in ("red", "green", "blue")] == pytest.approx(each.tolist())
    assert [rows[name]["images"] for name in rows] == LABELS.sum(0).tolist()
    right = int((report.predicted == LABELS).all(1).sum())
    assert repr(report) == f"Interpretation(12 images, {right} right, 3 labels)"
    worst = report.top_losses(12)
    losses = F.binary_cross_entropy(found, LABELS, reduction="none").mean(1)
    assert [one.loss for one in worst] == pytest.approx(losses.sort(descending=True).values.tolist(), abs=1e-5)
    names = target_name(LABELS[worst[0].row], ["red", "green", "blue"], "labels")
    assert (worst[0].actual, worst[0].path) == (names, f"{worst[0].row}.jpg")
    assert worst[0].probability == pytest.approx(float(found[worst[0].row].max()))
    for method in (report.confusion_matrix, report.most_confused, report.plot_confusion_matrix):
        with pytest.raises(ValueError, match=r"one class per image, got several labels\. Use per_class\(\)\."):
            method()
    with pytest.raises(ValueError, match=r"errors: expected numbers, got several labels"):
        report.errors()
    assert [text.get_text() for text in report.plot_per_class().get_axes()[0].get_yticklabels()] == [*rows]


def test_of_numbers_there_are_errors() -> None:
    learn = learner("numbers", NUMBERS, 2, ("length", "width"))
    report = fa.Interpretation.from_learner(learn)
    found, _ = learn.get_preds()
    errors = report.errors()
    assert errors.keys() == {"length", "width"}
    apart = found - NUMBERS
    assert errors["width"]["mae"] == pytest.approx(float(apart[:, 1].abs().mean()))
    assert errors["width"]["rmse"] == pytest.approx(float((apart[:, 1] ** 2).mean().sqrt()))
    unexplained = (apart[:, 0].double() ** 2).sum() / ((NUMBERS[:, 0] - NUMBERS[:, 0].mean()).double() ** 2).sum()
    assert errors["length"]["r2"] == pytest.approx(float(1 - unexplained), rel=1e-4)
    mean = copy.copy(report)
    mean.predicted = NUMBERS.mean(0).expand(12, 2)
    assert mean.errors()["width"]["r2"] == pytest.approx(0, abs=1e-4)
    mean.predicted = NUMBERS
    assert mean.errors()["width"] == pytest.approx({"mae": 0, "rmse": 0, "r2": 1})
    (worst,) = report.top_losses(1)
    assert worst.row == int((apart**2).mean(1).argmax())
    assert worst.actual == target_name(NUMBERS[worst.row], [], "numbers")
    assert math.isnan(worst.probability)
    assert repr(report) == "Interpretation(12 images, 2 numbers)"
    for method in (report.confusion_matrix, report.per_class):
        with pytest.raises(ValueError, match=r"got numbers. Use errors\(\)"):
            method()
    assert [one.get_title() for one in report.plot_numbers().get_axes()] == ["length", "width"]
    one = learner("numbers", NUMBERS[:, 0], 1)
    assert list(fa.Interpretation.from_learner(one).errors()) == ["0"]


# What is shown


def test_numbers_are_never_taken_for_labels() -> None:
    assert target_name(torch.tensor([0.0, 1.0]), ["a", "b"]) == "b"
    assert target_name(torch.tensor([0.0, 1.0]), ["a", "b"], "numbers") == "0, 1"
    assert target_name(torch.tensor(1.0), [], "numbers") == "1"
    assert [number_text(x) for x in (0.12345, 37.25, 12345.6, -1e6, 1e-9, 0.0)] == [
        "0.1235", "37.25", "12,346", "-1,000,000", "1e-09", "0"
    ]  # fmt: skip
    zeros = torch.zeros(12, 2)
    learn = learner("numbers", zeros, 2, ("a", "b"), loss_func=nn.L1Loss())
    assert shown(learn.show_batch(1)) == ["0, 0"]
    assert all(title.endswith("\nis 0, 0") for title in shown(learn.show_results(2)))


def shown(figure: Any) -> list[str]:
    return [axes.get_title() for axes in figure.get_axes() if axes.get_images()]


def test_labels_are_named_and_marked() -> None:
    learn = labels_learner()
    names = [target_name(row, ["red", "green", "blue"]) for row in LABELS]
    assert sorted(shown(learn.show_batch(3))) == sorted(names[:3])
    found = (learn.get_preds()[0] >= 0.5).float()
    for title, seen, row, name in zip(shown(learn.show_results(12)), found, LABELS, names, strict=True):
        mark = "\N{CHECK MARK}" if torch.equal(seen, row) else "\N{BALLOT X}"
        actual = "" if torch.equal(seen, row) else f"is {name}"
        assert title == f"{mark} {target_name(seen, ['red', 'green', 'blue'])}\n{actual}"
    one = learner("labels", LABELS[:, :1], 1, ["red"])
    assert {title.split("\n")[0][2:] for title in shown(one.show_results(12))} <= {"red", "none of these"}


def test_masks_are_coloured_where_there_is_a_class() -> None:
    images = torch.full((1, 3, 2, 2), 0.5)
    (found,) = overlaid(images, torch.tensor([[[0, 255], [1, 2]]]))
    assert torch.equal(found[:, 0], images[0, :, 0])
    assert not torch.equal(found[:, 1, 0], found[:, 1, 1])
    assert float((found[:, 1] - 0.5).abs().amax(0).min()) > 0.2


# Fine-tuning


class Body(nn.Module):
    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()), None
        self.head = nn.Linear(32, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


@pytest.mark.parametrize("epochs", [0, 1])
def test_the_head_learns_labels_and_numbers_on_features(epochs: int) -> None:
    for kind, y, outputs in (("labels", LABELS, 3), ("numbers", NUMBERS, 2), ("numbers", NUMBERS[:, 0], 1)):
        torch.manual_seed(0)
        learn = learner(kind, y, outputs, "rgb" if kind == "labels" else (), model=Body(outputs))
        before, said = learn.validate()["loss"], list[str]()
        learn.auto_fine_tune(epochs, 3e-2, said.append)
        after = learn.history.epochs[0]["valid_loss"]
        assert after < 0.9 * before
        assert ("f1" if kind == "labels" else "mae") in said[1]


def test_numbers_far_from_zero_leave_something_to_learn() -> None:
    """A head that has only come to their mean has 0.2 % of the loss that it began with."""
    learn = learner("numbers", 1000 + NUMBERS, 2)
    learn.history.losses = [1e6]
    variance = float(NUMBERS.var(0, correction=0).mean())
    assert start_loss(learn) == pytest.approx(variance, rel=1e-3)
    learn.history.losses = [1.0]
    assert start_loss(learn) == 1.0


@pytest.mark.parametrize(("offset", "factor"), [(0, 1), (2000, 1), (-3e5, 1e4), (0, 1e-3)])
def test_numbers_of_any_size_are_learned_alike(offset: float, factor: float) -> None:
    """Years and prices as well as shares; the rate that is found is one for the body too."""
    first = Body(2)
    found = []
    for y in ((NUMBERS - 70) / 10, offset + factor * (NUMBERS - 70) / 10):
        learn = learner("numbers", y, 2, model=copy.deepcopy(first))
        rate = learn.linear_probe(3e-2, 200)
        errors = fa.Interpretation.from_learner(learn).errors()
        found.append([error["r2"] for error in errors.values()])
        assert rate == 3e-2
        before = learn.validate()["loss"]
        learn.linear_probe(1e-9, 1)  # goes on from there
        assert learn.validate()["loss"] == pytest.approx(before, rel=1e-2)
    assert found[1] == pytest.approx(found[0], abs=0.05)
    assert min(found[1]) > 0.3


def test_numbers_behind_a_head_that_could_not_have_their_mean() -> None:
    model = Body(1)
    model.head = nn.Sequential(nn.Linear(32, 1), nn.Sigmoid())
    learn = learner("numbers", NUMBERS[:, 0] / 100, 1, model=model)
    learn.linear_probe(3e-2, 20)
    assert learn.history.epochs[0]["valid_loss"] < 0.1
    assert float(learn.get_preds()[0].max()) < 1


# Of photos


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight, of which the brightness is known; and masks, 1 on their right half."""
    root, mask = tmp_path_factory.mktemp("photos"), np.zeros((20, 30), np.uint8)
    mask[:, 15:] = 1
    write_photos(root, {f"images/{i}.png": np.full((20, 30, 3), 20 + 25 * i, np.uint8) for i in range(8)})
    write_photos(root, {f"masks/{i}.png": mask for i in range(8)})
    return root


def loader(samples: fa.Samples, training: bool = True, **settings: Any) -> fa.ImageLoader:
    augment = fa.Augment([fa.RandomHorizontalFlip()], 16, normalize=None)
    return fa.ImageLoader(samples, 4, 20, augment, "cpu", training, **settings)


def of_photos(photos: Path, kind: str) -> fa.Samples:
    paths = [str(photos / "images" / f"{i}.png") for i in range(8)]
    if kind == "mask":
        return fa.Samples.from_folders(photos / "images", photos / "masks", classes=["left", "right"])
    targets = {"labels": [["dark"] * (i < 4) + ["even"] * (i % 2 == 0) for i in range(8)],
               "numbers": np.arange(8.0) / 8, "class": [int(i > 3) for i in range(8)], "none": None}[kind]  # fmt: skip
    return fa.Samples(paths, targets, {"labels": ["dark", "even"], "class": ["dark", "light"]}.get(kind))


@pytest.mark.parametrize("kind", ["class", "labels", "numbers"])
def test_every_sample_counts_once_however_often_the_training_has_it(kind: str, photos: Path) -> None:
    samples = of_photos(photos, kind)
    train = loader(samples, weights=[1, 0, 0, 0, 0, 0, 0, 5], repeats=2)
    learn = fa.Learner(train, loader(samples, False), Body(outputs_for(samples)), device="cpu")
    learn.linear_probe(1e-2, 3)
    learn.fit(1, 1e-3)
    plain = learn.get_preds()
    for found, targets in (learn.get_preds(train), learn.tta(train, n=2)):
        assert torch.equal(targets, plain[1])
        assert torch.allclose(found, plain[0], atol=0.2)
    assert torch.equal(learn.get_preds(train)[0], plain[0])
    report = fa.Interpretation.from_learner(learn, train)
    assert sorted(one.row for one in report.top_losses(9)) == list(range(8))
    titles = shown(report.plot_top_losses(2))
    assert titles[0].split("\n")[:2] == [report.top_losses(1)[0].predicted, report.top_losses(1)[0].actual]
    assert len(shown(learn.show_results(3, train))) == 3
    what, index, numbers = learn.predict(samples.paths[2])
    assert torch.allclose(numbers, plain[0][2], atol=1e-6)
    if kind == "labels":
        assert index == [i for i in range(2) if numbers[i] >= 0.5]
        assert what == [samples.classes[i] for i in index]
    elif kind == "numbers":
        assert (what, index) == (pytest.approx(float(numbers[0])), None)
    else:
        assert what == samples.classes[index]


def test_masks_train_a_model_of_pixels(photos: Path) -> None:
    samples = of_photos(photos, "mask")
    learn = fa.Learner(loader(samples), loader(samples, False), nn.Conv2d(3, 2, 1), device="cpu")
    learn.fit(1, 1e-2)
    assert learn.get_preds()[1].shape == (8, 16, 16)
    assert len(shown(learn.show_results(2))) == 2
    assert len(shown(learn.show_batch(2))) == 2
    with pytest.raises(ValueError, match=r"predict: expected a model with an output for each of 2 classes, got one w"):
        learn.predict(samples.paths[0])


def test_loaders_of_views_and_without_targets_are_refused(photos: Path) -> None:
    for kind, settings, message in (("class", {"views": 2}, "to give one view of each image, got views=2"),
                                    ("none", {}, "to have a target for each image, got samples without")):  # fmt: skip
        with pytest.raises(ValueError, match=f"expected train_loader {message}"):
            fa.Learner(loader(of_photos(photos, kind), **settings), None, model(2), device="cpu")
    one = fa.ImageLoader(of_photos(photos, "class"), 4, 20, device="cpu", views=[fa.Augment([], 16, normalize=None)])
    with pytest.raises(TypeError, match=r"got tuple \['tuple', 'Tensor'\]. Give a loader with targets, and one view"):
        fa.Learner(one, None, model(2), device="cpu").fit(1)
