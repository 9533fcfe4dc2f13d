"""`fastaug demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fastaug.cli.errors import refuse_to_overwrite, results_in
from fastaug.cli.options import Debug, Device, Overwrite, Seed
from fastaug.cli.printing import importing_torch, say


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the pictures and the report.")] = Path("demo-out"),
    overwrite: Overwrite = False,
    seed: Seed = 0,
    device: Device = None,
    debug: Debug = False,
) -> None:
    """See what fastaug does, in one to three minutes, without a download.

    Cuts a labelled set out of photographs that come with scikit-image, fine-tunes a small pretrained model on it, and
    compares one warp with step by step, in quality and in speed. Start with report.md in the output folder.
    """
    if not (out / "report.json").exists():  # a demo's own results come out the same again
        refuse_to_overwrite("--out", results_in(out), overwrite)
    elif not overwrite:
        say(f"{out} holds an earlier demo, which is overwritten")
    with importing_torch():
        from fastaug.demo.run import run_demo

    options = [f"--out {out}", f"--seed {seed}", *([f"--device {device}"] if device else [])]
    run_demo(out, seed, device, command=" ".join(["fastaug demo", *options]), say=say)
