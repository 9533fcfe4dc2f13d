"""What a GPU did during a call. Imports nothing but torch, so that warp_gpu.py runs with torch alone."""

from __future__ import annotations

from collections.abc import Callable

import torch


def kernel_ms(call: Callable[[], object]) -> list[float]:
    """Milliseconds of each kernel and copy that a call starts on a GPU, in the order of the profiler."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as found:
        call()
        torch.cuda.synchronize()
    events = [event for event in found.events() if event.device_type == DeviceType.CUDA]
    return [event.time_range.elapsed_us() / 1e3 for event in events]


def waits(call: Callable[[], object]) -> bool:
    """Whether the host waits for the GPU during a call, as far as torch can tell."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        call()
    except RuntimeError as error:
        if "synchronizing" not in str(error):
            raise
        return True
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return False
