"""What was done: of one case, and of all of them as a table; and whether memory grows."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WARM_UP = 20  # cases, after which memory is looked at
MOST_GROWTH_MB = 48  # of the memory of a process, whatever number of cases it does after the first ones


@dataclass
class Done:
    """Of one case.

    Attributes:
        kind: its scenario; None: it was not asked for.
        counts: what was done.
        wrong: as text; None: nothing.
        resident_mb: what the process has in memory now.
    """

    kind: str | None
    counts: Counter[str]
    wrong: str | None
    resident_mb: float


def growth_mb(resident: Sequence[float]) -> float:
    """By a line through what a process had after each case, without those in which it was warming up."""
    later = resident[WARM_UP:]
    if len(later) < WARM_UP:
        return 0.0
    return statistics.linear_regression(range(len(later)), later).slope * len(later)


def table(counts: Mapping[str, Counter[str]]) -> str:
    """A row for each scenario and one for all, a column for each thing that was counted."""
    total = sum(counts.values(), Counter[str]())
    names = ["cases", *sorted(name for name in total if name != "cases")]
    rows = [["", *names]]
    for kind, of in [*sorted(counts.items()), ("all", total)]:
        rows.append([kind, *(f"{of[name]:,}" for name in names)])
    wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, wide, strict=True)) for row in rows)
