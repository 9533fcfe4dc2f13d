"""How many images a second from JPEG files to normalised 224 batches, on a CPU?

    python -m benchmarks.decode_to_batch FOLDER --threads 2
    python -m benchmarks.decode_to_batch --tiny          # photos that scikit-image ships, as JPEG

Every competitor draws its own transforms, so what is checked is this: each image of its first batch must have the
colours of its file, in the right order and normalisation. Timed are whole passes over the files, from asking for the
first batch to having the last; they take turns. Time to the first batch is that of a loader just made, in a process
in which one like it has run before.
"""

from __future__ import annotations

import itertools
import random
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import fastaug as fa
from benchmarks import common
from benchmarks.common import MEAN, PRESIZE, SIZE, STD

PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png", "ihc.png", "motorcycle_left.png", "rocket.jpg")
DIRECT, RESIZE = "fastaug, mode direct", "fastaug, mode resize"
FASTAI, DALI_USUAL = "fastai", "DALI, crop of 8 to 100 % + flip"
# Colours of a batch against those of its files; crops of 8 % and lighting must pass. See wrong_colors.
BIAS_LEVELS, SLOPE_OFF, CORRELATION = 25.0, 0.6, 0.5
PAUSE_S = 0.3

Batch = tuple[Tensor, Tensor]  # float32 [B, 3, 224, 224], rows of the files [B]
Passes = Callable[[], Iterator[Batch]]  # called again: another pass over the files


# --- competitors: (files, batch, threads, seed) -> Passes. Targets are the rows of the files -------------------------


def fastaug_loader(mode: str, files: Sequence[Path], batch: int, threads: int, seed: int) -> Passes:
    samples = fa.Samples([str(file) for file in files], list(range(len(files))), [str(i) for i in range(len(files))])
    augment = fa.aug_transforms(size=SIZE, min_scale=0.75)
    loader = fa.ImageLoader(
        samples, batch, PRESIZE, augment, device="cpu", seed=seed, mode=mode, num_threads=threads, on_error="raise"
    )
    return partial(iter, loader)


def fastai_loader(workers: int, files: Sequence[Path], batch: int, threads: int, seed: int) -> Passes:
    """Its recipe: Resize(460) for each image, aug_transforms(size=224, min_scale=0.75) and Normalize for the batch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it scripts functions for torch.jit when it is imported
        from fastai.data.core import Datasets, TfmdDL
        from fastai.data.transforms import IntToFloatTensor, Normalize, ToTensor
        from fastai.vision.augment import Resize, aug_transforms
        from fastai.vision.core import PILImage
    rows = {str(file): row for row, file in enumerate(files)}
    datasets = Datasets([str(file) for file in files], [[PILImage.create], [lambda file: torch.tensor(rows[file])]])
    loader = TfmdDL(
        datasets.train, bs=batch, shuffle=True, drop_last=True, num_workers=workers, device=torch.device("cpu"),
        after_item=[Resize(PRESIZE), ToTensor()],
        after_batch=[
            IntToFloatTensor(), *aug_transforms(size=SIZE, min_scale=0.75), Normalize.from_stats(MEAN, STD, cuda=False),
        ],
    )  # fmt: skip

    def one_pass() -> Iterator[Batch]:
        for x, y in loader:
            yield x.as_subclass(Tensor), y.as_subclass(Tensor)

    return one_pass


class Files(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """Files through a torchvision transform."""

    def __init__(self, files: Sequence[Path], transform: Callable[[Any], Tensor]):
        self.files, self.transform = files, transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        with Image.open(self.files[row]) as photo:
            return self.transform(photo.convert("RGB")), row


def torchvision_loader(plain: bool, files: Sequence[Path], batch: int, threads: int, seed: int) -> Passes:
    """torch's DataLoader with one worker process for each thread, kept between passes.

    plain: crop, flip and normalise only; otherwise presize, then fastai's list, step by step, on uint8 tensors.
    """
    from torchvision.transforms import v2

    bilinear = v2.InterpolationMode.BILINEAR
    last = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(MEAN), list(STD))]
    if plain:
        steps = [v2.RandomResizedCrop(SIZE, antialias=True), v2.RandomHorizontalFlip(), v2.PILToTensor()]
    else:
        steps = [
            v2.PILToTensor(), v2.Resize(PRESIZE, antialias=True), v2.RandomCrop(PRESIZE), v2.RandomHorizontalFlip(),
            v2.RandomPerspective(0.2, p=0.75, interpolation=bilinear),
            v2.RandomApply([v2.RandomRotation(10, bilinear)], p=0.75),
            v2.RandomApply([v2.RandomAffine(0, scale=(1.0, 1.1), interpolation=bilinear)], p=0.75),
            v2.RandomApply([v2.ColorJitter(brightness=0.2)], p=0.75),
            v2.RandomApply([v2.ColorJitter(contrast=(0.8, 1.25))], p=0.75),
            v2.RandomResizedCrop(SIZE, scale=(0.75, 1.0), ratio=(1.0, 1.0), antialias=True),
        ]  # fmt: skip
    loader = torch.utils.data.DataLoader(
        Files(files, v2.Compose([*steps, *last])), batch, shuffle=True, num_workers=threads, drop_last=True,
        persistent_workers=True, generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip
    return partial(iter, loader)


def dali_loader(usual: bool, files: Sequence[Path], batch: int, threads: int, seed: int) -> Passes:
    """DALI's pipeline: decode, crop, resize to 224, flip, normalise.

    usual: its defaults, crops of 8 to 100 % of the photo, decoding only the crop; otherwise square crops of at least
    75 %, or the nearest that fits.
    """
    from nvidia.dali import fn, pipeline_def, types
    from nvidia.dali.plugin.pytorch import DALIGenericIterator, LastBatchPolicy

    @pipeline_def(batch_size=batch, num_threads=threads, device_id=None, seed=seed)
    def pipeline() -> Any:
        paths = [str(file) for file in files]
        encoded, row = fn.readers.file(files=paths, labels=list(range(len(paths))), random_shuffle=True, name="files")
        if usual:
            x = fn.resize(fn.decoders.image_random_crop(encoded, device="cpu"), size=[SIZE, SIZE])
        else:
            shape = {"random_area": [0.75, 1.0], "random_aspect_ratio": [1.0, 1.0]}
            x = fn.random_resized_crop(fn.decoders.image(encoded, device="cpu"), size=[SIZE, SIZE], **shape)
        statistics = {"mean": [255 * m for m in MEAN], "std": [255 * s for s in STD]}
        x = fn.crop_mirror_normalize(
            x, mirror=fn.random.coin_flip(), dtype=types.FLOAT, output_layout="CHW", **statistics
        )
        return x, row

    iterator = DALIGenericIterator(
        [pipeline()], ["x", "y"], reader_name="files", last_batch_policy=LastBatchPolicy.DROP, auto_reset=True
    )

    def one_pass() -> Iterator[Batch]:
        for (found,) in iterator:
            yield found["x"], found["y"][:, 0]

    return one_pass


Make = Callable[[Sequence[Path], int, int, int], Passes]


def competitors(tiny: bool) -> dict[str, Make]:
    workers = (0,) if tiny else (0, 1, 2)
    return {
        DIRECT: partial(fastaug_loader, "direct"),
        RESIZE: partial(fastaug_loader, "resize"),
        **{f"{FASTAI}, {n} workers": partial(fastai_loader, n) for n in workers},
        "torchvision v2 step by step": partial(torchvision_loader, False),
        "torchvision v2, crop of 8 to 100 % + flip": partial(torchvision_loader, True),
        "DALI, crop of 75 to 100 % + flip": partial(dali_loader, False),
        DALI_USUAL: partial(dali_loader, True),
    }


# --- check ---------------------------------------------------------------------------------------------------------


def mean_colors(files: Sequence[Path]) -> Tensor:
    """Of each file, float64 [N, 3] in levels of 255."""
    return torch.tensor(np.array([common.open_rgb(file).mean((0, 1)) for file in files]))


def wrong_colors(x: Tensor, rows: Tensor, colors: Tensor) -> float:
    """How far a batch is from the colours of its files, as a share of what is allowed: above 1 is wrong.

    Crops differ from their photo, so brightness, and red less blue, are compared over the whole batch: mean, slope and
    correlation. A wrong order, swapped channels and a missing normalisation each fail one of them.
    """
    if x.shape[1:] != (3, SIZE, SIZE) or x.dtype != torch.float32 or len(x) != len(rows) or not x.isfinite().all():
        return float("inf")
    got, expected = common.denormalised(x).mean((2, 3)) * 255, colors[rows.long()]
    worst = 0.0
    for channels in ([1 / 3, 1 / 3, 1 / 3], [1.0, 0.0, -1.0]):
        pair = torch.stack([values @ torch.tensor(channels, dtype=torch.float64) for values in (got, expected)])
        covariance = torch.cov(pair)
        slope = float(covariance[0, 1] / covariance[1, 1])
        correlation = float(torch.corrcoef(pair)[0, 1])
        bias = abs(float(pair[0].mean() - pair[1].mean()))
        if not np.isfinite([slope, correlation]).all():
            return float("inf")
        worst = max(worst, bias / BIAS_LEVELS, abs(1 - slope) / SLOPE_OFF, (1 - correlation) / (1 - CORRELATION))
    return worst


# --- timing --------------------------------------------------------------------------------------------------------


def first_batch(make: Callable[[], Passes]) -> tuple[Passes, float, Batch]:
    """The competitor, just made, the seconds until its first batch, and that batch; its first pass is over."""
    start = time.perf_counter()
    passes = make()
    batches = passes()
    first = next(batches)
    seconds = time.perf_counter() - start
    for _ in batches:
        pass
    return passes, seconds, first


def run_pass(passes: Passes, images: int) -> None:
    seen = sum(len(x) for x, _ in passes())
    if seen != images:
        raise RuntimeError(f"expected {images} images in a pass, got {seen}")


def fastest(made: dict[str, Passes], prefix: str, images: int, report: common.Report) -> dict[str, Passes]:
    """Without the slower ones of those whose name starts with `prefix`, by one pass each."""
    seconds = {}
    for name in made:
        if name.startswith(prefix):
            start = time.perf_counter()
            run_pass(made[name], images)
            seconds[name] = time.perf_counter() - start
    report.settings["seconds_of_one_pass"] = seconds
    best = min(seconds, key=lambda name: seconds[name], default=None)
    return {name: passes for name, passes in made.items() if name not in seconds or name == best}


def measure(report: common.Report, ways: dict[str, Passes], first: dict[str, float], images: int, repeats: int) -> None:
    calls = {name: partial(run_pass, passes, images) for name, passes in ways.items()}
    # DALI's pipeline fills its queue between passes: a pass right before the timed one leaves it as it will be left.
    # The others start each pass with nothing, once DALI has come to rest.
    before = {name: calls[name] if name.startswith("DALI") else partial(time.sleep, PAUSE_S) for name in calls}
    timed = common.take_turns(calls, repeats, before=before)
    base = next((name for name in timed if name.startswith(FASTAI)), None)
    lines = []
    for name, each in timed.items():
        speed = common.spread([images / seconds for seconds in each])
        row = {"name": name, "images_per_s": speed, "first_batch_s": first[name], "seconds": each}
        against = {
            key: common.ratios(timed[k], each) for key, k in (("fastai", base), ("dali", DALI_USUAL)) if k in timed
        }
        report.rows.append(row | {f"times_{key}": value for key, value in against.items()})
        cells = [common.with_spread(against[key], 2) if key in against else "" for key in ("fastai", "dali")]
        lines.append([name, common.with_spread(speed, 0), *cells, f"{first[name]:.2f}"])
    report.table(
        f"{images} images a pass, {report.settings['threads']} threads, {repeats} passes; middle half in brackets",
        ["", "images/s", f"times {base}", f"times {DALI_USUAL}", "first batch, s"], lines,
    )  # fmt: skip

    def ratio(below: str | None) -> float | None:
        return common.ratios(timed[below], timed[DIRECT])["median"] if {below, DIRECT} <= set(timed) else None

    report.target(f"{DIRECT} / fastai at its best number of workers, images/s", ratio(base), 12)
    report.target(f"{DIRECT} / {DALI_USUAL}, images/s", ratio(DALI_USUAL), 0.7)


def scikit_image_jpegs(folder: Path) -> list[Path]:
    for path in common.scikit_image_photos(PHOTOS):
        Image.fromarray(common.open_rgb(path)).save(folder / f"{path.stem}.jpg", quality=90)
    return common.photo_files(folder)


def main() -> int:
    parser = common.parser(__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="JPEG files; default: scikit-image's photos")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--images", type=int, default=512, help="images a pass; the files are repeated or cut")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    batch, images, repeats = (16, 32, 1) if arguments.tiny else (arguments.batch, arguments.images, arguments.repeats)
    images -= images % batch
    torch.set_num_threads(arguments.threads)
    torch.set_grad_enabled(False)
    random.seed(arguments.seed)  # fastai and torchvision draw from the global generators
    torch.manual_seed(arguments.seed)
    settings = {
        "batch": batch,
        "images": images,
        "threads": arguments.threads,
        "repeats": repeats,
        "seed": arguments.seed,
    }
    report = common.Report(
        "decode_to_batch", settings | {"folder": arguments.folder.name if arguments.folder else "scikit-image"}
    )
    with tempfile.TemporaryDirectory() as temporary:
        found = common.photo_files(arguments.folder) if arguments.folder else scikit_image_jpegs(Path(temporary))
        files = list(itertools.islice(itertools.cycle(found), images))
        colors = mean_colors(found).repeat(-(-images // len(found)), 1)[:images]
        ways: dict[str, Passes] = {}
        first: dict[str, float] = {}
        for name, make in competitors(arguments.tiny).items():
            with report.peer(name):
                made = partial(make, files, batch, arguments.threads, arguments.seed)
                first_batch(made)  # imports and compiles
                passes, seconds, (x, rows) = first_batch(made)
                if report.admit(name, wrong_colors(x, rows, colors), 1.0, "times what is allowed"):
                    ways[name], first[name] = passes, seconds
        ways = fastest(ways, FASTAI, images, report)
        if ways:
            measure(report, ways, first, images, repeats)
    return report.finish(common.out_path(arguments))


if __name__ == "__main__":
    sys.exit(main())
