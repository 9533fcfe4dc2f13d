"""What this process runs on, and beside which others."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

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


@pytest.mark.parametrize("newer", [True, False])
def test_core_count_without_affinity(newer: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS and Windows, with Python 3.13 and before."""
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.delattr(os, "process_cpu_count", raising=False)
    if newer:
        monkeypatch.setattr(os, "process_cpu_count", lambda: 3, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert machine.core_count() == (3 if newer else 5)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert machine.core_count() == (3 if newer else 1)


@pytest.mark.parametrize(
    ("quotas", "expected"),
    [({}, 8), ({"": "max 100000", "/a": "200000 100000"}, 2), ({"/a": "150000 100000", "/a/b": "max 100000"}, 2),
     ({"/a/b": "10000 100000"}, 1), ({"/a": "3200000 100000"}, 8), ({"/other": "100000 100000"}, 8),
     ({"/a": "nonsense"}, 8)],
)  # fmt: skip
def test_a_quota_counts_as_so_many_cores(
    quotas: dict[str, str], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a container, whose affinity is the machine's; rounded up, the least of the groups that it is in."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {*range(8)})
    root, own = tmp_path / "cgroup", tmp_path / "own"
    monkeypatch.setattr(machine, "_quotas", partial(machine._quotas, root, own))
    own.write_text("0::/a/b\n")
    for group, quota in quotas.items():
        Path(f"{root}{group}").mkdir(parents=True, exist_ok=True)
        Path(f"{root}{group}/cpu.max").write_text(f"{quota}\n")
    assert machine.core_count() == expected


def test_a_quota_of_the_first_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {*range(8)})
    root, own = tmp_path / "cgroup", tmp_path / "own"
    monkeypatch.setattr(machine, "_quotas", partial(machine._quotas, root, own))
    (root / "cpu" / "c").mkdir(parents=True)
    own.write_text("4:cpu,cpuacct:/c\n")
    for folder, quota in (("c", "250000"), ("", "-1")):
        (root / "cpu" / folder / "cpu.cfs_quota_us").write_text(f"{quota}\n")
        (root / "cpu" / folder / "cpu.cfs_period_us").write_text("100000\n")
    assert machine.core_count() == 3
    (root / "cpu" / "c" / "cpu.cfs_quota_us").write_text("-1\n")
    assert machine.core_count() == 8


@pytest.mark.parametrize(
    ("cores", "parents", "ranks", "expected"),
    [(1, 1, None, 1), (2, 2, None, 2), (64, 64, None, 64), (128, 128, None, 64), (224, 224, None, 64),
     (1, 1, "8", 1), (2, 2, "8", 1), (64, 64, "8", 8), (128, 128, "8", 16), (224, 224, "8", 28), (224, 224, "1", 64),
     (16, 128, "8", 16), (8, 64, "many", 8), (8, 8, "0", 8), (8, 8, "-2", 8), (8, 8, "", 8), (4, None, "2", 2)],
)  # fmt: skip
def test_threads_of_a_rank(
    cores: int, parents: int | None, ranks: str | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ranks share the cores, unless each was given its own: fewer than the process that started it."""

    def affinity(process: int) -> set[int]:
        if process != 0 and parents is None:
            raise PermissionError
        return {*range(cores if process == 0 else parents or 0)}

    monkeypatch.setattr(os, "sched_getaffinity", affinity)
    monkeypatch.setattr(machine, "_quotas", list)
    if ranks is None:
        monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    else:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", ranks)
    assert machine.thread_count() == expected


def test_a_rank_that_was_pinned_has_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Really; as by taskset or numactl."""
    allowed = os.sched_getaffinity(0)
    if len(allowed) < 2:
        pytest.skip("there is one core here")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(len(allowed)))
    assert machine.thread_count() == 1
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert machine.thread_count() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert machine.thread_count() == min(len(allowed), 64)


def test_a_gpu_is_asked_for_without_waking_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for device in ("cuda", "cuda:1"):
        assert machine.usable_device("here", device) == torch.device(device)
    with pytest.raises(RuntimeError, match=r"^here: expected a GPU for device='cuda:2', found 2\. Use device='cpu'\.$"):
        machine.usable_device("here", "cuda:2")


@pytest.mark.parametrize("device", ["banana", "", "cuda:x", 3.5, ["cpu"]])
def test_what_is_no_device_is_named(device: Any) -> None:
    with pytest.raises(RuntimeError, match=r"^here: expected a device such as 'cuda' or 'cpu', got ") as caught:
        machine.usable_device("here", device)
    assert repr(device) in str(caught.value)
    assert len(str(caught.value)) < 150


MPS = torch.device("mps")


@pytest.mark.parametrize(
    ("device", "error", "advice"),
    [
        (
            MPS,
            NotImplementedError("The operator 'aten::foo' is not currently implemented for the MPS device. If you\nso"),
            "To go on, set PYTORCH_ENABLE_MPS_FALLBACK=1 before Python starts, or use device='cpu'.",
        ),
        (MPS, NotImplementedError("Could not run 'aten::foo' with arguments from the 'MPS' backend. This"), "cpu"),
        (MPS, RuntimeError("Adaptive pool MPS: input sizes must be divisible by output sizes."), "cpu"),
        (
            MPS,
            TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64."),
            "support float64. To go on, use device='cpu'.",
        ),
        (torch.device("xpu"), RuntimeError("Required aspect fp64 is not supported on the device"), "cpu"),
        (torch.device("cpu"), NotImplementedError('"foo" not implemented for cpu'), None),
        (MPS, NotImplementedError("write forward() yourself"), None),
        (MPS, RuntimeError("MPS backend out of memory"), None),
        (MPS, ValueError("MPS does not support it"), None),
    ],
)
def test_limits_of_a_device_are_named_and_other_errors_pass(
    device: torch.device, error: Exception, advice: str | None
) -> None:
    with (
        pytest.raises(type(error) if advice is None else RuntimeError) as caught,
        machine.limits_named("Learner", "the forward pass", device),
    ):
        raise error
    if advice is None:
        assert caught.value is error
    else:
        message = str(caught.value)
        assert caught.value.__cause__ is error
        assert message.startswith(f"Learner: expected a model that the device '{device}' can run, got in the forward ")
        assert advice in message
        assert "\n" not in message


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


def test_a_limit_is_named_once_by_the_innermost_part() -> None:
    device = torch.device("mps")
    with (
        pytest.raises(RuntimeError) as told,
        machine.limits_named("Learner", "validation", device),
        machine.limits_named("Learner", "the forward pass", device),
    ):
        raise NotImplementedError("The operator 'aten::x' is not currently implemented for the MPS device.")
    assert str(told.value).count("Learner") == 1
    assert "in the forward pass" in str(told.value)


def test_memory_left_is_that_of_the_group_that_has_least(tmp_path: Path) -> None:
    root, own = tmp_path / "cgroup", tmp_path / "own"
    for group, limit, current in (("", "max", 900), ("/a", "5000", 1000), ("/a/b", "3000", 1000), ("/other", "10", 1)):
        folder = Path(f"{root}{group}")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{current}\n")
        (folder / "memory.stat").write_text("anon 1\ninactive_file 300\nactive_file 5\n")
    own.write_text("0::/a/b\n")
    assert machine._left_in_cgroups(root, own)[1:] == [2300, 4300]
    first = root / "memory" / "c"
    first.mkdir(parents=True)
    (first / "memory.limit_in_bytes").write_text("700")
    (first / "memory.usage_in_bytes").write_text("900")
    (first / "memory.stat").write_text("total_inactive_file 50\n")
    own.write_text("9:name=systemd:/\n4:cpu,memory:/c\n0::/nowhere\n")
    assert machine._left_in_cgroups(root, own)[1:] == [0]
    assert machine._left_in_cgroups(root, tmp_path / "none")[1:] == []
    assert 0 < machine.memory_left() < 1 << 50
