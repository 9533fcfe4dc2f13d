"""`fastaug train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastaug.cli.errors import WrongOption, refuse_to_overwrite, results_in
from fastaug.cli.options import (
    BatchSize,
    Cache,
    Config,
    Debug,
    Device,
    Json,
    ModelName,
    Overwrite,
    Presize,
    ReadTimeout,
    Seed,
    Size,
    Source,
    Weights,
)
from fastaug.cli.printing import importing_torch, print_figures, say
from fastaug.config import write_config

if TYPE_CHECKING:
    from fastaug.loading.stats import LoaderStats
    from fastaug.training.interpretation import Interpretation


def train(
    context: typer.Context,
    source: Source,
    valid_fraction: Annotated[
        float, typer.Option(help="Share kept for validation, of each class where a photo has one.")
    ] = 0.2,
    seed: Seed = 42,
    model: ModelName = "resnet34",
    weights: Weights = "DEFAULT",
    epochs: Annotated[
        int | None,
        typer.Option(
            min=0, help="With the whole model training; 0: the head alone.", show_default="as long as it helps"
        ),
    ] = None,
    freeze_epochs: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="fastai's fine_tune instead: so many epochs with only the head training, then --epochs (default: 1).",
            show_default="none; the head is trained on features",
        ),
    ] = None,
    base_lr: Annotated[
        float | None,
        typer.Option(help="Learning rate of the head.", show_default="found; 2e-3 with --freeze-epochs"),
    ] = None,
    batch_size: BatchSize = None,
    size: Size = 224,
    presize: Presize = 460,
    device: Device = None,
    cache: Cache = None,
    read_timeout: ReadTimeout = None,
    train_bn: Annotated[
        bool | None,
        typer.Option(
            "--train-bn/--no-train-bn",
            help="With --freeze-epochs: batch-norm goes on learning in frozen layers, as fastai's does.",
            show_default="no; yes with --freeze-epochs",
        ),
    ] = None,
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
    """Fine-tune a model on images with their classes, labels or numbers, and say what was chosen and why.

    The head is trained on the features of the frozen body, at a rate that is found on them; then everything, in cycles
    of at least 100 steps, if the head has left something to learn and as long as the loss on the validation part falls.

    Writes config.toml (for --config), model.safetensors (for `fastaug predict`), history.csv, history.json, curves.png,
    confusion.png (of several labels per_class.png, of numbers numbers.png) and results.png; and checkpoint.pth after
    each epoch. On several GPUs: torchrun --nproc-per-node=N -m fastaug train FOLDER …
    """
    if train_bn and freeze_epochs is None:
        raise WrongOption("--train-bn: expected --freeze-epochs beside it: a head on features needs them to stay.")
    if not resume:
        refuse_to_overwrite("--out", results_in(out), overwrite, ", --resume")
    with importing_torch():
        from fastaug.cli.learner import make_learner
        from fastaug.machine import rank
        from fastaug.memory import keep_freed_memory
        from fastaug.training import plots, ranks
        from fastaug.training.results import RunLog, save_results

    keep_freed_memory()
    checkpoint = out / "checkpoint.pth"
    if resume and not checkpoint.is_file():
        raise FileNotFoundError(f"train: expected '{checkpoint}' for --resume, found none. Leave out --resume.")
    plots.check_installed()
    device = ranks.join(device)
    try:
        settings = {
            "train_bn": train_bn is not False,
            "amp": amp,
            "checkpoint": checkpoint,
            "after_epoch": [RunLog(out)],
        }
        parts = source, valid_fraction, seed, batch_size, size, presize
        learn, loaders = make_learner(*parts, model, weights, device, cache, read_timeout, settings)
        if not rank():
            write_config(context, out / "config.toml")
        if resume:
            learn.load(checkpoint, resume=True)
        chosen: list[str] = []

        def choose(line: str) -> None:
            chosen.append(line)
            if not rank():
                say(line)

        if freeze_epochs is None:
            learn.auto_fine_tune(epochs, base_lr, choose)
        else:
            learn.fine_tune(1 if epochs is None else epochs, base_lr or 2e-3, freeze_epochs)
        report = save_results(learn, out)
        if not rank():
            bad = [bad for loader in loaders for bad in loader.quarantined]
            _print_results(report, learn.history.epochs, chosen, bad, loaders[0].stats(), out, as_json)
    finally:
        ranks.leave()


def _print_results(
    report: Interpretation,
    epochs: list[dict[str, float]],
    chosen: list[str],
    quarantined: list[tuple[str, str]],
    last: LoaderStats,
    out: Path,
    as_json: bool,
) -> None:
    figures, text = _figures_of(report)
    figures["validation_loss"] = loss = float(report.losses.mean())
    lines = [f"{text}, validation loss {loss:.4f}, {epochs[-1]['images_per_s']:,.0f} images/s in the last epoch"]
    if last.cached:
        lines[0] += f", {last.cached / (last.cached + last.decoded):.0%} of them from the cache"
    for path, reason in quarantined[:1]:
        lines.append(f"skipped {len(quarantined):,} files that could not be read, the first '{path}': {reason}")
    figures |= {"cached": last.cached, "chosen": chosen, "epochs": epochs, "quarantined": quarantined, "out": str(out)}
    print_figures(as_json, figures, [*lines, f"results: {out}"])


def _figures_of(report: Interpretation) -> tuple[dict[str, Any], str]:
    """What is said first of the validation images, for programs and for people."""
    total = len(report.targets)
    if report.says == "class":
        right = int((report.predicted == report.targets).sum())
        found = {"accuracy": right / total, "right": right, "validated": total}
        return found, f"accuracy {right / total:.4f} ({right:,} of {total:,})"
    if report.says == "labels":
        rows = report.per_class()
        f1 = sum(row["f1"] for row in rows.values()) / len(rows)
        return {"f1": f1, "per_class": rows, "validated": total}, f"f1 {f1:.4f}, the mean of {len(rows):,} labels"
    errors = report.errors()
    each = ", ".join(
        f"{name} {row['mae']:.4g}" if len(errors) > 1 else f"{row['mae']:.4g}" for name, row in errors.items()
    )
    return {"errors": errors, "validated": total}, f"mean absolute error {each}"
