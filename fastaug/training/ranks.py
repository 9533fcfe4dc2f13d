"""Several processes that train one model: `torchrun --nproc-per-node=N -m fastaug train`. Alone, they are no-ops."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fastaug.machine import world


def join(device: str | None) -> str | None:
    """Under torchrun: join the other processes. Returns the device of this one."""
    if "LOCAL_RANK" not in os.environ or dist.is_initialized():
        return device
    gpu = torch.cuda.is_available() and (device or "cuda").startswith("cuda")
    if gpu:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if gpu else "gloo")
    return device


def leave() -> None:
    """Part from the other processes; without it torch warns at the end."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def total(value: Tensor) -> Tensor:
    """The sum over the ranks; on the device, without waiting for it."""
    if world() > 1:
        value = value.clone()
        dist.all_reduce(value)
    return value


def totals(values: Sequence[float], device: torch.device) -> list[float]:
    """The sums over the ranks of some numbers of the host; alone the device, which may lack float64, is not asked."""
    if world() == 1:
        return [*values]
    found: list[float] = total(torch.tensor(values, dtype=torch.float64, device=device)).tolist()
    return found


def share(weight: Tensor | float, device: torch.device, summed: bool) -> Tensor | float:
    """What to multiply this rank's loss by, so that the mean of the gradients is that of all images together.

    weight: what the loss, a mean, counts among those of the other ranks: images, or the weight of their classes.
    """
    if world() == 1 or summed:
        return float(world())
    mine = torch.as_tensor(weight, dtype=torch.float32, device=device)
    return mine * world() / total(mine).clamp(min=torch.finfo(torch.float32).tiny)


def gather(thing: Any) -> list[Any]:
    """What every rank gives, in their order."""
    if world() == 1:
        return [thing]
    things: list[Any] = [None] * world()
    dist.all_gather_object(things, thing)
    return things


def same_weights(model: nn.Module) -> None:
    """Give every rank the first one's model."""
    for value in model.state_dict().values() if world() > 1 else ():
        dist.broadcast(value, 0)


def same_buffers(model: nn.Module) -> None:
    """Give every rank the batch-norm statistics of the first."""
    for buffer in model.buffers() if world() > 1 else ():
        dist.broadcast(buffer, 0)
