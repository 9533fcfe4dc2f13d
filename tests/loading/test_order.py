import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fastaug.loading.order import batch_bounds, batch_count, copies_of, epoch_order, shard_order, weighted_order


@given(n=st.integers(0, 300), seed=st.integers(-5, 2**40), epoch=st.integers(0, 100))
def test_epoch_order_is_a_permutation_and_repeats(n: int, seed: int, epoch: int) -> None:
    order = epoch_order(n, seed, epoch)
    assert sorted(order.tolist()) == list(range(n))
    np.testing.assert_array_equal(order, epoch_order(n, seed, epoch))


def test_epochs_and_seeds_differ_and_every_place_is_equally_likely() -> None:
    assert not np.array_equal(epoch_order(50, 0, 0), epoch_order(50, 0, 1))
    assert not np.array_equal(epoch_order(50, 0, 0), epoch_order(50, 1, 0))
    first = np.bincount([epoch_order(5, 0, epoch)[0] for epoch in range(2000)], minlength=5)
    assert (abs(first / 400 - 1) < 0.2).all()


@given(n=st.integers(0, 200), world=st.integers(1, 7))
def test_shards_are_disjoint_and_together_complete(n: int, world: int) -> None:
    order = epoch_order(n, 0, 0)
    shards = [shard_order(order, (rank, world), equal=False) for rank in range(world)]
    assert sorted(np.concatenate(shards).tolist()) == list(range(n))
    equal = [shard_order(order, (rank, world), equal=True) for rank in range(world)]
    assert {len(shard) for shard in equal} == {n // world}
    together = np.concatenate(equal)
    assert len(set(together.tolist())) == len(together) == n // world * world


@pytest.mark.parametrize(
    ("n", "drop_last", "expected"),
    [
        (10, False, [(0, 4), (4, 8), (8, 10)]),
        (10, True, [(0, 4), (4, 8)]),
        (8, True, [(0, 4), (4, 8)]),
        (3, True, []),
        (0, False, []),
    ],
)
def test_batches_of_one_rank(n: int, drop_last: bool, expected: list[tuple[int, int]]) -> None:
    assert batch_bounds(n, 4, batch_count(n, 1, 4, equal=True, drop_last=drop_last)) == expected


@given(
    n=st.integers(0, 100), world=st.integers(1, 7), batch_size=st.integers(1, 9), equal=st.booleans(),
    drop_last=st.booleans(),
)  # fmt: skip
def test_every_rank_has_the_same_number_of_batches(
    n: int, world: int, batch_size: int, equal: bool, drop_last: bool
) -> None:
    batches = batch_count(n, world, batch_size, equal, drop_last)
    order = np.arange(n)
    for rank in range(world):
        mine = shard_order(order, (rank, world), equal)
        bounds = batch_bounds(len(mine), batch_size, batches)
        sizes = [stop - start for start, stop in bounds]
        assert len(sizes) == batches
        assert [start for start, _ in bounds] == [0, *(stop for _, stop in bounds)][:batches]
        assert all(0 <= size <= batch_size for size in sizes)
        if drop_last:
            assert set(sizes) <= {batch_size}
        else:
            assert sum(sizes) == len(mine)
            assert len(mine) < batches or all(sizes), "a batch is empty though there are samples enough"
    if world == 1:
        assert 0 not in sizes


def test_the_permutation_of_a_million_takes_little_memory() -> None:
    tracemalloc.start()
    try:
        order = epoch_order(1_000_000, seed=0, epoch=0)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(order) == 1_000_000
    assert peak < 40e6, "bytes; more than 40 per sample"


def test_weights_are_frequencies_and_the_order_is_a_pure_function() -> None:
    weights = np.array([0, 1, 3, 0, 0.5, 5.5, 0])
    totals = np.cumsum(np.tile(weights, 1000))
    order = weighted_order(totals, 5, 2)
    np.testing.assert_array_equal(order, weighted_order(totals, 5, 2))
    assert len(order) == 7000
    assert not np.array_equal(order, weighted_order(totals, 5, 3))
    assert not np.array_equal(order, weighted_order(totals, 6, 2))
    found, expected = np.bincount(order % 7, minlength=7), weights / weights.sum() * 7000
    assert not found[weights == 0].any()
    there = weights > 0
    chi_square = ((found - expected)[there] ** 2 / expected[there]).sum()
    assert chi_square < stats.chi2(there.sum() - 1).ppf(0.999)
    assert (weighted_order(np.cumsum([0, 0, 1e-300, 0]), 0, 0) == 2).all()
    assert (weighted_order(np.cumsum([1e300, 0]), 0, 0) == 0).all()


@given(rows=st.lists(st.integers(0, 9), max_size=50))
def test_copies_are_counted(rows: list[int]) -> None:
    expected = [rows[:i].count(row) for i, row in enumerate(rows)]
    assert copies_of(np.array(rows, np.int64)).tolist() == expected
