"""The learning-rate finder: a short training at rates that grow, undone afterwards, and four readings of its losses."""

from __future__ import annotations

import math
import time
import warnings
from dataclasses import dataclass

import numpy as np

from fastaug.machine import world
from fastaug.text import html_table
from fastaug.training import plots, ranks
from fastaug.training.display import Display
from fastaug.training.engine import Engine

SMOOTHING = 0.98  # weight of the past in the moving average of the losses
DIVERGED_AT = 4.0  # the sweep ends where the smoothed loss is this many times the lowest
MIN_POINTS = 6  # points that must be left when the ends of the curve are cut off


@dataclass(frozen=True, repr=False)
class FoundRates:
    """The curve of a sweep, and the rates that it suggests.

    Attributes:
        lrs: the rates tried, growing.
        losses: the loss at each, smoothed over the batches before (.98 of the past, corrected for the start).
        num_it: batches that the sweep was to have.

    The first tenth of num_it and the last five points are not looked at, unless fewer than MIN_POINTS would be left:
    then all are. (fastai fails there.) A suggestion that is the first point looked at, or of fewer points than that,
    comes with a warning.
    """

    lrs: list[float]
    losses: list[float]
    num_it: int = 100

    def _looked_at(self) -> tuple[np.ndarray, np.ndarray]:
        lrs, losses = np.array(self.lrs), np.array(self.losses)
        inner = slice(self.num_it // 10, max(len(lrs) - 5, 0))
        return (lrs[inner], losses[inner]) if len(lrs[inner]) >= MIN_POINTS else (lrs, losses)

    @property
    def minimum(self) -> float:
        """A tenth of the rate with the lowest loss."""
        return self._suggested("minimum")

    @property
    def steep(self) -> float:
        """Where the loss falls fastest per unit of log(rate)."""
        return self._suggested("steep")

    @property
    def valley(self) -> float:
        """About the middle of the longest falling run: a third of it, and half a third (each cut to whole points)."""
        return self._suggested("valley")

    @property
    def slide(self) -> float:
        """The last point of clear decrease: where the slope stops to differ from the one 15 points further on."""
        return self._suggested("slide")

    def _suggested(self, name: str) -> float:
        lrs, losses = self._looked_at()
        point = SUGGESTIONS[name](lrs, losses)
        if not point or len(lrs) < MIN_POINTS:
            warnings.warn(
                f"lr_find: expected a curve of {MIN_POINTS} points or more whose loss falls and rises, got "
                f"{len(lrs)}, of which {name} is number {point}: it says little. "
                "Look at plot(), and give more batches (num_it), or other rates (start_lr, end_lr).",
                stacklevel=3,
            )
        return float(lrs[point]) / (10 if name == "minimum" else 1)

    def plot(self) -> plots.Figure:
        """The curve with the four suggestions."""
        return plots.plot_rates(self.lrs, self.losses, self._suggestions())

    def _suggestions(self) -> dict[str, float]:
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # who looks at the curve sees it
            return {name: getattr(self, name) for name in SUGGESTIONS}

    def __repr__(self) -> str:
        rates = ", ".join(f"{name}={rate:.1e}" for name, rate in self._suggestions().items())
        return f"FoundRates({rates}, points={len(self.lrs)})"

    def _repr_html_(self) -> str:
        """For notebooks."""
        rows = [(name, f"{rate:.1e}") for name, rate in self._suggestions().items()]
        return html_table(f"{len(self.lrs)} rates tried", rows, ("suggested", "rate"))


def _minimum(lrs: np.ndarray, losses: np.ndarray) -> int:
    return int(losses.argmin())


def _steep(lrs: np.ndarray, losses: np.ndarray) -> int:
    return int(np.argmin(np.diff(losses) / np.diff(np.log(lrs)))) if len(lrs) > 1 else 0


def _valley(lrs: np.ndarray, losses: np.ndarray) -> int:
    run = np.ones(len(losses), int)  # points of the longest falling sequence that ends here
    for i in range(1, len(losses)):
        run[i] += max((run[j] for j in range(i) if losses[i] < losses[j]), default=0)
    end = int(run.argmax())
    third = run[end] / 3
    return max(int(end - run[end] + int(third) + int(third / 2)), 0)


def _slide(lrs: np.ndarray, losses: np.ndarray) -> int:
    slope = np.gradient(losses) if len(losses) > 1 else np.zeros(1)
    apart = min(15, len(lrs) - 1)
    right, found = len(lrs) - 1, len(lrs) - 1 - apart
    while right - apart >= 0 and abs(slope[right] - slope[right - apart]) > 0.005:
        found = right - apart
        right -= 1
    return found


SUGGESTIONS = {"minimum": _minimum, "steep": _steep, "valley": _valley, "slide": _slide}  # points of the curve


def _limit(losses: list[float]) -> float:
    """Where a sweep has diverged: four times the lowest loss; as far above a negative one, or as it has fallen."""
    lowest = min(losses)
    return DIVERGED_AT * lowest if lowest > 0 else lowest + (DIVERGED_AT - 1) * max(-lowest, losses[0] - lowest)


def lr_find(
    learn: Engine, start_lr: float = 1e-7, end_lr: float = 10, num_it: int = 100, stop_div: bool = True
) -> FoundRates:
    """Try rates from start_lr to end_lr, one mini-batch each, and say which are good: `.valley`, `.plot()`, …

    The rate grows by a constant factor; the sweep ends after num_it batches, or where the smoothed loss is four times
    its lowest (unless stop_div is False; of a negative loss: three times its size above it), or not finite. Afterwards
    weights, buffers, optimizer, random states and the loader are what they were before, whether or not something
    failed.

    Raises:
        ValueError: bad rates. FloatingPointError: not even the first loss is finite.
    Differs from: fastai, which leaves random states and the loader's epoch changed, and fails on few points.
    Source: fastai 2.8, `LRFinder` and its suggestions; Smith, "Cyclical learning rates", 2017.
    """
    if not 0 < start_lr < end_lr < math.inf or num_it < 2:
        raise ValueError(
            f"lr_find: expected 0 < start_lr < end_lr and num_it of at least 2, got {start_lr}, {end_lr} and {num_it}."
        )
    lrs = [start_lr * (end_lr / start_lr) ** (i / num_it) for i in range(num_it)]
    losses: list[float] = []
    average, value = 0.0, math.nan
    seen, start = 0, time.perf_counter()
    with learn.restored(), Display(learn.progress, num_it) as display:
        network = learn.network()
        learn.train_mode()
        for rate, (x, y, _) in zip(lrs, learn.trainable(learn.training_batches()), strict=False):
            learn.set_rates([rate] * len(learn.groups))
            loss, weight = learn.forward(network, x, y)
            value = float(ranks.total(loss.detach() * ranks.share(weight, learn.device, learn.summed))) / world()
            if not math.isfinite(value):
                break
            average = SMOOTHING * average + (1 - SMOOTHING) * value
            losses.append(average / (1 - SMOOTHING ** (len(losses) + 1)))
            seen += len(y)
            display.batch(losses[-1], seen / (time.perf_counter() - start), len(losses))
            if stop_div and losses[-1] > _limit(losses):
                break
            learn.backward(loss, weight)
            learn.step(1)
    if not losses:
        raise FloatingPointError(
            f"lr_find: expected a finite loss, got {value} in the first batch, at learning rate {start_lr:.3g}. "
            "Look for images that are not finite, or load() what you saved: the model may be spoilt."
        )
    return FoundRates(lrs[: len(losses)], losses, num_it)
