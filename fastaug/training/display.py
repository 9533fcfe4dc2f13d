"""What a training shows while it runs."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Mapping
from functools import cache

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fastaug.training.history import WHOLE, metrics_in


@cache
def can_show_a_bar() -> bool:
    """Whether a notebook can; if not, one warning says why, where rich would say it at every step."""
    if importlib.util.find_spec("ipywidgets") is None:
        warnings.warn(
            "Learner: expected ipywidgets, which a bar in a notebook needs, found none. Run: pip install ipywidgets; "
            "or pass progress=False.",
            stacklevel=6,
        )
        return False
    return True


class Display(Progress):
    """A line per epoch; on a terminal and in a notebook also one bar for a whole fit or sweep."""

    def __init__(self, wanted: bool, batches: int) -> None:
        console = Console()
        shown = console.is_terminal or (wanted and console.is_jupyter and can_show_a_bar())
        self.wanted, self.on_terminal = wanted, wanted and shown
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
        super().__init__(*columns, console=console, disable=not self.on_terminal, transient=True)
        self.bar, self.metric = self.add_task("", total=batches), ""

    def batch(self, loss: float, images_per_s: float, done: int) -> None:
        text = f"loss {loss:.4f}{self.metric} · {images_per_s:,.0f} images/s"
        self.update(self.bar, completed=done, description=text)

    def epoch(self, row: Mapping[str, float]) -> None:
        """Print the epoch's figures and keep its first metric beside the bar."""
        metrics = metrics_in(row)
        self.metric = f" · {metrics[0]} {row[metrics[0]]:.4f}" if metrics else ""
        line = "  ".join(f"{name} {value:{'.0f' if name in WHOLE else '.4f'}}" for name, value in row.items())
        if self.on_terminal:
            self.console.print(line, highlight=False)
        elif self.wanted:
            try:
                print(line, flush=True)
            except BrokenPipeError:  # nobody reads any more; what is trained is wanted all the same
                self.wanted = False
