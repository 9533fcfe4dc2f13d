"""The command line: `fastaug train` and `fastaug demo`. Parses options, calls the library, prints what came of it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from fastaug.demo import MODEL as LITE0
from fastaug.demo import run_demo
from fastaug.loading.loader import ImageLoader
from fastaug.results import save_results
from fastaug.samples import Samples
from fastaug.training import Learner, classifier, lite0_weights, model_statistics
from fastaug.transforms import aug_transforms

app = typer.Typer(
    help="Image files to augmented training batches, with one interpolation per image.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Debug = Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or cuda:1.", show_default="cuda where there is one")]
Seed = Annotated[int, typer.Option(help="Of everything random.")]


def main() -> None:
    app()


def one_line_errors(command: Callable[..., None]) -> Callable[..., None]:
    """The command with errors as one line on stderr and exit code 1; with debug=True they pass."""

    @functools.wraps(command)
    def wrapped(*args: Any, debug: bool = False, **kwargs: Any) -> None:
        try:
            command(*args, debug=debug, **kwargs)
        except Exception as error:
            if debug or isinstance(error, typer.Exit):
                raise
            typer.secho(f"error: {_one_line(error)}", fg="red", err=True)
            raise typer.Exit(1) from None

    return wrapped


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fastaug {version('fastaug')}")
        raise typer.Exit


@app.callback()
def _fastaug(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
@one_line_errors
def train(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="Images, at any depth.", show_default=False)],
    pattern: Annotated[
        str | None,
        typer.Option(
            help=r"Regular expression for file names; its group 1 is the class, as in '(.+)_\d+\.jpg$'.",
            show_default="the class is the parent folder",
        ),
    ] = None,
    valid_fraction: Annotated[float, typer.Option(help="Share of each class that is kept for validation.")] = 0.2,
    seed: Seed = 42,
    model: Annotated[str, typer.Option(help="A model of torchvision, or timm:NAME.")] = "resnet34",
    weights: Annotated[
        str,
        typer.Option(
            help="DEFAULT (downloaded once), none, lite0 (for timm:tf_efficientnet_lite0, from the installed package), "
            "or a .pth or .safetensors file."
        ),
    ] = "DEFAULT",
    epochs: Annotated[int, typer.Option(min=1, help="With the whole model training.")] = 4,
    freeze_epochs: Annotated[int, typer.Option(min=0, help="Before that, with only the head training.")] = 1,
    base_lr: Annotated[float, typer.Option(help="Learning rate of the head while the rest is frozen.")] = 2e-3,
    batch_size: Annotated[int, typer.Option(min=1)] = 64,
    size: Annotated[int, typer.Option(min=1, help="Side of the images that the model gets, pixels.")] = 224,
    presize: Annotated[int, typer.Option(min=1, help="Side to which photos are resized first, pixels.")] = 460,
    device: Device = None,
    train_bn: Annotated[
        bool, typer.Option(help="Batch-norm goes on learning in frozen layers; without it they train faster.")
    ] = True,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("fastaug-out"),
    debug: Debug = False,
) -> None:
    """Fine-tune a model on a folder of images.

    Writes model.pth, settings.json, history.csv, history.json, curves.png and confusion.png.
    """
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in context.params.items()}
    settings.pop("debug")
    samples = Samples.from_filenames(folder, pattern) if pattern else Samples.from_folder(folder)
    if len(samples.classes) < 2:
        raise ValueError(
            f"train: expected two classes or more in '{folder}', got {', '.join(samples.classes)} alone. Put each "
            "class into its own folder, or give --pattern."
        )
    train_samples, valid_samples = samples.split(valid_fraction, seed, stratify=True)
    torch.manual_seed(seed)
    network = classifier(model, len(samples.classes), _weights(weights, model))
    mean, std = model_statistics(network)
    augment = aug_transforms(size=size, min_scale=0.75, normalize=(mean, std))
    train_loader, valid_loader = (
        ImageLoader(part, batch_size, presize, augment, device, training, seed)
        for part, training in ((train_samples, True), (valid_samples, False))
    )
    typer.echo(f"{len(train_samples):,} images to train, {len(valid_samples):,} to validate: {samples}")
    learn = Learner(train_loader, valid_loader, network, train_bn=train_bn, device=device)
    learn.fine_tune(epochs, base_lr, freeze_epochs)
    matrix = save_results(learn, samples.classes, out, {**settings, "mean": mean, "std": std})
    _print_summary(learn, [*train_loader.quarantined, *valid_loader.quarantined], matrix, out)


@app.command()
@one_line_errors
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
    options = [f"--out {out}", f"--seed {seed}", *([f"--device {device}"] if device else [])]
    run_demo(out, seed, device, command=" ".join(["fastaug demo", *options]), say=typer.echo)


def _weights(weights: str, model: str) -> str | dict[str, Tensor] | None:
    if weights == "lite0":
        if model != LITE0:
            raise ValueError(f"train: --weights lite0 fit --model {LITE0}, got --model {model}.")
        return lite0_weights()
    return None if weights.lower() == "none" else weights


def _print_summary(learn: Learner, quarantined: list[tuple[str, str]], matrix: Tensor, out: Path) -> None:
    right, total, last = int(matrix.trace()), int(matrix.sum()), learn.history.epochs[-1]
    typer.echo(
        f"accuracy {right / total:.4f} ({right:,} of {total:,}), validation loss {last['valid_loss']:.4f}, "
        f"{last['images_per_s']:,.0f} images/s in the last epoch"
    )
    if quarantined:
        path, reason = quarantined[0]
        typer.echo(f"skipped {len(quarantined):,} files that could not be read, the first '{path}': {reason}")
    typer.echo(f"results: {out}")


def _one_line(error: Exception) -> str:
    """The error's message without line breaks; its kind in front where the message alone might say nothing."""
    message = " ".join(str(error).split())
    clear = isinstance(error, ValueError | TypeError | ImportError | RuntimeError | OSError)
    return message if clear and message else f"{type(error).__name__}: {message}".rstrip(": ")
