"""The log of a run: files that are whole after each epoch, and TensorBoard where it is installed."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch

from fastaug.training import results
from fastaug.training.learner import Learner
from fastaug.training.results import RunLog
from tests.factories import Batches, full_disk, tiny

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


@pytest.mark.parametrize("board", [False, True])
def test_a_full_disk_of_the_log_is_said_once_and_costs_no_checkpoint(
    board: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator") if board else None
    monkeypatch.setattr(results.importlib.util, "find_spec", lambda name: board or None)
    out, path = tmp_path / "log", tmp_path / "run.pth"
    learn = Learner(Batches(), None, tiny(), after_epoch=[RunLog(out)], device="cpu", checkpoint=path)
    learn.fit(1)
    before = (out / "history.csv").read_text()
    message = r"^RunLog: disk full: '.*/history\.csv' needs \d+ bytes, .* The training goes on without its log\.$"
    with full_disk(out, 10), pytest.warns(UserWarning, match=message) as seen:
        learn.fit(2)
    assert len(seen) == 1
    assert (out / "history.csv").read_text() == before
    assert json.loads((out / "history.json").read_text())["ends"] == [6]
    assert torch.load(path)["epoch"] == 3
    learn.fit(1)  # there is room again
    assert json.loads((out / "history.json").read_text())["ends"] == [6, 12, 18, 24]
    names = {file.name for file in out.iterdir()}
    assert {name.partition(".")[0] for name in names} == {"history", *(["events"] if board else [])}
    if events is not None:
        told = events.EventAccumulator(str(out))
        told.Reload()
        assert [event.step for event in told.Scalars("train_loss")] == [0, 3]


def test_tensorboards_file_stays_whole_where_its_disk_is_full(tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    board = results.Board(tmp_path)
    for epoch in range(3):
        with full_disk(tmp_path, 30), pytest.raises(OSError, match="No space left"):
            board.add(epoch, {"loss": 9.0, "accuracy": 9.0})
        board.add(epoch, {"loss": epoch / 2, "accuracy": 1.0})
    told = events.EventAccumulator(str(tmp_path))
    told.Reload()
    assert [(event.step, event.value) for event in told.Scalars("loss")] == [(0, 0.0), (1, 0.5), (2, 1.0)]
    (file,) = tmp_path.iterdir()
    (tmp_path / "victim").write_text("mine")
    file.unlink()
    file.symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic links"):
        board.add(3, {"loss": 0.0})
    assert (tmp_path / "victim").read_text() == "mine"


def test_without_tensorboard_there_are_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results.importlib.util, "find_spec", lambda name: None)
    Learner(Batches(), None, tiny(), after_epoch=[RunLog(tmp_path)], device="cpu").fit(1)
    assert {path.name for path in tmp_path.iterdir()} == {"history.csv", "history.json"}
