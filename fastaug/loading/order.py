"""Which samples come when: an order per epoch, and one shard of it per rank. Pure functions, no state."""

from __future__ import annotations

import numpy as np

from fastaug.augment.rng import sample_uniforms

_BLOCK = 1 << 16  # samples whose random keys are made at once: what that takes in between does not grow with n


def epoch_order(n: int, seed: int, epoch: int) -> np.ndarray:
    """A full permutation of range(n), int64 [n]: a pure function of (n, seed, epoch), the same with any numpy."""
    keys = np.empty(n)
    for start in range(0, n, _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, n))
        keys[rows] = sample_uniforms(seed, epoch, rows, "order", 1)[:, 0]
    return np.argsort(keys, kind="stable")


def weighted_order(totals: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """As many samples as there are, each drawn with replacement: a pure function of (totals, seed, epoch).

    Args:
        totals: float64 [n], the running sum of the samples' weights.
    Returns:
        int64 [n]; a sample of weight 0 is not among them.
    """
    n, most = len(totals), totals[-1]
    rows = np.empty(n, np.int64)
    for start in range(0, n, _BLOCK):
        places = np.arange(start, min(start + _BLOCK, n))
        high, low = sample_uniforms(seed, epoch, places, "weighted order", 2).T
        rows[places] = np.searchsorted(totals, (high + low * 2.0**-32) * most, side="right")
    return rows.clip(max=np.searchsorted(totals, most))  # of rounding: the last one that has a weight


def copies_of(order: np.ndarray) -> np.ndarray:
    """How often each sample of an order has come before in it, int64 [n]."""
    by_row = np.argsort(order, kind="stable")
    rows = order[by_row]
    first = np.searchsorted(rows, rows)  # where the samples of this row begin
    copies = np.empty(len(order), np.int64)
    copies[by_row] = np.arange(len(order)) - first
    return copies


def shard_order(order: np.ndarray, shard: tuple[int, int], equal: bool) -> np.ndarray:
    """Every world-th sample, starting with the rank-th.

    Args:
        order: int64 [n].
        shard: (rank, world).
        equal: give every rank n // world samples and leave the last n % world of the order out (of this epoch; another
            permutation leaves others out). Otherwise every sample is in exactly one shard, and shards differ by one.
    """
    rank, world = shard
    if equal:
        order = order[: len(order) // world * world]
    return order[rank::world]


def batch_count(n: int, world: int, batch_size: int, equal: bool, drop_last: bool) -> int:
    """Batches per epoch of n samples: the same number for every rank, whose samples `shard_order` gives."""
    if drop_last:
        return n // world // batch_size
    most = n // world if equal else -(-n // world)
    return -(-most // batch_size)


def batch_bounds(n: int, batch_size: int, batches: int) -> list[tuple[int, int]]:
    """(start, stop) of each of `batches` batches of n samples; the last may be shorter.

    A shard may be one sample shorter than another and yet have as many batches: then the batch before the last leaves
    one for the last. Only where there are fewer samples than batches some are empty.
    """
    bounds, start = [], 0
    for k in range(batches):
        later = batches - 1 - k
        stop = min((k + 1) * batch_size, max(n - later, min(k + 1, n)))
        bounds.append((start, stop))
        start = stop
    return bounds
