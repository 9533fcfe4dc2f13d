"""What the commands ask of malloc."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace

import pytest

from fastaug import memory


def test_glibc_is_asked_once_and_nobody_elses_settings_are_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []

    def mallopt(name: int, value: int) -> int:
        asked.append((name, value))
        return 1

    glibc, other = SimpleNamespace(mallopt=mallopt, gnu_get_libc_version=None), SimpleNamespace(mallopt=mallopt)
    for name in ("MALLOC_ARENA_MAX", "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: other)
    assert not memory.keep_freed_memory()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: glibc)
    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")
    assert not memory.keep_freed_memory()
    assert not asked
    monkeypatch.delenv("MALLOC_ARENA_MAX")
    assert memory.keep_freed_memory()
    assert asked == [(-3, 1 << 30), (-1, (1 << 31) - 1)]
