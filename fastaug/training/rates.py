"""Learning rates, one per parameter group, and how they rise and fall in a cycle."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import OneCycleLR


def slice_rates(rates: float | slice, n: int) -> list[float]:
    """One learning rate for each of `n` parameter groups, first layers first.

    Args:
        rates: a number: the same for every group. `slice(low, high)`: from low to high by a constant factor,
            (high / low) ** (1 / (n - 1)). `slice(high)`: high / 10 for every group but the last, high for the last.
        n: number of groups. Of one group, the rate is the highest.
    Returns:
        n rates.
    Raises:
        ValueError: n < 1, rates that are not positive and finite, a slice with a step or without an end.
        TypeError: neither a number nor a slice.
    Source: fastai 2.8, `Optimizer.set_hyper` and `even_mults`.
    """
    if n < 1:
        raise ValueError(f"slice_rates: expected at least one parameter group, got {n}.")
    if not isinstance(rates, slice):
        return [_positive(rates)] * n
    if rates.step is not None or rates.stop is None:
        raise ValueError(f"slice_rates: expected slice(low, high) or slice(high), got {rates}.")
    high = _positive(rates.stop)
    if rates.start is None:
        return [high / 10] * (n - 1) + [high]
    low = _positive(rates.start)
    return [low * (high / low) ** (i / (n - 1)) for i in range(n - 1)] + [high]


def one_cycle(
    opt: Optimizer,
    rates: Sequence[float],
    batches: int,
    pct_start: float = 0.25,
    div: float = 25,
    div_final: float = 1e5,
) -> OneCycleLR:
    """The schedule of `fit_one_cycle`; a rate for each of the optimizer's groups."""
    total = max(batches, 2)
    return OneCycleLR(
        opt,
        max_lr=list(rates),
        total_steps=total,
        pct_start=max(pct_start, (1 + 1e-6) / total),  # torch divides by zero where the rise is exactly one batch
        div_factor=div,
        final_div_factor=div_final / div,  # torch counts from the first rate
        cycle_momentum=bool(momentum_of(opt.defaults)),
    )


def momentum_of(group: Mapping[str, Any]) -> float:
    """The momentum in an optimizer's settings; 0 if it has none."""
    return float(group["betas"][0] if "betas" in group else group.get("momentum", 0.0))


def _positive(rate: object) -> float:
    if isinstance(rate, bool) or not isinstance(rate, Real):
        raise TypeError(f"slice_rates: expected a number or a slice of numbers, got {rate!r}.")
    if not 0 < float(rate) < math.inf:
        raise ValueError(f"slice_rates: expected a positive, finite learning rate, got {rate!r}.")
    return float(rate)
