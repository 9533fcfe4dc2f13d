"""A process that goes wrong in every way, for who looks after processes."""

from __future__ import annotations

import os
import time
from collections import Counter
from multiprocessing.connection import Connection
from typing import Any

from tests.soaking.counts import Done


def rehearse(pipe: Connection, *arguments: Any) -> None:
    """It hangs at case 1, ends at case 2, finds case 3 wrong, and the others right."""
    pipe.send("ready")
    while (number := pipe.recv()) is not None:
        if number == 1:
            time.sleep(600)
        if number == 2:
            os._exit(3)
        pipe.send(Done("straight", Counter(images=number), "it is wrong" if number == 3 else None, 100.0))
