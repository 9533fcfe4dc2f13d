"""What is called after each epoch: which epoch was the best, and when to end."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

from fastaug.training.learner import Learner


@dataclass
class KeepBest:
    """For `Learner(after_epoch=[...])`: saves the best epoch of a fit, and ends the fit when there is none any more.

    Args:
        path: `learn.save(path)` after each epoch that is better than all before it in this fit; None: save nothing.
        monitor: a column of `learn.history.epochs`. Of a metric that says higher_is_better the highest is the best.
        patience: end the fit after this many epochs in a row that were not better; None: never.
    Raises:
        ValueError: no such column.
    """

    path: str | os.PathLike[str] | None = None
    monitor: str = "valid_loss"
    patience: int | None = None

    def __call__(self, learn: Learner) -> bool:
        rows = learn.history.epochs[-learn.done :]
        if self.monitor not in rows[-1]:
            raise ValueError(f"KeepBest: expected monitor to be one of {', '.join(rows[-1])}, got {self.monitor!r}.")
        sign = -1 if getattr(learn.metrics.get(self.monitor), "higher_is_better", False) else 1
        values = [math.inf if math.isnan(row[self.monitor]) else sign * row[self.monitor] for row in rows]
        since = len(values) - 1 - values.index(min(values))
        if self.path is not None and not since:
            learn.save(self.path)
        return self.patience is not None and since >= self.patience
