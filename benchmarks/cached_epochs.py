"""How near to the warp alone come epochs from the presized cache, and what does the epoch that fills it cost?

    python -m benchmarks.cached_epochs FOLDER --hires FOLDER --threads 2
    python -m benchmarks.cached_epochs --tiny          # photos that scikit-image ships

The yardstick is the warp alone: the photos, those above a short side of 460 resized to it by Pillow with Lanczos, lie
in memory, the matrices are drawn, and nothing is left to do but `fastaug.warp`. The loader's later epochs read the same
pixels from `cache="memory"`, and from a folder whose file is in the page cache.

Checked first: what comes from the cache, and the epoch that fills it, is image by image what the yardstick makes of the
same draws; the others deliver the colours of their files (benchmarks/loaders.py); and of a later epoch no image was
decoded, by the loader's own statistics. Every photo is a file of its own: with fewer in the folder than images in a
pass there are several of one content. An epoch that fills starts with a new loader and an empty cache, and is compared
with an epoch of a new loader without a cache.

LitData (`pip install litdata`) reads the same pixels, stored raw, from the page cache, by one worker process for each
thread. Its output is that of the usual crop: torchvision's RandomResizedCrop of 8 to 100 %, flip, normalise; neither
rotation, perspective nor lighting. So is DALI's, which decodes the files.

Opening: a cache of one photo, and one whose index lists a million, each up to the first batch, in a process in which it
has been done before; the difference is what the million costs.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import fastaug as fa
from benchmarks import common, fidelity, loaders
from benchmarks.common import PRESIZE, SIZE, STD
from benchmarks.loaders import DALI_USUAL, Batch, Job, Passes
from fastaug.augment.rng import SampleUniforms
from fastaug.caching.index import HEADER_BYTES, RECORD_BYTES, Entry
from fastaug.demo import comparison
from fastaug.loading.draws import draw

WARP = "the warp alone, photos in memory"
MEMORY, FILE = 'fastaug, cache="memory"', "fastaug, cache in a folder"
RESIZED = 'fastaug, cache="memory", mode resize'
UNCACHED = "fastaug, no cache"
FILL_MEMORY, FILL_FILE = 'fastaug, filling cache="memory"', "fastaug, filling a folder"
LITDATA = "LitData, raw arrays, crop of 8 to 100 % + flip"
FFCV = "FFCV, raw"
LARGE = "large photos: "
LARGE_WARP, LARGE_MEMORY, LARGE_UNCACHED = (f"{LARGE}{name}" for name in (WARP, MEMORY, UNCACHED))
LARGE_PHOTOS = fidelity.SCIKIT_IMAGE
# (ours, theirs, least ratio of images/s)
GOALS = (
    (MEMORY, WARP, 0.85), (FILE, WARP, 0.80), (MEMORY, DALI_USUAL, 1.6), (LARGE_MEMORY, MEMORY, 0.9),
)  # fmt: skip
MOST_FILLING = 1.1  # times an epoch without a cache: wall time, and CPU time
UNCACHED_LARGE = 128  # images of a pass over large photos without a cache
LISTED = 1_000_000
OPENING_S, OPENING_BYTES = 1.0, 100.0


@dataclass(frozen=True)
class Kept:
    """Photos as a cache keeps them.

    Attributes:
        pixels: uint8 [h, w, 3] each.
        matrix: float64 [N, 3, 3], pixels of the originals -> these pixels.
        sizes: int64 [N, 2], (height, width) of the originals.
    """

    pixels: list[Tensor]
    matrix: Tensor
    sizes: Tensor

    def drawn(self, rows: Tensor, seed: int, epoch: int) -> tuple[list[Tensor], Tensor, Tensor]:
        """Images, matrices and colour matrices of some rows, as the loader draws them in direct mode."""
        uniforms = SampleUniforms(seed, epoch, rows.numpy())
        draws = draw(uniforms, common.default_augment(), PRESIZE, training=True, observe=None)
        assert draws.params is not None
        matrix = draws.matrix(self.sizes[rows]) @ torch.linalg.inv(self.matrix[rows])
        return [self.pixels[row] for row in rows.tolist()], matrix.float(), draws.params.color


def kept_photos(files: Sequence[Path], count: int) -> Kept:
    """The files in turn, `count` in all, each in memory of its own, in one piece: many small ones are slower."""
    found = []
    for path in files:
        photo = common.open_rgb(path)
        height, width, _ = photo.shape
        factor = min(PRESIZE / min(height, width), 1.0)
        size = round(width * factor), round(height * factor)
        pixels = np.array(Image.fromarray(photo).resize(size, Image.Resampling.LANCZOS)) if factor < 1 else photo
        matrix = torch.diag(torch.tensor([size[0] / width, size[1] / height, 1.0], dtype=torch.float64))
        found.append((torch.from_numpy(pixels), matrix, torch.tensor([height, width])))
    pixels, matrix, sizes = zip(*(found[row % len(found)] for row in range(count)), strict=True)
    memory = torch.from_numpy(
        np.empty(sum(each.numel() for each in pixels), np.uint8)
    )  # in large pages, where there are
    parts = memory.split([each.numel() for each in pixels])
    copies = [part.view(each.shape).copy_(each) for part, each in zip(parts, pixels, strict=True)]
    return Kept(copies, torch.stack(matrix), torch.stack(sizes))


def linked(files: Sequence[Path], folder: Path, count: int) -> list[Path]:
    """So many files in a folder, which is made: the content of these in turn, each under a name of its own."""
    folder.mkdir()
    made: list[Path] = []
    for row in range(count):
        source = files[row % len(files)]
        made.append(folder / f"{row:07}{source.suffix.lower()}")
        if row < len(files):
            shutil.copyfile(source, made[row])
        else:
            os.link(made[row % len(files)], made[row])
    return made


def warp_alone(kept: Kept, job: Job) -> Passes:
    batches = [(rows, *kept.drawn(rows, job.seed, 0)) for rows in job.rows().split(job.batch)]

    def one_pass() -> Iterator[Batch]:
        for rows, images, matrix, color in batches:
            yield fa.warp(images, matrix, SIZE, color=color), rows

    return one_pass


def loader(job: Job, mode: str = "direct", cache: str | Path | None = None, size: int = PRESIZE) -> fa.ImageLoader:
    """The targets are the rows. size: of the cache."""
    names = [str(row) for row in range(len(job.files))]
    samples = fa.Samples([str(file) for file in job.files], list(range(len(names))), names)
    return fa.ImageLoader(
        samples, job.batch, PRESIZE, common.default_augment(), device="cpu", seed=job.seed, mode=mode,
        num_threads=job.threads, on_error="raise", cache=cache, cache_size=size if cache else None,
    )  # fmt: skip


def epoch_of(made: fa.ImageLoader, cached: bool) -> Iterator[Batch]:
    """The next one; an error unless all of it came from the cache, or nothing."""
    yield from made
    stats, count = made.stats(), len(made.samples)
    if (stats.cached, stats.decoded) != ((count, 0) if cached else (0, count)):
        raise RuntimeError(
            f"expected all {count} images {'from the cache' if cached else 'decoded'}, got {stats.cached} from the "
            f"cache and {stats.decoded} decoded"
        )


def later_epochs(job: Job, cache: str | Path, mode: str = "direct") -> Passes:
    """After the epoch that fills."""
    made = loader(job, mode, cache)
    loaders.run_pass(partial(iter, made), len(job.files))
    return partial(epoch_of, made, cached=True)


class FirstEpochs:
    """Each pass is that of a new loader, with a cache that is empty.

    Args:
        cache: "memory", or a folder that is made and removed; None: without any.
    """

    def __init__(self, job: Job, cache: str | Path | None):
        self.job, self.cache = job, cache
        self._made: list[fa.ImageLoader] = []

    def __call__(self) -> Iterator[Batch]:
        # Of another size, since loaders of one process share what they keep in memory.
        self._made.append(loader(self.job, cache=self.cache, size=PRESIZE + 1))
        yield from epoch_of(self._made[-1], cached=False)

    def clear(self) -> None:
        """Give back what the latest pass has filled."""
        self._made.clear()
        if isinstance(self.cache, Path):
            shutil.rmtree(self.cache, ignore_errors=True)
        common.settle()


def litdata_loader(kept: Kept, folder: Path, job: Job) -> Passes:
    """Raw arrays in its chunks, written by its own writer; shuffled, its worker processes kept between passes.

    The workers crop and flip, and hand over uint8; batches are normalised here, as for Pillow in loaders.py, which is
    sooner done than image by image in float32.
    """
    import litdata
    from litdata.streaming.cache import Cache
    from torchvision.transforms import v2

    steps = v2.Compose([v2.RandomResizedCrop(SIZE, antialias=True), v2.RandomHorizontalFlip()])

    def cropped(item: dict[str, Any]) -> tuple[Tensor, int]:
        return steps(torch.from_numpy(item["image"]).permute(2, 0, 1)), item["row"]

    folder.mkdir()
    cache = Cache(str(folder), chunk_bytes="64MB")
    for row, pixels in enumerate(kept.pixels):
        cache[row] = {"image": pixels.numpy(), "row": row}
    cache.done()
    cache.merge()
    data = litdata.StreamingDataset(str(folder), shuffle=True, drop_last=True, seed=job.seed, transform=cropped)
    batches = litdata.StreamingDataLoader(
        data, batch_size=job.batch, num_workers=job.threads, drop_last=True, persistent_workers=True
    )
    return lambda: (job.move(loaders.normalised(x.permute(0, 2, 3, 1)), rows) for x, rows in batches)


def ffcv_loader() -> Passes:
    raise ImportError("not measured: pip finds no wheel, and building it fails without the headers of OpenCV")


def most_pixels_off(kept: Kept, job: Job, epoch: int, passes: Passes) -> float:
    """Of a pass the image that is farthest from what the yardstick makes of the same draws: times what is allowed."""
    std, worst = torch.tensor(STD), 0.0
    for x, rows in passes():
        images, matrix, color = kept.drawn(rows, job.seed, epoch)
        expected = fa.warp(images, matrix, SIZE, color=color)
        pairs = zip(x.split(1), expected.split(1), strict=True)
        worst = max(worst, *(comparison.difference_levels(*pair, std) for pair in pairs))
    return worst / comparison.SAME_WITHIN_LEVELS


def most_wrong_colors(colors: Tensor, passes: Passes) -> float:
    """Of a pass the batch that is farthest from the colours of its files, see loaders.wrong_colors."""
    return max(loaders.wrong_colors(x, rows, colors) for x, rows in passes())


@dataclass(frozen=True)
class Way:
    """What may be measured.

    Attributes:
        wrong: how far a pass is from what it should be, as a share of what is allowed.
        images: in a pass.
    """

    make: Callable[[], Passes]
    wrong: Callable[[Passes], float]
    images: int


def small_ways(files: Sequence[Path], folder: Path, job: Job) -> dict[str, Way]:
    """For ordinary photos. job: as many links to the files as images in a pass."""
    count = len(job.files)
    kept = kept_photos(files, count)
    filling, later = (partial(most_pixels_off, kept, job, epoch) for epoch in (0, 1))
    by_colors = partial(most_wrong_colors, repeated(loaders.mean_colors(files), count))
    return {
        WARP: Way(partial(warp_alone, kept, job), by_colors, count),
        MEMORY: Way(partial(later_epochs, job, "memory"), later, count),
        FILE: Way(partial(later_epochs, job, folder / "cache"), later, count),
        RESIZED: Way(partial(later_epochs, job, "memory", "resize"), by_colors, count),
        UNCACHED: Way(partial(FirstEpochs, job, None), by_colors, count),
        FILL_MEMORY: Way(partial(FirstEpochs, job, "memory"), filling, count),
        FILL_FILE: Way(partial(FirstEpochs, job, folder / "filled"), filling, count),
        DALI_USUAL: Way(partial(loaders.dali_loader, True, job), by_colors, count),
        LITDATA: Way(partial(litdata_loader, kept, folder / "litdata", job), by_colors, count),
        FFCV: Way(ffcv_loader, by_colors, count),
    }


def large_ways(files: Sequence[Path], job: Job) -> dict[str, Way]:
    """The same for large photos, of which fewer are decoded in each pass."""
    count, few = len(job.files), min(len(job.files), UNCACHED_LARGE // job.batch * job.batch)
    kept = kept_photos(files, count)
    by_colors = partial(most_wrong_colors, repeated(loaders.mean_colors(files), count))
    return {
        LARGE_WARP: Way(partial(warp_alone, kept, job), by_colors, count),
        LARGE_MEMORY: Way(partial(later_epochs, job, "memory"), partial(most_pixels_off, kept, job, 1), count),
        LARGE_UNCACHED: Way(partial(FirstEpochs, replace(job, files=job.files[:few]), None), by_colors, few),
    }


def repeated(values: Tensor, count: int) -> Tensor:
    """So many rows: these in turn."""
    return values[torch.arange(count) % len(values)]


def before_pass(name: str, passes: Passes, images: int) -> Callable[[], object]:
    """What is called before each pass and not timed; DALI works ahead between passes, see decode_to_batch.py."""
    if isinstance(passes, FirstEpochs):
        return passes.clear
    return partial(loaders.run_pass, passes, images) if name == DALI_USUAL else common.settle


def measure(report: common.Report, ways: dict[str, Way], repeats: int) -> None:
    """Rows, table and goals of the ways whose answers are right, which take turns."""
    right: dict[str, Passes] = {}
    for name, way in ways.items():
        with report.peer(name):
            passes = way.make()
            if report.admit(name, way.wrong(passes), 1.0, "times what is allowed"):
                right[name] = passes
    used: dict[str, list[float]] = {name: [] for name in right}

    def timed_pass(name: str) -> None:
        start = common.cpu_seconds()
        loaders.run_pass(right[name], ways[name].images)
        used[name].append(common.cpu_seconds() - start)

    calls: dict[str, Callable[[], object]] = {name: partial(timed_pass, name) for name in right}
    before = {name: before_pass(name, passes, ways[name].images) for name, passes in right.items()}
    timed = comparison.take_turns(calls, repeats, before=before)
    each = {name: [one / ways[name].images for one in seconds] for name, seconds in timed.items()}
    cpu = {name: [one / ways[name].images for one in seconds] for name, seconds in used.items()}
    lines = []
    for name in timed:
        row = {
            "name": name, "images": ways[name].images, "seconds": timed[name],
            "images_per_s": comparison.quartiles([1 / one for one in each[name]]),
            "cpu_ms_per_image": comparison.quartiles([1e3 * one for one in cpu[name]]),
        }  # fmt: skip
        shown = [common.with_spread(row["images_per_s"], 0), common.with_spread(row["cpu_ms_per_image"], 2)]
        for key, base in (("times_warp", WARP), ("times_uncached", UNCACHED)):
            base = f"{LARGE}{base}" if name.startswith(LARGE) else base
            row[key] = common.ratios(each[base], each[name]) if base in each else None
            shown.append(common.with_spread(row[key], 2) if row[key] else "")
        report.rows.append(row)
        lines.append([name, *shown])
    settings = report.settings
    report.table(
        f"{settings['images']} images a pass ({settings['folder']}; large: {settings['hires']}), "
        f"{settings['threads']} threads, {repeats} passes; middle half in brackets",
        ["", "images/s", "CPU ms an image", "times the warp alone", "times no cache"], lines,
    )  # fmt: skip
    goals(report, each, cpu)


Seconds = dict[str, list[float]]  # name -> of each pass, per image


def goals(report: common.Report, each: Seconds, cpu: Seconds) -> None:
    """Ratios are taken round by round."""
    for ours, theirs, goal in GOALS:
        both = ours in each and theirs in each
        rate = common.ratios(each[theirs], each[ours])["median"] if both else None
        report.target(f"{ours} / {theirs}, images/s", rate, goal)
    for filling in (FILL_MEMORY, FILL_FILE):
        for what, times in (("time", each), ("CPU time", cpu)):
            both = filling in times and UNCACHED in times
            more = common.ratios(times[filling], times[UNCACHED])["median"] if both else None
            report.target(f"{filling} / {UNCACHED}, {what}", more, MOST_FILLING, at_least=False)


def list_many(folder: Path, listed: int) -> None:
    """Add records to the index of a cache of one photo, until there are so many."""
    (index,) = folder.rglob("index")
    with index.open("r+b") as file:
        file.seek(HEADER_BYTES)
        one = Entry.decoded(file.read(RECORD_BYTES))
        assert one is not None
        keys = np.random.default_rng(0).integers(0, 2**63, listed - 1).tolist()
        file.writelines(one._replace(key=key).encoded() for key in keys)


def opened(job: Job, folders: Sequence[Path]) -> list[tuple[float, int]]:
    """In a process of its own: seconds up to the first batch from each cache, and bytes that it takes at its peak."""
    found = []
    for folder in folders:
        start = time.perf_counter()
        took = [0.0]

        def open_it(folder: Path = folder, start: float = start, took: list[float] = took) -> Any:
            made = loader(job, cache=folder)
            iteration = iter(made)
            next(iteration)
            took[0] = time.perf_counter() - start
            return made, iteration

        peak = common.peak_bytes(open_it)
        found.append((took[0], peak))
    return found


def opening(report: common.Report, file: Path, folder: Path, threads: int) -> None:
    """What a cache of many samples takes until it is open."""
    job = Job([file], 1, threads, 0)
    few, many = folder / "few", folder / "many"
    for cache in (few, many):
        loaders.run_pass(partial(iter, loader(job, cache=cache)), 1)
    list_many(many, LISTED)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        _, (few_s, few_bytes), (many_s, many_bytes) = process.submit(opened, job, [few, few, many]).result()
    each = (many_bytes - few_bytes) / LISTED
    report.rows.append(
        {"name": "opening", "listed": LISTED, "seconds": [many_s], "seconds_of_one": few_s, "bytes_per_sample": each}
    )
    report.table(
        f"Opening a cache of {LISTED:,} samples", ["", "seconds", "bytes of memory a sample"],
        [["up to the first batch, beyond that of one sample", f"{many_s - few_s:.2f}", f"{each:.0f}"]],
    )  # fmt: skip
    report.target(f"opening a cache of {LISTED:,} samples, seconds", many_s - few_s, OPENING_S, at_least=False)
    report.target(f"opening a cache of {LISTED:,} samples, bytes each", each, OPENING_BYTES, at_least=False)


def main() -> int:
    parser = common.parser(__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="JPEG files; default: scikit-image's photos")
    parser.add_argument("--hires", type=Path, help="large JPEG files; default: scikit-image's largest")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--images", type=int, default=1024, help="a pass; the files are repeated or cut")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args()
    batch, images, repeats = (16, 32, 1) if arguments.tiny else (arguments.batch, arguments.images, arguments.repeats)
    images = loaders.images_of_pass(parser, images, batch, arguments.tiny)
    loaders.begin(arguments.threads, arguments.seed)
    settings = {
        "batch": batch, "images": images, "threads": arguments.threads, "repeats": repeats, "seed": arguments.seed,
        "folder": arguments.folder.name if arguments.folder else "scikit-image",
        "hires": arguments.hires.name if arguments.hires else "scikit-image",
    }  # fmt: skip
    report = common.Report("cached_epochs", settings)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        files = loaders.jpeg_files(arguments.folder, folder)[:images]
        large = common.photo_files(arguments.hires) if arguments.hires else common.scikit_image_photos(LARGE_PHOTOS)
        jobs = [
            Job(linked(found, folder / name, images), batch, arguments.threads, arguments.seed)
            for name, found in (("photos", files), ("large", large))
        ]
        measure(report, small_ways(files, folder, jobs[0]) | large_ways(large, jobs[1]), repeats)
        opening(report, jobs[0].files[0], folder, arguments.threads)
    return report.finish(common.out_path(arguments))


if __name__ == "__main__":
    sys.exit(main())
