"""A bar on the terminal, if there is one: how many are done, how fast, and how long it still takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


class _Speed(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:,.0f} {self._unit}/s")


@contextmanager
def progress_bar(total: int, unit: str, speed: bool = False) -> Iterator[Callable[[int], None]]:
    """Within, a bar on standard error, where that is a terminal; one gets what is told how many more are done."""
    console = Console(stderr=True)
    pace = [_Speed(unit)] if speed else []
    columns = BarColumn(), MofNCompleteColumn(), TextColumn(unit), *pace, TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=total)
        yield lambda count: progress.advance(task, count)
