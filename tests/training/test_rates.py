"""Learning rates per parameter group."""

from __future__ import annotations

from typing import Any

import pytest

from fastaug.training.rates import slice_rates


@pytest.mark.parametrize(
    ("rates", "n", "expected"),
    [
        (3e-3, 3, [3e-3, 3e-3, 3e-3]),
        (slice(1e-6, 1e-4), 3, [1e-6, 1e-5, 1e-4]),
        (slice(1e-6, 1e-3), 4, [1e-6, 1e-5, 1e-4, 1e-3]),
        (slice(1e-2), 3, [1e-3, 1e-3, 1e-2]),
        (slice(1e-6, 1e-4), 1, [1e-4]),
        (slice(1e-4), 1, [1e-4]),
    ],
)
def test_slice_rates(rates: float | slice, n: int, expected: list[float]) -> None:
    assert slice_rates(rates, n) == pytest.approx(expected, rel=1e-12)
    assert slice_rates(rates, n) != pytest.approx([rate * 1.001 for rate in expected], rel=1e-12)


def test_last_rate_is_exact() -> None:
    assert slice_rates(slice(1e-6, 3e-4), 7)[-1] == 3e-4


@pytest.mark.parametrize(
    ("rates", "n", "error"),
    [
        (1e-3, 0, ValueError),
        (0.0, 2, ValueError),
        (-1e-3, 2, ValueError),
        (float("nan"), 2, ValueError),
        (slice(0.0, 1e-3), 2, ValueError),
        (slice(1e-3, float("inf")), 2, ValueError),
        (slice(1e-3, None), 2, ValueError),
        (slice(1e-3, 1e-2, 2), 2, ValueError),
        ([1e-3, 1e-2], 2, TypeError),
        (True, 2, TypeError),
        ("1e-3", 2, TypeError),
    ],
)
def test_errors(rates: Any, n: int, error: type[Exception]) -> None:
    with pytest.raises(error, match="slice_rates: expected"):
        slice_rates(rates, n)
