"""What this process runs on, and beside which others: device, cores, memory, rank."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:  # imported when it is asked: counting the cores does without
    import torch

# How torch says that a device cannot do something: MPS and XPU have no float64, and not every operation.
_CANNOT = re.compile(
    r"not (currently |yet )?(implemented|supported|available)|n.t support|could not run|unsupported|divisible",
    re.IGNORECASE,
)
_SOME_MEMORY = 4 << 30  # bytes, of a machine that does not tell what it has
_MOST_THREADS = 64  # by default, of one loader: more wait for Python's lock, and each has photos in memory
_CGROUPS, _OWN_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
_FALLBACK = "set PYTORCH_ENABLE_MPS_FALLBACK=1 before Python starts, or "


def default_device(device: str | torch.device | None = None) -> torch.device:
    """The device that was asked for; None: "cuda" where there is one, else "cpu"."""
    import torch

    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device is None else device)


def usable_device(where: str, device: str | torch.device | None = None) -> torch.device:
    """As `default_device`, of a device that is there.

    Args:
        where: who asks, for the error.
    Raises:
        RuntimeError: torch finds no such device, or it is none.
    """
    import torch

    try:
        found = default_device(device)
    except (RuntimeError, TypeError):  # torch's own lists all there are
        raise RuntimeError(f"{where}: expected a device such as 'cuda' or 'cpu', got {device!r}.") from None
    if found.type == "cuda":  # asked without waking it up: the process may want to fork
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (found.index or 0) >= count:
            raise RuntimeError(
                f"{where}: expected a GPU for device='{found}', found {count or 'none'}. Use device='cpu'."
            )
        return found
    try:
        torch.empty(1, device=found)
    except (RuntimeError, AssertionError, ImportError) as error:  # NotImplementedError is a RuntimeError
        reason = str(error).split("\n")[0].split(". ")[0]
        raise RuntimeError(
            f"{where}: expected a device that is there, got device='{found}' ({reason}). Use device='cpu'."
        ) from error
    return found


class DeviceLimitError(RuntimeError):
    """What `limits_named` raises."""


@contextmanager
def limits_named(where: str, what: str, device: torch.device) -> Iterator[None]:
    """Within: what the device cannot do becomes one line that says what to do about it.

    Args:
        where: who computes. what: which part.
    Raises:
        DeviceLimitError: with torch's own error as its cause; within one another, the innermost names it.
    """
    try:
        yield
    except DeviceLimitError:
        raise
    except (RuntimeError, TypeError) as error:  # MPS refuses float64 with a TypeError
        reason = " ".join(str(error).split("\n")[0].split())
        known = device.type in reason.lower() or "fp64" in reason
        if device.type == "cpu" or not (known and _CANNOT.search(reason)):
            raise
        fallback = _FALLBACK if device.type == "mps" and "float64" not in reason else ""
        raise DeviceLimitError(
            f"{where}: expected a model that the device '{device}' can run, got in {what}: {reason[:200].rstrip('.')}. "
            f"To go on, {fallback}use device='cpu'."
        ) from error


def core_count() -> int:
    """The cores that this process may use: of a cgroup with a quota, as a container is, that many, rounded up."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = getattr(os, "process_cpu_count", os.cpu_count)() or 1  # macOS, Windows; Python 3.13 has the first
    return max(min([cores, *_quotas()]), 1)


def thread_count() -> int:
    """Threads for one loader: this rank's part of the cores, at least 1 and at most 64.

    The ranks of a machine, which torchrun and others count in LOCAL_WORLD_SIZE, share its cores, unless this process
    has fewer than its parent: then they were given to it alone.
    """
    ranks = os.environ.get("LOCAL_WORLD_SIZE", "")
    sharing = int(ranks) if ranks.isdecimal() and not _is_pinned() else 1
    return min(max(core_count() // max(sharing, 1), 1), _MOST_THREADS)


def _is_pinned() -> bool:
    try:
        return os.sched_getaffinity(0) < os.sched_getaffinity(os.getppid())
    except (AttributeError, OSError):
        return False


def _quotas(root: Path = _CGROUPS, own: Path = _OWN_CGROUPS) -> list[int]:
    """Cores that the cgroups of this process may keep busy, of those that limit it."""
    found = []
    for group, newer in _cgroups("cpu", root, own):
        with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
            if newer:
                quota, period = map(int, (group / "cpu.max").read_bytes().split())
            else:
                quota, period = (int((group / f"cpu.cfs_{name}_us").read_bytes()) for name in ("quota", "period"))
            if quota > 0:  # -1: no limit
                found.append(-(-quota // period))
    return found


class Forked(Protocol):
    """What a forked child has of its parent, with locks that a thread may hold which the child does not have."""

    def renew(self) -> None:
        """Called in the child, before anything else is done there."""
        ...


_in_forks: weakref.WeakSet[Forked] = weakref.WeakSet()


def renew_in_forks(thing: Forked) -> None:
    """Have it renewed in every forked child, as long as it lives."""
    _in_forks.add(thing)


def _renew_all() -> None:
    for thing in list(_in_forks):
        thing.renew()


if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(after_in_child=_renew_all)


def memory_left() -> int:
    """Bytes that this process may still use: of the machine, or of the cgroup that it is in, whichever has less."""
    return min(_free_memory(), *_left_in_cgroups())


def _free_memory() -> int:
    """Of the machine; where it does not tell, half of what it has."""
    try:
        text = Path("/proc/meminfo").read_text("ascii")
        return int(re.findall(r"^MemAvailable:\s*(\d+) kB", text, re.MULTILINE)[0]) << 10
    except (OSError, IndexError):
        pass
    if not hasattr(os, "sysconf"):
        return _SOME_MEMORY
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _left_in_cgroups(root: Path = _CGROUPS, own: Path = _OWN_CGROUPS) -> list[int]:
    """Of each that has a limit, that this process is in; files in the page cache, which give way, count as left."""
    left = [sys.maxsize]
    for group, newer in _cgroups("memory", root, own):
        names = ("memory.max", "memory.current", "inactive_file")
        if not newer:
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        with contextlib.suppress(OSError, ValueError, IndexError):
            limit, used = (int((group / name).read_text("ascii")) for name in names[:2])
            stat = (group / "memory.stat").read_text("ascii")
            idle = int(re.findall(rf"^{names[2]} (\d+)$", stat, re.MULTILINE)[0])
            left.append(max(limit - used + idle, 0))
    return left


def _cgroups(controller: str, root: Path, own: Path) -> Iterator[tuple[Path, bool]]:
    """The cgroups that this process is in, from the innermost on, and whether each is one of version 2."""
    try:
        lines = own.read_text("utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, kinds, path = line.split(":", 2)
        if kinds and controller not in kinds.split(","):
            continue
        base = root / controller if kinds else root
        group = base / path.lstrip("/")
        for folder in (group, *group.parents):  # in a container the outermost may be where its own is shown
            yield folder, not kinds
            if folder == base:
                break


def rank() -> int:
    """This process's number among those that torch.distributed has joined; alone, 0."""
    from torch import distributed

    return distributed.get_rank() if world() > 1 else 0


def world() -> int:
    """How many processes torch.distributed has joined; alone, 1."""
    from torch import distributed

    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def board() -> Any | None:
    """Where the processes that torch.distributed has joined leave each other notes, torch's own store; alone, None."""
    if world() == 1:
        return None
    from torch.distributed import distributed_c10d

    return distributed_c10d._get_default_store()
