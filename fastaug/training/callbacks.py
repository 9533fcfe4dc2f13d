"""What is called after each epoch: which epoch was the best, and when to end."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torchmetrics import Metric
from torchmetrics.metric import CompositionalMetric

from fastaug.training.learner import Learner


@dataclass
class KeepBest:
    """For `Learner(after_epoch=[...])`: saves the best epoch, and ends a fit that does not get better any more.

    Args:
        path: `learn.save(path)` after each epoch that is better than all before it in `learn.history`, so over all
            calls of fit and both phases of `fine_tune`; None: save nothing.
        monitor: a column of `learn.history.epochs`.
        patience: end the fit after this many epochs of it in a row that were not better; None: never.
        mode: "min" or "max", the better values. None: "min" of losses, of metrics what torchmetrics says of them
            (higher_is_better), of what is computed from metrics, such as 100 * accuracy, what follows.
    Raises:
        ValueError: no such column; one of which it is not known whether more is better; an unknown mode.
    """

    path: str | os.PathLike[str] | None = None
    monitor: str = "valid_loss"
    patience: int | None = None
    mode: Literal["min", "max"] | None = None

    def __post_init__(self) -> None:
        if self.mode not in ("min", "max", None):
            raise ValueError(f"KeepBest: expected mode 'min', 'max' or None, got {self.mode!r}.")

    def __call__(self, learn: Learner) -> bool:
        rows = learn.history.epochs
        if self.monitor not in rows[-1]:
            raise ValueError(f"KeepBest: expected monitor to be one of {', '.join(rows[-1])}, got {self.monitor!r}.")
        sign = -1 if self._grows(learn) else 1
        values = [sign * row.get(self.monitor, math.nan) for row in rows]
        values = [math.inf if math.isnan(value) else value for value in values]
        since = len(values) - 1 - values.index(min(values))
        if self.path is not None and not since:
            learn.save(self.path)
        return self.patience is not None and min(since, learn.done) >= self.patience

    def _grows(self, learn: Learner) -> bool:
        if self.mode is not None:
            return self.mode == "max"
        if self.monitor in ("train_loss", "valid_loss"):
            return False
        found = higher_is_better(learn.metric_of(self.monitor))
        if found is None:
            raise ValueError(
                f"KeepBest: expected a monitor of which it is known whether more is better, got {self.monitor!r}. "
                "Give mode='min' or mode='max'."
            )
        return found


def higher_is_better(metric: Any) -> bool | None:
    """Whether more of a metric of torchmetrics is better, of one computed from others too; None: that is not known."""
    if not isinstance(metric, CompositionalMetric):
        return getattr(metric, "higher_is_better", None)
    try:
        worse, better = (float(_example(metric, good)) for good in (False, True))
    except (LookupError, RuntimeError, TypeError, ValueError):
        return None
    return None if worse == better or math.isnan(worse + better) else better > worse


def _example(metric: Any, good: bool) -> Any:
    """A value of the metric, computed from better or from worse ones of those that it is made of."""
    if isinstance(metric, CompositionalMetric):
        parts = [_example(part, good) for part in (metric.metric_a, metric.metric_b) if part is not None]
        return metric.op(*parts)
    if not isinstance(metric, Metric):
        return metric  # a number
    if metric.higher_is_better is None:
        raise ValueError("not known")
    return torch.tensor(0.75 if good == metric.higher_is_better else 0.5)
