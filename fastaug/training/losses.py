"""Losses that torch does not have in this form."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

_OF_CLASSES = (nn.CrossEntropyLoss, nn.NLLLoss)
_OF_NUMBERS = (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss)
_OF_ELEMENTS = (*_OF_NUMBERS, nn.BCEWithLogitsLoss)


def weight_of(loss_func: Callable[[Tensor, Tensor], Tensor], activations: Tensor, targets: Tensor) -> Tensor | float:
    """What the mean over this batch counts in the mean over several, which so is torch's over all of them.

    Images; with classes that are ignored or have weights, what torch divides the sum by. Of a sum: what the mean of the
    same loss would be divided by.
    """
    if isinstance(loss_func, _OF_CLASSES) and not targets.is_floating_point():
        known = targets != loss_func.ignore_index
        if loss_func.weight is None:
            return known.sum().float()
        return (loss_func.weight[targets.where(known, 0)] * known).sum()
    if isinstance(loss_func, _OF_ELEMENTS) and loss_func.reduction == "sum":
        return float(activations.numel())
    return float(len(targets))


class BinaryCrossEntropy(nn.BCEWithLogitsLoss):
    """One yes or no per class, for images of none of the classes or of several; the mean over images and classes.

    Args:
        threshold: a class counts as seen from this probability on; a number, or one per class.
        reduction: "mean", or "sum" (with which other learning rates are right).
    Targets are classes int [B], where -1 says "none of these", or float [B, classes] of zeros and ones.
    Differs from: fastai's `BCEWithLogitsLossFlat` by taking classes too, and by thresholds of each class.
    """

    def __init__(self, threshold: float | Tensor = 0.5, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)
        self.threshold = threshold

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return super().forward(input, self.one_hot(target, input.shape[1]).to(input.dtype))

    def one_hot(self, targets: Tensor, classes: int) -> Tensor:
        """[B] or [B, classes] -> [B, classes] of zeros and ones; all zeros for -1."""
        if targets.ndim == 2:
            return targets
        return (targets[:, None] == torch.arange(classes, device=targets.device)).long()

    def decodes(self, probabilities: Tensor) -> Tensor:
        """Which classes are seen, bool [B, classes]."""
        return probabilities >= torch.as_tensor(self.threshold, device=probabilities.device)


def losses_of_each(loss_func: Callable[[Tensor, Tensor], Tensor], activations: Tensor, targets: Tensor) -> Tensor:
    """float [B]: the loss of every image alone, on the activations' device."""
    each = copy.deepcopy(loss_func)
    if isinstance(each, nn.Module):
        each.to(activations.device)  # weights of classes
    if hasattr(each, "reduction"):
        each.reduction = "none"
        return each(activations, targets).reshape(len(targets), -1).mean(1)
    return torch.stack([each(activations[i : i + 1], targets[i : i + 1]) for i in range(len(targets))])
