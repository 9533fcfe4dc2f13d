"""How does the cost of augmentation grow with the number of augmentations, from 1 to 8?

    python -m benchmarks.growth
    python -m benchmarks.growth --device cuda --batch 256 1 8 64
    python -m benchmarks.growth --tiny

uint8 460 x 460 -> normalised float32 224 x 224. Everybody draws its own parameters, which is part of the time, and
applies every augmentation to every image. Checked first, with all eight: each image has the colours of its photo
(benchmarks/loaders.py). The competitors take turns. Of several batch sizes the first is looked at closely, the others
with 1 and all 8 augmentations.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import fastaug as fa
from benchmarks import common
from benchmarks.common import MEAN, SIZE, STD
from benchmarks.loaders import wrong_colors
from benchmarks.on_gpu import kernel_ms
from benchmarks.warp_cpu import PHOTOS
from fastaug.demo import comparison

OURS, FASTAI = "fastaug, antialias", "fastai batch transforms"
KORNIA, TORCHVISION = "Kornia AugmentationSequential", "torchvision v2"
# In the order in which they are added. The crop, to 224 pixels, is the last geometric one whenever it was added.
NAMES = ("crop", "flip", "rotation", "perspective", "zoom", "brightness", "contrast", "saturation")
GEOMETRIC = ("flip", "rotation", "perspective", "zoom", "crop")
LIGHT = 0.2
CHECKED = 8  # images at least, for colours are compared over a batch

Way = Callable[[], Tensor]  # -> float32 [B, 3, 224, 224]
Make = Callable[[Tensor, int], Way]  # uint8 [B, 460, 460, 3] on the device, number of augmentations


def ordered(count: int) -> list[str]:
    """The first `count` augmentations, in the order in which they are applied."""
    added = NAMES[:count]
    return [name for name in (*GEOMETRIC, *NAMES[len(GEOMETRIC) :]) if name in added]


def ours(images: Tensor, count: int) -> Way:
    made = {
        "flip": fa.RandomHorizontalFlip(1.0),
        "rotation": fa.RandomRotation(10),
        "perspective": fa.RandomPerspective(0.2, p=1.0),
        "zoom": fa.RandomZoom((1.0, 1.1)),
        "crop": fa.RandomResizedCrop((0.75, 1.0), (1.0, 1.0)),
        "brightness": fa.ColorJitter(brightness=LIGHT),
        "contrast": fa.ColorJitter(contrast=LIGHT),
        "saturation": fa.ColorJitter(saturation=LIGHT),
    }
    augment = fa.Augment(
        [made[name] for name in ordered(count)], size=SIZE, padding="reflection", normalize=fa.IMAGENET
    )
    return partial(augment, images)


def kornia(images: Tensor, count: int) -> Way:
    import kornia.augmentation as K

    warp: dict[str, Any] = {"p": 1.0, "resample": "bilinear", "align_corners": False}
    span = (1 - LIGHT, 1 + LIGHT)
    made = {
        "flip": lambda: K.RandomHorizontalFlip(p=1.0),
        "rotation": lambda: K.RandomRotation(10.0, **warp),
        "perspective": lambda: K.RandomPerspective(0.2, **warp),
        "zoom": lambda: K.RandomAffine(0.0, scale=(1.0, 1.1), padding_mode="reflection", **warp),
        "crop": lambda: K.RandomResizedCrop(
            (SIZE, SIZE), (0.75, 1.0), (1.0, 1.0), cropping_mode="resample", **warp
        ),
        "brightness": lambda: K.RandomBrightness(span, p=1.0),
        "contrast": lambda: K.RandomContrast(span, p=1.0),
        "saturation": lambda: K.RandomSaturation(span, p=1.0),
    }  # fmt: skip
    normalise = K.Normalize(torch.tensor(MEAN), torch.tensor(STD))
    steps = K.AugmentationSequential(*(made[name]() for name in ordered(count)), normalise, data_keys=["input"])
    steps = steps.to(images.device)
    return lambda: steps(images.permute(0, 3, 1, 2).float() / 255)


def torchvision(pool: ThreadPoolExecutor, images: Tensor, count: int) -> Way:
    """On uint8, an image per call, for it draws once for all that it is given; on a CPU an image per task."""
    from torchvision.transforms import v2

    bilinear, span = v2.InterpolationMode.BILINEAR, (1 - LIGHT, 1 + LIGHT)
    made = {
        "flip": lambda: v2.RandomHorizontalFlip(1.0),
        "rotation": lambda: v2.RandomRotation(10, bilinear),
        "perspective": lambda: v2.RandomPerspective(0.2, p=1.0, interpolation=bilinear),
        "zoom": lambda: v2.RandomAffine(0, scale=(1.0, 1.1), interpolation=bilinear),
        "crop": lambda: v2.RandomResizedCrop(SIZE, scale=(0.75, 1.0), ratio=(1.0, 1.0), antialias=True),
        "brightness": lambda: v2.ColorJitter(brightness=span),
        "contrast": lambda: v2.ColorJitter(contrast=span),
        "saturation": lambda: v2.ColorJitter(saturation=span),
    }
    steps = v2.Compose(
        [
            *(made[name]() for name in ordered(count)), v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(list(MEAN), list(STD)),
        ]
    )  # fmt: skip
    photos = images.permute(0, 3, 1, 2).contiguous()
    each: Callable[..., Any] = pool.map if images.device.type == "cpu" else map
    return lambda: torch.stack(list(each(steps, photos)))


def fastai(images: Tensor, count: int) -> Way:
    """One crop for the whole batch; it composes what it warps, and then crops with a second interpolation."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it scripts functions for torch.jit when it is imported
        from fastai.data.transforms import IntToFloatTensor, Normalize
        from fastai.torch_core import TensorImage
        from fastai.vision import augment
        from fasttransform import Pipeline

    made = {
        "flip": lambda: augment.Flip(p=1.0),
        "rotation": lambda: augment.Rotate(10, p=1.0),
        "perspective": lambda: augment.Warp(0.2, p=1.0),
        "zoom": lambda: augment.Zoom(1.0, 1.1, p=1.0),
        "crop": lambda: augment.RandomResizedCropGPU(SIZE, min_scale=0.75, ratio=(1, 1)),
        "brightness": lambda: augment.Brightness(LIGHT, p=1.0),
        "contrast": lambda: augment.Contrast(LIGHT, p=1.0),
        "saturation": lambda: augment.Saturation(LIGHT, p=1.0),
    }
    steps = augment.setup_aug_tfms([made[name]() for name in ordered(count)])
    normalise = Normalize.from_stats(MEAN, STD, cuda=images.device.type != "cpu")
    pipeline = Pipeline([IntToFloatTensor(), *steps, normalise], split_idx=0)
    photos = images.permute(0, 3, 1, 2).contiguous()
    return lambda: pipeline(TensorImage(photos)).as_subclass(Tensor)


Key = tuple[str, int]  # name, number of augmentations


def measure(
    report: common.Report, images: Tensor, makes: dict[str, Make], counts: list[int], repeats: int
) -> dict[Key, list[float]]:
    """Rows for each competitor and number of augmentations; returns their seconds, round by round."""
    ways = {(name, count): make(images, count) for name, make in makes.items() for count in counts}
    keys = {f"{name}/{count}": (name, count) for name, count in ways}
    timed = comparison.take_turns({key: partial(comparison.synchronised, ways[keys[key]]) for key in keys}, repeats)
    seconds = {keys[key]: each for key, each in timed.items()}
    for (name, count), each in seconds.items():
        ms = comparison.quartiles([1e3 * value / len(images) for value in each])
        row = {"name": name, "batch": len(images), "count": count, "ms_per_image": ms, "seconds": each}
        row["peak_bytes"] = common.peak_bytes(ways[name, count], images.device.type)
        if images.is_cuda:
            row["launches"] = len(kernel_ms(ways[name, count]))
        report.rows.append(row)
    return seconds


def show_counts(report: common.Report, makes: dict[str, Make], seconds: dict[Key, list[float]]) -> None:
    """Tables by number of augmentations, of the rows so far, and the goal."""
    rows = {(row["name"], row["count"]): row for row in report.rows}
    counts = sorted({count for _, count in rows})
    grown = {name: common.ratios(seconds[name, counts[-1]], seconds[name, counts[0]]) for name in makes}
    report.table(
        f"ms an image by number of augmentations, batch {report.rows[0]['batch']}, {torch.get_num_threads()} threads, "
        f"{len(seconds[next(iter(seconds))])} rounds; middle half in brackets",
        ["", *map(str, counts), f"{counts[-1]} / {counts[0]}", f"peak memory of {counts[-1]}, MB"],
        [
            [
                name, *(f"{rows[name, count]['ms_per_image']['median']:.2f}" for count in counts),
                common.with_spread(grown[name], 2), f"{rows[name, counts[-1]]['peak_bytes'] / 1e6:,.0f}",
            ]
            for name in makes
        ],
    )  # fmt: skip
    if "launches" in report.rows[0]:
        report.table(
            "Kernels and copies on the GPU, a batch", ["", *map(str, counts)],
            [[name, *(str(rows[name, count]["launches"]) for count in counts)] for name in makes],
        )  # fmt: skip
    if OURS in makes:
        what = f"{OURS}: time of {counts[-1]} / time of {counts[0]}"
        report.target(what, grown[OURS]["median"], 1.2, at_least=False)


def show_batches(
    report: common.Report, makes: dict[str, Make], seconds: dict[int, dict[Key, list[float]]], count: int
) -> None:
    """All the augmentations, by batch size; times ours in brackets."""
    batches = sorted(seconds)
    ms = {(row["name"], row["batch"]): row["ms_per_image"]["median"] for row in report.rows if row["count"] == count}

    def cell(name: str, batch: int) -> str:
        shown = f"{ms[name, batch]:.3f}"
        if name == OURS or OURS not in makes:
            return shown
        times = common.ratios(seconds[batch][name, count], seconds[batch][OURS, count])["median"]
        return f"{shown} ({times:,.1f} ×)"

    report.table(
        f"ms an image of {count} augmentations by batch size; times {OURS}", ["", *map(str, batches)],
        [[name, *(cell(name, batch) for batch in batches)] for name in makes],
    )  # fmt: skip


def main() -> int:
    parser = common.parser(__doc__)
    parser.add_argument("--photos", type=Path, help="folder of photos; default: scikit-image's")
    parser.add_argument("--batch", type=int, nargs="+", default=[32], help="the first is looked at closely")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    arguments = parser.parse_args()
    sizes, repeats, counts = list(dict.fromkeys(arguments.batch)), arguments.repeats, list(range(1, 1 + len(NAMES)))
    if arguments.tiny:
        sizes, repeats, counts = [8, *sizes[1:]], 1, [1, len(NAMES)]
    torch.set_num_threads(arguments.threads)
    torch.set_grad_enabled(False)
    torch.manual_seed(arguments.seed)
    files = common.photo_files(arguments.photos) if arguments.photos else common.scikit_image_photos(PHOTOS)
    images = common.presized_batch(files, max(*sizes, CHECKED))
    colors, images = images.double().mean((1, 2)), images.to(arguments.device)
    settings = {
        "batch": sizes[0] if len(sizes) == 1 else sizes,
        "repeats": repeats,
        "seed": arguments.seed,
        "device": arguments.device,
    }
    report = common.Report("growth", settings, arguments.device)
    with ThreadPoolExecutor(arguments.threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        found: dict[str, Make] = {OURS: ours, KORNIA: kornia, TORCHVISION: partial(torchvision, pool), FASTAI: fastai}
        makes = {}
        for name, make in found.items():
            with report.peer(name):
                wrong = wrong_colors(make(images, len(NAMES))().cpu(), torch.arange(len(images)), colors)
                if report.admit(name, wrong, 1.0, "times what is allowed"):
                    makes[name] = make
        torch.set_num_threads(arguments.threads)  # the pool's 1 is not for this thread
        if makes:
            seconds = {sizes[0]: measure(report, images[: sizes[0]], makes, counts, repeats)}
            show_counts(report, makes, seconds[sizes[0]])
            for size in sizes[1:]:
                seconds[size] = measure(report, images[:size], makes, [counts[0], counts[-1]], repeats)
            if len(sizes) > 1:
                show_batches(report, makes, seconds, counts[-1])
    return report.finish(common.out_path(arguments))


if __name__ == "__main__":
    sys.exit(main())
