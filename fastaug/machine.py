"""What this process runs on, and beside which others: device, cores, rank."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # imported when it is asked: counting the cores does without
    import torch


def default_device(device: str | torch.device | None = None) -> torch.device:
    """The device that was asked for; None: "cuda" where there is one, else "cpu"."""
    import torch

    return torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def core_count() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0))


def rank() -> int:
    """This process's number among those that torch.distributed has joined; alone, 0."""
    from torch import distributed

    return distributed.get_rank() if world() > 1 else 0


def world() -> int:
    """How many processes torch.distributed has joined; alone, 1."""
    from torch import distributed

    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1
