"""What is left behind when a training is over: the model, the history, and the pictures of both."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastaug.files import whole_file
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

    They are whole after each epoch, so that a run can be watched, and a killed one leaves its history.
    """

    def __init__(self, out: str | os.PathLike[str]) -> None:
        self.out, self.board = Path(out), None
        if not rank() and importlib.util.find_spec("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(out))

    def __call__(self, learn: Engine) -> None:
        if rank():
            return
        self.out.mkdir(parents=True, exist_ok=True)
        save_history(learn.history, self.out)
        if self.board is not None:
            row = dict(learn.history.epochs[-1])
            epoch = int(row.pop("epoch"))
            for name, value in row.items():
                self.board.add_scalar(name, value, epoch)
            self.board.flush()


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
