"""Learning rates, one per parameter group."""

from __future__ import annotations

import math
from numbers import Real


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


def _positive(rate: object) -> float:
    if isinstance(rate, bool) or not isinstance(rate, Real):
        raise TypeError(f"slice_rates: expected a number or a slice of numbers, got {rate!r}.")
    if not 0 < float(rate) < math.inf:
        raise ValueError(f"slice_rates: expected a positive, finite learning rate, got {rate!r}.")
    return float(rate)
