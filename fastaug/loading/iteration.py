"""One iteration of a loader: any thread, or a signal handler, may end it, and a forked child has nothing of it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator, Iterator
from inspect import GEN_RUNNING, getgeneratorstate
from typing import Any


class Stop:
    """Whether an iteration is to end; plain attributes, since a signal handler may interrupt whoever holds a lock."""

    def __init__(self) -> None:
        self.asked = False
        self._tell: Callable[[], None] | None = None
        self._process = os.getpid()

    def ask(self) -> None:
        """Once; in a forked child there is nobody to ask."""
        if not self.asked and os.getpid() == self._process:
            self.asked = True
            tell, self._tell = self._tell, None  # or it would keep what the iteration had
            if tell is not None:
                tell()

    def then(self, tell: Callable[[], None]) -> None:
        """Have this called when it is asked for, or now if it was."""
        self._tell = tell
        if self.asked:
            tell()


class Iteration(Iterator[Any]):
    """The batches of a generator, for one thread at a time.

    Args:
        begin: makes the generator, which ends when its Stop was asked, and gives back what it has.
    """

    def __init__(self, begin: Callable[[Stop], Generator[Any, None, None]]) -> None:
        self._stop = Stop()
        self._batches = begin(self._stop)
        self._turn, self._process = threading.RLock(), os.getpid()

    def __next__(self) -> Any:
        if os.getpid() != self._process:
            raise RuntimeError(
                f"ImageLoader: expected process {self._process} to go on with the iteration that it began, got its "
                "forked child, which has none of the threads. Iterate over the loader anew there."
            )
        with self._turn:
            return next(self._batches)

    def close(self) -> None:
        """End it, wherever it is, and wait for its threads.

        Who is about to get a batch gets it, or the end. A signal handler that interrupted that thread cannot wait.
        """
        self._stop.ask()
        if os.getpid() == self._process:
            with self._turn:
                if getgeneratorstate(self._batches) != GEN_RUNNING:
                    self._batches.close()
