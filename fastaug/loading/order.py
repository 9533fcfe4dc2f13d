"""Which samples come when: a permutation per epoch, and one shard of it per rank. Pure functions, no state."""

from __future__ import annotations

import numpy as np

from fastaug.rng import sample_uniforms


def epoch_order(n: int, seed: int, epoch: int) -> np.ndarray:
    """A full permutation of range(n), int64 [n]: a pure function of (n, seed, epoch), the same with any numpy."""
    return np.argsort(sample_uniforms(seed, epoch, np.arange(n), "order", 1)[:, 0], kind="stable")


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


def batch_bounds(n: int, batch_size: int, drop_last: bool) -> list[tuple[int, int]]:
    """(start, stop) of each batch of n samples."""
    stop = n - n % batch_size if drop_last else n
    return [(start, min(start + batch_size, stop)) for start in range(0, stop, batch_size)]
