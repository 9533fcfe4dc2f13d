"""Loaders that compete, from JPEG files to normalised 224 batches, and the check that each must pass.

Every competitor draws its own transforms, so what is checked is this: each image of a batch must have the colours of
its file, in the right order and normalisation.
"""

from __future__ import annotations

import argparse
import random
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
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
from fastaug.loading.decode import choose_decoder, has_dali

PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png", "ihc.png", "motorcycle_left.png", "rocket.jpg")
DIRECT, RESIZE = "fastaug, mode direct", "fastaug, mode resize"
FASTAI, DALI_USUAL = "fastai", "DALI, crop of 8 to 100 % + flip"
PILLOW, BARE = "Pillow, crop of 8 to 100 % + flip", "DALI, decode + resize to 460 only"
# Batches that a pass must have. DALI's pipeline has 3 ready after a rest: a shorter pass would be given what was made
# before it. The untimed pass right before a timed one uses them up, and none is ready at the end of either.
LEAST_BATCHES = 8
CROP = (0.08, 1.0), (3 / 4, 4 / 3)  # area and aspect ratio of the usual random crop
# Colours of a batch against those of its files; crops of 8 % and lighting must pass. See wrong_colors.
BIAS_LEVELS, SLOPE_OFF, CORRELATION = 25.0, 0.6, 0.5
SQUARE_BIAS_LEVELS = 12.0  # a square of the photo against the photo: the mean colour of a whole batch

Batch = tuple[Tensor, Tensor]  # float32 [B, 3, 224, 224] on the device, rows of the files [B]
Passes = Callable[[], Iterator[Batch]]  # called again: another pass over the files


@dataclass(frozen=True)
class Job:
    """What every loader gets.

    Attributes:
        files: JPEG files; the targets are their rows.
        threads: threads, or worker processes, that a loader may use.
        device: where the batches are wanted, "cpu" or "cuda".
    """

    files: Sequence[Path]
    batch: int
    threads: int
    seed: int
    device: str = "cpu"

    def rows(self) -> torch.Tensor:
        """The rows in a new order, without the last incomplete batch; for loaders that bring no sampler."""
        return torch.randperm(len(self.files))[: len(self.files) // self.batch * self.batch]

    def move(self, x: Tensor, rows: Tensor) -> Batch:
        return x.to(self.device, non_blocking=True), rows


def fastaug_loader(mode: str, job: Job) -> Passes:
    names = [str(row) for row in range(len(job.files))]
    samples = fa.Samples([str(file) for file in job.files], list(range(len(names))), names)
    loader = fa.ImageLoader(
        samples, job.batch, PRESIZE, common.default_augment(), device=job.device, seed=job.seed, mode=mode,
        num_threads=job.threads, on_error="raise",
    )  # fmt: skip
    return partial(iter, loader)


def decoder_of(device: str) -> str:
    """The name of the decoder that fastaug's loaders take."""
    return choose_decoder("auto", torch.device(device), has_dali()).name


def fastai_loader(workers: int, job: Job) -> Passes:
    """Its recipe: Resize(460) for each image, aug_transforms(size=224, min_scale=0.75) and Normalize for the batch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it scripts functions for torch.jit when it is imported
        from fastai.data.core import Datasets, TfmdDL
        from fastai.data.transforms import IntToFloatTensor, Normalize, ToTensor
        from fastai.vision.augment import Resize, aug_transforms
        from fastai.vision.core import PILImage
    normalise = Normalize.from_stats(MEAN, STD, cuda=job.device != "cpu")
    datasets = Datasets(
        list(range(len(job.files))), [[lambda row: PILImage.create(job.files[row])], [lambda row: torch.tensor(row)]]
    )
    loader = TfmdDL(
        datasets.train, bs=job.batch, shuffle=True, drop_last=True, num_workers=workers,
        device=torch.device(job.device), after_item=[Resize(PRESIZE), ToTensor()],
        after_batch=[IntToFloatTensor(), *aug_transforms(size=SIZE, min_scale=0.75), normalise],
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


def torchvision_loader(plain: bool, job: Job) -> Passes:
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
        Files(job.files, v2.Compose([*steps, *last])), job.batch, shuffle=True, num_workers=job.threads,
        drop_last=True, persistent_workers=True, generator=torch.Generator().manual_seed(job.seed),
        pin_memory=job.device != "cpu",
    )  # fmt: skip
    return lambda: (job.move(x, rows) for x, rows in loader)


def _crop_of(size: tuple[int, int]) -> tuple[int, int, int, int]:
    """left, top, width and height of the usual random crop; size: (width, height)."""
    (least, most), (narrow, wide) = CROP
    for _ in range(10):
        area, aspect = random.uniform(least, most) * size[0] * size[1], np.exp(random.uniform(*np.log([narrow, wide])))
        width, height = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
        if width <= size[0] and height <= size[1]:
            return random.randint(0, size[0] - width), random.randint(0, size[1] - height), width, height
    return 0, 0, *size


def _pillow_image(path: Path) -> np.ndarray:
    """uint8 [224, 224, 3]: decoded at the smallest of JPEG's own scales that is large enough, cropped, flipped."""
    with Image.open(path) as photo:
        left, top, width, height = _crop_of(photo.size)
        full = photo.width
        photo.draft("RGB", (photo.width * SIZE // width, photo.height * SIZE // height))
        box = np.array([left, top, left + width, top + height]) * (photo.width / full)
        box = np.minimum(box, [*photo.size, *photo.size])  # JPEG's own scales round each side up
        out = photo.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR, tuple(box.tolist()))
    return np.asarray(out)[:, :: random.choice([-1, 1])]


def pillow_loader(job: Job) -> Passes:
    """Pillow in threads: crop, flip and normalise only; the next batch is made while one is used."""
    pool = ThreadPoolExecutor(job.threads)

    def one_pass() -> Iterator[Batch]:
        batches = list(job.rows().split(job.batch))
        ahead = [[pool.submit(_pillow_image, job.files[row]) for row in batches[0]]]
        for rows, following in zip(batches, [*batches[1:], []], strict=True):
            ahead.append([pool.submit(_pillow_image, job.files[row]) for row in following])
            x = torch.from_numpy(np.stack([image.result() for image in ahead.pop(0)]))
            yield normalised(x.to(job.device)), rows

    return one_pass


def spdl_loader(job: Job) -> Passes:
    """SPDL's pipeline: decode, crop, resize, flip in FFmpeg's filters, in threads; then normalise."""
    import spdl.io
    from spdl.pipeline import PipelineBuilder

    try:
        spdl.io.demux_image(str(job.files[0]))
    except RuntimeError as error:  # it loads FFmpeg's libraries when it is first used
        raise ImportError(f"SPDL found no shared libraries of FFmpeg: {str(error)[:60]}") from error

    def image(row: int) -> tuple[np.ndarray, int]:
        with Image.open(job.files[row]) as header:
            left, top, width, height = _crop_of(header.size)
        flip = random.choice(["", "hflip,"])
        steps = f"crop={width}:{height}:{left}:{top},scale={SIZE}:{SIZE}:flags=bilinear,{flip}format=pix_fmts=rgb24"
        frames = spdl.io.decode_packets(spdl.io.demux_image(str(job.files[row])), filter_desc=steps)
        return spdl.io.to_numpy(spdl.io.convert_frames(frames)), row

    def collate(items: list[tuple[np.ndarray, int]]) -> Batch:
        x = torch.from_numpy(np.stack([pixels for pixels, _ in items]))
        return normalised(x.to(job.device)), torch.tensor([row for _, row in items])

    def one_pass() -> Iterator[Batch]:
        pipeline = (
            PipelineBuilder()
            .add_source(job.rows().tolist())
            .pipe(image, concurrency=job.threads)
            .aggregate(job.batch, drop_last=True)
            .pipe(collate)
            .add_sink(2)
            .build(num_threads=job.threads)
        )
        with pipeline.auto_stop():
            yield from pipeline.get_iterator()

    return one_pass


def normalised(x: Tensor) -> Tensor:
    """uint8 [B, H, W, 3] -> float32 [B, 3, H, W]."""
    scale = 1 / (255 * torch.tensor(STD, device=x.device))
    offset = -torch.tensor(MEAN, device=x.device) / torch.tensor(STD, device=x.device)
    return torch.addcmul(offset, x.float(), scale).permute(0, 3, 1, 2)


def _dali_passes(job: Job, images: Callable[[Any], Any]) -> Passes:
    """DALI's reader, with its own shuffling, and a graph from the encoded files on."""
    from nvidia.dali import fn, pipeline_def
    from nvidia.dali.plugin.pytorch import DALIGenericIterator, LastBatchPolicy

    gpu = None if job.device == "cpu" else torch.cuda.current_device()

    @pipeline_def(batch_size=job.batch, num_threads=job.threads, device_id=gpu, seed=job.seed)
    def pipeline() -> Any:
        paths = [str(file) for file in job.files]
        encoded, row = fn.readers.file(files=paths, labels=list(range(len(paths))), random_shuffle=True, name="files")
        return images(encoded), row

    iterator = DALIGenericIterator(
        [pipeline()], ["x", "y"], reader_name="files", last_batch_policy=LastBatchPolicy.DROP, auto_reset=True
    )

    def one_pass() -> Iterator[Batch]:
        for (found,) in iterator:
            yield found["x"], found["y"][:, 0]

    return one_pass


def dali_loader(usual: bool, job: Job) -> Passes:
    """DALI's pipeline: decode, crop, resize to 224, flip, normalise.

    usual: its defaults, crops of 8 to 100 % of the photo, decoding only the crop; otherwise square crops of at least
    75 %, or the nearest that fits.
    """
    from nvidia.dali import fn, types

    decoder = "cpu" if job.device == "cpu" else "mixed"

    def images(encoded: Any) -> Any:
        if usual:
            x = fn.resize(fn.decoders.image_random_crop(encoded, device=decoder), size=[SIZE, SIZE])
        else:
            shape = {"random_area": [0.75, 1.0], "random_aspect_ratio": [1.0, 1.0]}
            x = fn.random_resized_crop(fn.decoders.image(encoded, device=decoder), size=[SIZE, SIZE], **shape)
        statistics = {"mean": [255 * m for m in MEAN], "std": [255 * s for s in STD]}
        return fn.crop_mirror_normalize(
            x, mirror=fn.random.coin_flip(), dtype=types.FLOAT, output_layout="CHW", **statistics
        )

    return _dali_passes(job, images)


def bare_dali(job: Job) -> Passes:
    """DALI alone: decode, a square of the short side at a random place, resized to 460 with Lanczos; uint8 out.

    Its batches are uint8 [B, 460, 460, 3]: see wrong_square_colors.
    """
    from nvidia.dali import fn, types

    def images(encoded: Any) -> Any:
        shape = fn.cast(fn.peek_image_shape(encoded), dtype=types.FLOAT)
        height, width = shape[0], shape[1]
        side = fn.reductions.min(fn.stack(height, width))
        y0 = fn.random.uniform(range=[0.0, 1.0]) * (height - side)
        x0 = fn.random.uniform(range=[0.0, 1.0]) * (width - side)
        return fn.resize(
            fn.decoders.image(encoded, device="cpu" if job.device == "cpu" else "mixed"), size=[PRESIZE, PRESIZE],
            roi_start=fn.stack(y0, x0), roi_end=fn.stack(y0 + side, x0 + side), interp_type=types.INTERP_LANCZOS3,
            antialias=True,
        )  # fmt: skip

    return _dali_passes(job, images)


def competitors(fastai_workers: Sequence[int]) -> dict[str, Callable[[Job], Passes]]:
    return {
        DIRECT: partial(fastaug_loader, "direct"),
        RESIZE: partial(fastaug_loader, "resize"),
        **{f"{FASTAI}, {n} workers": partial(fastai_loader, n) for n in fastai_workers},
        "torchvision v2 step by step": partial(torchvision_loader, False),
        "torchvision v2, crop of 8 to 100 % + flip": partial(torchvision_loader, True),
        PILLOW: pillow_loader,
        "SPDL, crop of 8 to 100 % + flip": spdl_loader,
        "DALI, crop of 75 to 100 % + flip": partial(dali_loader, False),
        DALI_USUAL: partial(dali_loader, True),
    }


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
    got, expected = common.denormalised(x.cpu()).mean((2, 3)) * 255, colors[rows.long().cpu()]
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


def wrong_square_colors(batches: Sequence[Batch], colors: Tensor) -> float:
    """The same for a pass of uint8 [B, 460, 460, 3], which no crop and no lighting has changed much."""
    x, rows = (torch.cat([part.cpu() for part in parts]) for parts in zip(*batches, strict=True))
    if x.shape[1:] != (PRESIZE, PRESIZE, 3) or x.dtype != torch.uint8:
        return float("inf")
    apart = (x.double().mean((1, 2)) - colors[rows.long()]).mean(0).abs().max()
    order = torch.corrcoef(torch.stack([x.double().mean((1, 2, 3)), colors[rows.long()].mean(1)]))[0, 1]
    return max(float(apart) / SQUARE_BIAS_LEVELS, 0.0 if order > 0.8 else 2.0)


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


def admitted(
    report: common.Report, made: dict[str, Callable[[Job], Passes]], job: Job, colors: Tensor
) -> tuple[dict[str, Passes], dict[str, float]]:
    """Those that are installed and deliver the colours of the files; the seconds to the first batch of each."""
    ways: dict[str, Passes] = {}
    seconds: dict[str, float] = {}
    for name, make in made.items():
        with report.peer(name):
            first_batch(partial(make, job))  # imports and compiles
            passes, needed, (x, rows) = first_batch(partial(make, job))
            wrong = wrong_square_colors([(x, rows)], colors) if name == BARE else wrong_colors(x, rows, colors)
            if report.admit(name, wrong, 1.0, "times what is allowed"):
                ways[name], seconds[name] = passes, needed
    return ways, seconds


def images_of_pass(parser: argparse.ArgumentParser, images: int, batch: int, tiny: bool = False) -> int:
    """Whole batches; an error of the command line if they are too few to be timed."""
    if images < LEAST_BATCHES * batch and not tiny:
        parser.error(f"expected --images of at least {LEAST_BATCHES} batches of {batch}, got {images}: see loaders.py")
    return images - images % batch


def begin(threads: int, seed: int) -> None:
    """The same for all: torch's threads, no gradients, and the global generators, from which most competitors draw."""
    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    random.seed(seed)
    torch.manual_seed(seed)


def run_pass(passes: Passes, images: int) -> None:
    seen = sum(len(x) for x, _ in passes())
    if seen != images:
        raise RuntimeError(f"expected {images} images in a pass, got {seen}")
    if torch.cuda.is_available():
        torch.cuda.synchronize()


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


def jpeg_files(folder: Path | None, temporary: Path) -> list[Path]:
    """Those below the folder; without one scikit-image's photos, written as JPEG to `temporary`."""
    return common.photo_files(folder) if folder else scikit_image_jpegs(temporary)


def scikit_image_jpegs(folder: Path) -> list[Path]:
    for path in common.scikit_image_photos(PHOTOS):
        Image.fromarray(common.open_rgb(path)).save(folder / f"{path.stem}.jpg", quality=90)
    return common.photo_files(folder)
