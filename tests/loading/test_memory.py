"""Memory that is used again: never by two at a time, and only when nobody has it any more."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastaug import memory as module
from fastaug.memory import Memory


def address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


@given(st.lists(st.tuples(st.integers(1, 400_000), st.integers(0, 9)), max_size=60))
@settings(deadline=None)
def test_no_two_that_live_share_any(steps: list[tuple[int, int]]) -> None:
    """Blocks of any size are taken, and dropped in any order."""
    memory, living = Memory(), dict[int, np.ndarray]()
    for number, (size, dropped) in enumerate(steps):
        array = memory.take((size,))
        array[:] = number % 251
        living[number] = array
        places = sorted((address(a), a.size) for a in living.values())
        assert all(a + n <= b for (a, n), (b, _) in pairwise(places))
        assert all((a == n % 251).all() for n, a in living.items())
        if living and dropped < 7:
            del living[sorted(living)[dropped % len(living)]]
        del array


HOLDERS: dict[str, Callable[[np.ndarray], Any]] = {
    "the array": lambda a: a,
    "a slice": lambda a: a[3:5, 1:],
    "a view of other items": lambda a: a.view("V3")[..., 0].T,
    "a tensor": torch.from_numpy,
    "a part of a tensor": lambda a: torch.from_numpy(a)[1:, ::2].transpose(0, 1),
    "an array of a tensor": lambda a: torch.from_numpy(a).numpy()[1:],
    "a memoryview": lambda a: memoryview(a)[1:],
    "DLPack": lambda a: torch.from_dlpack(a),
    "a storage": lambda a: torch.from_numpy(a).untyped_storage(),
    "a circle": lambda a: _circle(a),
}


def _circle(array: np.ndarray) -> list[Any]:
    circle: list[Any] = [array]
    circle.append(circle)
    return circle


@pytest.mark.parametrize("kind", HOLDERS)
def test_a_block_comes_back_with_the_last_who_looks_at_it(kind: str) -> None:
    memory, shape = Memory(), (40, 50, 3)
    array = memory.take(shape)
    place = address(array)
    held = HOLDERS[kind](array)
    del array
    gc.collect()
    assert address(memory.take(shape)) != place, "somebody still looks at it"
    del held
    gc.collect()
    taken = [memory.take(shape) for _ in range(3)]
    assert place in [address(array) for array in taken]


def test_what_was_lent_outlives_the_memory() -> None:
    memory = Memory()
    array = memory.take((100, 100, 3))
    array[:] = 7
    gone = weakref.ref(memory)
    del memory
    gc.collect()
    assert gone() is None
    other = [np.full(200_000, 9, np.uint8) for _ in range(50)]
    assert (array == 7).all()
    assert len(other) == 50


def test_memory_is_used_again_for_another_size_but_not_for_a_far_smaller_one() -> None:
    memory = Memory()
    place = address(memory.take((1_000_000,)))
    assert address(memory.take((900_000,))) == place
    small = memory.take((1_000,))
    assert address(small) != place


def test_what_lies_ready_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a number, or by what is in use."""
    monkeypatch.setattr(module, "_KEPT_BYTES", 1 << 20)
    memory = Memory()
    several = [memory.take((300_000,)) for _ in range(20)]
    in_use = sum(array.nbytes for array in several)
    del several[:9]
    memory.take((5,))
    assert memory._free_bytes <= in_use
    several.clear()
    memory.take((5,))
    assert 0 <= memory._free_bytes <= (1 << 20)
    assert memory._free_bytes == sum(block.size for block in memory._free)
    last = memory.take((5,))
    assert memory._used_bytes == 1 << 16
    assert [block.size for block in memory._free] == sorted(block.size for block in memory._free)
    del last


def test_threads_and_the_garbage_collector_at_any_moment() -> None:
    """Each thread writes its own number and finds it again, while blocks wander between threads and circles die."""
    memory, wrong, handed = Memory(), list[str](), list[Any]()
    threshold = gc.get_threshold()

    def work(number: int) -> None:
        random = np.random.default_rng(number)
        mine: list[np.ndarray] = []
        for step in range(400):
            array = memory.take((int(random.integers(1, 200_000)),))
            array[:] = value = (number * 50 + step) % 256
            mine.append(array)
            if step % 7 == 0:
                handed.append(_circle(array))  # dies in whichever thread the collector runs
            if step % 11 == 0 and handed:
                handed.pop()
            chosen = mine[int(random.integers(len(mine)))]
            if not (chosen == chosen[0]).all() or not (array == value).all():
                wrong.append(f"thread {number}, step {step}")
            while len(mine) > 6:
                mine.pop(int(random.integers(len(mine))))
            del array, chosen

    gc.set_threshold(5)  # in the middle of `take` too
    try:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        gc.set_threshold(*threshold)
    handed.clear()
    gc.collect()
    assert wrong == []
    memory.take((1,))
    assert memory._used_bytes == 1 << 16, "everything came back"
