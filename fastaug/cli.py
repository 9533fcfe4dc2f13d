"""The command line, `fastaug COMMAND`. Parses options, calls the library, prints what came of it."""

from __future__ import annotations

import functools
import glob
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from fastaug import __version__
from fastaug.augment.color import IMAGENET
from fastaug.augment.fastai_names import aug_transforms
from fastaug.config import use_config, write_config
from fastaug.demo.run import run_demo
from fastaug.demo.weights import LITE0, lite0_weights
from fastaug.loading.check import bad_files
from fastaug.loading.loader import ImageLoader
from fastaug.loading.modes import ModeName
from fastaug.loading.stats import merge_stats
from fastaug.machine import rank
from fastaug.samples.samples import Samples
from fastaug.training import plots, ranks
from fastaug.training.inference import load_classifier
from fastaug.training.learner import Learner
from fastaug.training.models import classifier, model_statistics
from fastaug.training.results import RunLog, save_results

app = typer.Typer(
    help="Image files to augmented training batches, with one interpolation per image.",
    epilog="Exit code: 0 done; 1 an error, a step that failed, or bad files found; 2 wrong options.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Debug = Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or cuda:1.", show_default="cuda where there is one")]
Folder = Annotated[
    Path,
    typer.Argument(
        help="A folder of images, at any depth; a .tar archive, or a pattern of such; or a .csv list as of check.",
        show_default=False,
    ),
]
Pattern = Annotated[
    str | None,
    typer.Option(
        help=r"Regular expression for file names; its group 1 is the class, as in '(.+)_\d+\.jpg$'.",
        show_default="the class is the parent folder",
    ),
]
ModelName = Annotated[str, typer.Option(help="A model of torchvision, or timm:NAME.")]
Weights = Annotated[
    str,
    typer.Option(
        help="DEFAULT (downloaded once), none, lite0 (for timm:tf_efficientnet_lite0, from the installed package), "
        "or a .pth or .safetensors file."
    ),
]
Size = Annotated[int, typer.Option(min=1, help="Side of the images that the model gets, pixels.")]
Presize = Annotated[int, typer.Option(min=1, help="Side to which photos are resized first, pixels.")]
Mode = Annotated[ModeName, typer.Option(help="resize or direct.")]
Seed = Annotated[int, typer.Option(help="Of everything random.")]
Json = Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")]
Config = Annotated[
    Path | None,
    typer.Option(
        is_eager=True,
        callback=use_config,
        help="Options from this file, such as the config.toml of a training; those on the command line win.",
        show_default="none",
    ),
]


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
        typer.echo(f"fastaug {__version__}")
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
    folder: Folder,
    pattern: Pattern = None,
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
    config: Config = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Fine-tune a model on a folder of images.

    Writes config.toml (for --config), model.safetensors (for `fastaug predict`), history.csv, history.json, curves.png
    and confusion.png; and checkpoint.pth after each epoch. On several GPUs:
    torchrun --nproc-per-node=N -m fastaug train FOLDER …
    """
    checkpoint = out / "checkpoint.pth"
    if resume and not checkpoint.is_file():
        raise FileNotFoundError(f"train: expected '{checkpoint}' for --resume, found none. Leave out --resume.")
    plots.check_installed()
    device = ranks.join(device)
    try:
        data = _Data(folder, pattern, valid_fraction, seed, model, weights, batch_size, size, presize, device)
        options = {"train_bn": train_bn, "amp": amp, "checkpoint": checkpoint, "after_epoch": [RunLog(out)]}
        learn, loaders = _learner(data, as_json, **options)
        if not rank():
            write_config(context, out / "config.toml")
        if resume:
            learn.load(checkpoint, resume=True)
        learn.fine_tune(epochs, base_lr, freeze_epochs)
        matrix = save_results(learn, loaders[0].samples.classes, out)
        quarantined = [bad for loader in loaders for bad in loader.quarantined]
        if not rank():
            _print_summary(learn, quarantined, matrix, out, as_json)
    finally:
        ranks.leave()


@app.command()
@one_line_errors
def predict(
    model: Annotated[Path, typer.Argument(help="model.safetensors of a training.", show_default=False)],
    files: Annotated[list[Path], typer.Argument(help="Photos.", show_default=False)],
    device: Device = None,
    debug: Debug = False,
) -> None:
    """Say what is on photos: a line each, with file, class and probability, between tabs."""
    predictor = load_classifier(model, device)
    probabilities = predictor.get_preds(files)
    for file, index, row in zip(files, predictor.decide(probabilities).tolist(), probabilities, strict=True):
        typer.echo(f"{file}\t{predictor.name(index)}\t{float(row[index] if index >= 0 else row.max()):.4f}")


@app.command("lr-find")
@one_line_errors
def find_rate(
    folder: Folder,
    pattern: Pattern = None,
    seed: Seed = 42,
    model: ModelName = "resnet34",
    weights: Weights = "DEFAULT",
    frozen: Annotated[bool, typer.Option(help="With only the head training, as fine-tuning begins.")] = True,
    batches: Annotated[int, typer.Option(min=2, help="From the lowest rate to the highest.")] = 100,
    batch_size: Annotated[int, typer.Option(min=1)] = 64,
    size: Size = 224,
    presize: Presize = 460,
    device: Device = None,
    out: Annotated[Path, typer.Option(help="The picture.")] = Path("lr-find.png"),
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Find a good learning rate for a folder of images: try many, a batch each, and draw the losses."""
    plots.check_installed()
    data = _Data(folder, pattern, 0.2, seed, model, weights, batch_size, size, presize, device)
    learn, _ = _learner(data, as_json)
    if frozen:
        learn.freeze()
    found = learn.lr_find(num_it=batches)
    plots.save_figure(found.plot(), out)
    rates = {name: getattr(found, name) for name in ("valley", "slide", "steep", "minimum")}
    if as_json:
        typer.echo(json.dumps({**rates, "batches": len(found.lrs), "picture": str(out)}, indent=2))
        return
    for name, rate in rates.items():
        typer.echo(f"{name:<8}{rate:.2e}")
    typer.echo(f"{len(found.lrs)} batches, picture: {out}")


@app.command()
@one_line_errors
def show(
    folder: Folder,
    pattern: Pattern = None,
    images: Annotated[int, typer.Option(min=1, help="Photos.")] = 9,
    seed: Seed = 42,
    size: Size = 224,
    presize: Presize = 460,
    mode: Mode = "resize",
    device: Device = None,
    out: Annotated[Path, typer.Option(help="The picture.")] = Path("show.png"),
    debug: Debug = False,
) -> None:
    """Look at a batch of training: each photo, and beside it what the model would get of it."""
    samples = _samples(folder, pattern)
    images = min(images, len(samples))
    augment = aug_transforms(size=size, min_scale=0.75, normalize=None)
    with ImageLoader(samples, images, presize, augment, device, seed=seed, mode=mode, return_info=True) as loader:
        x, y, info = next(iter(loader))
    some = samples.subset(info.indices.tolist())
    with ImageLoader(some, images, presize, None, device, training=False) as loader:
        plain, _ = next(iter(loader))
    pairs = [image for pair in zip(plain, x, strict=True) for image in pair]
    titles = [title for target in y.tolist() for title in (samples.classes[target], "augmented")]
    columns = 2 * math.ceil(math.sqrt(images / 2))
    plots.save_figure(plots.show_images(pairs, titles, columns), out)
    typer.echo(f"{len(y)} photos of {samples}, picture: {out}")


@app.command()
@one_line_errors
def summary(
    folder: Folder,
    pattern: Pattern = None,
    row: Annotated[int, typer.Option(min=0, help="Which photo, in the order of the paths.")] = 0,
    seed: Seed = 42,
    model: Annotated[
        str | None, typer.Option(help="Also through this model (random weights), with its layers.", show_default="none")
    ] = None,
    size: Size = 224,
    presize: Presize = 460,
    mode: Mode = "resize",
    device: Device = None,
    debug: Debug = False,
) -> None:
    """Walk one photo through every step of training and print what comes of it; where a step fails, which and why.

    Exit code 1 if a step failed.
    """
    samples = _samples(folder, pattern)
    network = classifier(model, len(samples.classes), None) if model else None
    augment = aug_transforms(size=size, min_scale=0.75, normalize=model_statistics(network) if network else IMAGENET)
    loader = ImageLoader(samples, 1, presize, augment, device, seed=seed, mode=mode)
    walk = Learner(loader, None, network, device=device).summary(row) if network else loader.summary(row)
    typer.echo(str(walk))
    if walk.failed:
        raise typer.Exit(1)


class _Data(NamedTuple):
    """What to train on, and what to train."""

    folder: Path
    pattern: str | None
    valid_fraction: float
    seed: int
    model: str
    weights: str
    batch_size: int
    size: int
    presize: int
    device: str | None


def _samples(folder: Path, pattern: str | None) -> Samples:
    if folder.suffix == ".csv":
        return Samples.from_csv(folder)
    if folder.suffix == ".tar" or glob.has_magic(folder.name):
        return Samples.from_tar(folder, pattern=pattern)
    return Samples.from_filenames(folder, pattern) if pattern else Samples.from_folder(folder)


def _learner(data: _Data, quiet: bool, **settings: Any) -> tuple[Learner, list[ImageLoader]]:
    """The learner and its loaders, to train and to validate. quiet: nothing is printed."""
    samples = _samples(data.folder, data.pattern)
    if len(samples.classes) < 2:
        raise ValueError(
            f"train: expected two classes or more in '{data.folder}', got {', '.join(samples.classes)} alone. Put each "
            "class into its own folder, or give --pattern."
        )
    train_samples, valid_samples = samples.split(data.valid_fraction, data.seed, stratify=True)
    torch.manual_seed(data.seed)
    network = classifier(data.model, len(samples.classes), _weights(data.weights, data.model))
    augment = aug_transforms(size=data.size, min_scale=0.75, normalize=model_statistics(network))
    train_loader, valid_loader = (
        ImageLoader(part, data.batch_size, data.presize, augment, data.device, training, data.seed)
        for part, training in ((train_samples, True), (valid_samples, False))
    )
    if not (rank() or quiet):
        typer.echo(f"{len(train_samples):,} images to train, {len(valid_samples):,} to validate: {samples}")
    learn = Learner(train_loader, valid_loader, network, device=data.device, progress=not quiet, **settings)
    return learn, [train_loader, valid_loader]


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


@app.command()
@one_line_errors
def check(
    folder: Folder,
    pattern: Pattern = None,
    num_threads: Annotated[int | None, typer.Option(min=1, show_default="the cores there are")] = None,
    clean: Annotated[
        Path | None, typer.Option(help="Write the good files and their classes into this .csv.", show_default="none")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the bad files as JSON.")] = False,
    debug: Debug = False,
) -> None:
    """Find the files that cannot be read or decoded, before a training does; exit code 1 if there are any."""
    samples = _samples(folder, pattern)
    bar = (BarColumn(), MofNCompleteColumn(), TextColumn("files"), TimeRemainingColumn())
    with Progress(*bar, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=len(samples))
        bad = bad_files(samples, num_threads, lambda count: progress.advance(task, count))
    if clean is not None:
        samples.subset([row for row in range(len(samples)) if row not in bad]).to_csv(clean)
    if as_json:
        listed = [{"path": samples.paths[row], "reason": reason} for row, reason in bad.items()]
        typer.echo(json.dumps({"files": len(samples), "bad": listed}, indent=2))
    else:
        for row, reason in bad.items():
            typer.echo(f"{samples.paths[row]}: {reason}")
        typer.echo(f"{len(bad):,} of {len(samples):,} files are bad" + (f"; the others: {clean}" if clean else ""))
    raise typer.Exit(bool(bad))


@app.command()
@one_line_errors
def bench(
    folder: Folder,
    mode: Mode = "direct",
    batch_size: Annotated[int, typer.Option(min=1)] = 64,
    size: Size = 224,
    presize: Presize = 460,
    model: Annotated[
        str | None,
        typer.Option(help="Train this model (of torchvision, or timm:NAME) meanwhile.", show_default="none"),
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="How long, after the first batch.")] = 10.0,
    num_threads: Annotated[int | None, typer.Option(min=1, show_default="the cores there are")] = None,
    device: Device = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """How many images a second the loader reads, decodes, presizes and warps, and whether it or the model is the limit.

    Without --model nothing is done with the batches.
    """
    samples = _samples(folder, None)
    augment = aug_transforms(size=size, min_scale=0.75)
    batch_size = min(batch_size, len(samples))
    rows = max(len(samples), 8 * batch_size)  # a few photos come several times: one batch would tell nothing
    samples = samples.subset([row % len(samples) for row in range(rows)])
    loader = ImageLoader(samples, batch_size, presize, augment, device, mode=mode, num_threads=num_threads)
    step = _training_step(model, samples, loader.device)
    seen, start, stats = 0, 0.0, []
    while not seen or time.perf_counter() - start < seconds:
        for x, y in loader:
            step(x, y)
            if not seen:
                start = time.perf_counter()
            seen += len(y)
            if time.perf_counter() - start > seconds:
                break
        stats.append(loader.stats())
    together = merge_stats(stats)
    figures = {
        "images": seen,
        "images_per_s": together.images_per_s,
        "first_batch_s": together.first_batch_s,
        "waited_s": together.waited_s,
        "warp_s": together.warp_s,
        "model_s": together.model_s,
        "limit": together.limit,
        "quarantined": len(loader.quarantined),
    }
    typer.echo(json.dumps(figures, indent=2) if as_json else f"{seen:,} images, mode {mode}\n{together}")


def _training_step(model: str | None, samples: Samples, device: torch.device) -> Callable[[Tensor, Tensor], None]:
    if model is None:
        return lambda x, y: None
    network = classifier(model, len(samples.classes), None).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)

    def step(x: Tensor, y: Tensor) -> None:
        torch.nn.functional.cross_entropy(network(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # or the waiting would be counted as somebody else's

    return step


def _weights(weights: str, model: str) -> str | dict[str, Tensor] | None:
    if weights == "lite0":
        if model != LITE0:
            raise ValueError(f"train: --weights lite0 fit --model {LITE0}, got --model {model}.")
        return lite0_weights()
    return None if weights.lower() == "none" else weights


def _print_summary(
    learn: Learner, quarantined: list[tuple[str, str]], matrix: Tensor, out: Path, as_json: bool
) -> None:
    right, total, last = int(matrix.trace()), int(matrix.sum()), learn.history.epochs[-1]
    if as_json:
        figures = {"accuracy": right / total, "right": right, "validated": total, "epochs": learn.history.epochs}
        typer.echo(json.dumps({**figures, "quarantined": quarantined, "out": str(out)}, indent=2))
        return
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
