"""Tiny models and loaders for the tests of training."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


def tiny(dropout: float = 0.0) -> nn.Sequential:
    """Batch-norm, dropout and a linear head."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(dropout),
        nn.Linear(16, 3),
    )  # fmt: skip


class Batches:
    """A loader that shuffles as a pure function of the epoch, and knows its place, as an ImageLoader does."""

    def __init__(self, number: int = 6, batch_size: int = 4) -> None:
        g = torch.Generator().manual_seed(1)
        self.y = torch.randint(0, 3, (number * batch_size,), generator=g)
        self.x = torch.rand(len(self.y), 3, 8, 8, generator=g) + nn.functional.one_hot(self.y, 3)[..., None, None]
        self.number, self.batch_size = number, batch_size
        self.epoch, self.delivered, self.resuming = 0, 0, False

    def __len__(self) -> int:
        return self.number

    def set_epoch(self, epoch: int) -> None:
        if not self.resuming or epoch != self.epoch:
            self.epoch, self.delivered, self.resuming = epoch, 0, False

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "delivered": self.delivered}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self.delivered, self.resuming = state["epoch"], state["delivered"], True

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.resuming = False
        order = torch.randperm(len(self.y), generator=torch.Generator().manual_seed(self.epoch))
        for rows in order.split(self.batch_size)[self.delivered :]:
            self.delivered += 1
            yield self.x[rows], self.y[rows]
        self.epoch, self.delivered = self.epoch + 1, 0


def snapshot(learn: Any) -> dict[str, Any]:
    """Everything that `differences` compares."""
    return copy.deepcopy(
        {
            **{f"model {name}": value for name, value in learn.model.state_dict().items()},
            **{f"buffer {name}": value for name, value in learn.model.named_buffers()},
            **{f"trains {name}": value.requires_grad for name, value in learn.model.named_parameters()},
            **{f"mode {name}": module.training for name, module in learn.model.named_modules()},
            "optimizer": learn.opt.state_dict(),
            "history": (learn.history.losses, learn.history.lrs, learn.history.moms, learn.epoch),
            "place": learn.train_loader.state_dict() if hasattr(learn.train_loader, "state_dict") else None,
        }
    )


def differences(a: Any, b: Any, where: str = "") -> list[str]:
    """Where two nested structures differ, by a bit or more."""
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return [found for key in a for found in differences(a[key], b[key], f"{where}/{key}")]
    if isinstance(a, list | tuple) and type(a) is type(b) and len(a) == len(b):
        return [found for i in range(len(a)) for found in differences(a[i], b[i], f"{where}/{i}")]
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return [] if a.dtype == b.dtype and torch.equal(a, b) else [where]
    return [] if type(a) is type(b) and a == b else [where]
