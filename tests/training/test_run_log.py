"""The log of a run: files that are whole after each epoch, and TensorBoard where it is installed."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fastaug import results
from fastaug.results import RunLog
from fastaug.training import Learner
from tests.training.common import Batches, tiny

pytestmark = pytest.mark.usefixtures("one_thread")


def test_files_are_whole_after_each_epoch(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    def look(learn: Learner) -> None:
        with open(tmp_path / "log" / "history.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        seen.append((len(rows), len(json.loads((tmp_path / "log" / "history.json").read_text())["losses"])))

    Learner(Batches(), None, tiny(), after_epoch=[RunLog(tmp_path / "log"), look], device="cpu").fit(3)
    assert seen == [(1, 6), (2, 12), (3, 18)]


def test_tensorboard_gets_each_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, Any, int]] = []

    class SummaryWriter:
        def __init__(self, folder: str) -> None:
            assert folder == str(tmp_path)

        def add_scalar(self, name: str, value: float, epoch: int) -> None:
            told.append((name, value, epoch))

        def flush(self) -> None:
            told.append(("flush", None, -1))

    board: Any = ModuleType("torch.utils.tensorboard")
    board.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", board)
    monkeypatch.setattr(results.importlib.util, "find_spec", lambda name: name == "tensorboard")
    learn = Learner(Batches(), list(Batches(1)), tiny(), after_epoch=[RunLog(tmp_path)], device="cpu")
    learn.fit(2)
    rows = learn.history.epochs
    assert ("valid_loss", rows[0]["valid_loss"], 0) in told
    assert ("accuracy", rows[1]["accuracy"], 1) in told
    assert told[-1][0] == "flush"
