"""The log of a run: files that are whole after each epoch, and TensorBoard where it is installed."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from fastaug.training import results
from fastaug.training.learner import Learner
from fastaug.training.results import RunLog
from tests.factories import Batches, tiny

pytestmark = pytest.mark.usefixtures("one_thread")


def test_files_are_whole_after_each_epoch(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    def look(learn: Learner) -> None:
        with open(tmp_path / "log" / "history.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        seen.append((len(rows), len(json.loads((tmp_path / "log" / "history.json").read_text())["losses"])))

    Learner(Batches(), None, tiny(), after_epoch=[RunLog(tmp_path / "log"), look], device="cpu").fit(3)
    assert seen == [(1, 6), (2, 12), (3, 18)]


def test_tensorboard_gets_each_epoch(tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    learn = Learner(Batches(), list(Batches(1)), tiny(), after_epoch=[RunLog(tmp_path)], device="cpu")
    learn.fit(2)
    told = events.EventAccumulator(str(tmp_path))
    told.Reload()
    assert set(told.Tags()["scalars"]) == set(learn.history.epochs[0]) - {"epoch"}
    for name in ("train_loss", "valid_loss", "accuracy", "images_per_s"):
        found = [(event.step, event.value) for event in told.Scalars(name)]
        assert found == [(i, pytest.approx(row[name], rel=1e-6)) for i, row in enumerate(learn.history.epochs)]


def test_without_tensorboard_there_are_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results.importlib.util, "find_spec", lambda name: None)
    Learner(Batches(), None, tiny(), after_epoch=[RunLog(tmp_path)], device="cpu").fit(1)
    assert {path.name for path in tmp_path.iterdir()} == {"history.csv", "history.json"}
