"""`fastaug train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fastaug.cli.errors import refuse_to_overwrite, results_in
from fastaug.cli.options import (
    Config,
    Debug,
    Device,
    Encoding,
    Folder,
    Json,
    Level,
    ModelName,
    Overwrite,
    PathColumn,
    Pattern,
    Presize,
    Root,
    Seed,
    Size,
    Target,
    Weights,
)
from fastaug.cli.printing import importing_torch, print_figures
from fastaug.config import write_config

if TYPE_CHECKING:
    from torch import Tensor

    from fastaug.training.learner import Learner


def train(
    context: typer.Context,
    folder: Folder,
    pattern: Pattern = None,
    level: Level = None,
    path: PathColumn = None,
    target: Target = None,
    root: Root = None,
    encoding: Encoding = None,
    valid_fraction: Annotated[float, typer.Option(help="Share of each class that is kept for validation.")] = 0.2,
    seed: Seed = 42,
    model: ModelName = "resnet34",
    weights: Weights = "DEFAULT",
    epochs: Annotated[int, typer.Option(min=1, help="With the whole model training.")] = 4,
    freeze_epochs: Annotated[int, typer.Option(min=0, help="Before that, with only the head training.")] = 1,
    base_lr: Annotated[float, typer.Option(help="Learning rate of the head while the rest is frozen.")] = 2e-3,
    batch_size: Annotated[int, typer.Option(min=1, help="Of each process.")] = 64,
    size: Size = 224,
    presize: Presize = 460,
    device: Device = None,
    train_bn: Annotated[
        bool, typer.Option(help="Batch-norm goes on learning in frozen layers; without it they train faster.")
    ] = True,
    amp: Annotated[str | None, typer.Option(help="bf16 or fp16: mixed precision.", show_default="float32")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from checkpoint.pth in the output folder, with the same options.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("fastaug-out"),
    overwrite: Overwrite = False,
    config: Config = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Fine-tune a model on a folder of images.

    Writes config.toml (for --config), model.safetensors (for `fastaug predict`), history.csv, history.json, curves.png
    and confusion.png; and checkpoint.pth after each epoch. On several GPUs:
    torchrun --nproc-per-node=N -m fastaug train FOLDER …
    """
    if not resume:
        refuse_to_overwrite("--out", results_in(out), overwrite, ", --resume")
    with importing_torch():
        from fastaug.cli.learner import make_learner
        from fastaug.cli.samples import Source
        from fastaug.machine import rank
        from fastaug.training import plots, ranks
        from fastaug.training.results import RunLog, save_results

    checkpoint = out / "checkpoint.pth"
    if resume and not checkpoint.is_file():
        raise FileNotFoundError(f"train: expected '{checkpoint}' for --resume, found none. Leave out --resume.")
    plots.check_installed()
    device = ranks.join(device)
    try:
        data = (
            Source(folder, pattern, level, path, target, root, encoding),
            valid_fraction,
            seed,
            batch_size,
            size,
            presize,
        )
        settings = {"train_bn": train_bn, "amp": amp, "checkpoint": checkpoint, "after_epoch": [RunLog(out)]}
        learn, loaders = make_learner(*data, model, weights, device, settings)
        if not rank():
            write_config(context, out / "config.toml")
        if resume:
            learn.load(checkpoint, resume=True)
        learn.fine_tune(epochs, base_lr, freeze_epochs)
        matrix = save_results(learn, out)
        if not rank():
            _print_results(learn, [bad for loader in loaders for bad in loader.quarantined], matrix, out, as_json)
    finally:
        ranks.leave()


def _print_results(
    learn: Learner, quarantined: list[tuple[str, str]], matrix: Tensor, out: Path, as_json: bool
) -> None:
    right, total, last = int(matrix.trace()), int(matrix.sum()), learn.history.epochs[-1]
    lines = [
        f"accuracy {right / total:.4f} ({right:,} of {total:,}), validation loss {last['valid_loss']:.4f}, "
        f"{last['images_per_s']:,.0f} images/s in the last epoch"
    ]
    for path, reason in quarantined[:1]:
        lines.append(f"skipped {len(quarantined):,} files that could not be read, the first '{path}': {reason}")
    figures = {"accuracy": right / total, "right": right, "validated": total, "epochs": learn.history.epochs}
    print_figures(as_json, {**figures, "quarantined": quarantined, "out": str(out)}, [*lines, f"results: {out}"])
