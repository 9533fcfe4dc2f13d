"""`fastaug lr-find`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fastaug.cli.errors import refuse_to_overwrite
from fastaug.cli.options import (
    BatchSize,
    Cache,
    Debug,
    Device,
    Json,
    ModelName,
    Overwrite,
    Presize,
    Seed,
    Size,
    Source,
    Weights,
)
from fastaug.cli.printing import importing_torch, print_figures


def lr_find(
    source: Source,
    seed: Seed = 42,
    model: ModelName = "resnet34",
    weights: Weights = "DEFAULT",
    frozen: Annotated[bool, typer.Option(help="With only the head training, as fine-tuning begins.")] = True,
    batches: Annotated[int, typer.Option(min=2, help="From the lowest rate to the highest.")] = 100,
    batch_size: BatchSize = None,
    size: Size = 224,
    presize: Presize = 460,
    device: Device = None,
    cache: Cache = None,
    out: Annotated[Path, typer.Option(help="The picture.")] = Path("lr-find.png"),
    overwrite: Overwrite = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Find a good learning rate for a folder of images: try many, a batch each, and draw the losses."""
    refuse_to_overwrite("--out", [out], overwrite)
    with importing_torch():
        from fastaug.cli.learner import make_learner
        from fastaug.memory import keep_freed_memory
        from fastaug.training import plots

    keep_freed_memory()
    plots.check_installed()
    learn, _ = make_learner(source, 0.2, seed, batch_size, size, presize, model, weights, device, cache, None, {})
    if frozen:
        learn.freeze()
    found = learn.lr_find(num_it=batches)
    plots.save_figure(found.plot(), out)
    rates = {name: getattr(found, name) for name in ("valley", "slide", "steep", "minimum")}
    lines = [f"{name:<8}{rate:.2e}" for name, rate in rates.items()]
    lines.append(f"{len(found.lrs)} batches, picture: {out}")
    print_figures(as_json, {**rates, "batches": len(found.lrs), "picture": str(out)}, lines)
