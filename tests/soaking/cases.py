"""A case of the soak, and which scenarios there are."""

from __future__ import annotations

import contextlib
import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fastaug as fa
from tests.soaking.datasets import DataSet, draw_data
from tests.soaking.runs import (
    Image,
    Settings,
    draw_machinery,
    note,
)


@dataclass
class Case:
    """One scenario of a run.

    Attributes:
        folder: for its files; empty at the beginning.
        counts: what was done.
    """

    seed: int
    number: int
    folder: Path
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.rng = random.Random(f"{self.seed} {self.number}")

    def data(self, **options: Any) -> DataSet:
        data = draw_data(self.rng, self.folder / "data", **options)
        self.counts["bad files"] += len(data.bad)
        return data

    def images(self, loader: fa.ImageLoader, most: int | None = None) -> list[list[Image]]:
        """The next batches of a loader."""
        return self.noted(itertools.islice(loader, most))

    def noted(self, batches: Iterable[Any]) -> list[list[Image]]:
        return [self.counted(note(batch)) for batch in batches]

    def counted(self, batch: list[Image]) -> list[Image]:
        """The same one."""
        self.counts["batches"] += 1
        self.counts["images"] += len(batch)
        return batch


Scenario = Callable[[Case], None]
SCENARIOS: dict[str, Scenario] = {}
WEIGHTS: dict[str, int] = {}  # how often each is drawn


def scenario(often: int) -> Callable[[Scenario], Scenario]:
    def added(function: Scenario) -> Scenario:
        name = function.__name__
        SCENARIOS[name], WEIGHTS[name] = function, often
        return function

    return added


def kind_of(seed: int, number: int) -> str:
    """Which scenario is the one of this number."""
    drawn = random.Random(f"{seed} {number} kind").choices(list(SCENARIOS), list(WEIGHTS.values()))
    return drawn[0]


@contextlib.contextmanager
def expected(error: type[Exception], part: str) -> Iterator[None]:
    """Within, this is raised, with this part in its one line."""
    try:
        yield
    except error as raised:
        text = str(raised)
    else:
        raise AssertionError(f"expected {error.__name__} with {part!r}, got nothing")
    assert part in text, f"expected {part!r} in {text!r}"
    assert text.isprintable(), repr(text)


def draw_world(rng: random.Random) -> int:
    return rng.choice([1, 1, 2, 3, rng.randint(1, 8)])


def loader_of(case: Case, data: DataSet, settings: Settings, shard: tuple[int, int] = (0, 1)) -> fa.ImageLoader:
    """With other machinery each time."""
    return fa.ImageLoader(data.samples, **{**settings, **draw_machinery(case.rng), "shard": shard})


def draw_layout(rng: random.Random) -> str:
    """Of images with a class each."""
    return rng.choice(["folder", "list", "archives"])
