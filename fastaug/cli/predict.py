"""`fastaug predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fastaug.cli.options import Debug, Device


def predict(
    model: Annotated[Path, typer.Argument(help="model.safetensors of a training.", show_default=False)],
    files: Annotated[list[Path], typer.Argument(help="Photos.", show_default=False)],
    device: Device = None,
    debug: Debug = False,
) -> None:
    """Say what is on photos: a line each, with file, class and probability, between tabs."""
    from fastaug.training.inference import load_classifier

    predictor = load_classifier(model, device)
    probabilities = predictor.get_preds(files)
    for file, index, row in zip(files, predictor.decide(probabilities).tolist(), probabilities, strict=True):
        typer.echo(f"{file}\t{predictor.name(index)}\t{float(row[index] if index >= 0 else row.max()):.4f}")
