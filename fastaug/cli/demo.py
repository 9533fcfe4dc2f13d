"""`fastaug demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fastaug.cli.options import Debug, Device, Seed


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the pictures and the report.")] = Path("demo-out"),
    seed: Seed = 0,
    device: Device = None,
    debug: Debug = False,
) -> None:
    """See what fastaug does, in one to three minutes, without a download.

    Cuts a labelled set out of photographs that come with scikit-image, fine-tunes a small pretrained model on it, and
    compares one warp with step by step, in quality and in speed. Start with report.md in the output folder.
    """
    from fastaug.demo.run import run_demo

    options = [f"--out {out}", f"--seed {seed}", *([f"--device {device}"] if device else [])]
    run_demo(out, seed, device, command=" ".join(["fastaug demo", *options]), say=typer.echo)
