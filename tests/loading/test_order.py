import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastaug.loading.order import batch_bounds, epoch_order, shard_order


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
def test_batch_bounds(n: int, drop_last: bool, expected: list[tuple[int, int]]) -> None:
    assert batch_bounds(n, 4, drop_last) == expected
