"""What happened in training."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from fastaug.text import html_table

WHOLE = ("epoch", "images_per_s", "seconds")  # of an epoch's figures, those that are shown without decimals
_MOST_ROWS = 20  # of a table in a notebook; the last ones


@dataclass(repr=False)
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

    def __repr__(self) -> str:
        last = "; the last: " + ", ".join(map(" ".join, _texts(self.epochs[-1]).items())) if self.epochs else ""
        return f"History({len(self.epochs):,} epochs, {len(self.losses):,} batches{last})"

    def _repr_html_(self) -> str:
        """For notebooks: a row for each epoch."""
        rows = [list(_texts(row).values()) for row in self.epochs[-_MOST_ROWS:]]
        heading = f"{len(self.epochs):,} epochs, {len(self.losses):,} batches"
        return html_table(heading, rows, list(self.epochs[-1]) if self.epochs else ())


def metrics_in(row: Iterable[str]) -> list[str]:
    """Of an epoch's figures the names of the metrics."""
    return [name for name in row if name not in (*WHOLE, "train_loss", "valid_loss")]


def _texts(row: dict[str, float]) -> dict[str, str]:
    return {name: f"{value:,.0f}" if name in WHOLE else f"{value:.4f}" for name, value in row.items()}
