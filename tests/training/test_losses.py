"""Losses of other kinds than one class per image: what is predicted and measured, and targets that do not fit."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanSquaredError
from torchmetrics.classification import MultilabelF1Score

import fastaug as fa
from fastaug.training.losses import kind_of
from tests import factories
from tests.factories import write_photos

pytestmark = pytest.mark.usefixtures("one_thread")

X = torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(0))
YES = (torch.rand(12, 5, generator=torch.Generator().manual_seed(1)) > 0.6).float()


def model(outputs: int = 5) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(192, outputs))


def learner(loss_func: Any, targets: Tensor, outputs: int = 5, **arguments: Any) -> fa.Learner:
    batches = list(zip(X.split(5), targets.split(5), strict=True))
    return factories.learner(batches, model(outputs), batches, loss_func=loss_func, **arguments)


def trained(*arguments: Any, **more: Any) -> tuple[fa.Learner, dict[str, float], Tensor, Tensor]:
    """A learner, its figures, its activations for all images, and what get_preds says of them."""
    learn = learner(*arguments, **more)
    learn.fit(1, 1e-2)
    with torch.no_grad():
        activations = learn.model(X)
    found, targets = learn.get_preds()
    assert targets.shape == arguments[1].shape
    row = learn.history.epochs[0]
    figures = {name: row[name] for name in row if name not in ("epoch", "train_loss", "images_per_s", "seconds")}
    return learn, figures, activations, found


@pytest.mark.parametrize("loss_func", [nn.BCEWithLogitsLoss(), F.binary_cross_entropy_with_logits])
def test_a_yes_or_no_per_class_is_measured_as_such(loss_func: Any) -> None:
    _, figures, activations, found = trained(loss_func, YES)
    assert torch.allclose(found, activations.sigmoid(), atol=1e-6)
    right = ((activations > 0) == (YES > 0.5)).float().mean()
    assert figures == pytest.approx(
        {"valid_loss": float(F.binary_cross_entropy_with_logits(activations, YES)), "accuracy_multi": float(right)}
    )
    assert learner(loss_func, YES.long(), metrics={"f1": MultilabelF1Score(5)}).validate()["f1"] > 0


@pytest.mark.parametrize("loss_func", [nn.MSELoss(), nn.L1Loss(), nn.SmoothL1Loss(), nn.HuberLoss(), F.mse_loss])
def test_numbers_are_predicted_as_they_are(loss_func: Any) -> None:
    for targets, outputs in ((YES[:, 0], 1), (YES, 5)):
        _, figures, activations, found = trained(loss_func, targets, outputs)
        assert torch.allclose(found, activations, atol=1e-6)
        apart = activations.reshape(targets.shape)
        wanted = {"valid_loss": float(loss_func(apart, targets)), "mae": float((apart - targets).abs().mean())}
        assert figures == pytest.approx(wanted, rel=1e-5)
    learn = learner(loss_func, YES, metrics={"mse": MeanSquaredError()})
    assert learn.validate()["mse"] == pytest.approx(F.mse_loss(model()(X), YES).item(), rel=1e-5)
    with pytest.raises(ValueError, match=r"Interpretation: expected one class per image, .* Use get_preds"):
        fa.Interpretation.from_learner(learn)


def focal(activations: Tensor, targets: Tensor) -> Tensor:
    logs = activations.log_softmax(1).gather(1, targets[:, None])
    return -((1 - logs.exp()) ** 2 * logs).mean()


def test_of_a_loss_that_is_not_known_nothing_is_invented() -> None:
    classes = YES.argmax(1)
    _, figures, activations, found = trained(focal, classes)
    assert torch.allclose(found, activations, atol=1e-6)
    assert figures.keys() == {"valid_loss"}
    _, figures, activations, found = trained(focal, classes, activation="softmax")
    assert torch.allclose(found, activations.softmax(1), atol=1e-6)
    assert figures["accuracy"] == pytest.approx(float((activations.argmax(1) == classes).float().mean()))
    own = learner(lambda a, y: (a * y).sum(), YES, activation="sigmoid")
    assert own.validate()["accuracy_multi"] > 0
    assert learner(focal, classes + 7, 5).activation == "none"
    learner(lambda a, y: (a.sum(1) * y).sum(), classes + 7).validate()  # numbers of identities, not outputs
    with pytest.raises(ValueError, match="activation 'softmax', 'sigmoid', 'none' or None, got 'relu'"):
        learner(focal, classes, activation="relu")


@pytest.mark.parametrize("targets", [YES[:, 0], YES[:, 0].long(), YES[:, :1], YES[:, 0].bool()], ids=str)
@pytest.mark.parametrize("loss_func", [fa.BinaryCrossEntropy(), nn.BCEWithLogitsLoss()])
def test_one_output_is_a_yes_or_no(targets: Tensor, loss_func: Any) -> None:
    learn, figures, activations, found = trained(loss_func, targets, 1)
    assert torch.allclose(found, activations.sigmoid(), atol=1e-6)
    right = ((activations[:, 0] > 0) == (YES[:, 0] > 0.5)).float().mean()
    assert figures["accuracy_multi"] == pytest.approx(float(right))
    assert figures["valid_loss"] == pytest.approx(float(nn.BCEWithLogitsLoss()(activations[:, 0], YES[:, 0])))
    if targets.ndim == 1:
        report = fa.Interpretation.from_learner(learn)
        assert torch.equal(report.predicted, (activations[:, 0] > 0).long())
        assert int(report.confusion_matrix().trace()) == round(12 * float(right))
        assert report.probabilities.sum(1).allclose(torch.ones(12))


def test_right_and_sure_costs_nothing() -> None:
    sure = torch.tensor([[10.0], [-10.0]])
    for targets in (torch.tensor([1.0, 0.0]), torch.tensor([1, 0]), torch.tensor([1, -1])):
        assert float(fa.BinaryCrossEntropy()(sure, targets)) == pytest.approx(4.54e-5, rel=1e-2)


def test_probabilities_as_targets_are_measured_by_their_largest() -> None:
    soft = YES.softmax(1)
    learn = learner(nn.CrossEntropyLoss(), soft)
    right = (model()(X).argmax(1) == soft.argmax(1)).float().mean()
    assert learn.validate()["accuracy"] == pytest.approx(float(right))


def test_classes_that_are_ignored_are_neither_right_nor_wrong() -> None:
    targets = torch.where(torch.arange(12) % 2 == 0, 255, YES.argmax(1))
    found = learner(nn.CrossEntropyLoss(ignore_index=255), targets).validate()
    kept = targets < 5
    assert found["accuracy"] == pytest.approx(float((model()(X)[kept].argmax(1) == targets[kept]).float().mean()))


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.bool])
def test_classes_of_any_integer_type(dtype: torch.dtype) -> None:
    learn, wanted = (learner(None, YES[:, 0].to(kind)) for kind in (dtype, torch.int64))
    assert learn.validate() == wanted.validate()


ONE, BINARY, MSE = nn.CrossEntropyLoss(), nn.BCEWithLogitsLoss(), nn.MSELoss()


@pytest.mark.parametrize(
    ("loss_func", "targets", "text"),
    [
        (ONE, YES[:, 0], r"classes, int64 \[5\], or their probabilities, float \[5, 5\] as targets of CrossE"),
        (ONE, YES[:, 0], r"got float32 \[5\]\. For numbers there is nn\.MSELoss"),
        (ONE, YES.long(), r"got int64 \[5, 5\]\. .* several classes per image fa\.BinaryCrossEntropy"),
        (ONE, YES[:, :1].long(), r"got int64 \[5, 1\]"),
        (BINARY, YES[:, 0].long(), r"zeros and ones, float \[5, 5\] as targets of BCEWithLogitsLoss, got int64 \[5\]"),
        (BINARY, YES[:, :3], r"got float32 \[5, 3\]"),
        (fa.BinaryCrossEntropy(), YES[:, 0], r"classes, int64 \[5\], or zeros and ones, float \[5, 5\]"),
        (fa.BinaryCrossEntropy(), YES[:, :3], r"got float32 \[5, 3\]"),
        (MSE, YES[:, 0], r"numbers, float \[5, 5\] as targets of MSELoss, got float32 \[5\]\. Give the model"),
        (MSE, YES[:, 0].long(), r"got int64 \[5\]\. .* leave loss_func out"),
        (functools.partial(F.l1_loss), YES[:, :1], r"of partial, got float32 \[5, 1\]"),
    ],
)  # fmt: skip
def test_targets_that_do_not_fit_the_loss(loss_func: Any, targets: Tensor, text: str) -> None:
    for use in (lambda learn: learn.fit(1), lambda learn: learn.validate()):
        with pytest.raises(ValueError, match=rf"Learner: expected .*{text}"):
            use(learner(loss_func, targets))


def test_kinds() -> None:
    assert kind_of(functools.partial(F.cross_entropy, label_smoothing=0.1)) == "one class"
    assert kind_of(fa.BinaryCrossEntropy()) == "yes or no"
    assert kind_of(F.huber_loss) == "numbers"
    assert kind_of(nn.BCELoss()) is kind_of(focal) is kind_of(nn.KLDivLoss()) is None


# Files


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> fa.Samples:
    pixels = {f"{'ab'[i % 2]}/{i}.png": np.full((9, 9, 3), 25 * i, np.uint8) for i in range(8)}
    return fa.Samples.from_folder(write_photos(tmp_path_factory.mktemp("photos"), pixels))


def of_photos(photos: fa.Samples, loss_func: Any, outputs: int) -> fa.Learner:
    loader = fa.ImageLoader(photos, 4, 8, fa.Augment([], 32), "cpu", training=False)
    torch.manual_seed(1)
    return factories.learner(loader, fa.classifier("timm:test_resnet", outputs, None), loader, loss_func=loss_func)


def test_a_file_predicts_numbers_and_one_output_as_the_learner_does(photos: fa.Samples, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    numbers = of_photos(photos, lambda a, y: a.mean(), 1)
    numbers.export(file)
    predictor = fa.load_classifier(file, "cpu")
    assert torch.allclose(predictor.get_preds(photos.paths), numbers.get_preds()[0], atol=1e-6)
    for predict in (predictor.predict, numbers.predict):
        with pytest.raises(ValueError, match=r"an output for each of 2 classes, got one with \[1\] and no activation"):
            predict(photos.paths[0])
    for loss_func in (nn.BCEWithLogitsLoss(), fa.BinaryCrossEntropy(threshold=0.4)):
        yes = of_photos(photos, loss_func, 1)
        yes.export(file)
        predictor = fa.load_classifier(file, "cpu")
        name, index, row = predictor.predict(photos.paths[1])
        assert index == int(row[0] >= getattr(loss_func, "threshold", 0.5))
        assert name == "ab"[index]
        assert predictor.confidence(row, index) == pytest.approx(float(row[0] if index else 1 - row[0]))
        assert torch.allclose(predictor.get_preds(photos.paths), yes.get_preds()[0], atol=1e-6)
    own = of_photos(photos, lambda a, y: F.cross_entropy(a, y), 2)
    assert own.predict(photos.paths[0])[1] == int(own.get_preds()[0][0].argmax())
