"""What this process runs on, and beside which others."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import distributed

from fastaug import machine


@pytest.mark.parametrize(("gpu", "expected"), [(True, "cuda"), (False, "cpu")])
def test_default_device(gpu: bool, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert machine.default_device() == machine.default_device(None) == torch.device(expected)
    assert machine.default_device("cuda:1") == torch.device("cuda:1")
    assert machine.default_device(torch.device("cpu")) == torch.device("cpu")


def test_core_count_is_what_this_process_may_use() -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert machine.core_count() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert machine.core_count() == len(allowed)


def test_rank_and_world(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (machine.rank(), machine.world()) == (0, 1)
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_rank", lambda: 2)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 5)
    assert (machine.rank(), machine.world()) == (2, 5)
    monkeypatch.setattr(distributed, "is_available", lambda: False)
    assert (machine.rank(), machine.world()) == (0, 1)


def test_counting_cores_needs_no_torch() -> None:
    program = "import sys; from fastaug.machine import core_count; core_count(); print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
