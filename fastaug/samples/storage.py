"""Storage that stumbles: what is not a file's fault, and what is tried again."""

from __future__ import annotations

import errno
import math
import random
import threading
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

WAITS_S = (0.1, 0.4, 1.6)  # between the tries where the storage stumbles; by chance up to half longer
Result = TypeVar("Result")
# What is the storage's, the network's or the machine's, as far as the system knows it; everything else, such as ENOENT
# and EACCES, is the file's.
_NOT_THE_FILES = {
    number
    for name in (
        *("EIO", "ESTALE", "EINTR", "EAGAIN", "EWOULDBLOCK", "EBUSY", "EMFILE", "ENFILE", "ENOMEM", "ENOBUFS", "ETIME"),
        *("ETIMEDOUT", "ENETDOWN", "ENETUNREACH", "ENETRESET", "ECONNRESET", "ECONNABORTED", "ECONNREFUSED"),
        *("ENOTCONN", "ESHUTDOWN", "EHOSTDOWN", "EHOSTUNREACH", "ENOLINK", "EREMOTEIO", "ECOMM", "EPROTO", "EPIPE"),
    )
    if (number := getattr(errno, name, None)) is not None
}
_chance = random.SystemRandom()  # not the program's own random numbers


class StorageReason(str):
    """A reason that is not the file's but the storage's, or the machine's: at another time there may be a content."""

    __slots__ = ()


def bad_and_missed(reasons: Mapping[int, str]) -> tuple[dict[int, str], dict[int, str]]:
    """By row: the reasons that are the files', and those that are the storage's."""
    missed: dict[int, str] = {row: reason for row, reason in reasons.items() if isinstance(reason, StorageReason)}
    return {row: reason for row, reason in reasons.items() if row not in missed}, missed


def is_the_storages(error: BaseException) -> bool:
    """Whether an error says nothing about the file."""
    if isinstance(error, MemoryError | TimeoutError | ConnectionError):
        return True
    return isinstance(error, OSError) and error.errno in _NOT_THE_FILES


def retried(
    work: Callable[[], Result],
    stopped: threading.Event | None = None,
    until: float = math.inf,
    failed: OSError | MemoryError | None = None,
) -> Result:
    """What `work` returns, which is called again where the storage stumbles, up to 3 times, after `WAITS_S`.

    Args:
        stopped: once it is set, nothing is tried again.
        until: nor after this time, `time.monotonic()`.
        failed: what a first try has raised; None: there was none.
    Raises:
        OSError, MemoryError: the last try's.
    """
    for wait_s in WAITS_S:
        if failed is None:
            try:
                return work()
            except (OSError, MemoryError) as error:
                failed = error
        wait_s *= _chance.uniform(1, 1.5)  # so that many readers do not come back at once
        if not is_the_storages(failed) or time.monotonic() + wait_s > until:
            raise failed
        if (stopped or threading.Event()).wait(wait_s):
            raise failed
        failed = None
    return work()


__all__ = ["WAITS_S", "StorageReason", "bad_and_missed", "is_the_storages", "retried"]
