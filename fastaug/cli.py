"""The command line, `fastaug COMMAND`. Parses options, calls the library, prints what came of it."""

from __future__ import annotations

import functools
import glob
import io
import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

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
from fastaug.machine import rank, usable_device
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
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1, mps, xpu …", show_default="cuda where there is one")
]
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
Beside = Annotated[
    str | None, typer.Option(help="Also this model of torchvision, or timm:NAME (random weights).", show_default="none")
]
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
    for stream in (sys.stdout, sys.stderr):  # Windows: in a file or a pipe a code page, which may lack "×" or a name
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    app()


def command(function: Callable[..., None]) -> Callable[..., None]:
    """A command, with its errors as one line on stderr and exit code 1; with --debug they pass."""

    @app.command()
    @functools.wraps(function)
    def wrapped(*args: Any, debug: bool = False, **kwargs: Any) -> None:
        try:
            function(*args, debug=debug, **kwargs)
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


@command
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
        data = folder, pattern, valid_fraction, seed, batch_size, size, presize
        settings = {"train_bn": train_bn, "amp": amp, "checkpoint": checkpoint, "after_epoch": [RunLog(out)]}
        learn, loaders = _learner(*data, model, weights, device, as_json, settings)
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


@command
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


@command
def lr_find(
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
    learn, _ = _learner(folder, pattern, 0.2, seed, batch_size, size, presize, model, weights, device, as_json, {})
    if frozen:
        learn.freeze()
    found = learn.lr_find(num_it=batches)
    plots.save_figure(found.plot(), out)
    rates = {name: getattr(found, name) for name in ("valley", "slide", "steep", "minimum")}
    lines = [f"{name:<8}{rate:.2e}" for name, rate in rates.items()]
    lines.append(f"{len(found.lrs)} batches, picture: {out}")
    _print(as_json, {**rates, "batches": len(found.lrs), "picture": str(out)}, lines)


@command
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


@command
def summary(
    folder: Folder,
    pattern: Pattern = None,
    row: Annotated[int, typer.Option(min=0, help="Which photo, in the order of the paths.")] = 0,
    seed: Seed = 42,
    model: Beside = None,
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


def _samples(folder: Path, pattern: str | None) -> Samples:
    if folder.suffix == ".csv":
        return Samples.from_csv(folder)
    if folder.suffix == ".tar" or glob.has_magic(folder.name):
        return Samples.from_tar(folder, pattern=pattern)
    return Samples.from_filenames(folder, pattern) if pattern else Samples.from_folder(folder)


def _learner(
    folder: Path,
    pattern: str | None,
    valid_fraction: float,
    seed: int,
    batch_size: int,
    size: int,
    presize: int,
    model: str,
    weights: str,
    device: str | None,
    quiet: bool,
    settings: Mapping[str, Any],
) -> tuple[Learner, list[ImageLoader]]:
    """The learner, with `settings` of it, and its loaders, to train and to validate. quiet: nothing is printed."""
    usable_device("train", device)  # before a model is downloaded
    samples = _samples(folder, pattern)
    if len(samples.classes) < 2:
        raise ValueError(
            f"train: expected two classes or more in '{folder}', got {', '.join(samples.classes)} alone. Put each "
            "class into its own folder, or give --pattern."
        )
    parts = samples.split(valid_fraction, seed, stratify=True)
    if weights == "lite0" and model != LITE0:
        raise ValueError(f"train: --weights lite0 fit --model {LITE0}, got --model {model}.")
    torch.manual_seed(seed)
    given = lite0_weights() if weights == "lite0" else None if weights.lower() == "none" else weights
    network = classifier(model, len(samples.classes), given)
    augment = aug_transforms(size=size, min_scale=0.75, normalize=model_statistics(network))
    train_loader, valid_loader = (
        ImageLoader(part, batch_size, presize, augment, device, training, seed)
        for part, training in zip(parts, (True, False), strict=True)
    )
    if not (rank() or quiet):
        typer.echo(f"{len(parts[0]):,} images to train, {len(parts[1]):,} to validate: {samples}")
    learn = Learner(train_loader, valid_loader, network, device=device, progress=not quiet, **settings)
    return learn, [train_loader, valid_loader]


def _print(as_json: bool, figures: dict[str, Any], lines: Iterable[str]) -> None:
    typer.echo(json.dumps(figures, indent=2) if as_json else "\n".join(lines))


@command
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


@command
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
    listed = [{"path": samples.paths[row], "reason": reason} for row, reason in bad.items()]
    lines = [f"{one['path']}: {one['reason']}" for one in listed]
    lines.append(f"{len(bad):,} of {len(samples):,} files are bad" + (f"; the others: {clean}" if clean else ""))
    _print(as_json, {"files": len(samples), "bad": listed}, lines)
    raise typer.Exit(bool(bad))


@command
def bench(
    folder: Folder,
    mode: Mode = "direct",
    batch_size: Annotated[int, typer.Option(min=1)] = 64,
    size: Size = 224,
    presize: Presize = 460,
    model: Beside = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="How long, after the first batch.")] = 10.0,
    num_threads: Annotated[int | None, typer.Option(min=1, show_default="the cores there are")] = None,
    device: Device = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """How many images a second the loader reads, decodes, presizes and warps, and whether it or the model is the limit.

    The --model is trained on the batches; without one nothing is done with them.
    """
    samples = _samples(folder, None)
    augment = aug_transforms(size=size, min_scale=0.75)
    batch_size = min(batch_size, len(samples))
    rows = max(len(samples), 8 * batch_size)  # a few photos come several times: one batch would tell nothing
    samples = samples.subset([row % len(samples) for row in range(rows)])
    loader = ImageLoader(samples, batch_size, presize, augment, device, mode=mode, num_threads=num_threads)
    step = _training_step(model, samples, loader.device)
    stats, end = [], math.inf
    while time.perf_counter() < end:
        for x, y in loader:
            step(x, y)
            end = min(end, time.perf_counter() + seconds)  # from the first batch on
            if time.perf_counter() > end:
                break
        stats.append(loader.stats())
    total = merge_stats(stats)
    names = ("images", "images_per_s", "first_batch_s", "waited_s", "warp_s", "model_s", "limit")
    figures = {name: getattr(total, name) for name in names} | {"quarantined": len(loader.quarantined)}
    _print(as_json, figures, [f"{total.images:,} images, mode {mode}", str(total)])


def _training_step(model: str | None, samples: Samples, device: torch.device) -> Callable[[Tensor, Tensor], None]:
    if model is None:
        return lambda x, y: None
    network = classifier(model, len(samples.classes), None).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)

    def step(x: Tensor, y: Tensor) -> None:
        torch.nn.functional.cross_entropy(network(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
        if device.type != "cpu":
            torch.accelerator.synchronize(device)  # or the waiting would be counted as somebody else's

    return step


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
    _print(as_json, {**figures, "quarantined": quarantined, "out": str(out)}, [*lines, f"results: {out}"])


def _one_line(error: Exception) -> str:
    """The error's message without line breaks; its kind in front where the message alone might say nothing."""
    message = " ".join(str(error).split())
    clear = isinstance(error, ValueError | TypeError | ImportError | RuntimeError | OSError)
    return message if clear and message else f"{type(error).__name__}: {message}".rstrip(": ")
