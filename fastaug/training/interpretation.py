"""What a trained model gets wrong: the confusion matrix, the worst losses, figures per class, errors of numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix

from fastaug.text import printable
from fastaug.training import plots
from fastaug.training.engine import Engine
from fastaug.training.inference import NONE, Says, most_probable, seen_labels
from fastaug.training.loaders import Loader, LoaderAdapter
from fastaug.training.losses import losses_of_each
from fastaug.training.prediction import activations_of, loader_like, probabilities_of, said_of, threshold
from fastaug.training.preview import number_text, target_name


class Loss(NamedTuple):
    """One image of `top_losses`; its row in the samples, its file if it has one.

    probability: of the predicted class; of several labels that of the surest one; of numbers nan.
    """

    loss: float
    actual: str
    predicted: str
    probability: float
    row: int
    path: str


@dataclass(repr=False)
class Interpretation:
    """What a model says of images of which it is known; make it with `from_learner`.

    Attributes:
        probabilities: float32 [N, classes]; of a single output those of no and yes. Of numbers these.
        targets: int64 [N]; of labels int64 [N, classes], 0 and 1; of numbers float32 [N, numbers].
        losses: float32 [N]. rows: int64 [N], of the samples.
        predicted: as targets; -1 where, with BinaryCrossEntropy, no class is above its threshold.
        says: "class", "labels" or "numbers".
    """

    probabilities: Tensor
    targets: Tensor
    losses: Tensor
    rows: Tensor
    predicted: Tensor
    classes: list[str]
    loader: Loader
    says: Says = "class"

    @classmethod
    def from_learner(cls, learn: Engine, loader: Loader | None = None) -> Self:
        """Of `loader`, default valid_loader; of an ImageLoader every sample once, not augmented, as `get_preds`.

        Raises:
            ValueError: a class per pixel, or what else it does not know, such as targets of a loader without samples
                that are not classes.
        """
        loader = learn.or_valid(loader)
        activations, targets, rows = activations_of(learn, LoaderAdapter(loader).in_order(rows=True))
        says, known = said_of(learn), LoaderAdapter(loader).classes
        if says != "class":
            probabilities, outputs = probabilities_of(learn, activations), activations.shape[1]
            classes = known or list(map(str, range(outputs)))
            losses, targets = losses_of_each(learn.loss_func, activations, targets), targets.reshape(-1, outputs)
            predicted = probabilities
            if says == "labels":
                predicted, targets = seen_labels(probabilities, threshold(learn)).long(), targets.round().long()
            return cls(probabilities, targets, losses, rows, predicted, classes, loader, says)
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
        classes = [*known, *map(str, range(len(known), probabilities.shape[1]))]
        return cls(probabilities, targets, losses, rows, predicted, classes, loader)

    def __repr__(self) -> str:
        images = f"Interpretation({len(self.targets):,} images"
        if self.says == "numbers":
            return f"{images}, {len(self.classes):,} numbers)"
        right = int((self.predicted == self.targets).reshape(len(self.targets), -1).all(1).sum())
        return f"{images}, {right:,} right, {len(self.classes):,} {'labels' if self.says == 'labels' else 'classes'})"

    def _expect(self, caller: str, *says: Says) -> None:
        if self.says not in says:
            wanted = {"class": "one class per image", "labels": "several labels", "numbers": "numbers"}
            instead = {"class": "per_class() or confusion_matrix()", "labels": "per_class()", "numbers": "errors()"}
            raise ValueError(
                f"{caller}: expected {' or '.join(wanted[one] for one in says)}, got {wanted[self.says]}. "
                f"Use {instead[self.says]}."
            )

    def confusion_matrix(self) -> Tensor:
        """int64 [classes, classes], rows actual, columns predicted; without "none of these".

        Raises:
            ValueError: several labels per image, or numbers.
        """
        self._expect("confusion_matrix", "class")
        known = (self.predicted >= 0) & (self.targets >= 0)
        return multiclass_confusion_matrix(self.predicted[known], self.targets[known], num_classes=len(self.classes))

    def plot_confusion_matrix(self) -> plots.Figure:
        return plots.plot_confusion_matrix(self.confusion_matrix(), self.classes)

    def plot_per_class(self) -> plots.Figure:
        """Precision, recall and f1 of each class or label."""
        figures = self.per_class()
        return plots.plot_dots(
            {name: {k: row[k] for k in ("precision", "recall", "f1")} for name, row in figures.items()}
        )

    def plot_numbers(self) -> plots.Figure:
        """What is predicted over what is actual, one part for each number."""
        self._expect("plot_numbers", "numbers")
        return plots.plot_pairs(self.targets, self.predicted, self.classes)

    def most_confused(self, min_val: int = 1) -> list[tuple[str, str, int]]:
        """(actual, predicted, how often) of the wrong ones seen at least min_val times, the most frequent first."""
        matrix = self.confusion_matrix().fill_diagonal_(0)
        found = [(self.classes[i], self.classes[j], int(matrix[i, j])) for i, j in matrix.nonzero().tolist()]
        return sorted((one for one in found if one[2] >= min_val), key=lambda one: -one[2])

    def top_losses(self, k: int = 9) -> list[Loss]:
        """The k images with the highest losses, the worst first."""
        paths, found = LoaderAdapter(self.loader).paths, []
        for i in self.losses.argsort(descending=True, stable=True)[:k].tolist():
            row, guess = int(self.rows[i]), self.predicted[i]
            sure = guess if self.says == "class" and guess >= 0 else slice(None)
            probability = math.nan if self.says == "numbers" else float(self.probabilities[i, sure].max())
            actual, path = self._name(self.targets[i]), paths[row] if paths else ""
            found.append(Loss(float(self.losses[i]), actual, self._name(guess), probability, row, path))
        return found

    def _name(self, one: Tensor) -> str:
        """Of a row of targets, or of what is predicted."""
        if self.says == "class":
            return [*self.classes, NONE][int(one)]  # NONE is -1
        return target_name(one, self.classes, self.says)

    def plot_top_losses(self, k: int = 9) -> plots.Figure:
        """Their pictures, presized, each below the predicted class, the actual one, loss and probability.

        Raises:
            TypeError: the loader is not an ImageLoader.
        """
        found = self.top_losses(k)
        loader = loader_like(self.loader, augment=None, mode="resize", training=False, batch_size=len(found))
        loader = loader_like(loader, loader.samples.subset([one.row for one in found]))
        images = [image for x, *_ in loader for image in x]
        numbers = self.says == "numbers"
        titles = [
            f"{printable(one.predicted)}\n{printable(one.actual)}\n"
            + (number_text(one.loss) if numbers else f"{one.loss:.2f} / {one.probability:.2f}")
            for one in found
        ]
        heading = "predicted, actual, loss" + ("" if numbers else " / probability")
        return plots.show_images(images, titles, heading=heading)

    def per_class(self) -> dict[str, dict[str, float]]:
        """precision, recall, f1 and images of each class or label; 0 where there is nothing to divide by."""
        self._expect("per_class", "class", "labels")
        if self.says == "labels":
            right = (self.predicted * self.targets).sum(0).double()
            predicted, actual = self.predicted.sum(0), self.targets.sum(0)
        else:
            right = self.confusion_matrix().diagonal().double()  # in which "none of these" is not, but here it counts
            predicted, actual = (
                torch.bincount(of[of >= 0], minlength=len(self.classes)) for of in (self.predicted, self.targets)
            )
        precision, recall = right / predicted.clamp(min=1), right / actual.clamp(min=1)
        f1 = 2 * precision * recall / (precision + recall).clamp(min=1e-12)
        figures = {"precision": precision, "recall": recall, "f1": f1, "images": actual}
        return {name: {what: float(each[i]) for what, each in figures.items()} for i, name in enumerate(self.classes)}

    def errors(self) -> dict[str, dict[str, float]]:
        """mae, rmse and r2 of each number: the mean distance, the root of the mean square one, and 1 - its square over
        the variance; 0 for who always says the mean. (Of a number that never varies r2 is nan.)"""
        self._expect("errors", "numbers")
        actual = self.targets.double()
        apart = self.predicted.double() - actual
        mae, square = apart.abs().mean(0), (apart**2).mean(0)
        variance = actual.var(0, correction=0)
        figures = {"mae": mae, "rmse": square.sqrt(), "r2": torch.where(variance > 0, 1 - square / variance, math.nan)}
        return {name: {what: float(each[i]) for what, each in figures.items()} for i, name in enumerate(self.classes)}
