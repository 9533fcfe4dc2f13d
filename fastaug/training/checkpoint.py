"""What a training is at one moment, beside its model: random states and files; and which epoch was the best."""

from __future__ import annotations

import math
import os
import random
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from fastaug.training.learner import Learner


def random_state(loader: object = None) -> dict[str, Any]:
    """Every generator's state: torch's on all devices, Python's, NumPy's global one, and the loader's own if any."""
    name, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002 (somebody's augmentation may draw from it)
    own = getattr(loader, "generator", None)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
        "loader": own.get_state() if isinstance(own, torch.Generator) else None,
    }


def set_random_state(state: dict[str, Any], loader: object = None) -> None:
    """Go back to where `random_state` was called."""
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"]:
        torch.cuda.set_rng_state_all([one.cpu() for one in state["cuda"]][: torch.cuda.device_count()])
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), *rest))  # noqa: NPY002
    if state["loader"] is not None:
        loader.generator.set_state(state["loader"].cpu())  # type: ignore[attr-defined]


def write_whole(content: Any, path: str | os.PathLike[str]) -> None:
    """torch.save, whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".unfinished")
    torch.save(content, unfinished)
    unfinished.replace(path)


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


__all__ = ["KeepBest", "random_state", "set_random_state", "write_whole"]
