"""Losses: what each wants for targets and makes of activations, and one that torch does not have in this form."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastaug.training.inference import Activation

LossFunc = Callable[[Tensor, Tensor], Tensor]
Kind = Literal["one class", "yes or no", "numbers"]

_OF_CLASSES = (nn.CrossEntropyLoss, nn.NLLLoss)
_YES_OR_NO = (nn.BCEWithLogitsLoss, nn.MultiLabelSoftMarginLoss)
_OF_NUMBERS = (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss)
_FUNCTIONS: dict[object, Kind] = {
    **dict.fromkeys((F.cross_entropy, F.nll_loss), "one class"),
    **dict.fromkeys((F.binary_cross_entropy_with_logits, F.multilabel_soft_margin_loss), "yes or no"),
    **dict.fromkeys((F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss), "numbers"),
}
ACTIVATIONS: dict[Kind | None, Activation] = {"one class": "softmax", "yes or no": "sigmoid"}  # of others "none"


def kind_of(loss_func: LossFunc) -> Kind | None:
    """What a loss of torch's compares: one class per image, a yes or no per class, or numbers. None: not known."""
    if isinstance(loss_func, functools.partial):
        loss_func = loss_func.func
    if isinstance(loss_func, _OF_CLASSES):
        return "one class"
    if isinstance(loss_func, _YES_OR_NO):
        return "yes or no"
    if isinstance(loss_func, _OF_NUMBERS):
        return "numbers"
    return None if isinstance(loss_func, nn.Module) else _FUNCTIONS.get(loss_func)


def fit_targets(loss_func: LossFunc, activations: Tensor, targets: Tensor) -> Tensor:
    """The targets as the loss takes them; nothing is changed for a loss that is not known.

    Raises:
        ValueError: targets of another kind or shape, of which torch would say little, or make a wrong mean.
    """
    kind, whole = kind_of(loss_func), not targets.is_floating_point()
    if kind is None or activations.ndim < 2:
        return targets
    per_image = activations.shape[:1] + activations.shape[2:]
    column = targets[:, None] if targets.shape == per_image and activations.shape[1] == 1 else targets
    if kind == "one class":
        if whole and targets.shape == per_image:
            return targets.long()
        if not whole and targets.shape == activations.shape:
            return targets
        wanted = f"classes, int64 {list(per_image)}, or their probabilities, float {list(activations.shape)}"
        advice = "For numbers there is nn.MSELoss(), for several classes per image fa.BinaryCrossEntropy()."
    elif isinstance(loss_func, BinaryCrossEntropy):
        if column.shape == activations.shape or (whole and targets.shape == per_image):
            return targets
        wanted = f"classes, int64 {list(per_image)}, or zeros and ones, float {list(activations.shape)}"
        advice = "For one class per image and float probabilities there is nn.CrossEntropyLoss()."
    elif kind == "yes or no":
        if column.shape == activations.shape:
            return column.to(activations.dtype)
        wanted = f"zeros and ones, float {list(activations.shape)}"
        advice = "Classes are taken by fa.BinaryCrossEntropy(), and by nn.CrossEntropyLoss() for one per image."
    else:
        if column.shape == activations.shape and not whole:
            return column
        wanted = f"numbers, float {list(activations.shape)}"
        advice = "Give the model an output for each number, or, if they are classes, leave loss_func out."
    raise ValueError(
        f"Learner: expected {wanted} as targets of {name_of(loss_func)}, got {str(targets.dtype)[6:]} "
        f"{list(targets.shape)}. {advice}"
    )


def name_of(loss_func: LossFunc) -> str:
    """For people."""
    return getattr(loss_func, "__name__", type(loss_func).__name__)


def weight_of(loss_func: LossFunc, activations: Tensor, targets: Tensor) -> Tensor | float:
    """What the mean over this batch counts in the mean over several, which so is torch's over all of them.

    Images; with classes that are ignored or have weights, what torch divides the sum by. Of a sum: what the mean of the
    same loss would be divided by. Targets are those of `fit_targets`.
    """
    if isinstance(loss_func, _OF_CLASSES) and not targets.is_floating_point():
        known = targets != loss_func.ignore_index
        if loss_func.weight is None:
            return known.sum().float()
        return (loss_func.weight[targets.where(known, 0)] * known).sum()
    if isinstance(loss_func, (*_OF_NUMBERS, nn.BCEWithLogitsLoss)) and loss_func.reduction == "sum":
        return float(activations.numel())
    return float(len(targets))


def one_hot(targets: Tensor, outputs: int) -> Tensor:
    """[B] or [B, outputs] -> [B, outputs] of zeros and ones; all zeros for -1. One output is a yes: class 1.

    Raises:
        ValueError: numbers [B] for several outputs.
    """
    if targets.ndim > 1:
        return targets
    if targets.is_floating_point():
        if outputs > 1:
            raise ValueError(
                f"BinaryCrossEntropy: expected targets int [B] or float [B, {outputs}], got {str(targets.dtype)[6:]} "
                f"{list(targets.shape)}. Give a row of zeros and ones for each image, or whole numbers."
            )
        return targets[:, None]
    first = 1 if outputs == 1 else 0
    return (targets[:, None] == torch.arange(first, first + outputs, device=targets.device)).long()


class BinaryCrossEntropy(nn.BCEWithLogitsLoss):
    """One yes or no per class, for images of none of the classes or of several; the mean over images and classes.

    Args:
        threshold: a class counts as seen from this probability on; a number, or one per class.
        reduction: "mean", or "sum" (with which other learning rates are right).
    Targets are classes int [B], where -1 says "none of these", or float [B, classes] of zeros and ones. A model with
    one output, of which a yes is class 1 of two, takes float [B] too.
    Differs from: fastai's `BCEWithLogitsLossFlat` by taking classes too, and by thresholds of each class.
    """

    def __init__(self, threshold: float | Tensor = 0.5, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)
        self.threshold = threshold

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return super().forward(input, one_hot(target, input.shape[1]).to(input.dtype))

    def decodes(self, probabilities: Tensor) -> Tensor:
        """Which classes are seen, bool [B, classes]."""
        return probabilities >= torch.as_tensor(self.threshold, device=probabilities.device)


def default_loss(kind: str | None, none_of_these: bool, unknown_pixel: int) -> tuple[nn.Module, str]:
    """The loss for samples of a kind, and why.

    Args:
        kind: as of `Samples`; None: not known.
        none_of_these: whether some of one class each have the target -1.
        unknown_pixel: of masks: what is of no class.
    """
    if kind == "labels":
        return BinaryCrossEntropy(), "a sample may have several labels, or none"
    if kind == "numbers":
        return nn.MSELoss(), "the targets are numbers"
    if kind == "mask":
        return nn.CrossEntropyLoss(ignore_index=unknown_pixel), f"the targets are masks; {unknown_pixel} is ignored"
    if none_of_these:
        return BinaryCrossEntropy(), "each sample is of one class, or of none of them"
    return nn.CrossEntropyLoss(), "each sample is of one class"


def losses_of_each(loss_func: Callable[[Tensor, Tensor], Tensor], activations: Tensor, targets: Tensor) -> Tensor:
    """float [B]: the loss of every image alone, on the activations' device."""
    each, targets = copy.deepcopy(loss_func), fit_targets(loss_func, activations, targets)
    if isinstance(each, nn.Module):
        each.to(activations.device)  # weights of classes
    if hasattr(each, "reduction"):
        each.reduction = "none"
        return each(activations, targets).reshape(len(targets), -1).mean(1)
    return torch.stack([each(activations[i : i + 1], targets[i : i + 1]) for i in range(len(targets))])
