"""What happened in training."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class History:
    """What happened in training, over all calls of fit.

    epochs: per epoch: epoch, train_loss, images_per_s, valid_loss and the metrics, seconds.
    losses, lrs, moms: per batch: the loss, the learning rate of every parameter group (the head's last), the momentum.
    ends: per epoch: how many batches there were when it ended.
    """

    epochs: list[dict[str, float]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    lrs: list[tuple[float, ...]] = field(default_factory=list)
    moms: list[float] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
