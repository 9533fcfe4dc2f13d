"""What a trained model gets wrong: the confusion matrix, the worst losses, figures per class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix

from fastaug.text import printable
from fastaug.training import plots
from fastaug.training.engine import Engine
from fastaug.training.inference import NONE, most_probable
from fastaug.training.loaders import Loader, LoaderAdapter
from fastaug.training.losses import losses_of_each
from fastaug.training.prediction import activations_of, loader_like, probabilities_of, threshold


class Loss(NamedTuple):
    """One image of `top_losses`; its row in the samples, its file if it has one."""

    loss: float
    actual: str
    predicted: str
    probability: float
    row: int
    path: str


@dataclass(repr=False)
class Interpretation:
    """What a model says of images whose classes are known; make it with `from_learner`.

    Attributes:
        probabilities: float32 [N, classes]; of a single output those of no and yes.
        targets: int64 [N]. losses: float32 [N]. rows: int64 [N], of the samples.
        predicted: int64 [N]; with BinaryCrossEntropy -1 where no class is above its threshold.
    """

    probabilities: Tensor
    targets: Tensor
    losses: Tensor
    rows: Tensor
    predicted: Tensor
    classes: list[str]
    loader: Loader

    @classmethod
    def from_learner(cls, learn: Engine, loader: Loader | None = None) -> Self:
        """Of `loader`, default valid_loader; of an ImageLoader every sample once, not augmented, as `get_preds`.

        Raises:
            ValueError: several classes per image, or numbers, of which there is no confusion matrix.
        """
        loader = learn.or_valid(loader)
        activations, targets, rows = activations_of(learn, LoaderAdapter(loader).in_order(rows=True))
        single = activations.ndim == 2 and activations.shape[1] == 1 and learn.activation == "sigmoid"
        if targets.ndim != 1 or activations.ndim != 2 or (targets.is_floating_point() and not single):
            raise ValueError(
                "Interpretation: expected one class per image, targets int64 [N] and activations [N, classes], got "
                f"{str(targets.dtype)[6:]} {list(targets.shape)} and {list(activations.shape)}. Use get_preds."
            )
        losses, targets = losses_of_each(learn.loss_func, activations, targets), targets.long()
        limit = threshold(learn)
        probabilities = probabilities_of(learn, activations)
        predicted = most_probable(probabilities, limit)
        if single:
            probabilities = torch.cat([1 - probabilities, probabilities], 1)
        known = LoaderAdapter(loader).classes
        classes = [*known, *map(str, range(len(known), probabilities.shape[1]))]
        return cls(probabilities, targets, losses, rows, predicted, classes, loader)

    def __repr__(self) -> str:
        right = int((self.predicted == self.targets).sum())
        return f"Interpretation({len(self.targets):,} images, {right:,} right, {len(self.classes):,} classes)"

    def confusion_matrix(self) -> Tensor:
        """int64 [classes, classes], rows actual, columns predicted; without "none of these"."""
        known = (self.predicted >= 0) & (self.targets >= 0)
        return multiclass_confusion_matrix(self.predicted[known], self.targets[known], num_classes=len(self.classes))

    def plot_confusion_matrix(self) -> plots.Figure:
        return plots.plot_confusion_matrix(self.confusion_matrix(), self.classes)

    def most_confused(self, min_val: int = 1) -> list[tuple[str, str, int]]:
        """(actual, predicted, how often) of the wrong ones seen at least min_val times, the most frequent first."""
        matrix = self.confusion_matrix().fill_diagonal_(0)
        found = [(self.classes[i], self.classes[j], int(matrix[i, j])) for i, j in matrix.nonzero().tolist()]
        return sorted((one for one in found if one[2] >= min_val), key=lambda one: -one[2])

    def top_losses(self, k: int = 9) -> list[Loss]:
        """The k images with the highest losses, the worst first. `probability` is that of the predicted class."""
        paths, names = LoaderAdapter(self.loader).paths, [*self.classes, NONE]  # NONE is -1
        found = []
        for i in self.losses.argsort(descending=True, stable=True)[:k].tolist():
            row, guess = int(self.rows[i]), int(self.predicted[i])
            probability, path = self.probabilities[i, guess if guess >= 0 else None].max(), paths[row] if paths else ""
            actual = names[int(self.targets[i])]
            found.append(Loss(float(self.losses[i]), actual, names[guess], float(probability), row, path))
        return found

    def plot_top_losses(self, k: int = 9) -> plots.Figure:
        """Their pictures, presized, each below the predicted class, the actual one, loss and probability.

        Raises:
            TypeError: the loader is not an ImageLoader.
        """
        found = self.top_losses(k)
        loader = loader_like(self.loader, augment=None, mode="resize", training=False, batch_size=len(found))
        loader = loader_like(loader, loader.samples.subset([one.row for one in found]))
        images = [image for x, *_ in loader for image in x]
        titles = [
            f"{printable(one.predicted)}\n{printable(one.actual)}\n{one.loss:.2f} / {one.probability:.2f}"
            for one in found
        ]
        return plots.show_images(images, titles, heading="predicted, actual, loss / probability")

    def per_class(self) -> dict[str, dict[str, float]]:
        """precision, recall, f1 and images of each class; 0 where there is nothing to divide by."""
        matrix = self.confusion_matrix().double()
        right, actual = matrix.diagonal(), torch.bincount(self.targets[self.targets >= 0], minlength=len(self.classes))
        precision, recall = right / matrix.sum(0).clamp(min=1), right / actual.clamp(min=1)
        f1 = 2 * precision * recall / (precision + recall).clamp(min=1e-12)
        figures = {"precision": precision, "recall": recall, "f1": f1, "images": actual}
        return {name: {what: float(each[i]) for what, each in figures.items()} for i, name in enumerate(self.classes)}
