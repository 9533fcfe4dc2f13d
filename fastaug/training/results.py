"""What is left behind when a training is over: the model, the history, and the pictures of both."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import os
import secrets
import socket
import time
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastaug.files import NO_LINKS, whole_file, write_at
from fastaug.machine import rank
from fastaug.training import gallery, plots, prediction
from fastaug.training.engine import Engine
from fastaug.training.history import History
from fastaug.training.interpretation import Interpretation


def save_results(learn: Engine, out: Path) -> Interpretation:
    """Write everything about a finished training into `out` (made where missing).

    model.safetensors the model with its classes and preprocessing, for `fa.load_classifier(path)`
    history.csv       a row per epoch
    history.json      the same, and loss, rates and momentum of every batch
    curves.png        loss and accuracy
    confusion.png     the confusion matrix of the validation images; of several labels per_class.png instead, precision,
                      recall and f1 of each; of numbers numbers.png, what is predicted over what is actual
    results.png       some of these, with what the model says of them

    Returns:
        What the model gets right and wrong of the validation images.
    """
    report = Interpretation.from_learner(learn)
    if rank():  # they all predict, one writes
        return report
    out.mkdir(parents=True, exist_ok=True)
    prediction.export(learn, out / "model.safetensors")
    save_history(learn.history, out)
    plots.save_figure(plots.plot_curves(learn.history), out / "curves.png")
    name, plot = {
        "class": ("confusion.png", report.plot_confusion_matrix),
        "labels": ("per_class.png", report.plot_per_class),
        "numbers": ("numbers.png", report.plot_numbers),
    }[report.says]
    plots.save_figure(plot(), out / name)
    plots.save_figure(gallery.show_results(learn, 16), out / "results.png")
    return report


class RunLog:
    """For `Learner(after_epoch=[RunLog(folder)])`: history.csv and history.json, and TensorBoard's files if installed.

    They are whole after each epoch, so that a run can be watched, and a killed one leaves its history. Where they
    cannot be written, as on a full disk, a warning says so once; the training goes on, and they are tried again.
    """

    def __init__(self, out: str | os.PathLike[str]) -> None:
        self.out, self._warned = Path(out), False
        self.board = Board(self.out) if not rank() and importlib.util.find_spec("tensorboard") else None

    def __call__(self, learn: Engine) -> None:
        if rank():
            return
        try:
            save_history(learn.history, self.out)
            if self.board is not None:
                row = dict(learn.history.epochs[-1])
                self.board.add(int(row.pop("epoch")), row)
        except OSError as error:
            if not self._warned:
                reason = str(error).removesuffix(".")
                warnings.warn(f"RunLog: {reason}. The training goes on without its log.", stacklevel=2)
            self._warned = True


class Board:
    """A file for TensorBoard in this folder. What cannot be written leaves of it what there was, unlike torch's
    SummaryWriter, whose thread ends there."""

    def __init__(self, folder: Path) -> None:
        name = f"{time.time():010.0f}.{socket.gethostname()}.{os.getpid()}.{secrets.token_hex(4)}"
        self._path, self._size = folder / f"events.out.tfevents.{name}", 0

    def add(self, step: int, figures: Mapping[str, float]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        values = [Summary.Value(tag=name, simple_value=value) for name, value in figures.items()]
        events = [] if self._size else [Event(wall_time=time.time(), file_version="brain.Event:2")]
        events.append(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))
        content = io.BytesIO()
        for event in events:
            RecordWriter(content).write(event.SerializeToString())
        file = os.open(self._path, os.O_WRONLY | os.O_CREAT | NO_LINKS, 0o666)
        try:
            write_at(file, content.getvalue(), self._size)
        finally:
            os.close(file)
        self._size += len(content.getvalue())


def save_history(history: History, out: Path) -> None:
    """history.csv, a row per epoch, and history.json, everything."""
    columns = list(dict.fromkeys(name for row in history.epochs for name in row))
    with whole_file(out / "history.csv") as file, io.TextIOWrapper(file, "utf-8", newline="") as text:
        writer = csv.DictWriter(text, columns)
        writer.writeheader()
        writer.writerows(history.epochs)
    write_json(out / "history.json", asdict(history))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    with whole_file(path) as file:
        file.write((json.dumps(content, indent=2) + "\n").encode())
