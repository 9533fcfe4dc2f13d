"""How ways of doing the same are compared: what they show, and their time, in turns. The benchmarks compare so too."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK_PX = 8  # means over 8 × 8 pixels blur away how sharply two ways interpolate and leave what they show
SAME_WITHIN_LEVELS = 1.0  # of 255; photos shifted by one pixel differ by 2


def difference_levels(a: Tensor, b: Tensor, std: Tensor | None = None, mask: Tensor | None = None) -> float:
    """How far two batches [B, 3, H, W] differ in what they show: mean over blocks, in levels of 255.

    Means over 8 × 8 pixels leave out how sharply each interpolates. Photos that are one pixel apart differ by about 2.

    Args:
        std: what normalised batches were divided by, [3]; None: both are in 0..1.
        mask: bool [B, H, W]; only blocks that lie inside count.
    """
    if a.shape != b.shape:
        return float("inf")
    difference = (F.avg_pool2d(a.double(), BLOCK_PX) - F.avg_pool2d(b.double(), BLOCK_PX)).abs()
    if std is not None:
        difference = difference * std.to(difference)[:, None, None]
    difference = difference.mean(1)
    if mask is not None:
        difference = difference[F.avg_pool2d(mask[:, None].double(), BLOCK_PX)[:, 0] > 0.999]
    return float(difference.mean() * 255) if torch.isfinite(difference).all() else float("inf")


def take_turns(
    ways: Mapping[str, Callable[[], object]],
    repeats: int,
    min_seconds: float = 0.0,
    before: Mapping[str, Callable[[], object]] | None = None,
) -> dict[str, list[float]]:
    """Seconds per call. One warm-up each, then rounds in which every way has its turn, in a rotating order.

    Args:
        min_seconds: a turn calls its way again until this long has passed, and counts the mean.
        before: what is called before each turn of a way, in place of the one warm-up; not timed.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for name in names if before is None else ():
        ways[name]()
    for turn in range(repeats):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            if before is not None:
                before[name]()
            calls, start = 0, time.perf_counter()
            while calls == 0 or time.perf_counter() - start < min_seconds:
                ways[name]()
                calls += 1
            seconds[name].append((time.perf_counter() - start) / calls)
    return seconds


def images_per_s(ways: Mapping[str, Callable[[], Tensor]], batch: int, repeats: int) -> dict[str, list[float]]:
    """Time several ways of the same work, in turns, after one warm-up each: `repeats` measurements for each way."""
    timed = take_turns({name: partial(synchronised, way) for name, way in ways.items()}, repeats)
    return {name: [batch / seconds for seconds in each] for name, each in timed.items()}


def synchronised(way: Callable[[], Tensor]) -> Tensor:
    """The result, when it is there."""
    out = way()
    if out.is_cuda:
        torch.cuda.synchronize()
    return out


def quartiles(values: Sequence[float]) -> dict[str, float]:
    """And the median."""
    q1, median, q3 = np.percentile(np.asarray(values, np.float64), [25, 50, 75]).tolist()
    return {"median": median, "q1": q1, "q3": q3}
