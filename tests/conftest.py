import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Threads cost tiny models and images more than they give."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict]:
    """Run a suite's main with --tiny and read what it wrote."""

    def run_suite(suite, *arguments: str, status: int = 0) -> dict:
        path, threads = tmp_path / "result.json", torch.get_num_threads()
        monkeypatch.setattr(sys, "argv", [suite.__file__, "--tiny", "--out", str(path), *arguments])
        try:
            assert suite.main() == status
        finally:
            torch.set_num_threads(threads)
            torch.set_grad_enabled(True)
        return json.loads(path.read_text(encoding="utf-8"))

    return run_suite
